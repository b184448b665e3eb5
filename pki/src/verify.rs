//! The verifier of the mesh, stricter than the web's: one certificate, directly below an anchor, with
//! one SPIFFE ID of our trust domain or of one that we federate with, of the algorithms that policy allows.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::algorithm::Algorithm;
use crate::bundle::Bundle;
use crate::clock::{rfc3339, words};
use crate::credential::{Credential, Denials};
use crate::foreign::Foreign;
use crate::leaf::{Leaf, LeafError};
use crate::policy::{Ladder, Policy};
use crate::provider;
use crate::record::{Recorder, Rejection};
use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;

/// The largest certificate message that is looked at: twice an ML-DSA-87 leaf.
pub(crate) const MAX_CERTIFICATE_LEN: usize = 16 * 1024;

/// What a certificate must be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// Verifies the peer of one handshake and notes in `recorder` what it saw.
pub(crate) struct PeerVerifier {
    pub(crate) policy: Policy,
    pub(crate) bundle: Arc<Bundle>,
    /// Of other trust domains; none where only our own may come.
    pub(crate) foreign: Foreign,
    pub(crate) denials: Denials,
    /// A client may also come without any certificate.
    pub(crate) optional: bool,
    /// Who the peer must be; `None` leaves that to whoever authorises it later.
    pub(crate) expected: Option<Vec<SpiffeId>>,
    pub(crate) recorder: Recorder,
}

impl PeerVerifier {
    fn verify(
        &self,
        role: Role,
        der: &[u8],
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.examine(role, der, others, now) {
            Ok((leaf, credential)) => {
                self.recorder.verified(leaf, credential);
                Ok(())
            }
            Err(rejection) => {
                self.recorder.rejects(rejection.clone());
                Err(Error::InvalidCertificate(alerting(rejection)))
            }
        }
    }

