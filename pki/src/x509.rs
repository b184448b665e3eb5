//! Strict readings of the X.509 structures that certificates and signing requests share.

use std::str::FromStr;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
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

/// PEM of `der`. The text is allocated once, so that a caller who wipes it has wiped the only copy.
pub fn pem(label: &str, der: &[u8]) -> String {
    /// One line of 64 characters.
    const LINE: usize = 48;
    let lines = der.len().div_ceil(LINE);
    let frame = 2 * ("-----BEGIN -----\n".len() + label.len());
    let mut text = String::with_capacity(frame + der.len().div_ceil(3) * 4 + lines);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(LINE) {
        for three in line.chunks(3) {
            push_base64(&mut text, three);
        }
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Appends one to three bytes as four characters.
fn push_base64(text: &mut String, bytes: &[u8]) {
    let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or_default());
    let bits = at(0) << 16 | at(1) << 8 | at(2);
    for position in 0..4 {
        let six = (bits >> (18 - 6 * position)) as u8 & 0x3f;
        text.push(match (position > bytes.len(), six) {
            (true, _) => '=',
            (_, 0..26) => char::from(b'A' + six),
            (_, 26..52) => char::from(b'a' + six - 26),
            (_, 52..62) => char::from(b'0' + six - 52),
            (_, 62) => '+',
            _ => '/',
        });
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    // One spelling only: no capitals, nor the sign that a parser of numbers would take.
    let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if !digits.remainder().is_empty() || !text.bytes().all(is_digit) {
        return None;
    }
    digits
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::{PemObject, SectionKind};

    #[test]
    fn pem_of_every_length_is_read_back_and_never_reallocated() {
        let bytes: Vec<u8> = (0..200u8).map(|byte| byte.wrapping_mul(131)).collect();
        for length in 0..bytes.len() {
            let text = pem("CERTIFICATE", &bytes[..length]);
            let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!((kind, der.as_slice()), (SectionKind::Certificate, &bytes[..length]));
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert!(text.len() <= text.capacity() && text.capacity() < text.len() + 8, "{text}");
        }
    }

    #[test]
    fn hex_has_two_digits_for_each_byte() {
        assert_eq!(hex(&[0, 1, 0xab, 0xff]), "0001abff");
    }
}
