//! Policy while traffic flows: what is demanded changes by one object, in every proxy, with nothing started
//! anew; connections that comply go on.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, StatusCode};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_api::{
    evidence::{Class, Connections},
    names::{DEFAULT_TRUST_DOMAIN, METRICS_PORT, READY_PORT, SYSTEM_NAMESPACE},
};
use trellis_local::get;
use trellis_loopback::{
    hbone::{Hbone, handshake},
    stage::{Error, NAMESPACE, Stage, connect_from, workload},
};
use trellis_pki::{
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_classical_peer_comes_and_goes_with_one_field_of_a_policy", key_exchange),
        trial("each_rung_of_a_policy_is_enforced_on_both_sides_and_seen", rungs),
        trial("plaintext_ends_when_policy_comes_to_be_strict", plaintext),
        trial("a_policy_that_is_not_understood_closes", closed),
        trial("what_a_policy_said_last_holds_without_discovery", outage),
    ]
}

const CLASSICAL: Policy = Policy { key_exchange: Ladder::Classical, signatures: Ladder::Require };

async fn key_exchange() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let old = stage.peer(10, "old", Policy::default()).await?.under(CLASSICAL);
    let served =
        async || Ok(handshake(&old, stage.server_identity()?, true, stage.server.tunnel).await?.is_ok());
    assert!(!served().await?, "the mesh requires, and there is no policy");

    // The object as slides show it, for the namespace.
    policy(
        &stage,
        NAMESPACE,
        json!({"algorithms": ["kyber768", "dilithium3"], "hybrid": true, "rollback": "enabled"}),
    )?;
    until("it is served", async || served().await).await?;
    let mut tunnel = Hbone::open(&old, stage.server_identity()?, stage.server.tunnel).await?;
    let pod = stage.pod().to_string();
    let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
    let ((status, mut send, mut receive), (mut server, _)) = (asked?, accepted?);
    assert_eq!(status, StatusCode::OK);
    let row = stage.server.evidence().await?.inbound.into_iter().find(|row| row.source.ends_with("/sa/old"));
    let row = row.ok_or("the connection was not counted")?;
    assert_eq!((row.class, row.reason.as_deref()), (Class::Classical, Some("peer_offered_no_hybrid_group")));
    let handshakes = metric(stage.server.metrics, "trellis_handshakes_total{", "/sa/old\"").await?;
    assert!(handshakes.contains("reason=\"peer_offered_no_hybrid_group\""), "{handshakes}");
    let shown = metric(stage.server.metrics, "trellis_policy{", "field=\"key_exchange\"").await?;
    assert!(shown.contains("level=\"prefer\"") && shown.contains("source=\"test/policy\""), "{shown}");
    exchange(&mut send, &mut receive, &mut server).await?;

    // Somebody else, who complies.
    let (near, far) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    let (mut near, mut far) = (near?, far?.0);
    echo(&mut near, &mut far).await?;

    policy(&stage, NAMESPACE, json!({"keyExchange": "Require"}))?;
    until("it is refused", async || Ok(!served().await?)).await?;
    // What it had open ends at a moment of rest: to the application as any other end.
    assert_eq!(time::timeout(PATIENCE, server.read(&mut [0; 1])).await??, 0);
    let rest = time::timeout(PATIENCE, receive.data()).await?;
    assert!(!matches!(rest, Some(Ok(ref data)) if !data.is_empty()), "{rest:?}");
    assert!(tunnel.ask(Method::CONNECT, &pod).await.is_err(), "its tunnel takes nothing more");
    let ended = metric(stage.server.metrics, "trellis_tunnels_ended_total{", "reason=\"policy\"").await?;
    assert!(ended.contains("direction=\"inbound\""), "{ended}");
    assert!(stage.refused("no_common_group").await? > 0);
    echo(&mut near, &mut far).await?;

    // And back by one field. Nobody was started anew.
    policy(&stage, NAMESPACE, json!({"keyExchange": "Prefer"}))?;
    until("it is served again", async || served().await).await?;
    echo(&mut near, &mut far).await?;
    // Where the policy is for others, nothing changes for this one.
    let others = json!({"selector": {"matchLabels": {"app": "nobody"}}, "keyExchange": "Prefer"});
    policy(&stage, NAMESPACE, others)?;
    until("it is refused as in the beginning", async || Ok(!served().await?)).await?;
    // The mesh's own namespace is everybody.
    policy(&stage, SYSTEM_NAMESPACE, json!({"rollback": "enabled"}))?;
    until("the mesh allows it", async || served().await).await?;
    echo(&mut near, &mut far).await
}

