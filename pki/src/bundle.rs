//! The trust bundle: the issuing certificates that a trust domain believes, and nothing between them
//! and a workload's certificate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::algorithm::Algorithm;
use crate::issue::BACKDATE;
use crate::key::PublicKey;
use crate::spiffe::{SpiffeError, check_trust_domain};
use crate::x509::{self, KeyProblem};

/// A rotation needs two anchors, a migration with an outside CA a few more.
pub const MAX_ANCHORS: usize = 16;

/// One certificate that issues leaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Anchor {
    pub der: Vec<u8>,
    pub subject: String,
    /// Algorithm of the anchor's key, and so of every signature that it makes.
    pub algorithm: Algorithm,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// The trust domain that the anchor itself names, if it names one.
    pub trust_domain: Option<String>,
    pub(crate) key: PublicKey,
    pub(crate) trust: TrustAnchor<'static>,
    fingerprint: Arc<str>,
}

/// What one trust domain believes.
#[derive(Clone, Debug)]
pub struct Bundle {
    trust_domain: String,
    anchors: Vec<Anchor>,
    fingerprint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the trust bundle's {0}")]
    TrustDomain(#[from] SpiffeError),
    #[error("the trust bundle is empty: it needs at least one issuing certificate")]
    Empty,
    #[error("the trust bundle holds {0} certificates: at most {MAX_ANCHORS} are read")]
    TooMany(usize),
    #[error("the trust bundle is not PEM: {0}")]
    Pem(String),
    #[error("the trust bundle holds a PEM section of {0}: only CERTIFICATE sections belong in it")]
    NotACertificate(String),
    #[error("certificate {number} of the trust bundle: {error}")]
    Anchor { number: usize, error: AnchorError },
    #[error(
        "certificate {number} of the trust bundle is for trust domain {found:?}, the bundle for {wanted:?}"
    )]
    ForeignAnchor { number: usize, found: String, wanted: String },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    #[error("it is not one well-formed X.509 version 3 certificate")]
    Malformed,
    #[error("its key is {0}: use ML-DSA-44, ML-DSA-65, ML-DSA-87 or ECDSA P-256")]
    KeyType(String),
    #[error("it may not issue: it must be CA:TRUE with key usage keyCertSign")]
    NotAnIssuer,
}

impl Anchor {
    pub fn parse(der: &[u8]) -> Result<Self, AnchorError> {
        let certificate = x509::certificate(der).ok_or(AnchorError::Malformed)?;
        let key = x509::public_key(certificate.public_key()).map_err(|problem| match problem {
            KeyProblem::Foreign(foreign) => AnchorError::KeyType(foreign.name),
            KeyProblem::Malformed => AnchorError::Malformed,
        })?;
        if !may_issue(&certificate)? {
            return Err(AnchorError::NotAnIssuer);
        }
        let validity = certificate.validity();
        let time = |at| x509::time(at).ok_or(AnchorError::Malformed);
        let wrapped = CertificateDer::from(der);
        let trust = webpki::anchor_from_trusted_cert(&wrapped).map_err(|_| AnchorError::Malformed)?;
        Ok(Self {
            der: der.to_vec(),
            subject: certificate.subject().to_string(),
            algorithm: key.algorithm,
            not_before: time(&validity.not_before)?,
            not_after: time(&validity.not_after)?,
            trust_domain: named_trust_domain(&certificate)?,
            key,
            trust: trust.to_owned(),
            fingerprint: fingerprint(der).into(),
        })
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the certificate, in lower case hex.
    pub fn fingerprint(&self) -> &Arc<str> {
        &self.fingerprint
    }

    /// What an outside CA signed may begin at the moment of its signature. Who trusts an anchor has been told
    /// to, so for who is behind in time by no more than is usual it has begun.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now + BACKDATE && now <= self.not_after
    }
}

/// SHA-256 of a certificate, in lower case hex.
pub fn fingerprint(der: &[u8]) -> String {
    x509::hex(digest(&SHA256, der).as_ref())
}

