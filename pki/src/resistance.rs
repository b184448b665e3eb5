//! Whether certificates of the outside resist a quantum computer: their keys, and the signatures over them.
//! Nothing of them is verified here, nor has it to be of ours.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

/// The longest chain that is looked at.
const MAX_CHAIN: usize = 10;
/// The most of a subject that is repeated.
const MAX_SUBJECT: usize = 120;
/// NIST's arc of signatures. From 17 on come ML-DSA (17 to 19), SLH-DSA (20 to 31) and both over a hash of
/// the message (32 to 46); before them, what is classical over newer hashes.
const NIST_SIGNATURES: &str = "2.16.840.1.101.3.4.3.";

/// A certificate with those that vouch for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The first is whose key answers.
    pub certificates: Vec<Certificate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    /// DNS names and addresses that it speaks for, in lower case; its common name where it has none.
    pub names: BTreeSet<String>,
    pub key: Algorithm,
    pub signature: Algorithm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub name: String,
    /// What is not known counts as if it did not.
    pub resists: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("there is no certificate in it; write one in PEM")]
    Empty,
    #[error("it is no PEM of certificates")]
    Pem,
    #[error("certificate {0} of it cannot be read")]
    Malformed(usize),
    #[error("it has more than {MAX_CHAIN} certificates, which no client takes")]
    TooLong,
}

impl Chain {
    pub fn read(pem: &[u8]) -> Result<Self, ChainError> {
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|_| ChainError::Pem)?;
            if certificates.len() == MAX_CHAIN {
                return Err(ChainError::TooLong);
            }
            let number = certificates.len() + 1;
            certificates.push(Certificate::read(&der).ok_or(ChainError::Malformed(number))?);
        }
        match certificates.is_empty() {
            false => Ok(Self { certificates }),
            true if pem.trim_ascii().is_empty() => Err(ChainError::Empty),
            true => Err(ChainError::Pem),
        }
    }

    pub fn resists(&self) -> bool {
        self.weaknesses().is_empty()
    }

    /// What of it falls, each with the certificate that has it.
    pub fn weaknesses(&self) -> Vec<String> {
        let of = self.certificates.len();
        let weak = self.certificates.iter().enumerate().filter_map(|(at, certificate)| {
            let parts = [("key", &certificate.key), ("signature", &certificate.signature)];
            let weak: Vec<String> = parts
                .into_iter()
                .filter(|(_, algorithm)| !algorithm.resists)
                .map(|(part, algorithm)| format!("a {part} of {}", algorithm.name))
                .collect();
            let whose = match of {
                1 => format!("the certificate of {}", certificate.subject),
                _ => format!("certificate {} of {of}, of {},", at + 1, certificate.subject),
            };
            (!weak.is_empty()).then(|| format!("{whose} has {}", weak.join(" and ")))
        });
        weak.collect()
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.certificates.first().map(|first| first.names.clone()).unwrap_or_default()
    }

    /// Whether one of the others stands in for the first, all of them PEM.
    pub fn has_stand_in<'a>(pem: &[u8], others: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let Ok(chain) = Self::read(pem) else { return false };
        let others = others.into_iter().filter_map(|pem| Self::read(pem).ok());
        others.into_iter().any(|other| other.stands_in_for(&chain))
    }

    /// Whether it resists and speaks for everybody that the other speaks for.
    pub fn stands_in_for(&self, other: &Self) -> bool {
        let (own, wanted) = (self.names(), other.names());
        self.resists() && !wanted.is_empty() && wanted.is_subset(&own)
    }
}

impl Certificate {
    fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let general = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut names: BTreeSet<String> = general
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => Some(crate::x509::hex(bytes)),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            let common = certificate.subject().iter_common_name().next();
            names.extend(common.and_then(|name| name.as_str().ok()).map(str::to_ascii_lowercase));
        }
        rest.is_empty().then(|| Self {
            subject: subject(&certificate),
            names,
            key: Algorithm::of(&certificate.public_key().algorithm),
            signature: Algorithm::of(&certificate.signature_algorithm),
        })
    }
}

/// As one line without anything that a terminal would obey.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let text = certificate.subject().to_string();
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_SUBJECT).collect();
    if shown.is_empty() {
        shown.push_str("nobody");
    }
    shown
}

impl Algorithm {
    fn of(identifier: &AlgorithmIdentifier<'_>) -> Self {
        let oid = identifier.algorithm.to_id_string();
        let falls = |name: &str| Self { name: name.to_owned(), resists: false };
        if identifier.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = identifier.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            return falls(match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => "ECDSA-P256",
                Some("1.3.132.0.34") => "ECDSA-P384",
                Some("1.3.132.0.35") => "ECDSA-P521",
                _ => "ECDSA",
            });
        }
        if let Some(number) = oid.strip_prefix(NIST_SIGNATURES).and_then(|last| last.parse::<u32>().ok()) {
            return match number {
                17 => Self::resisting("ML-DSA-44"),
                18 => Self::resisting("ML-DSA-65"),
                19 => Self::resisting("ML-DSA-87"),
                20..=31 => Self::resisting("SLH-DSA"),
                32..=34 => Self::resisting("HashML-DSA"),
                35..=46 => Self::resisting("HashSLH-DSA"),
                9..=12 => falls("ECDSA"),
                13..=16 => falls("RSA"),
                _ => falls(&format!("an algorithm that Trellis does not know (OID {oid})")),
            };
        }
        match oid.as_str() {
            oid if oid.starts_with("1.2.840.113549.1.1.") => falls("RSA"),
            oid if oid.starts_with("1.2.840.10045.4.") => falls("ECDSA"),
            oid if oid.starts_with("1.2.840.10040.4.") => falls("DSA"),
            "1.3.101.112" => falls("Ed25519"),
            "1.3.101.113" => falls("Ed448"),
            oid => falls(&format!("an algorithm that Trellis does not know (OID {oid})")),
        }
    }

    fn resisting(name: &str) -> Self {
        Self { name: name.to_owned(), resists: true }
    }
}

#[cfg(test)]
mod tests;
