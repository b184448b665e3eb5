//! The intruder as a server: it stands where a tunnel should be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::provider;

use crate::connect::{describe, outcome};
use crate::trusting::Trusting;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one client after another; each gets a line on `report`.
pub fn forever(
    listen: SocketAddr,
    presented: Option<Arc<CertifiedKey>>,
    report: &mut impl Write,
) -> Result<()> {
    let key = presented.context("--certificate none cannot serve: a TLS server presents one")?;
    let policy = Policy { key_exchange: Ladder::Require, signatures: Ladder::Prefer };
    let provider = provider::mesh(policy);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Trusting(provider)))
        .with_cert_resolver(Arc::new(Always(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind(listen).with_context(|| format!("--listen {listen}"))?;
    writeln!(report, "{}", json!({"listening": listener.local_addr()?}))?;
    for socket in listener.incoming() {
        let outcome = receive(&config, socket?)?;
        writeln!(report, "{outcome}")?;
        report.flush()?;
    }
    Ok(())
}

/// Waits for the client's first byte after the handshake: what it would be told.
fn receive(config: &Arc<ServerConfig>, mut socket: TcpStream) -> Result<Value> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let mut connection = ServerConnection::new(config.clone())?;
    let mut buffer = [0; 4096];
    let answer = Stream::new(&mut connection, &mut socket).read(&mut buffer);
    let mut outcome = outcome(answer);
    describe(&mut outcome, &connection);
    Ok(outcome)
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