fn may_issue(certificate: &X509Certificate<'_>) -> Result<bool, AnchorError> {
    let usage = certificate.key_usage().map_err(|_| AnchorError::Malformed)?;
    Ok(certificate.is_ca() && usage.is_some_and(|usage| usage.value.key_cert_sign()))
}

/// A SPIFFE issuing certificate names its trust domain as a URI without a path.
fn named_trust_domain(certificate: &X509Certificate<'_>) -> Result<Option<String>, AnchorError> {
    let names = certificate.subject_alternative_name().map_err(|_| AnchorError::Malformed)?;
    let general = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    Ok(general.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
        _ => None,
    }))
}

impl Bundle {
    /// Anchors that are there twice count once.
    pub fn new(trust_domain: &str, anchors: Vec<Anchor>) -> Result<Self, BundleError> {
        check_trust_domain(trust_domain)?;
        let mut seen = BTreeSet::new();
        let mut kept = Vec::new();
        for (index, anchor) in anchors.into_iter().enumerate() {
            match &anchor.trust_domain {
                Some(found) if found != trust_domain => {
                    return Err(BundleError::ForeignAnchor {
                        number: index + 1,
                        found: found.clone(),
                        wanted: trust_domain.to_owned(),
                    });
                }
                _ => {}
            }
            if seen.insert(Arc::clone(anchor.fingerprint())) {
                kept.push(anchor);
            }
        }
        match kept.len() {
            0 => Err(BundleError::Empty),
            1..=MAX_ANCHORS => Ok(Self {
                trust_domain: trust_domain.to_owned(),
                anchors: kept,
                fingerprint: combined(trust_domain, &seen),
            }),
            several => Err(BundleError::TooMany(several)),
        }
    }

    pub fn from_pem(trust_domain: &str, pem: &str) -> Result<Self, BundleError> {
        let mut certificates = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            match section.map_err(|error| BundleError::Pem(error.to_string()))? {
                (SectionKind::Certificate, der) => certificates.push(der),
                (other, _) => return Err(BundleError::NotACertificate(format!("{other:?}"))),
            }
        }
        Self::from_der(trust_domain, certificates)
    }

    pub fn from_der(
        trust_domain: &str,
        certificates: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Self, BundleError> {
        let anchors = certificates
            .into_iter()
            .enumerate()
            .map(|(index, der)| {
                Anchor::parse(&der).map_err(|error| BundleError::Anchor { number: index + 1, error })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(trust_domain, anchors)
    }

    pub fn to_pem(&self) -> String {
        self.anchors.iter().map(|anchor| x509::pem("CERTIFICATE", &anchor.der)).collect()
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// Whether the anchor with this fingerprint is one of them.
    pub fn holds(&self, fingerprint: &str) -> bool {
        self.anchors.iter().any(|anchor| &**anchor.fingerprint() == fingerprint)
    }

    /// SHA-256 over the trust domain and the set of anchors, whatever their order.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// What stands before the revision, in a line of its own above the certificates. Other readers of PEM
/// pass over it.
const REVISION: &str = "Trellis trust revision ";

/// A bundle as the CA publishes it.
pub fn published(bundle: &Bundle, revision: u64) -> String {
    format!("{REVISION}{revision}\n{}", bundle.to_pem())
}

/// The revision of a published bundle, if it tells one.
pub fn published_revision(pem: &str) -> Option<u64> {
    pem.lines().find_map(|line| line.strip_prefix(REVISION))?.trim().parse().ok()
}

fn combined(trust_domain: &str, fingerprints: &BTreeSet<Arc<str>>) -> String {
    let mut hash = Context::new(&SHA256);
    hash.update(trust_domain.as_bytes());
    for fingerprint in fingerprints {
        hash.update(b"\n");
        hash.update(fingerprint.as_bytes());
    }
    x509::hex(hash.finish().as_ref())
}
