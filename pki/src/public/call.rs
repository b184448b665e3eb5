//! The connecting side: an application that wants TLS of its own, and how to know it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::{Certificate, Seen};
use super::{KeyExchange, Negotiated, PublicError, negotiated, roots, time};
use crate::clock::Clock;
use crate::provider;

/// A name, one of which the application must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    Host(String),
    Uri(String),
}

/// How one application is called.
#[derive(Clone)]
pub struct Call {
    pub server_name: ServerName<'static>,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
}

impl Call {
    /// To `hostname`, which is what must be proven where there are no `names`, as one of `authorities`
    /// certifies.
    pub fn new<'a>(
        hostname: &str,
        authorities: impl IntoIterator<Item = &'a [u8]>,
        names: &[Name],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PublicError> {
        let host = |name: &str| {
            let server_name = ServerName::try_from(name.to_owned());
            server_name.map_err(|_| PublicError::Hostname(name.to_owned()))
        };
        let server_name = host(hostname)?;
        let (mut hosts, mut uris) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                Name::Host(name) => hosts.push(host(name)?),
                Name::Uri(uri) => uris.push(uri.as_str().into()),
            }
        }
        if names.is_empty() {
            hosts.push(server_name.clone());
        }
        let algorithms = provider::public(KeyExchange::Prefer).signature_verification_algorithms;
        let verifier = Arc::new(Verifier { roots: roots(authorities)?, algorithms, hosts, uris });
        Ok(Self { server_name, verifier, clock })
    }

    /// For one handshake, after which one of `protocols` is spoken. `proof` is what the application is shown that
    /// asks who calls.
    pub fn config(
        &self,
        protocols: &[&[u8]],
        proof: Option<&Certificate>,
    ) -> Result<Arc<ClientConfig>, PublicError> {
        let verifier: Arc<dyn ServerCertVerifier> = Arc::clone(&self.verifier) as _;
        let builder =
            ClientConfig::builder_with_details(provider::public(KeyExchange::Prefer), time(&self.clock))
                .with_protocol_versions(&[&TLS13, &TLS12])
                .map_err(PublicError::Config)?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
        let mut config = match proof {
            None => builder.with_no_client_auth(),
            Some(proof) => builder.with_client_cert_resolver(Arc::new(Proof(proof.certified.clone()))),
        };
        config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// What a connection negotiated, or `None` before its handshake has ended.
    pub fn negotiated(connection: &CommonState) -> Option<Negotiated> {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        let shown = leaf.and_then(|leaf| Seen::read(leaf).ok()).map(|seen| seen.shown);
        negotiated(connection, None, shown)
    }
}

/// Shown to whoever asks, whatever authorities it lists: of several there is none to choose.
#[derive(Debug)]
struct Proof(Arc<CertifiedKey>);

impl ResolvesClientCert for Proof {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Verifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    hosts: Vec<ServerName<'static>>,
    uris: Vec<Box<str>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            others,
            now,
            self.algorithms.all,
        )?;
        let by_host = self.hosts.iter().any(|name| rustls::client::verify_server_name(&parsed, name).is_ok());
        let by_uri = || {
            let seen = Seen::read(leaf);
            seen.is_ok_and(|seen| seen.uris.iter().any(|uri| self.uris.contains(uri)))
        };
        match by_host || (!self.uris.is_empty() && by_uri()) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("hosts", &self.hosts)
            .field("uris", &self.uris)
            .finish_non_exhaustive()
    }
}
