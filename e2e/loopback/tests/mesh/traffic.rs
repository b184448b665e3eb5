//! What applications may do, and what must survive: half-closes, resets, bulk, slow readers, thousands
//! of idle connections, swaps of certificates and the loss of the control plane.

use std::time::Duration;

use futures::future::try_join_all;
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_api::evidence::Class;
use trellis_local::get::get;
use trellis_loopback::stage::{Error, Stage};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bytes_arrive_and_each_connection_is_counted_as_post_quantum", counted),
        trial("a_connection_is_counted_only_where_the_peer_took_it", not_taken),
        trial("a_server_may_speak_first", server_first),
        trial("either_side_may_finish_first", half_close),
        trial("a_reset_reaches_the_other_side", reset),
        trial("an_answer_arrives_although_the_question_was_not_read", unread),
        trial("bulk_arrives_whole_in_both_directions", bulk),
        trial("readers_who_do_not_read_hold_up_nobody_else", slow_reader),
        trial("thousands_of_idle_connections_leave_room_for_one_that_works", idle),
        trial("an_open_connection_survives_the_swap_of_both_certificates", swap),
        trial("a_tunnel_that_breaks_is_counted_if_it_takes_connections_along", broken),
    ]
}

/// A connection through both proxies, seen from both ends.
async fn pair(stage: &Stage, application: &TcpListener) -> Result<(TcpStream, TcpStream), Error> {
    let (client, server) = tokio::join!(TcpStream::connect(stage.entry()), application.accept());
    let (client, (server, _)) = (client?, server?);
    Ok((client, server))
}

async fn open() -> Result<(Stage, TcpListener), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    Ok((stage, application))
}

async fn counted() -> Result<(), Error> {
    let (stage, application) = open().await?;
    for _ in 0..5 {
        let (mut client, mut server) = pair(&stage, &application).await?;
        client.write_all(b"question").await?;
        let mut heard = [0; 8];
        server.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"question");
        server.write_all(b"answer").await?;
        let mut heard = [0; 6];
        client.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"answer");
    }
    for (running, rows, sent) in [(&stage.client, "outbound", 40), (&stage.server, "inbound", 30)] {
        let evidence = running.evidence().await?;
        let rows = if rows == "outbound" { evidence.outbound } else { evidence.inbound };
        assert_eq!(rows.len(), 1, "{rows:?}");
        let row = &rows[0];
        assert_eq!((row.count, row.class), (5, Class::Pq));
        assert_eq!(row.group.as_deref(), Some("X25519MLKEM768"));
        assert_eq!(row.signatures.client.as_deref(), Some("ML-DSA-65"));
        assert_eq!(row.signatures.server.as_deref(), Some("ML-DSA-65"));
        assert_eq!(row.source, "spiffe://cluster.local/ns/test/sa/client");
        assert_eq!(row.destination, "spiffe://cluster.local/ns/test/sa/server");
        let bytes = evidence.bytes.iter().find(|bytes| bytes.class == Class::Pq).ok_or("no bytes")?;
        assert_eq!(bytes.sent, sent);
    }
    Ok(())
}

