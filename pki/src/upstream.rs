//! An issuing certificate that an outside CA signs: the request for it, and what comes back, read
//! strictly. What is taken here becomes an anchor of the mesh, and cannot be looked at again later.

mod chain;
mod constraints;

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certificate::X509Certificate;

use crate::algorithm::Algorithm;
use crate::bundle::{Anchor, AnchorError, Bundle, fingerprint};
use crate::clock::{rfc3339, words};
use crate::issue::{IssueError, Issuer, LeafRequest, common_name, root_name, uri};
use crate::key::{PrivateKey, PublicKey};
use crate::signer::{Attempt, Signer, SignerError};
use crate::spiffe::SpiffeId;
use crate::verify;
use crate::x509;

/// A chain of ML-DSA-87 certificates of the usual depth has a fifth of it.
pub const MAX_PEM: usize = 256 * 1024;
/// Certificates above the issuing one.
pub const MAX_PARENTS: usize = 8;

/// What an issuing certificate must be good for.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub trust_domain: &'a str,
    /// What names of Services end with, such as svc.cluster.local.
    pub service_domain: &'a str,
    pub now: SystemTime,
    /// How long leaves live.
    pub leaf: Duration,
    /// Whether parents may sign with what a quantum computer breaks, although the issuing key is ML-DSA.
    pub classical_parents: bool,
}

/// An issuing certificate, and those above it, the next one first.
#[derive(Clone, Debug)]
pub struct Signed {
    pub anchor: Anchor,
    pub parents: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    #[error(
        "the chain is {0} bytes of PEM: at most {MAX_PEM} are read; leave out what does not belong to it"
    )]
    TooLarge(usize),
    #[error("the chain is not PEM: {0}; give the signed certificate and those above it as PEM")]
    Pem(String),
    #[error("the chain holds a PEM section of {0}: only CERTIFICATE sections belong in it")]
    NotACertificate(String),
    #[error("the chain holds no certificate: give the signed certificate first, and below it those above it")]
    Empty,
    #[error("the chain holds {0} certificates above the issuing one: at most {MAX_PARENTS} are read")]
    TooLong(usize),
    #[error("certificate {number}: {error}")]
    Unreadable { number: usize, error: AnchorError },
    #[error("certificate {0} is not one well-formed X.509 version 3 certificate; give it as the CA made it")]
    Malformed(usize),
    #[error(
        "certificate 1 is for the key {found}, and the pending key is {wanted}: have the request signed that \
         trellis trust csr prints now, and put its certificate first"
    )]
    OtherKey { found: String, wanted: String },
    #[error(
        "certificate {number} is valid from {from}, and it is {now} here: this clock is {behind} behind that of \
         who signed it, so set both by NTP; or it is dated ahead, so import it then"
    )]
    NotYetValid { number: usize, from: String, now: String, behind: String },
    #[error("certificate {number} ended at {until}, and it is {now}: have it signed anew")]
    Expired { number: usize, until: String, now: String },
    #[error(
        "certificate 1 ends at {until}, and leaves live {leaf:?}: it must be valid for at least {needed:?} \
         from now on, so that there is time to replace it; have it signed for longer"
    )]
    TooShort { until: String, leaf: Duration, needed: Duration },
    #[error("certificate 1 has an empty subject: the CA must give it one, such as that of the request")]
    NoSubject,
    #[error(
        "certificate 1 is signed by its own key: an outside CA must sign it, or set issuing.signedBy to self"
    )]
    SelfSigned,
    #[error(
        "no certificate above the issuing one is given, so nobody can tell who signed it: append that of the \
         CA, and those above it"
    )]
    NoParent,
    #[error("certificate {number} is not signed by certificate {above}: put each directly before its issuer")]
    NotSignedBy { number: usize, above: usize },
    #[error(
        "certificate {number} is signed with {algorithm}, which is weaker than the issuing key of {key}: have \
         it signed by an ML-DSA CA, or allow it with allowClassicalParents: true"
    )]
    Weaker { number: usize, algorithm: String, key: &'static str },
    #[error("certificate {number} is signed with {algorithm}: sign with ML-DSA, ECDSA, Ed25519 or RSA")]
    UnknownAlgorithm { number: usize, algorithm: String },
    #[error("certificate {number}: {what}")]
    Forbids { number: usize, what: String },
    #[error(
        "certificate 1 names trust domain {found:?} as URI, and the mesh is {wanted:?}: have it signed for that"
    )]
    OtherTrustDomain { found: String, wanted: String },
    #[error(
        "a leaf that it signs would not be accepted in the mesh: {0}; have it signed with a plainer subject"
    )]
    Useless(String),
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// The request for an issuing certificate of `key`: with a subject, the trust domain as URI, and the
/// constraints that it shall have.
pub fn request(trust_domain: &str, key: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&root_name(trust_domain, key.public_key()));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let attempt = Attempt::new(key);
    let request = params.serialize_request(&attempt).map_err(|error| attempt.failure(error))?;
    Ok(request.der().to_vec())
}

/// PEM of a request.
pub fn request_pem(der: &[u8]) -> String {
    x509::pem("CERTIFICATE REQUEST", der)
}

