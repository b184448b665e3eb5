//! TLS with the web's certificates, for the one thing that is done with hosts outside of any mesh: bundles of
//! trust domains, fetched and shown where one side has nothing yet to believe the other by. TLS 1.3 only, hybrid key exchange
//! first.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::clock::{Clock, TlsTime};
use crate::provider;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WebError {
    #[error("the authorities are not PEM: {0}")]
    Pem(String),
    #[error("the certificate is not PEM, or there is none")]
    Certificate,
    #[error("the private key is not PEM of PKCS#8, PKCS#1 or SEC1")]
    Key,
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

/// For a server that shows a certificate which somebody else issued, with its chain, PEM.
pub fn server(certificates: &[u8], key: &[u8], clock: Arc<dyn Clock>) -> Result<Arc<ServerConfig>, WebError> {
    let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(WebError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| WebError::Key)?;
    let mut config = ServerConfig::builder_with_details(provider::outside(), Arc::new(TlsTime(clock)))
        .with_protocol_versions(&[&TLS13])
        .map_err(WebError::Config)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(WebError::Config)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