async fn not_taken() -> Result<(), Error> {
    let stage = Stage::open(&[]).await?;
    // Nobody listens behind the server's proxy.
    let read = async { TcpStream::connect(stage.entry()).await?.read(&mut [0]).await };
    assert!(matches!(read.await, Ok(0) | Err(_)));
    let seen = async {
        loop {
            let outbound = stage.client.evidence().await?.outbound;
            if !outbound.is_empty() {
                return Result::<_, Error>::Ok(outbound);
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outbound = time::timeout(Duration::from_secs(20), seen).await??;
    assert_eq!(outbound.len(), 1, "{outbound:?}");
    let row = &outbound[0];
    assert_eq!((row.count, row.reason.as_deref()), (1, Some("refused_peer_unavailable")));
    assert_eq!(
        (row.class, row.destination.as_str()),
        (Class::Pq, "spiffe://cluster.local/ns/test/sa/server")
    );
    Ok(())
}

async fn server_first() -> Result<(), Error> {
    let (stage, application) = open().await?;
    let (mut client, mut server) = pair(&stage, &application).await?;
    server.write_all(b"hello").await?;
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"hello");
    Ok(())
}

async fn half_close() -> Result<(), Error> {
    let (stage, application) = open().await?;
    for client_first in [true, false] {
        let (client, server) = pair(&stage, &application).await?;
        let (mut first, mut last) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"that is all").await?;
        first.shutdown().await?;
        let mut heard = Vec::new();
        last.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"that is all");
        // The other direction is still open.
        last.write_all(b"understood").await?;
        last.shutdown().await?;
        let mut heard = Vec::new();
        first.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"understood");
    }
    // Who only came to listen says so at once, without a byte.
    let mut client = TcpStream::connect(stage.entry()).await?;
    client.shutdown().await?;
    let (mut server, _) = application.accept().await?;
    assert_eq!(server.read(&mut [0]).await?, 0);
    server.write_all(b"Thu Nov 26").await?;
    server.shutdown().await?;
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await?;
    assert_eq!(heard, b"Thu Nov 26");
    Ok(())
}

async fn reset() -> Result<(), Error> {
    let (stage, application) = open().await?;
    for client_first in [true, false] {
        let (client, server) = pair(&stage, &application).await?;
        let (mut first, mut last) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"x").await?;
        last.read_exact(&mut [0]).await?;
        first.set_zero_linger()?;
        drop(first);
        let error = last.read(&mut [0]).await.expect_err("a reset is not a regular end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    Ok(())
}

/// A server that answers before it has read everything, and closes: its kernel sends a reset after the
/// answer.
async fn unread() -> Result<(), Error> {
    let (stage, application) = open().await?;
    for _ in 0..20 {
        let (mut client, mut server) = pair(&stage, &application).await?;
        client.write_all(&[1; 10_000]).await?;
        server.peek(&mut [0]).await?;
        server.write_all(b"too much").await?;
        drop(server);
        let mut heard = [0; 8];
        client.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"too much");
    }
    Ok(())
}

async fn bulk() -> Result<(), Error> {
    const SIZE: usize = 64 * 1024 * 1024;
    let (stage, application) = open().await?;
    let (client, server) = pair(&stage, &application).await?;
    let send = |stream: TcpStream, seed: u8| async move {
        let (mut read, mut write) = stream.into_split();
        let block: Vec<u8> =
            (0..65_521_usize).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        let sent = async {
            let mut left = SIZE;
            while left > 0 {
                let part = left.min(block.len());
                write.write_all(&block[..part]).await?;
                left -= part;
            }
            write.shutdown().await
        };
        let other: Vec<u8> =
            (0..65_521_usize).map(|i| (i as u8).wrapping_mul(31).wrapping_add(1 - seed)).collect();
        let received = async {
            let (mut total, mut buffer) = (0, vec![0; 256 * 1024]);
            loop {
                let read = read.read(&mut buffer).await?;
                if read == 0 {
                    return std::io::Result::Ok(total);
                }
                for byte in &buffer[..read] {
                    assert_eq!(*byte, other[total % other.len()], "at {total}");
                    total += 1;
                }
            }
        };
        let (sent, received) = tokio::join!(sent, received);
        sent?;
        received
    };
    let (there, back) = tokio::join!(send(client, 0), send(server, 1));
    assert_eq!((there?, back?), (SIZE, SIZE));
    Ok(())
}

