//! Peers of other makes, which cannot verify ML-DSA: served with the second certificate of a workload that has
//! one, under their own name and with the reason, and refused by every other.

use std::{
    fs,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use http::{Method, StatusCode};
use libtest_mimic::Trial;
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_blocking,
    time,
};
use trellis_api::{
    evidence::{Class, Connections},
    names::{CA, DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE},
    trust::{Issuing, KeyAlgorithm, Leaves, TrustDomainSpec},
};
use trellis_channel::{
    handshakes::Handshakes,
    identity::{CaClient, Issue},
};
use trellis_local::get;
use trellis_loopback::{
    hbone::{Hbone, handshake},
    stage::{Error, NAMESPACE, Stage, workload},
};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::SystemClock,
    csr,
    key::PrivateKey,
    policy::{Ladder, Policy},
    refusal::Refusal,
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::Registry;

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_peer_that_cannot_verify_ml_dsa_is_served_by_a_dual_identity_and_counted", served),
        trial("a_peer_that_cannot_verify_ml_dsa_is_refused_by_a_single_identity", refused),
        trial("a_client_in_go_is_served_by_a_dual_identity_over_hybrid_key_exchange", go),
    ]
}

const REASON: &str = "peer_cannot_verify_ml_dsa";
const OPEN: Policy = Policy { key_exchange: Ladder::Require, signatures: Ladder::Prefer };
/// Verifies ECDSA and nothing else.
const ECDSA_ONLY: Policy = Policy { key_exchange: Ladder::Require, signatures: Ladder::Classical };

fn wish(companion: bool) -> TrustDomainSpec {
    TrustDomainSpec {
        companion: companion.then(|| Issuing::own(KeyAlgorithm::EcdsaP256, 1)),
        leaf: Leaves { algorithm: None, dual: true },
        ..TrustDomainSpec::of(Issuing::own(KeyAlgorithm::MlDsa65, 1))
    }
}

/// A mesh with a companion that all trust, and a server whose word on its own identities is `dual`.
async fn open(dual: &str) -> Result<Stage, Error> {
    let stage = Stage::open(&["--signatures=prefer", &format!("--dual-identity={dual}")]).await?;
    stage.mesh.wish(&wish(true))?;
    until("a companion that issues", async || {
        let trust = stage.mesh.trust().await?;
        Ok(trust.rotation.is_none() && !trust.companion.is_empty())
    })
    .await?;
    Ok(stage)
}