    fn examine(
        &self,
        role: Role,
        der: &[u8],
        others: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(Leaf, Credential), Rejection> {
        let size = others.iter().fold(der.len(), |sum, other| sum.saturating_add(other.len()));
        if size > MAX_CERTIFICATE_LEN {
            let detail =
                format!("the peer sent {size} bytes of certificates, more than {MAX_CERTIFICATE_LEN}");
            return Err(Rejection { refusal: Refusal::Oversize, detail });
        }
        if !others.is_empty() {
            let detail = format!("the peer sent {} certificates instead of one", others.len() + 1);
            return Err(Rejection { refusal: Refusal::IntermediateSent, detail });
        }
        let leaf = Leaf::parse(der).map_err(unreadable)?;
        self.recorder.claims(&leaf.identity);
        check_role(&leaf, role)?;
        check_policy(&leaf, self.policy)?;
        check_time(&leaf, now)?;
        let anchor = check_chain(der, self.bundle_of(&leaf)?, role, now)?;
        let credential = Credential::new(&leaf, &anchor);
        if let Some(denied) = self.denials.find(&credential) {
            let detail = format!("{} is denied by {denied}", leaf.identity);
            return Err(Rejection { refusal: Refusal::Denied, detail });
        }
        match &self.expected {
            Some(expected) if !expected.contains(&leaf.identity) => {
                let wanted: Vec<_> = expected.iter().map(SpiffeId::as_str).collect();
                let detail = format!("the peer is {}, not {}", leaf.identity, wanted.join(" or "));
                Err(Rejection { refusal: Refusal::WrongIdentity, detail })
            }
            _ => Ok((leaf, credential)),
        }
    }

    /// The one bundle that may vouch for the leaf: that of the domain which it says to be of.
    fn bundle_of(&self, leaf: &Leaf) -> Result<&Bundle, Rejection> {
        let trust_domain = leaf.identity.trust_domain();
        if trust_domain == self.bundle.trust_domain() {
            return Ok(&self.bundle);
        }
        self.foreign.get(trust_domain).ok_or_else(|| {
            let own = self.bundle.trust_domain();
            let detail = match self.foreign.is_empty() {
                true => format!("{} is not of trust domain {own}", leaf.identity),
                false => format!(
                    "{} is neither of trust domain {own} nor of one that it federates with",
                    leaf.identity
                ),
            };
            Rejection { refusal: Refusal::ForeignTrustDomain, detail }
        })
    }

    fn verify_proof(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::signatures(self.policy.signatures);
        let valid = verify_tls13_signature(message, certificate, signed, &algorithms)?;
        self.recorder.signed(signed.scheme);
        Ok(valid)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        provider::signatures(self.policy.signatures).supported_schemes()
    }
}

fn unreadable(error: LeafError) -> Rejection {
    let refusal = match &error {
        LeafError::Malformed(_) => Refusal::MalformedCertificate,
        LeafError::NotALeaf => Refusal::NotALeaf,
        LeafError::KeyUsage => Refusal::WrongUsage,
        LeafError::UriNames(_) | LeafError::Identity(_) => Refusal::BadIdentity,
        LeafError::ForeignKey { classical: true, .. } => Refusal::ClassicalKey,
        LeafError::ForeignIssuer { classical: true, .. } => Refusal::ClassicalIssuer,
        LeafError::ForeignKey { .. } | LeafError::ForeignIssuer { .. } => Refusal::UnsupportedAlgorithm,
    };
    Rejection { refusal, detail: error.to_string() }
}

fn check_role(leaf: &Leaf, role: Role) -> Result<(), Rejection> {
    let (allowed, purpose) = match role {
        Role::Server => (leaf.server, "serverAuth"),
        Role::Client => (leaf.client, "clientAuth"),
    };
    if allowed {
        return Ok(());
    }
    let detail = format!("the certificate of {} lacks extended key usage {purpose}", leaf.identity);
    Err(Rejection { refusal: Refusal::WrongUsage, detail })
}

/// Shared with the owner of an identity, who must not hold what peers would refuse.
pub(crate) fn check_policy(leaf: &Leaf, policy: Policy) -> Result<(), Rejection> {
    let refused = |algorithm: Algorithm, classical, what| {
        let refusal = if algorithm.is_post_quantum() { Refusal::UnsupportedAlgorithm } else { classical };
        let detail = format!(
            "the {what} of {} is {}, which policy {} does not allow",
            leaf.identity,
            algorithm.name(),
            policy.signatures
        );
        Err(Rejection { refusal, detail })
    };
    if !policy.allows(leaf.algorithm) {
        return refused(leaf.algorithm, Refusal::ClassicalKey, "key");
    }
    if !policy.allows(leaf.issuer_algorithm) {
        return refused(leaf.issuer_algorithm, Refusal::ClassicalIssuer, "issuer's signature");
    }
    Ok(())
}

pub(crate) fn check_time(leaf: &Leaf, now: SystemTime) -> Result<(), Rejection> {
    let (identity, here) = (&leaf.identity, rfc3339(now));
    if let Ok(behind) = leaf.not_before.duration_since(now)
        && !behind.is_zero()
    {
        let (begins, behind) = (rfc3339(leaf.not_before), words(behind));
        let detail = format!(
            "the certificate of {identity} begins at {begins}, and it is {here} here: this clock is at least \
             {behind} behind that of the CA which issued it; set both by NTP"
        );
        return Err(Rejection { refusal: Refusal::NotYetValid, detail });
    }
    if let Ok(over) = now.duration_since(leaf.not_after)
        && !over.is_zero()
    {
        let (ended, over) = (rfc3339(leaf.not_after), words(over));
        let detail = format!(
            "the certificate of {identity} ended at {ended}, and it is {here} here: it was not renewed, or \
             this clock is at least {over} ahead of that of the CA which issued it; set both by NTP"
        );
        return Err(Rejection { refusal: Refusal::ExpiredCertificate, detail });
    }
    Ok(())
}

/// The fingerprint of the anchor that vouches for the certificate. One that has itself ended vouches for
/// nobody.
pub(crate) fn check_chain(
    der: &[u8],
    bundle: &Bundle,
    role: Role,
    now: SystemTime,
) -> Result<Arc<str>, Rejection> {
    let malformed = |detail: String| Rejection { refusal: Refusal::MalformedCertificate, detail };
    let wrapped = CertificateDer::from(der);
    let certificate = EndEntityCert::try_from(&wrapped).map_err(|error| malformed(error.to_string()))?;
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    for anchor in bundle.anchors().iter().filter(|anchor| anchor.is_valid_at(now)) {
        let path = certificate.verify_for_usage(
            provider::signatures(Ladder::Prefer).all,
            std::slice::from_ref(&anchor.trust),
            &[],
            time,
            usage,
            None,
            None,
        );
        match path {
            Ok(_) => return Ok(Arc::clone(anchor.fingerprint())),
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {}
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(other) => return Err(malformed(format!("the certificate is not acceptable: {other}"))),
        }
    }
    let detail = format!(
        "none of the {} anchors of trust domain {} signed the certificate",
        bundle.anchors().len(),
        bundle.trust_domain()
    );
    Err(Rejection { refusal: Refusal::UnknownIssuer, detail })
}

/// The error whose alert tells the peer as much as TLS has words for.
fn alerting(rejection: Rejection) -> CertificateError {
    match rejection.refusal {
        Refusal::ExpiredCertificate => CertificateError::Expired,
        Refusal::NotYetValid => CertificateError::NotValidYet,
        Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
        Refusal::WrongIdentity | Refusal::ForeignTrustDomain => {
            CertificateError::ApplicationVerificationFailure
        }
        Refusal::MalformedCertificate | Refusal::Oversize => CertificateError::BadEncoding,
        Refusal::Denied => CertificateError::Revoked,
        Refusal::NotALeaf | Refusal::WrongUsage => CertificateError::InvalidPurpose,
        _ => CertificateError::Other(OtherError(Arc::new(rejection))),
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(Role::Server, end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_proof(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    /// No hints: they would tell strangers whom we trust, and cost bytes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(Role::Client, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_proof(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("trust_domain", &self.bundle.trust_domain())
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}
