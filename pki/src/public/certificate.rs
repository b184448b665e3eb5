//! A certificate that somebody else issued, with its key, and which of several fits a client best.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use super::{PublicError, Shown};
use crate::provider;
use crate::x509;

/// The largest chain that is looked at.
const MAX_CHAIN: usize = 10;

/// A certificate to show, with its chain and its key.
pub struct Certificate {
    /// `namespace/name` of the Secret it is from.
    pub source: Arc<str>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    names: Vec<Box<str>>,
    pub(super) shown: Shown,
    pub(super) certified: Arc<CertifiedKey>,
    /// Of all that it was read from: whether another is the same.
    digest: [u8; 32],
}

impl Certificate {
    pub fn read(source: &str, chain: &[u8], key: &[u8]) -> Result<Self, PublicError> {
        let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|_| PublicError::Chain)?;
        let first = certificates.first().filter(|_| certificates.len() <= MAX_CHAIN);
        let seen = Seen::read(first.ok_or(PublicError::Chain)?)?;
        let key_der = PrivateKeyDer::from_pem_slice(key).map_err(|_| PublicError::Key)?;
        // Refuses a key that is not the certificate's.
        let certified =
            CertifiedKey::from_der(certificates, key_der, &provider::public(super::KeyExchange::Prefer))
                .map_err(PublicError::Unusable)?;
        Ok(Self {
            source: source.into(),
            not_before: seen.not_before,
            not_after: seen.not_after,
            names: seen.names,
            shown: seen.shown,
            certified: Arc::new(certified),
            digest: fingerprint(source, chain, key),
        })
    }

    /// Whether it was read from just this.
    pub fn is_of(&self, source: &str, chain: &[u8], key: &[u8]) -> bool {
        self.digest == fingerprint(source, chain, key)
    }

    /// How precisely it names `host`: by itself, by a wildcard, or not at all.
    fn precision(&self, host: &str) -> u8 {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let of = |name: &str| match name.strip_prefix("*.") {
            Some(below) => u8::from(parent == Some(below)),
            None => 2 * u8::from(name == host),
        };
        self.names.iter().map(|name| of(name)).max().unwrap_or_default()
    }

    fn is_verifiable(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }

    /// The one to show to a client that asks for `host` and can verify `schemes`: of those that it can verify
    /// the one that names the host most precisely, then one of ML-DSA, then the first. Where it can verify
    /// none, TLS says so to both ends.
    pub(super) fn choose<'a>(
        certificates: &'a [Arc<Self>],
        host: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&'a Arc<Self>> {
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let rank = |one: &Self| (one.is_verifiable(schemes), one.precision(&host), one.shown.post_quantum);
        // `max_by_key` would take the last of equals.
        certificates.iter().rev().max_by_key(|one| rank(one))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("source", &self.source)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

fn fingerprint(source: &str, chain: &[u8], key: &[u8]) -> [u8; 32] {
    // Each part with its length, so that no two splits of the same bytes are alike.
    let parts = [source.as_bytes(), chain, key];
    let all: Vec<u8> = parts.iter().flat_map(|part| digest(&SHA256, part).as_ref().to_vec()).collect();
    digest(&SHA256, &all).as_ref().try_into().unwrap_or_default()
}

/// What a certificate of the outside says, nothing of it verified.
pub(super) struct Seen {
    /// Of hosts, in lower case.
    pub(super) names: Vec<Box<str>>,
    pub(super) uris: Vec<Box<str>>,
    pub(super) common_name: Option<Box<str>>,
    pub(super) shown: Shown,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Seen {
    pub(super) fn read(der: &[u8]) -> Result<Self, PublicError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| PublicError::Malformed)?;
        if !rest.is_empty() {
            return Err(PublicError::Malformed);
        }
        let alternative = certificate.subject_alternative_name().map_err(|_| PublicError::Malformed)?;
        let general = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let (mut names, mut uris) = (Vec::new(), Vec::new());
        for name in general {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase().into()),
                GeneralName::URI(uri) => uris.push((*uri).into()),
                _ => {}
            }
        }
        let common_name = certificate.subject().iter_common_name().next();
        let key = key_name(&certificate);
        let issuer = x509::signature_algorithm(&certificate.signature_algorithm);
        Ok(Self {
            names,
            uris,
            common_name: common_name.and_then(|name| name.as_str().ok()).map(Into::into),
            shown: Shown {
                key,
                post_quantum: key.starts_with("ML-DSA") && issuer.is_ok_and(|one| one.is_post_quantum()),
            },
            not_before: x509::time(&certificate.validity().not_before).ok_or(PublicError::Malformed)?,
            not_after: x509::time(&certificate.validity().not_after).ok_or(PublicError::Malformed)?,
        })
    }
}

/// A closed set: these become labels.
fn key_name(certificate: &X509Certificate<'_>) -> &'static str {
    let info = &certificate.public_key().algorithm;
    if info.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        return match curve.map(|curve| (curve == OID_EC_P256, curve.to_id_string())) {
            Some((true, _)) => "ECDSA-P256",
            Some((_, curve)) if curve == "1.3.132.0.34" => "ECDSA-P384",
            Some((_, curve)) if curve == "1.3.132.0.35" => "ECDSA-P521",
            _ => "ECDSA",
        };
    }
    match info.algorithm.to_id_string().as_str() {
        oid if oid.starts_with("1.2.840.113549.1.1.") => "RSA",
        "1.3.101.112" => "Ed25519",
        _ => x509::signature_algorithm(info).map_or("other", |algorithm| algorithm.name()),
    }
}
