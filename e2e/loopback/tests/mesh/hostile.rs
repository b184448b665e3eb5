//! Peers that break the rules. Each is refused for the right reason, counted, and harms nobody else.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use libtest_mimic::Trial;
use rustls::ClientConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_api::names;
use trellis_loopback::{
    hbone::{Hbone, handshake},
    stage::{Error, Stage, connect_from},
};
use trellis_pki::{
    policy::{Ladder, Policy},
    refusal::Refusal,
    spiffe::SpiffeId,
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_peer_is_led_to_the_pod_and_nowhere_else", targets),
        trial("a_peer_without_a_certificate_is_refused", no_certificate),
        trial("a_server_that_is_somebody_else_is_refused", wrong_identity),
        trial("a_classical_peer_is_refused_unless_policy_prefers", classical),
        trial("a_client_hello_may_be_cut_at_any_byte", cut_hello),
        trial("half_open_handshakes_do_not_keep_others_out", flood),
        trial("what_is_not_tls_is_refused", not_tls),
        trial("a_peer_that_breaks_http2_harms_only_itself", broken_http2),
        trial("a_strict_pod_refuses_plaintext", strict),
        trial("one_identity_at_its_limits_leaves_others_their_places", limits),
    ]
}

async fn targets() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let mut tunnel = Hbone::open(&tls, stage.server_identity()?, stage.server.tunnel).await?;
    let pod = stage.pod();
    let at = |port| SocketAddr::new(pod.ip(), port).to_string();
    let foreign = SocketAddr::from((stage.client.workload.pod, pod.port())).to_string();
    let cases = [
        (Method::CONNECT, at(names::ADMIN_PORT), StatusCode::FORBIDDEN),
        (Method::CONNECT, at(names::TUNNEL_PORT), StatusCode::FORBIDDEN),
        (Method::CONNECT, at(names::METRICS_PORT), StatusCode::FORBIDDEN),
        (Method::CONNECT, at(names::OUTBOUND_PORT), StatusCode::FORBIDDEN),
        (Method::CONNECT, foreign, StatusCode::FORBIDDEN),
        (Method::CONNECT, format!("127.0.0.1:{}", pod.port()), StatusCode::FORBIDDEN),
        (Method::CONNECT, format!("server:{}", pod.port()), StatusCode::BAD_REQUEST),
        (Method::GET, format!("http://{pod}/"), StatusCode::BAD_REQUEST),
        // Nothing listens there.
        (Method::CONNECT, at(9), StatusCode::SERVICE_UNAVAILABLE),
    ];
    for (method, uri, expected) in &cases {
        let (status, ..) = tunnel.ask(method.clone(), uri).await?;
        assert_eq!(status, *expected, "{method} {uri}");
    }
    // The same tunnel still leads to the application.
    let pod = pod.to_string();
    let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
    assert_eq!(asked?.0, StatusCode::OK);
    accepted?;
    assert_eq!(stage.refused("target_not_this_pod").await?, 6);
    Ok(())
}

async fn no_certificate() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let refused = handshake(&tls, stage.server_identity()?, false, stage.server.tunnel).await?;
    assert_eq!(refused.err(), Some(Refusal::PeerAlertCertificateRequired));
    counted(&stage, "no_certificate", 1).await
}

async fn wrong_identity() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let other = SpiffeId::new(names::DEFAULT_TRUST_DOMAIN, "test", "client")?;
    let refused = handshake(&tls, other, true, stage.server.tunnel).await?;
    assert_eq!(refused.err(), Some(Refusal::WrongIdentity));
    Ok(())
}

async fn classical() -> Result<(), Error> {
    let policy = Policy { key_exchange: Ladder::Classical, signatures: Ladder::Prefer };
    let stage = Stage::open(&[]).await?;
    let tls = stage.peer(10, "peer", policy).await?;
    let refused = handshake(&tls, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert_eq!(refused.err(), Some(Refusal::PeerAlertHandshakeFailure));
    counted(&stage, "no_common_group", 1).await?;
    let lenient = Stage::open(&["--key-exchange=prefer"]).await?;
    let tls = lenient.peer(10, "peer", policy).await?;
    assert!(handshake(&tls, lenient.server_identity()?, true, lenient.server.tunnel).await?.is_ok());
    Ok(())
}

async fn cut_hello() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let hello = |tls: &trellis_pki::tls::MeshTls| -> Result<(ClientConnection, Vec<u8>), Error> {
        let connecting = tls.connect(vec![stage.server_identity()?], true)?;
        let mut connection = ClientConnection::new(connecting.config, connecting.server_name)?;
        let mut hello = Vec::new();
        connection.write_tls(&mut hello)?;
        Ok((connection, hello))
    };
    let length = hello(&tls)?.1.len();
    assert!(length > 1_200, "a hybrid hello has a share of 1,216 bytes, this one {length} in all");
    for cut in 1..length {
        let (mut connection, hello) = hello(&tls)?;
        let mut socket = TcpStream::connect(stage.server.tunnel).await?;
        socket.set_nodelay(true)?;
        let (first, second) = hello.split_at(cut.min(hello.len()));
        socket.write_all(first).await?;
        // Lets the first part travel alone; that the handshake ends well does not depend on it.
        tokio::task::yield_now().await;
        socket.write_all(second).await?;
        while connection.is_handshaking() {
            let mut answer = [0; 16 * 1024];
            let read = time::timeout(Duration::from_secs(10), socket.read(&mut answer)).await??;
            assert!(read > 0, "the server gave up on a hello cut at {cut}");
            let mut rest = &answer[..read];
            while !rest.is_empty() {
                connection.read_tls(&mut rest)?;
                connection.process_new_packets().map_err(|error| format!("cut at {cut}: {error}"))?;
            }
        }
    }
    Ok(())
}

