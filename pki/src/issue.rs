//! Issuing: a root that signs workloads' certificates directly, every name decided by the issuer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::bundle::{Anchor, AnchorError};
use crate::clock::{rfc3339, unix_seconds};
use crate::key::PublicKey;
use crate::leaf::{Leaf, LeafError};
use crate::signer::{Attempt, Signer, SignerError};
use crate::spiffe::{self, SpiffeError, SpiffeId};
use crate::x509;

pub use crate::serving::{ServingCertificate, ServingError, serving_certificate};

/// How far before the issuer's clock a certificate begins at most, for peers whose clocks lag: any two
/// machines may be ten minutes apart, and it takes a while until a certificate is used. It is part of
/// the validity: a certificate for 24 hours ends 24 hours after its notBefore.
pub const BACKDATE: Duration = Duration::from_secs(15 * 60);

/// What lives for hours only must not have most of its life behind it when it comes.
const BACKDATED_SHARE: u64 = 8;

/// Names beyond this many would push the server's flight out of the first TCP window.
pub const MAX_DNS_NAMES: usize = 32;

/// X.520's bound on a common name.
const MAX_COMMON_NAME: usize = 64;

/// The least that must be left of the issuing certificate for a leaf that ends with it.
pub const SHORTEST_LEAF: Duration = Duration::from_secs(10 * 60);

/// Signs leaves with the key of one issuing certificate. It has no `Debug`.
#[derive(Clone)]
pub struct Issuer {
    anchor: Anchor,
    trust_domain: String,
    signer: Arc<dyn Signer>,
}

/// What a leaf shall say. Nothing in it comes from the signing request but the public key.
#[derive(Clone, Copy, Debug)]
pub struct LeafRequest<'a> {
    pub public_key: &'a PublicKey,
    pub identity: &'a SpiffeId,
    pub dns_names: &'a [String],
    pub now: SystemTime,
    pub validity: Duration,
}

/// What a leaf may be used for: to answer, to call, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purposes {
    pub server: bool,
    pub client: bool,
}

impl Purposes {
    /// As every member of the mesh needs.
    pub const BOTH: Self = Self { server: true, client: true };
}

