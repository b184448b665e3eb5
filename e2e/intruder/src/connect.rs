//! The intruder as a client.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, Error, Stream};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use trellis_pki::policy::Policy;
use trellis_pki::provider;

use crate::trusting::Trusting;

/// What an HTTP/2 client says first: its preface, and empty settings. A tunnel that took the client for
/// one of its own would answer with settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const TIMEOUT: Duration = Duration::from_secs(10);

/// Shakes hands, speaks HTTP/2, and says whether the tunnel answered or how it refused.
pub fn attempt(to: SocketAddr, policy: Policy, presented: Option<Arc<CertifiedKey>>) -> Result<Value> {
    let mut connection = ClientConnection::new(config(policy, presented)?, ServerName::from(to.ip()))?;
    let mut socket = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("connect to {to}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    let mut buffer = [0; 4096];
    let answer = stream.write_all(PREFACE).and_then(|()| stream.read(&mut buffer));
    let mut outcome = outcome(answer);
    describe(&mut outcome, &connection);
    if let Some([leaf, ..]) = connection.peer_certificates() {
        outcome["certificate"] = STANDARD.encode(leaf).into();
    }
    Ok(outcome)
}

/// What the first read after the handshake says of it.
pub fn outcome(answer: std::io::Result<usize>) -> Value {
    let error = match answer {
        Ok(0) => return json!({"outcome": "closed", "received": 0}),
        Ok(length) => return json!({"outcome": "accepted", "received": length}),
        Err(error) => error,
    };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (tls, error.kind()) {
        (Some(Error::AlertReceived(alert)), _) => {
            json!({"outcome": "alert", "alert": format!("{alert:?}"), "received": 0})
        }
        (_, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            json!({"outcome": "closed", "received": 0})
        }
        _ => json!({"outcome": "error", "error": error.to_string(), "received": 0}),
    }
}

/// Adds what was negotiated before it ended.
pub fn describe<S>(outcome: &mut Value, connection: &ConnectionCommon<S>) {
    let group = connection.negotiated_key_exchange_group();
    outcome["group"] = group.map(|group| format!("{:?}", group.name())).into();
    outcome["tls"] = connection.protocol_version().map(|version| format!("{version:?}")).into();
}

fn config(policy: Policy, presented: Option<Arc<CertifiedKey>>) -> Result<Arc<ClientConfig>> {
    let provider = provider::mesh(policy);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
    let mut config = match presented {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(Always(key))),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Presents its certificate whatever the server asked for.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
