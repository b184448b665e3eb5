//! Those who do not belong, and must be seen: a legacy client, one without TLS, and one that knocks at
//! a tunnel without a certificate.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use http::StatusCode;
use tokio::{io::AsyncReadExt, net::TcpStream, time};
use tokio_rustls::TlsConnector;
use trellis_local::get::get;
use trellis_pki::{
    bundle::Bundle,
    clock::SystemClock,
    policy::{Ladder, Policy},
    refusal::Refusal,
    spiffe::SpiffeId,
    tls::MeshTls,
};

use super::shop::Shop;

/// Visits in a bounded run: one before the mesh has moved to ML-DSA, one after.
pub const VISITS: u64 = 2;
/// Requests of each stranger in one visit.
pub const EACH: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn visit(shop: &Shop) -> anyhow::Result<()> {
    for _ in 0..EACH {
        let (status, _) = get(shop.legacy_entry, "/").await.context("the legacy client")?;
        anyhow::ensure!(status == StatusCode::OK, "the legacy client was answered {status}");
        let (status, _) = get(shop.catalog_pod(), "/").await.context("the client without TLS")?;
        anyhow::ensure!(status == StatusCode::OK, "the client without TLS was answered {status}");
        knock(shop).await?;
    }
    Ok(())
}

/// Shows a tunnel everything but a certificate.
async fn knock(shop: &Shop) -> anyhow::Result<()> {
    let orders = &shop.orders;
    let domain = trellis_api::names::DEFAULT_TRUST_DOMAIN;
    let bundle = std::fs::read_to_string(shop.mesh().bundle()).context("the trust bundle")?;
    // It takes any server, so that it is the server that turns it away.
    let policy = Policy { signatures: Ladder::Prefer, ..Policy::default() };
    let tls = MeshTls::new(policy, domain, Arc::new(SystemClock));
    tls.trust(Bundle::from_pem(domain, &bundle)?)?;
    let expected = SpiffeId::new(domain, &orders.workload.namespace, &orders.workload.service_account)?;
    let connecting = tls.connect(vec![expected], false)?;
    let socket = TcpStream::connect(orders.tunnel).await?;
    let attempt = async {
        let mut stream =
            TlsConnector::from(connecting.config).connect(connecting.server_name, socket).await?;
        // In TLS 1.3 the refusal comes after what the client takes for the end of the handshake.
        stream.read(&mut [0]).await
    };
    match time::timeout(PATIENCE, attempt).await.context("the tunnel did not answer")? {
        Ok(_) => anyhow::bail!("a client without a certificate was let into a tunnel"),
        Err(error) => {
            let refusal = Refusal::of_io(&error, &connecting.recorder);
            anyhow::ensure!(
                refusal == Refusal::PeerAlertCertificateRequired,
                "a client without a certificate was refused as {}",
                refusal.as_str()
            );
            Ok(())
        }
    }
}
