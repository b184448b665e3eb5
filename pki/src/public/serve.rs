//! The accepting side: what a listener of a gateway shows, asks for and offers.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CommonState, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::Seen;
use super::{Certificate, KeyExchange, Negotiated, PublicError, Shown, negotiated, roots, time};
use crate::algorithm::Algorithm;
use crate::clock::Clock;
use crate::posture::is_post_quantum_group;
use crate::provider;

/// A verified name is no longer than this in records.
const MAX_NAME: usize = 253;

/// One listener's side of every handshake.
#[derive(Debug)]
pub struct Front {
    certificates: Vec<Arc<Certificate>>,
    key_exchange: KeyExchange,
    clients: Option<Clients>,
    alpn: Vec<Vec<u8>>,
}

/// Who may come as a client.
#[derive(Clone, Debug)]
pub struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    optional: bool,
}

/// For one connection that is accepted.
pub struct Accepting {
    pub config: Arc<ServerConfig>,
    pub notes: Notes,
}

/// What one handshake showed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Seeing>);

#[derive(Debug, Default)]
struct Seeing {
    own: OnceLock<Shown>,
    client: OnceLock<(Shown, Option<String>)>,
    /// Whether the client's hello had a group that resists a quantum computer.
    offered_hybrid: OnceLock<bool>,
}

impl Clients {
    /// `optional` also serves those without a certificate, or with one that does not verify.
    pub fn new(authorities: &[String], optional: bool) -> Result<Self, PublicError> {
        let roots = roots(authorities.iter().map(String::as_bytes))?;
        let provider = provider::public(KeyExchange::Prefer);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| PublicError::Verifier(error.to_string()))?;
        Ok(Self { verifier, optional })
    }
}

impl Front {
    pub fn new(
        certificates: Vec<Arc<Certificate>>,
        key_exchange: KeyExchange,
        clients: Option<Clients>,
        alpn: &[&[u8]],
    ) -> Self {
        Self { certificates, key_exchange, clients, alpn: alpn.iter().map(|one| one.to_vec()).collect() }
    }

    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }

    /// Whether it has anything to show.
    pub fn is_ready(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// `modern` is a client that speaks TLS 1.3, which rustls does not tell who chooses a certificate.
    pub fn accept(&self, clock: &Arc<dyn Clock>, modern: bool) -> Result<Accepting, PublicError> {
        let notes = Notes::default();
        // Of hybrid groups TLS 1.2 knows nothing.
        let versions: &[&'static SupportedProtocolVersion] = match self.key_exchange {
            KeyExchange::Require => &[&TLS13],
            KeyExchange::Prefer | KeyExchange::Classical => &[&TLS13, &TLS12],
        };
        let builder = ServerConfig::builder_with_details(provider::public(self.key_exchange), time(clock))
            .with_protocol_versions(versions)
            .map_err(PublicError::Config)?;
        let builder = match &self.clients {
            Some(Clients { verifier, optional }) => {
                let (inner, optional, notes) = (Arc::clone(verifier), *optional, notes.clone());
                builder.with_client_cert_verifier(Arc::new(Verifier { inner, optional, notes }))
            }
            None => builder.with_no_client_auth(),
        };
        let resolver = Showing { certificates: self.certificates.clone(), modern, notes: notes.clone() };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Accepting { config: Arc::new(config), notes })
    }
}

impl Notes {
    /// What the connection negotiated, or `None` before its handshake has ended.
    pub fn negotiated(&self, connection: &CommonState) -> Option<Negotiated> {
        let client = self.0.client.get().map(|(shown, _)| *shown);
        negotiated(connection, client, self.0.own.get().copied())
    }

    /// Who the client proved to be.
    pub fn client(&self) -> Option<&str> {
        self.0.client.get()?.1.as_deref()
    }

    /// Whether the client could have had a hybrid key exchange; `None` if it said nothing.
    pub fn offered_hybrid(&self) -> Option<bool> {
        self.0.offered_hybrid.get().copied()
    }
}

/// Shows the certificate that fits one client.
#[derive(Debug)]
struct Showing {
    certificates: Vec<Arc<Certificate>>,
    /// The client speaks TLS 1.3: 1.2 knows no ML-DSA, though its clients may list it.
    modern: bool,
    notes: Notes,
}

impl ResolvesServerCert for Showing {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let groups = hello.named_groups().unwrap_or_default();
        let hybrid = groups.iter().any(|group| is_post_quantum_group(*group));
        let _ = self.notes.0.offered_hybrid.set(hybrid);
        let schemes = hello.signature_schemes().iter().filter(|scheme| self.modern || !is_ml_dsa(**scheme));
        let schemes: Vec<SignatureScheme> = schemes.copied().collect();
        let chosen = Certificate::choose(&self.certificates, hello.server_name(), &schemes)?;
        let _ = self.notes.0.own.set(chosen.shown);
        Some(Arc::clone(&chosen.certified))
    }
}

fn is_ml_dsa(scheme: SignatureScheme) -> bool {
    Algorithm::of_scheme(scheme).is_some_and(Algorithm::is_post_quantum)
}

/// Verifies one client, and notes what came of it.
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    optional: bool,
    notes: Notes,
}

impl Verifier {
    /// Whether what the client shows counts for nothing.
    fn is_stranger(&self) -> bool {
        self.optional && self.notes.client().is_none()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match (self.inner.verify_client_cert(leaf, others, now), Seen::read(leaf)) {
            (Ok(verified), Ok(seen)) => {
                let _ = self.notes.0.client.set((seen.shown, Some(name(&seen))));
                Ok(verified)
            }
            (Ok(verified), Err(_)) if self.optional => Ok(verified),
            (Ok(_), Err(_)) => Err(Error::InvalidCertificate(rustls::CertificateError::BadEncoding)),
            // It is served all the same, as one who showed nothing.
            (Err(_), _) if self.optional => Ok(ClientCertVerified::assertion()),
            (Err(error), _) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.is_stranger() {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => self.inner.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.is_stranger() {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => self.inner.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("optional", &self.optional).finish_non_exhaustive()
    }
}

/// What a verified certificate calls its holder, in what a record can hold.
fn name(seen: &Seen) -> String {
    let first = seen.uris.first().or(seen.names.first()).or(seen.common_name.as_ref());
    let name = first.map_or("unnamed", |name| name);
    name.chars().filter(|c| c.is_ascii_graphic()).take(MAX_NAME).collect()
}