async fn served() -> Result<(), Error> {
    let stage = open("enabled").await?;
    let application = TcpListener::bind(stage.application()).await?;
    until("a second certificate", async || Ok(stage.server.evidence().await?.companion.is_some())).await?;
    let own = stage.server.evidence().await?;
    assert_eq!(own.leaf.map(|leaf| leaf.algorithm).as_deref(), Some("ML-DSA-65"));
    assert_eq!(own.companion.map(|leaf| leaf.algorithm).as_deref(), Some("ECDSA-P256"));
    assert_eq!(stage.client.evidence().await?.companion, None, "its policy requires ML-DSA of all");

    let old = stage.peer(10, "old", OPEN).await?.under(ECDSA_ONLY);
    let mut tunnel = Hbone::open(&old, stage.server_identity()?, stage.server.tunnel).await?;
    let pod = stage.pod().to_string();
    let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
    let (asked, accepted) = (asked?, accepted?);
    assert_eq!(asked.0, StatusCode::OK);
    let row = row(&stage, "old").await?;
    assert_eq!((row.class, row.reason.as_deref()), (Class::Hybrid, Some(REASON)));
    assert_eq!(row.group.as_deref(), Some("X25519MLKEM768"));
    assert_eq!(row.signatures.client.as_deref(), Some("ML-DSA-65"), "each direction by itself");
    assert_eq!(row.signatures.server.as_deref(), Some("ECDSA-P256"));
    let (_, metrics) = get::get(stage.server.metrics, "/metrics").await?;
    let metrics = String::from_utf8(metrics.to_vec())?;
    for family in ["trellis_handshakes_total{", "trellis_connections_total{"] {
        let counted = metrics.lines().find(|line| line.starts_with(family) && line.contains(REASON));
        let counted = counted.ok_or(family)?;
        assert!(counted.contains("/sa/old\"") && counted.contains("class=\"hybrid\""), "{counted}");
    }

    // Who can verify ML-DSA is shown nothing else.
    let (client, server) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    let (_client, _server) = (client?, server?);
    let ordinary = self::row(&stage, "client").await?;
    assert_eq!((ordinary.class, ordinary.reason), (Class::Pq, None));
    assert_eq!(ordinary.signatures.server.as_deref(), Some("ML-DSA-65"));
    let open = stage.peer(11, "open", OPEN).await?;
    assert!(handshake(&open, stage.server_identity()?, true, stage.server.tunnel).await?.is_ok());

    // Once the companion is to go, nobody is served with it any more. The anchor itself waits for the peers
    // above, which follow nothing.
    drop((asked, accepted, tunnel));
    stage.mesh.wish(&wish(false))?;
    until("it is dropped", async || Ok(stage.server.evidence().await?.companion.is_none())).await?;
    let turned_away = handshake(&old, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert_eq!(turned_away.err(), Some(Refusal::PeerAlertHandshakeFailure));
    Ok(())
}

async fn refused() -> Result<(), Error> {
    let stage = open("disabled").await?;
    let old = stage.peer(10, "old", OPEN).await?.under(ECDSA_ONLY);
    let turned_away = handshake(&old, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert_eq!(turned_away.err(), Some(Refusal::PeerAlertHandshakeFailure));
    until("the refusal is counted", async || Ok(stage.refused("no_common_signature").await? == 1)).await?;
    assert_eq!(stage.server.evidence().await?.companion, None);
    Ok(())
}

/// Go's TLS offers hybrid key exchange and cannot verify ML-DSA: a client that nobody here has tuned.
async fn go() -> Result<(), Error> {
    let stage = open("enabled").await?;
    until("a second certificate", async || Ok(stage.server.evidence().await?.companion.is_some())).await?;
    let foreign = workload(&stage.mesh, 10, "foreign", vec![]);
    stage.mesh.announce(&foreign)?;
    let bundle = Bundle::from_pem(DEFAULT_TRUST_DOMAIN, &fs::read_to_string(stage.mesh.bundle())?)?;
    let tls = MeshTls::new(Policy::default(), DEFAULT_TRUST_DOMAIN, Arc::new(SystemClock));
    tls.trust(bundle)?;
    let ca = CaClient::new(
        stage.mesh.ca_address().to_string().parse()?,
        Arc::new(tls),
        SpiffeId::new(DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE, CA)?,
        stage.mesh.token(&foreign)?,
        Handshakes::new(&Registry::new()),
    );
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let request = csr::make(&key)?;
    // The CA sees the new pod a moment later.
    until("the CA knows the pod", async || Ok(ca.issue_companion(request.clone()).await.is_ok())).await?;
    let issued = ca.issue_companion(request).await?;
    let (leaf, private) = (stage.mesh.path("foreign.der"), stage.mesh.path("foreign.key"));
    fs::write(&leaf, issued.leaf)?;
    fs::write(&private, key.pkcs8()?.as_slice())?;

    let mut client = Command::new("go");
    client
        .args(["run", "./foreign"])
        .arg(format!("--address={}", stage.server.tunnel))
        .arg(format!("--server={}", stage.server_identity()?))
        .arg(format!("--certificate={}", leaf.display()))
        .arg(format!("--key={}", private.display()))
        .arg(format!("--bundle={}", stage.mesh.bundle().display()))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../apps"))
        .stdin(Stdio::null());
    let client = spawn_blocking(move || client.output()).await??;
    let said = String::from_utf8_lossy(&client.stdout);
    assert!(client.status.success(), "{said}{}", String::from_utf8_lossy(&client.stderr));
    assert!(said.contains("TLS 1.3") && said.contains("X25519MLKEM768"), "{said}");

    let (_, metrics) = get::get(stage.server.metrics, "/metrics").await?;
    let metrics = String::from_utf8(metrics.to_vec())?;
    let peer = format!("peer=\"spiffe://{DEFAULT_TRUST_DOMAIN}/ns/{NAMESPACE}/sa/foreign\"");
    let counted =
        metrics.lines().find(|line| line.starts_with("trellis_handshakes_total{") && line.contains(&peer));
    let counted = counted.ok_or("the handshake was not counted")?;
    for label in [
        "class=\"hybrid\"",
        "local_signature=\"ECDSA-P256\"",
        "peer_signature=\"ECDSA-P256\"",
        "reason=\"peer_cannot_verify_ml_dsa\"",
    ] {
        assert!(counted.contains(label), "{counted}");
    }
    Ok(())
}

/// The one row of connections that came to the server from `account`.
async fn row(stage: &Stage, account: &str) -> Result<Connections, Error> {
    let source = format!("spiffe://{DEFAULT_TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}");
    let rows = async || {
        let rows = stage.server.evidence().await?.inbound.into_iter();
        Result::<Vec<Connections>, Error>::Ok(rows.filter(|row| row.source == source).collect())
    };
    until("the connection is counted", async || Ok(!rows().await?.is_empty())).await?;
    let mut rows = rows().await?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    Ok(rows.remove(0))
}

async fn until(what: &str, condition: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
    let waited = time::timeout(Duration::from_secs(60), async {
        while !condition().await? {
            time::sleep(Duration::from_millis(20)).await;
        }
        Result::<(), Error>::Ok(())
    });
    waited.await.map_err(|_| format!("never happened: {what}"))?
}