async fn flood() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    // More than the proxy holds in all, from more sources than one limit stops.
    let mut held = Vec::new();
    for source in 1..=12 {
        for _ in 0..60 {
            let mut socket = connect_from(stage.outside(source).into(), stage.server.tunnel).await?;
            // A hello that never ends.
            socket.write_all(&[22, 3, 1, 6, 0, 1, 0, 5]).await?;
            held.push(socket);
        }
    }
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let welcome = handshake(&tls, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert_eq!(welcome.err(), None);
    // One source alone only crowds out itself.
    let greedy: Vec<TcpStream> = futures::future::try_join_all(
        (0..100).map(|_| connect_from(stage.outside(20).into(), stage.server.tunnel)),
    )
    .await?;
    let welcome = handshake(&tls, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert_eq!(welcome.err(), None);
    // 12 * 60 and 100 came, 64 of one source and 512 in all may stay.
    at_least(&stage, "crowded_out", 36).await?;
    drop((held, greedy));
    Ok(())
}

async fn not_tls() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 64]] {
        let mut socket = TcpStream::connect(stage.server.tunnel).await?;
        socket.write_all(nonsense).await?;
        let mut answer = Vec::new();
        // An alert, or a close that finds our bytes unread.
        let _ = time::timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await?;
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    counted(&stage, "not_tls", 3).await
}

/// With one worker, a connection that is polled for ever would keep everybody else waiting.
async fn broken_http2() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let tls = stage.peer(10, "peer", Policy::default()).await?;
    let on_an_idle_stream = [0, 0, 1, 0, 0, 0, 0, 0, 5, b'x'];
    let of_no_stream = [0, 0, 1, 0, 0, 0, 0, 0, 0, b'x'];
    let far_too_long = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    for frame in [&on_an_idle_stream[..], &of_no_stream, &far_too_long] {
        let accepted = handshake(&tls, stage.server_identity()?, true, stage.server.tunnel).await?;
        let mut stream = accepted.map_err(|refusal| refusal.as_str())?;
        stream.write_all(frame).await?;
        // A goodbye with the reason, and the end.
        let mut rest = Vec::new();
        let _ = time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await?;
        let mut tunnel = Hbone::open(&tls, stage.server_identity()?, stage.server.tunnel).await?;
        let pod = stage.pod().to_string();
        let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
        assert_eq!(asked?.0, StatusCode::OK);
        accepted?;
    }
    Ok(())
}

async fn strict() -> Result<(), Error> {
    let stage = Stage::open(&["--plaintext=strict"]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let stranger = async {
        // The reset may come before the client has noticed that it is connected.
        TcpStream::connect(stage.pod()).await?.read(&mut [0]).await
    };
    assert!(matches!(stranger.await, Ok(0) | Err(_)));
    counted(&stage, "plaintext", 1).await?;
    // A member of the mesh is let in.
    let (member, accepted) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    member?;
    accepted?;
    Ok(())
}

async fn limits() -> Result<(), Error> {
    let stage = Stage::open(&["--tunnels-per-identity=2", "--connections-per-identity=3"]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    let pod = stage.pod().to_string();
    let greedy = stage.peer(10, "greedy", Policy::default()).await?;
    let mut first = Hbone::open(&greedy, stage.server_identity()?, stage.server.tunnel).await?;
    let mut second = Hbone::open(&greedy, stage.server_identity()?, stage.server.tunnel).await?;
    let mut held = Vec::new();
    for which in [0, 1, 0] {
        let tunnel = if which == 0 { &mut first } else { &mut second };
        let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
        let asked = asked?;
        assert_eq!(asked.0, StatusCode::OK);
        held.push((asked, accepted?));
    }
    assert_eq!(second.ask(Method::CONNECT, &pod).await?.0, StatusCode::SERVICE_UNAVAILABLE);
    counted(&stage, "too_many_connections_of_this_identity", 1).await?;
    let third = handshake(&greedy, stage.server_identity()?, true, stage.server.tunnel).await?;
    assert!(third.is_err(), "the third tunnel was served");
    counted(&stage, "too_many_tunnels_of_this_identity", 1).await?;

    let modest = stage.peer(11, "modest", Policy::default()).await?;
    let mut tunnel = Hbone::open(&modest, stage.server_identity()?, stage.server.tunnel).await?;
    let (asked, accepted) = tokio::join!(tunnel.ask(Method::CONNECT, &pod), application.accept());
    assert_eq!(asked?.0, StatusCode::OK);
    accepted?;
    // What the greedy one lets go, it may have again.
    held.clear();
    let again = async {
        while second.ask(Method::CONNECT, &pod).await?.0 != StatusCode::OK {
            time::sleep(Duration::from_millis(20)).await;
        }
        Result::<(), Error>::Ok(())
    };
    time::timeout(Duration::from_secs(20), again).await??;
    Ok(())
}

/// Waits until the server's proxy has counted that many refusals: it counts after it has refused.
async fn counted(stage: &Stage, reason: &str, expected: u64) -> Result<(), Error> {
    assert_eq!(at_least(stage, reason, expected).await?, expected, "{reason}");
    Ok(())
}

async fn at_least(stage: &Stage, reason: &str, expected: u64) -> Result<u64, Error> {
    let counted = async {
        loop {
            let count = stage.refused(reason).await?;
            if count >= expected {
                return Result::<u64, Error>::Ok(count);
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(Duration::from_secs(20), counted)
        .await
        .map_err(|_| format!("never counted {expected} of {reason}"))?
}