/// What two workloads that are both told come to, by what the client and the server are to demand.
async fn rungs() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    for (outbound, inbound, class, reason) in [
        ("Require", "Require", Some(Class::Pq), None),
        ("Prefer", "Prefer", Some(Class::Pq), None),
        ("Classical", "Prefer", Some(Class::Classical), Some("policy_is_classical")),
        ("Classical", "Require", None, Some("refused_peer_alert_handshake_failure")),
        ("Prefer", "Classical", Some(Class::Classical), Some("peer_offered_no_hybrid_group")),
        ("Require", "Classical", None, Some("refused_peer_alert_handshake_failure")),
        ("Require", "Prefer", Some(Class::Pq), None),
    ] {
        let of = |name: &str, direction, demand| {
            let spec = json!({"direction": direction, "keyExchange": demand});
            object(name, NAMESPACE, spec)
        };
        let policies = vec![of("out", "Outbound", outbound), of("in", "Inbound", inbound)];
        stage.mesh.apply("policy", policies)?;
        for (proxy, direction, demand) in
            [(&stage.client, "outbound", outbound), (&stage.server, "inbound", inbound)]
        {
            let level = format!("level=\"{}\"", demand.to_lowercase());
            let field = format!("{{direction=\"{direction}\",field=\"key_exchange\",{level}");
            until("it is known", async || {
                Ok(metric(proxy.metrics, &format!("trellis_policy{field}"), " 1").await.is_ok())
            })
            .await?;
        }
        let count = async || {
            let rows = stage.client.evidence().await?.outbound.into_iter();
            let fits = |row: &Connections| {
                row.reason.as_deref() == reason && (class.is_none() || Some(row.class) == class)
            };
            Result::<u64, Error>::Ok(rows.filter(fits).map(|row| row.count).sum())
        };
        let before = count().await?;
        let mut near = TcpStream::connect(stage.entry()).await?;
        if class.is_some() {
            let mut far = time::timeout(PATIENCE, application.accept()).await??.0;
            echo(&mut near, &mut far).await?;
        } else {
            let end = time::timeout(PATIENCE, near.read(&mut [0; 1])).await?;
            assert!(matches!(end, Ok(0) | Err(_)), "{outbound} meets {inbound}: {end:?}");
        }
        let what = format!("{outbound} meets {inbound}");
        until(&what, async || Ok(count().await? == before + 1)).await?;
    }
    Ok(())
}

async fn plaintext() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let stranger = IpAddr::from(stage.outside(1));
    let (near, far) = tokio::join!(connect_from(stranger, stage.pod()), application.accept());
    let (mut plain, mut server) = (near?, far?.0);
    echo(&mut plain, &mut server).await?;
    let (near, far) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    let (mut near, mut far) = (near?, far?.0);
    echo(&mut near, &mut far).await?;

    policy(&stage, NAMESPACE, json!({"plaintext": "Strict"}))?;
    // The server had the last word: it ends as if both had wanted it.
    assert_eq!(time::timeout(PATIENCE, plain.read(&mut [0; 1])).await??, 0);
    assert_eq!(time::timeout(PATIENCE, server.read(&mut [0; 1])).await??, 0);
    drop((plain, server));
    until("its end is counted", async || {
        Ok(metric(stage.server.metrics, "trellis_plaintext_ended_total{", "direction=\"inbound\"")
            .await
            .is_ok())
    })
    .await?;
    // The reset may come before the client has noticed that it is connected.
    let refused =
        async { connect_from(stranger, stage.pod()).await?.read(&mut [0; 1]).await.map_err(Error::from) };
    let answer = time::timeout(PATIENCE, refused).await?;
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
    until("the refusal is counted", async || Ok(stage.refused("plaintext").await? >= 1)).await?;
    echo(&mut near, &mut far).await?;

    policy(&stage, NAMESPACE, json!({"plaintext": "Permissive"}))?;
    until("plaintext is served again", async || {
        let Ok(mut client) = connect_from(stranger, stage.pod()).await else { return Ok(false) };
        let mut end = [0; 1];
        let mut server = tokio::select! {
            accepted = application.accept() => accepted?.0,
            _ = client.read(&mut end) => return Ok(false),
        };
        Ok(echo(&mut client, &mut server).await.is_ok())
    })
    .await?;
    echo(&mut near, &mut far).await
}

