//! Whether each certificate was signed by the one above it, and with what.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    ML_DSA_44, ML_DSA_65, ML_DSA_87, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{SignedError, Terms};
use crate::bundle::Anchor;
use crate::x509;

/// How the parents of the world sign: the OID of the signature, the length of the key where that tells
/// curves apart, and whether it withstands a quantum computer.
const KNOWN: [(&str, Option<usize>, &dyn VerificationAlgorithm, bool); 11] = [
    ("2.16.840.1.101.3.4.3.17", None, &ML_DSA_44, true),
    ("2.16.840.1.101.3.4.3.18", None, &ML_DSA_65, true),
    ("2.16.840.1.101.3.4.3.19", None, &ML_DSA_87, true),
    ("1.2.840.10045.4.3.2", Some(65), &ECDSA_P256_SHA256_ASN1, false),
    ("1.2.840.10045.4.3.3", Some(65), &ECDSA_P256_SHA384_ASN1, false),
    ("1.2.840.10045.4.3.2", Some(97), &ECDSA_P384_SHA256_ASN1, false),
    ("1.2.840.10045.4.3.3", Some(97), &ECDSA_P384_SHA384_ASN1, false),
    ("1.3.101.112", None, &ED25519, false),
    ("1.2.840.113549.1.1.11", None, &RSA_PKCS1_2048_8192_SHA256, false),
    ("1.2.840.113549.1.1.12", None, &RSA_PKCS1_2048_8192_SHA384, false),
    ("1.2.840.113549.1.1.13", None, &RSA_PKCS1_2048_8192_SHA512, false),
];

pub(super) fn check(
    chain: &[X509Certificate<'_>],
    anchor: &Anchor,
    terms: &Terms<'_>,
) -> Result<(), SignedError> {
    let Some(first) = chain.first() else { return Err(SignedError::Empty) };
    if first.subject() == first.issuer() || is_signed_by(first, first.public_key()) {
        return Err(SignedError::SelfSigned);
    }
    for (index, certificate) in chain.iter().enumerate() {
        let (number, above) = (index + 1, index + 2);
        check_strength(number, certificate, anchor, terms)?;
        let Some(parent) = chain.get(index + 1) else { continue };
        if certificate.issuer() != parent.subject() || !is_signed_by(certificate, parent.public_key()) {
            return Err(SignedError::NotSignedBy { number, above });
        }
    }
    match chain.len() {
        1 => Err(SignedError::NoParent),
        _ => Ok(()),
    }
}

/// Nothing that signs an issuing certificate of ML-DSA may be weaker than it: whoever breaks a parent makes
/// issuing certificates of their own for everybody who believes that parent.
fn check_strength(
    number: usize,
    certificate: &X509Certificate<'_>,
    anchor: &Anchor,
    terms: &Terms<'_>,
) -> Result<(), SignedError> {
    let oid = certificate.signature_algorithm.algorithm.to_id_string();
    let algorithm = match x509::signature_algorithm(&certificate.signature_algorithm) {
        Ok(known) => known.name().to_owned(),
        Err(foreign) => foreign.name,
    };
    let Some((.., resists)) = KNOWN.iter().find(|(known, ..)| *known == oid) else {
        return Err(SignedError::UnknownAlgorithm { number, algorithm });
    };
    let weaker = anchor.algorithm.is_post_quantum() && !resists;
    match weaker && !terms.classical_parents {
        true => Err(SignedError::Weaker { number, algorithm, key: anchor.algorithm.name() }),
        false => Ok(()),
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, key: &SubjectPublicKeyInfo<'_>) -> bool {
    let oid = certificate.signature_algorithm.algorithm.to_id_string();
    let raw: &[u8] = &key.subject_public_key.data;
    let outer_and_inner = certificate.signature_algorithm == certificate.tbs_certificate.signature;
    outer_and_inner
        && KNOWN.iter().any(|(known, len, algorithm, _)| {
            *known == oid
                && len.is_none_or(|len| len == raw.len())
                && UnparsedPublicKey::new(*algorithm, raw)
                    .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
                    .is_ok()
        })
}
