//! What a workload may reach outside of the mesh.

use std::{net::SocketAddr, sync::Arc};

use libtest_mimic::Trial;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use trellis_local::Role;
use trellis_loopback::stage::{Error, Stage, workload};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("only_what_is_allowed_outside_of_the_mesh_is_reached", denied)]
}

async fn denied() -> Result<(), Error> {
    let mut stage = Stage::open(&[]).await?;
    let network = stage.mesh.network();
    let at = |number, port| SocketAddr::from((network.address(Role::Service, number), port));
    // Without redirection the proxy stands where the outside would be, and would only be led to itself: who
    // is let out is for the cluster to show.
    let (shut, named) = (at(11, 7002), at(12, 7443));
    let allowed = format!("--egress=192.0.2.1,*.example.org:{}", named.port());
    let careful = workload(&stage.mesh, 4, "careful", vec![]);
    let careful = stage.mesh.join(&careful, &[shut, named], &[], &[allowed]).await?;
    let refused = async || -> Result<u64, Error> {
        let evidence = careful.evidence().await?;
        let rows = evidence.outbound.iter();
        Ok(rows
            .filter(|row| row.reason.as_deref() == Some("refused_egress_denied"))
            .map(|row| row.count)
            .sum())
    };
    let read = TcpStream::connect(shut).await?.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(refused().await?, 1);
    // A name that is not allowed, and plaintext, which names nobody.
    greet(named, "example.com").await;
    assert_eq!(refused().await?, 2);
    let mut plain = TcpStream::connect(named).await?;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a.example.org\r\n\r\n").await?;
    let read = plain.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(refused().await?, 3);
    Ok(())
}

/// Begins TLS as a client that wants `name` does.
async fn greet(at: SocketAddr, name: &'static str) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(builder) = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
    else {
        return;
    };
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let Ok(name) = ServerName::try_from(name) else { return };
    if let Ok(socket) = TcpStream::connect(at).await {
        let attempt = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(3), attempt).await;
    }
}