#[derive(Clone, Debug)]
pub struct IssuedLeaf {
    pub der: Vec<u8>,
    /// Lower case hex.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("the root certificate: {0}")]
    Root(#[from] AnchorError),
    #[error("the root certificate names no trust domain: it must carry the URI name spiffe://<trust domain>")]
    RootWithoutTrustDomain,
    #[error("the issuing certificate is for trust domain {found:?}, and it is to issue for {wanted:?}")]
    RootOfOtherDomain { found: String, wanted: String },
    #[error("the root certificate is for another key than the one that was loaded with it")]
    OtherKey,
    #[error("the root is not valid at {now}: it is valid from {from} to {until}")]
    RootNotValid { now: String, from: String, until: String },
    #[error(
        "the root ends at {root}, too soon for a certificate that cannot outlive it: rotate it with \
         trellis trust rotate"
    )]
    OutlivesRoot { root: String },
    #[error("{identity} is not of trust domain {trust_domain}, which is all that this root issues for")]
    ForeignTrustDomain { identity: String, trust_domain: String },
    #[error("the {0}")]
    TrustDomain(#[from] SpiffeError),
    #[error("DNS name {0:?}: use labels of 1 to 63 lower case letters, digits and dashes, 253 bytes in all")]
    DnsName(String),
    #[error("{0} DNS names are too many for one certificate: at most {MAX_DNS_NAMES}")]
    TooManyDnsNames(usize),
    #[error("validity of {0:?}: it must be longer than the {1:?} by which the certificate begins early")]
    Validity(Duration, Duration),
    #[error("the time {0:?} cannot be written into a certificate")]
    Time(SystemTime),
    #[error("a certificate for neither servers nor clients is good for nothing: choose at least one")]
    NoPurpose,
    #[error("the operating system gave no randomness for a serial number")]
    Randomness,
    #[error("the certificate could not be signed: {0}")]
    Signing(String),
    #[error("the certificate could not be signed: {0}")]
    Signer(#[from] SignerError),
    #[error("what was signed is not a certificate that Trellis accepts: {0}")]
    Unacceptable(#[from] LeafError),
}

/// How far before the issuer's clock a certificate begins that lives for `validity`, in whole seconds.
pub fn backdate(validity: Duration) -> Duration {
    BACKDATE.min(Duration::from_secs(validity.as_secs() / BACKDATED_SHARE))
}

/// When a leaf with these times was issued, by the issuer's clock. Nothing where its life is so short that
/// it may have been cut by the end of its issuer, which does not move its beginning.
pub fn issued_at(not_before: SystemTime, not_after: SystemTime) -> Option<SystemTime> {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    (backdate(life) == BACKDATE).then(|| not_before + BACKDATE)
}

impl Issuer {
    /// A new self-signed root for `trust_domain`.
    pub fn new_root(
        trust_domain: &str,
        key: impl Signer + 'static,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Self, IssueError> {
        spiffe::check_trust_domain(trust_domain)?;
        let mut params = dated(now, validity, backdate(validity))?;
        params.distinguished_name = common_name(&root_name(trust_domain, key.public_key()));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        // Directly below the root are leaves, and nothing else.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let attempt = Attempt::new(&key);
        let certificate = params.self_signed(&attempt).map_err(|error| attempt.failure(error))?;
        Self::load(certificate.der(), key)
    }

    /// The root in `cert_der` with its key, for the trust domain that it names.
    pub fn load(cert_der: &[u8], key: impl Signer + 'static) -> Result<Self, IssueError> {
        let trust_domain = Anchor::parse(cert_der)?.trust_domain.ok_or(IssueError::RootWithoutTrustDomain)?;
        Self::load_for(&trust_domain, cert_der, key)
    }

    /// The issuing certificate in `cert_der` with its key. One that an outside CA signed may name no
    /// trust domain, but no other one than this.
    pub fn load_for(
        trust_domain: &str,
        cert_der: &[u8],
        key: impl Signer + 'static,
    ) -> Result<Self, IssueError> {
        let anchor = Anchor::parse(cert_der)?;
        if anchor.key != *key.public_key() {
            return Err(IssueError::OtherKey);
        }
        spiffe::check_trust_domain(trust_domain)?;
        match &anchor.trust_domain {
            Some(found) if found != trust_domain => {
                Err(IssueError::RootOfOtherDomain { found: found.clone(), wanted: trust_domain.to_owned() })
            }
            _ => Ok(Self { anchor, trust_domain: trust_domain.to_owned(), signer: Arc::new(key) }),
        }
    }

    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// A leaf ends with its issuer at the latest, however long a life was asked for.
    pub fn issue(&self, request: &LeafRequest<'_>) -> Result<IssuedLeaf, IssueError> {
        self.issue_for(request, Purposes::BOTH, backdate(request.validity))
    }

    /// A leaf for less than both purposes, or one that may not begin as early: for programs that do their
    /// own TLS, and for those who ask in the name of others.
    pub fn issue_for(
        &self,
        request: &LeafRequest<'_>,
        purposes: Purposes,
        backdate: Duration,
    ) -> Result<IssuedLeaf, IssueError> {
        let LeafRequest { public_key, identity, dns_names, now, validity } = *request;
        if identity.trust_domain() != self.trust_domain {
            return Err(IssueError::ForeignTrustDomain {
                identity: identity.to_string(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        let mut params = dated(now, validity, backdate)?;
        self.limit_lifetime(now, &mut params)?;
        params.distinguished_name = common_name(identity.service_account());
        params.distinguished_name.push(DnType::OrganizationName, identity.namespace());
        params.subject_alt_names = alternative_names(identity, dns_names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let server = purposes.server.then_some(ExtendedKeyUsagePurpose::ServerAuth);
        let client = purposes.client.then_some(ExtendedKeyUsagePurpose::ClientAuth);
        params.extended_key_usages = server.into_iter().chain(client).collect();
        if params.extended_key_usages.is_empty() {
            return Err(IssueError::NoPurpose);
        }
        params.use_authority_key_identifier_extension = true;
        let attempt = Attempt::new(&*self.signer);
        let anchor = CertificateDer::from(self.anchor.der.as_slice());
        let issuer = rcgen::Issuer::from_ca_cert_der(&anchor, &attempt).map_err(signing)?;
        let certificate = params.signed_by(public_key, &issuer).map_err(|error| attempt.failure(error))?;
        let der = certificate.der().to_vec();
        // What no peer would accept must not leave.
        let leaf = Leaf::parse(&der)?;
        Ok(IssuedLeaf { der, serial: leaf.serial, not_before: leaf.not_before, not_after: leaf.not_after })
    }

    fn limit_lifetime(&self, now: SystemTime, leaf: &mut CertificateParams) -> Result<(), IssueError> {
        let end = self.anchor.not_after;
        if !self.anchor.is_valid_at(now) {
            return Err(IssueError::RootNotValid {
                now: rfc3339(now),
                from: rfc3339(self.anchor.not_before),
                until: rfc3339(end),
            });
        }
        if SystemTime::from(leaf.not_after) <= end {
            return Ok(());
        }
        if end.duration_since(now).unwrap_or_default() < SHORTEST_LEAF {
            return Err(IssueError::OutlivesRoot { root: rfc3339(end) });
        }
        leaf.not_after = OffsetDateTime::from(end);
        Ok(())
    }
}

/// Parameters with a random serial and a validity of exactly `validity`, beginning `backdate` before
/// `now`. Every other field is empty, for the caller to decide.
pub(crate) fn dated(
    now: SystemTime,
    validity: Duration,
    backdate: Duration,
) -> Result<CertificateParams, IssueError> {
    if validity.as_secs() <= backdate.as_secs() {
        return Err(IssueError::Validity(validity, backdate));
    }
    let at = |seconds: Option<i64>| {
        let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        time.ok_or(IssueError::Time(now))
    };
    let begin = unix_seconds(now).checked_sub_unsigned(backdate.as_secs());
    let end = begin.and_then(|begin| begin.checked_add_unsigned(validity.as_secs()));
    let mut params = CertificateParams::default();
    params.not_before = at(begin)?;
    params.not_after = at(end)?;
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

/// 128 random bits, never zero.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IssueError::Randomness)?;
    if let Some(last) = bytes.last_mut()
        && *last == 0
    {
        *last = 1;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    let short: String = name.chars().take(MAX_COMMON_NAME).collect();
    distinguished.push(DnType::CommonName, short);
    distinguished
}

/// The short id keeps two roots of one trust domain apart, so that a verifier never has to guess by
/// which of them a leaf was signed.
pub(crate) fn root_name(trust_domain: &str, key: &PublicKey) -> String {
    const HEAD: &str = "Trellis root ";
    const ID_BYTES: usize = 4;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    let id = x509::hex(digest.as_ref().get(..ID_BYTES).unwrap_or_default());
    let room = MAX_COMMON_NAME - HEAD.len() - 1 - id.len();
    let domain: String = trust_domain.chars().take(room).collect();
    format!("{HEAD}{domain} {id}")
}

fn alternative_names(identity: &SpiffeId, dns_names: &[String]) -> Result<Vec<SanType>, IssueError> {
    if dns_names.len() > MAX_DNS_NAMES {
        return Err(IssueError::TooManyDnsNames(dns_names.len()));
    }
    let mut names = vec![uri(identity.as_str())?];
    for name in dns_names {
        names.push(dns(name)?);
    }
    Ok(names)
}

pub(crate) fn dns(name: &str) -> Result<SanType, IssueError> {
    let wrong = || IssueError::DnsName(name.chars().take(260).collect());
    if name.len() > 253 || !name.split('.').all(spiffe::is_label) {
        return Err(wrong());
    }
    Ok(SanType::DnsName(Ia5String::try_from(name).map_err(|_| wrong())?))
}

pub(crate) fn uri(text: &str) -> Result<SanType, IssueError> {
    Ok(SanType::URI(Ia5String::try_from(text).map_err(|error| IssueError::Signing(error.to_string()))?))
}

pub(crate) fn signing(error: rcgen::Error) -> IssueError {
    IssueError::Signing(error.to_string())
}