/// PEM of certificates, in their order.
pub fn chain_pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| x509::pem("CERTIFICATE", der)).collect()
}

/// Fingerprint of the first certificate, whatever it is.
pub fn first(pem: &str) -> Option<String> {
    sections(pem).ok()?.first().map(|der| fingerprint(der))
}

/// The chain in `pem`, if its first certificate is for `key` and good for `terms`.
pub fn read(pem: &str, key: &PublicKey, terms: &Terms<'_>) -> Result<Signed, SignedError> {
    let certificates = sections(pem)?;
    let (first, parents) = certificates.split_first().ok_or(SignedError::Empty)?;
    if parents.len() > MAX_PARENTS {
        return Err(SignedError::TooLong(parents.len()));
    }
    let parsed: Vec<X509Certificate<'_>> = certificates
        .iter()
        .enumerate()
        .map(|(index, der)| x509::certificate(der).ok_or(SignedError::Malformed(index + 1)))
        .collect::<Result<_, _>>()?;
    let anchor = Anchor::parse(first).map_err(|error| SignedError::Unreadable { number: 1, error })?;
    if anchor.key != *key {
        let (found, wanted) = (anchor.key.fingerprint(), key.fingerprint());
        return Err(SignedError::OtherKey { found, wanted });
    }
    check_times(&parsed, terms)?;
    check_names(&parsed, &anchor, terms)?;
    chain::check(&parsed, &anchor, terms)?;
    constraints::check(&parsed, terms)?;
    Ok(Signed { anchor, parents: parents.to_vec() })
}

/// Whether a leaf that is signed with this certificate is what the mesh accepts: the last question, since
/// it asks the key.
pub fn try_out(signed: &Signed, signer: impl Signer + 'static, terms: &Terms<'_>) -> Result<(), SignedError> {
    let useless = |error: &dyn std::fmt::Display| SignedError::Useless(error.to_string());
    let issuer =
        Issuer::load_for(terms.trust_domain, &signed.anchor.der, signer).map_err(|error| useless(&error))?;
    let key = PrivateKey::generate(Algorithm::EcdsaP256).map_err(|error| useless(&error))?;
    let identity = SpiffeId::new(terms.trust_domain, "trial", "trial").map_err(|error| useless(&error))?;
    let names = [format!("trial.trial.{}", terms.service_domain), "trial".to_owned()];
    let issued = issuer.issue(&LeafRequest {
        public_key: key.public_key(),
        identity: &identity,
        dns_names: &names,
        now: terms.now,
        validity: terms.leaf,
    });
    let leaf = match issued {
        Ok(leaf) => leaf,
        Err(IssueError::Signer(error)) => return Err(SignedError::Signer(error)),
        Err(error) => return Err(useless(&error)),
    };
    let bundle = Bundle::new(terms.trust_domain, vec![signed.anchor.clone()]).map_err(|e| useless(&e))?;
    verify::check_chain(&leaf.der, &bundle, verify::Role::Server, terms.now)
        .and_then(|_| verify::check_chain(&leaf.der, &bundle, verify::Role::Client, terms.now))
        .map_err(|rejection| useless(&rejection.detail))?;
    Ok(())
}

fn sections(pem: &str) -> Result<Vec<Vec<u8>>, SignedError> {
    if pem.len() > MAX_PEM {
        return Err(SignedError::TooLarge(pem.len()));
    }
    let mut certificates = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        match section.map_err(|error| SignedError::Pem(error.to_string()))? {
            (SectionKind::Certificate, der) => certificates.push(der),
            (other, _) => return Err(SignedError::NotACertificate(format!("{other:?}"))),
        }
    }
    Ok(certificates)
}

fn check_times(chain: &[X509Certificate<'_>], terms: &Terms<'_>) -> Result<(), SignedError> {
    let Terms { now, leaf, .. } = *terms;
    for (index, certificate) in chain.iter().enumerate() {
        let number = index + 1;
        let validity = certificate.validity();
        let time = |at| x509::time(at).ok_or(SignedError::Malformed(number));
        let (from, until) = (time(&validity.not_before)?, time(&validity.not_after)?);
        if now < from {
            let behind = words(from.duration_since(now).unwrap_or_default());
            return Err(SignedError::NotYetValid { number, from: rfc3339(from), now: rfc3339(now), behind });
        }
        if now > until {
            return Err(SignedError::Expired { number, until: rfc3339(until), now: rfc3339(now) });
        }
        let needed = leaf * 2;
        if number == 1 && until.duration_since(now).unwrap_or_default() < needed {
            return Err(SignedError::TooShort { until: rfc3339(until), leaf, needed });
        }
    }
    Ok(())
}

fn check_names(chain: &[X509Certificate<'_>], anchor: &Anchor, terms: &Terms<'_>) -> Result<(), SignedError> {
    if chain.first().is_some_and(|certificate| certificate.subject().iter_rdn().next().is_none()) {
        return Err(SignedError::NoSubject);
    }
    match &anchor.trust_domain {
        Some(found) if found != terms.trust_domain => {
            Err(SignedError::OtherTrustDomain { found: found.clone(), wanted: terms.trust_domain.to_owned() })
        }
        _ => Ok(()),
    }
}
