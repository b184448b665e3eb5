//! TLS with the web's certificates, for the one thing that is done with hosts outside of any mesh: fetching
//! the bundle of another trust domain for which there is none yet. TLS 1.3 only, hybrid key exchange
//! first.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::clock::{Clock, TlsTime};
use crate::provider;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WebError {
    #[error("the authorities are not PEM: {0}")]
    Pem(String),
    #[error("they hold no certificate of an authority")]
    Empty,
    #[error("the TLS configuration was refused: {0}")]
    Config(rustls::Error),
}

/// For a client that believes `authorities`, PEM, about names of hosts.
pub fn client(authorities: &[u8], clock: Arc<dyn Clock>) -> Result<Arc<ClientConfig>, WebError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|error| WebError::Pem(error.to_string()))?;
        // A system's file may hold what this version cannot read; the others count.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(WebError::Empty);
    }
    let mut config = ClientConfig::builder_with_details(provider::outside(), Arc::new(TlsTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(WebError::Config)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