async fn closed() -> Result<(), Error> {
    let stage = Stage::open(&["--key-exchange=prefer"]).await?;
    let old = stage.peer(10, "old", Policy::default()).await?.under(CLASSICAL);
    let served =
        async || Ok(handshake(&old, stage.server_identity()?, true, stage.server.tunnel).await?.is_ok());
    until("it is served", async || served().await).await?;
    policy(&stage, NAMESPACE, json!({"keyexchange": "Prefer"}))?;
    until("it is refused", async || Ok(!served().await?)).await?;
    let shown = metric(stage.server.metrics, "trellis_policy{", "field=\"plaintext\"").await?;
    assert!(shown.contains("level=\"strict\""), "{shown}");
    let discovery = SocketAddr::new(stage.mesh.discovery_address().ip(), METRICS_PORT);
    let (_, statuses) = get::get(discovery, "/status").await?;
    let statuses: Value = serde_json::from_slice(&statuses)?;
    let status = &statuses["PQPolicy test/policy"];
    assert_eq!(status["conditions"][0]["reason"], "UnknownField", "{statuses}");
    let message = status["conditions"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("did you mean keyExchange?"), "{message}");
    assert_eq!(
        status["workloads"]["compliant"],
        json!(["test/client", "test/old", "test/server"]),
        "{status}"
    );
    // Its author corrects it.
    policy(&stage, NAMESPACE, json!({"keyExchange": "Prefer"}))?;
    until("it is served again", async || served().await).await
}

async fn outage() -> Result<(), Error> {
    let mut stage = Stage::open(&[]).await?;
    let old = stage.peer(10, "old", Policy::default()).await?.under(CLASSICAL);
    policy(&stage, NAMESPACE, json!({"keyExchange": "Prefer"}))?;
    let fresh = stage.peer(11, "fresh", Policy::default()).await?;
    let (identity, tunnel) = (stage.server_identity()?, stage.server.tunnel);
    let served = async || Ok(handshake(&old, identity.clone(), true, tunnel).await?.is_ok());
    until("it is served", async || served().await).await?;
    stage.mesh.end("discovery").await;
    assert!(served().await?, "what was known last holds");
    // Whoever begins now knows nothing, and serves nobody.
    let late = workload(&stage.mesh, 20, "late", vec![]);
    let running = stage.mesh.launch(&late, &[], &[], &[])?;
    let ready = SocketAddr::new(running.admin.ip(), READY_PORT);
    until("it has its identity", async || {
        let Ok((_, body)) = get::get(ready, "/ready").await else { return Ok(false) };
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(body.contains("policy") && !body.contains("identity"))
    })
    .await?;
    let hello =
        handshake(&fresh, SpiffeId::new(DEFAULT_TRUST_DOMAIN, NAMESPACE, "late")?, true, running.tunnel);
    let end = async {
        // Long enough for who serves to have answered.
        let asked = get::get(ready, "/ready").await;
        stage.mesh.end("late").await;
        asked
    };
    let (greeted, _) = tokio::join!(hello, end);
    assert!(!matches!(greeted, Ok(Ok(_))), "it was served");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(30);

/// The one policy there is, in this namespace.
fn policy(stage: &Stage, namespace: &str, spec: Value) -> Result<(), Error> {
    Ok(stage.mesh.apply("policy", vec![object("policy", namespace, spec)])?)
}

fn object(name: &str, namespace: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "policy.trellis.dev/v1", "kind": "PQPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// The first line of a metric with this in it.
async fn metric(at: SocketAddr, family: &str, with: &str) -> Result<String, Error> {
    let (_, metrics) = get::get(at, "/metrics").await?;
    let metrics = String::from_utf8(metrics.to_vec())?;
    let found = metrics.lines().find(|line| line.starts_with(family) && line.contains(with));
    Ok(found.ok_or_else(|| format!("no {family} with {with}"))?.to_owned())
}

async fn exchange(
    send: &mut SendStream<Bytes>,
    receive: &mut RecvStream,
    server: &mut TcpStream,
) -> Result<(), Error> {
    send.send_data(Bytes::from_static(b"ping"), false)?;
    let mut heard = [0; 4];
    time::timeout(PATIENCE, server.read_exact(&mut heard)).await??;
    server.write_all(b"pong").await?;
    let data = time::timeout(PATIENCE, receive.data()).await?.ok_or("the stream ended")??;
    assert_eq!((&heard, &data[..]), (b"ping", &b"pong"[..]));
    Ok(())
}

/// A question and its answer, so that the server has the last word.
async fn echo(client: &mut TcpStream, server: &mut TcpStream) -> Result<(), Error> {
    let mut heard = [0; 4];
    client.write_all(b"ping").await?;
    time::timeout(PATIENCE, server.read_exact(&mut heard)).await??;
    server.write_all(b"pong").await?;
    time::timeout(PATIENCE, client.read_exact(&mut heard)).await??;
    assert_eq!(&heard, b"pong");
    Ok(())
}

async fn until(what: &str, condition: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
    let waited = time::timeout(PATIENCE, async {
        while !condition().await? {
            time::sleep(Duration::from_millis(20)).await;
        }
        Result::<(), Error>::Ok(())
    });
    waited.await.map_err(|_| format!("never happened: {what}"))?
}
