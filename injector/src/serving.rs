//! The certificate that is served at this moment, swapped under running connections.

use std::{fmt, io, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use trellis_pki::{
    provider,
    serving::{ServingCertificate, ServingError},
};

/// Shared by the listener, which asks for it at each handshake, and the keeper, which swaps it.
#[derive(Default)]
pub struct Serving {
    key: ArcSwapOption<CertifiedKey>,
}

impl Serving {
    /// Returns whether it is another one than before.
    pub fn install(&self, certificate: &ServingCertificate) -> Result<bool, ServingError> {
        let new = certificate.certified_key()?;
        let old = self.key.swap(Some(new.clone()));
        Ok(old.is_none_or(|old| old.cert != new.cert))
    }
}

/// TLS 1.3 with the hybrid group first. A webhook's caller shows no certificate of its own; there is
/// nothing to resume.
pub fn tls(serving: Arc<Serving>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider::webhook())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Why a handshake came to nothing, in a closed set of words for metrics.
pub fn reason(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(_)) => "peer_alert",
        Some(rustls::Error::PeerIncompatible(_)) => "no_common_version",
        Some(rustls::Error::InvalidMessage(_)) => "not_tls",
        Some(_) => "other",
        None => "io",
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

/// Says nothing about the key.
impl fmt::Debug for Serving {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Serving").finish_non_exhaustive()
    }
}
