//! Strict readings of the X.509 structures that certificates and signing requests share.

use std::str::FromStr;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
pub(crate) use trellis_crypto::hex::encode as hex;
pub use trellis_crypto::pem::encode as pem;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Version};

use crate::algorithm::Algorithm;
use crate::clock;
use crate::key::PublicKey;

/// An algorithm that is none of ours, told apart by what it means for policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) name: String,
    /// Known to fall to a quantum computer.
    pub(crate) classical: bool,
}

/// Why a public key was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyProblem {
    Foreign(Foreign),
    Malformed,
}

/// The one certificate in `der`, version 3, with nothing behind it.
pub(crate) fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let whole = rest.is_empty() && certificate.version() == X509Version::V3;
    // The same extension twice is how two readers are made to see two different certificates.
    (whole && certificate.extensions_map().is_ok()).then_some(certificate)
}

/// What is signed, with its signature, as DER has it: of none of our algorithms has an identifier parameters.
pub(crate) fn signed(content: &[u8], algorithm: Algorithm, signature: &[u8]) -> Option<Vec<u8>> {
    const OBJECT_IDENTIFIER: u8 = 0x06;
    const BIT_STRING: u8 = 0x03;
    const SEQUENCE: u8 = 0x30;
    let identifier = Oid::from_str(algorithm.signature_oid()).ok()?;
    let algorithm = tagged(SEQUENCE, &[&tagged(OBJECT_IDENTIFIER, &[identifier.as_bytes()])]);
    // A signature is whole bytes: no bit of the last is unused.
    let signature = tagged(BIT_STRING, &[&[0], signature]);
    Some(tagged(SEQUENCE, &[content, &algorithm, &signature]))
}

fn tagged(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = content.len().to_be_bytes();
    let digits = &length[length.iter().take_while(|digit| **digit == 0).count()..];
    let mut der = vec![tag];
    match digits {
        [] => der.push(0),
        [short @ 0..0x80] => der.push(*short),
        long => {
            der.push(0x80 | long.len() as u8);
            der.extend_from_slice(long);
        }
    }
    der.extend(content);
    der
}

/// When each certificate of a PEM text begins and ends, whatever its key.
pub fn lives(pem: &[u8]) -> Vec<(SystemTime, SystemTime)> {
    let life = |der: CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        Some((time(&validity.not_before)?, time(&validity.not_after)?))
    };
    CertificateDer::pem_slice_iter(pem).filter_map(|der| life(der.ok()?)).collect()
}

pub(crate) fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, KeyProblem> {
    let algorithm = key_algorithm(&info.algorithm).map_err(KeyProblem::Foreign)?;
    let raw = info.subject_public_key.data.as_ref();
    // An elliptic point must be uncompressed: one key, one spelling.
    let well_formed = info.subject_public_key.unused_bits == 0
        && raw.len() == algorithm.public_key_len()
        && (algorithm != Algorithm::EcdsaP256 || raw.first() == Some(&4));
    if !well_formed {
        return Err(KeyProblem::Malformed);
    }
    Ok(PublicKey { algorithm, raw: raw.to_vec() })
}

fn key_algorithm(identifier: &AlgorithmIdentifier<'_>) -> Result<Algorithm, Foreign> {
    if identifier.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = identifier.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 => Ok(Algorithm::EcdsaP256),
            Some(curve) => {
                Err(Foreign { name: format!("an elliptic curve key (curve {curve})"), classical: true })
            }
            None => Err(Foreign { name: "an elliptic curve key without a curve".into(), classical: true }),
        };
    }
    ml_dsa(identifier).ok_or_else(|| foreign(identifier))
}

pub(crate) fn signature_algorithm(identifier: &AlgorithmIdentifier<'_>) -> Result<Algorithm, Foreign> {
    let ecdsa = identifier.parameters.is_none()
        && identifier.algorithm.to_id_string() == Algorithm::EcdsaP256.signature_oid();
    if ecdsa {
        return Ok(Algorithm::EcdsaP256);
    }
    ml_dsa(identifier).ok_or_else(|| foreign(identifier))
}

/// ML-DSA names key and signature by the same OID, and its parameters must be absent.
fn ml_dsa(identifier: &AlgorithmIdentifier<'_>) -> Option<Algorithm> {
    if identifier.parameters.is_some() {
        return None;
    }
    let oid = identifier.algorithm.to_id_string();
    Algorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.is_post_quantum() && algorithm.signature_oid() == oid)
}

fn foreign(identifier: &AlgorithmIdentifier<'_>) -> Foreign {
    let oid = identifier.algorithm.to_id_string();
    let (name, classical) = match oid.as_str() {
        oid if oid.starts_with("1.2.840.113549.1.1.") => ("RSA", true),
        oid if oid.starts_with("1.2.840.10045.4.") => ("ECDSA", true),
        oid if oid.starts_with("1.2.840.10040.4.") => ("DSA", true),
        "1.3.101.112" => ("Ed25519", true),
        "1.3.101.113" => ("Ed448", true),
        _ => ("an algorithm that Trellis does not know", false),
    };
    Foreign { name: format!("{name} (OID {oid})"), classical }
}

/// `None` where this machine cannot express the time.
pub(crate) fn time(at: &ASN1Time) -> Option<SystemTime> {
    clock::from_unix_seconds(at.timestamp())
}

/// Bytes that stand in lower case digits: one spelling only.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    trellis_crypto::hex::decode(text).filter(|_| !text.bytes().any(|digit| digit.is_ascii_uppercase()))
}