async fn slow_reader() -> Result<(), Error> {
    let (stage, application) = open().await?;
    // Until windows and buffers are full and nothing more is taken.
    let block = vec![7; 1024 * 1024];
    let mut unread = Vec::new();
    for _ in 0..40 {
        let (mut flood, stalled) = pair(&stage, &application).await?;
        let mut taken = 0;
        while let Ok(written) = time::timeout(Duration::from_millis(200), flood.write(&block)).await {
            taken += written?;
            assert!(taken < 64 * 1024 * 1024, "nobody reads, yet everything is taken");
        }
        unread.push((flood, stalled));
    }
    let (mut client, mut server) = pair(&stage, &application).await?;
    client.write_all(b"still here?").await?;
    let mut heard = [0; 11];
    time::timeout(Duration::from_secs(10), server.read_exact(&mut heard)).await??;
    Ok(())
}

async fn idle() -> Result<(), Error> {
    let (stage, application) = open().await?;
    let mut held = Vec::new();
    // Each is silent at first, so its endpoint is reached only after a while: many wait at once.
    while held.len() < 3_000 {
        let clients = try_join_all((0..100).map(|_| TcpStream::connect(stage.entry()))).await?;
        let mut servers = Vec::new();
        for _ in 0..clients.len() {
            servers.push(application.accept().await?.0);
        }
        let mut paired = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            client.write_all(&[number as u8]).await?;
            paired.push(Some(client));
        }
        for mut server in servers {
            let mut number = [0];
            server.read_exact(&mut number).await?;
            let client = paired[usize::from(number[0])].take().ok_or("heard twice")?;
            held.push((client, server));
        }
    }
    let (mut client, mut server) = pair(&stage, &application).await?;
    let block = vec![3; 8 * 1024 * 1024];
    let (sent, received) = tokio::join!(
        async {
            client.write_all(&block).await?;
            client.shutdown().await
        },
        async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.map(|_| all.len())
        }
    );
    sent?;
    assert_eq!(received?, block.len());
    // And the first one has not been forgotten.
    let (client, server) = held.first_mut().ok_or("none held")?;
    client.write_all(b"y").await?;
    server.read_exact(&mut [0]).await?;
    Ok(())
}

async fn broken() -> Result<(), Error> {
    const LOST: &str = r#"trellis_tunnels_ended_total{direction="outbound",reason="broken"} 1"#;
    let (stage, application) = open().await?;
    let (mut client, mut server) = pair(&stage, &application).await?;
    client.write_all(b"ping").await?;
    server.read_exact(&mut [0; 4]).await?;
    let metrics = async || {
        let (_, body) = get(stage.client.metrics, "/metrics").await?;
        Result::<_, Error>::Ok(String::from_utf8_lossy(&body).into_owned())
    };
    assert!(!metrics().await?.contains("trellis_tunnels_ended_total{"));
    let proxy = stage.server.pid.to_string();
    let killed = tokio::process::Command::new("kill").args(["-KILL", &proxy]).status().await?;
    assert!(killed.success());
    assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_)), "nobody is left to answer");
    time::timeout(Duration::from_secs(20), async {
        while !metrics().await?.contains(LOST) {
            time::sleep(Duration::from_millis(20)).await;
        }
        Result::<(), Error>::Ok(())
    })
    .await??;
    Ok(())
}

async fn swap() -> Result<(), Error> {
    let (stage, application) = open().await?;
    let (mut client, mut server) = pair(&stage, &application).await?;
    for running in [&stage.client, &stage.server] {
        let serial = |evidence: trellis_api::evidence::ProxyEvidence| evidence.leaf.map(|leaf| leaf.serial);
        let before = serial(running.evidence().await?);
        running.rotate().await?;
        let mut heard = [0; 4];
        time::timeout(Duration::from_secs(20), async {
            while serial(running.evidence().await?) == before {
                // The connection works all the while.
                client.write_all(b"ping").await?;
                server.read_exact(&mut heard).await?;
            }
            Result::<(), Error>::Ok(())
        })
        .await??;
        client.write_all(b"ping").await?;
        server.read_exact(&mut heard).await?;
    }
    // A new connection does not ride what the old certificates made.
    let (mut client, mut server) = pair(&stage, &application).await?;
    client.write_all(b"ping").await?;
    server.read_exact(&mut [0; 4]).await?;
    Ok(())
}
