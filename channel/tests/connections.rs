//! Listeners and dialers against each other, and against peers that mean no good, over loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use support::{DAY, bundle, counter, epoch, id, root, tls_of};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use trellis_channel::{
    client::{Address, DialError, Dialer},
    handshakes::Handshakes,
    server::{Limits, Listener, Peer},
};
use trellis_pki::{
    clock::ManualClock,
    credential::{Denials, Denied},
    issue::{Issuer, backdate},
    policy::Policy,
    posture::Class,
    refusal::Refusal,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::Registry;

const HANDSHAKES: &str = "trellis_handshakes_total";

struct Echo {
    tls: Arc<MeshTls>,
    issuer: Arc<Issuer>,
    clock: Arc<ManualClock>,
    address: SocketAddr,
    registry: Registry,
    _task: JoinHandle<()>,
}

/// Sends back what it is sent, and who sent it before that.
async fn echo(auth: ClientAuth, limits: Limits) -> Echo {
    let clock = Arc::new(ManualClock::new(epoch()));
    let issuer = root(epoch());
    let tls = tls_of(&issuer, "server", clock.clone(), DAY);
    let registry = Registry::new();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::new(tcp, tls.clone(), auth, limits, clock.clone(), &registry);
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut incoming = listener.incoming();
        while let Some(Ok(mut secured)) = incoming.next().await {
            tokio::spawn(async move {
                let Peer { identity, posture, .. } = secured.peer().clone();
                let who = identity.map_or_else(|| "nobody".to_owned(), |identity| identity.to_string());
                let greeting = format!("{who} {}\n", posture.class);
                let mut buffer = [0; 64];
                let _ = secured.write_all(greeting.as_bytes()).await;
                while let Ok(read @ 1..) = secured.read(&mut buffer).await {
                    let _ = secured.write_all(&buffer[..read]).await;
                }
            });
        }
    });
    Echo { issuer, tls, clock, address, registry, _task: task }
}

impl Echo {
    fn address(&self) -> Address {
        self.address.to_string().parse().unwrap()
    }

    fn client(&self, account: &str) -> Dialer {
        Dialer::new(tls_of(&self.issuer, account, self.clock.clone(), DAY), id("server"), true)
    }

    /// Waits until so many handshakes were refused for this reason.
    async fn refused(&self, reason: &str, count: u64) {
        while counter(&self.registry, HANDSHAKES, &[("result", "refused"), ("reason", reason)]) < count {
            tokio::task::yield_now().await;
        }
    }
}

async fn greeting(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    while !text.ends_with('\n') {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text
}

#[tokio::test]
async fn both_ends_know_each_other_and_count_what_was_negotiated() {
    let echo = echo(ClientAuth::Required, Limits::default()).await;
    let registry = Registry::new();
    let client = echo.client("client").counting(Handshakes::new(&registry));
    let mut stream = client.dial(&echo.address()).await.unwrap();
    assert_eq!(greeting(&mut stream).await, format!("{} {}\n", id("client"), Class::Pq));
    let negotiated = [
        ("class", "pq"),
        ("group", "X25519MLKEM768"),
        ("tls", "1.3"),
        ("local_signature", "ML-DSA-65"),
        ("peer_signature", "ML-DSA-65"),
        ("resumed", "false"),
        ("result", "ok"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&negotiated[..], more].concat();
    let peer = "spiffe://cluster.local/ns/test/sa/client";
    assert_eq!(counter(&echo.registry, HANDSHAKES, &with(&[("direction", "inbound"), ("peer", peer)])), 1);
    let peer = "spiffe://cluster.local/ns/test/sa/server";
    assert_eq!(counter(&registry, HANDSHAKES, &with(&[("direction", "outbound"), ("peer", peer)])), 1);
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_nobody_where_that_is_allowed_and_refused_elsewhere() {
    let open = echo(ClientAuth::None, Limits::default()).await;
    let bare = |echo: &Echo| {
        let tls = MeshTls::new(Policy::default(), support::DOMAIN, echo.clock.clone());
        tls.trust(bundle(&echo.issuer)).unwrap();
        Dialer::new(Arc::new(tls), id("server"), false)
    };
    let mut stream = bare(&open).dial(&open.address()).await.unwrap();
    assert_eq!(greeting(&mut stream).await, "nobody pq\n");

    let closed = echo(ClientAuth::Required, Limits::default()).await;
    // A TLS 1.3 client is through before the server has judged it: it learns by reading.
    if let Ok(mut stream) = bare(&closed).dial(&closed.address()).await {
        assert!(stream.read_u8().await.is_err());
    }
    closed.refused("no_certificate", 1).await;
}

#[tokio::test]
async fn a_peer_that_may_come_without_a_certificate_must_not_come_with_a_bad_one() {
    let echo = echo(ClientAuth::Optional, Limits::default()).await;
    let mut known = echo.client("client").dial(&echo.address()).await.unwrap();
    assert_eq!(greeting(&mut known).await, format!("{} pq\n", id("client")));
    let stranger = tls_of(&root(epoch()), "client", echo.clock.clone(), DAY);
    stranger.trust(bundle(&echo.issuer)).unwrap();
    if let Ok(mut stream) = Dialer::new(stranger, id("server"), true).dial(&echo.address()).await {
        assert!(stream.read_u8().await.is_err());
    }
    echo.refused("unknown_issuer", 1).await;
}

#[tokio::test]
async fn a_peer_that_is_denied_loses_the_connection_that_it_has() {
    let echo = echo(ClientAuth::Required, Limits::default()).await;
    let (client, other) = (echo.client("client"), echo.client("other"));
    let mut before = client.dial(&echo.address()).await.unwrap();
    let mut beside = other.dial(&echo.address()).await.unwrap();
    greeting(&mut before).await;
    greeting(&mut beside).await;
    echo.tls.deny(Denials::new([Denied::Identity(id("client"))]).unwrap());
    // What is written may still leave; nothing comes back.
    let _ = before.write_all(b"?").await;
    assert!(before.read_u8().await.is_err());
    if let Ok(mut again) = client.dial(&echo.address()).await {
        assert!(again.read_u8().await.is_err());
    }
    echo.refused("denied", 1).await;
    beside.write_all(b"!").await.unwrap();
    assert_eq!(beside.read_u8().await.unwrap(), b'!', "nobody else is touched");
}

#[tokio::test]
async fn a_dialer_refuses_whoever_is_not_expected() {
    let echo = echo(ClientAuth::None, Limits::default()).await;
    let dial = async |tls: Arc<MeshTls>, expected: &str| match Dialer::new(tls, id(expected), false)
        .dial(&echo.address())
        .await
    {
        Err(DialError::Handshake { refusal, .. }) => Some(refusal),
        _ => None,
    };
    let known = tls_of(&echo.issuer, "client", echo.clock.clone(), DAY);
    assert_eq!(dial(known, "somebody-else").await, Some(Refusal::WrongIdentity));
    let stranger = tls_of(&root(epoch()), "client", echo.clock.clone(), DAY);
    assert_eq!(dial(stranger, "server").await, Some(Refusal::UnknownIssuer));
}

#[tokio::test]
async fn a_dialer_names_what_it_cannot_reach() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let clock = Arc::new(ManualClock::new(epoch()));
    let dialer = Dialer::new(tls_of(&root(epoch()), "client", clock, DAY), id("server"), true);
    let Err(error) = dialer.dial(&address.parse().unwrap()).await else { panic!("somebody answered") };
    assert!(matches!(error, DialError::Connect { .. }) && error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn a_flood_of_half_open_handshakes_does_not_stop_a_good_client() {
    let limits = Limits { handshakes_in_flight: 16, handshakes_per_source: 8, ..Limits::default() };
    let echo = echo(ClientAuth::Required, limits).await;
    // Half of them silent, half of them stuck in the middle of a hello; all from the good one's address.
    let mut flood = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(echo.address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x06, 0x00, 0x01]).await.unwrap();
        }
        flood.push(stream);
    }
    let client = echo.client("client");
    for _ in 0..5 {
        let mut stream = client.dial(&echo.address()).await.unwrap();
        assert!(greeting(&mut stream).await.starts_with(id("client").as_str()));
    }
    // Each that is there made an older one go; what is left in flight is within the bound.
    echo.refused("crowded_out", 300 - 8).await;
}

#[tokio::test]
async fn a_stalled_handshake_ends_by_itself() {
    let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
    let echo = echo(ClientAuth::Required, limits).await;
    let mut stalled = TcpStream::connect(echo.address).await.unwrap();
    stalled.write_all(&[0x16]).await.unwrap();
    assert!(matches!(stalled.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    echo.refused("timed_out", 1).await;
}

#[tokio::test]
async fn what_is_not_tls_is_refused_and_counted() {
    let echo = echo(ClientAuth::Required, Limits::default()).await;
    let mut plain = TcpStream::connect(echo.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    echo.refused("not_tls", 1).await;
}

#[tokio::test]
async fn a_connection_does_not_outlive_the_certificate_it_came_in_with() {
    let echo = echo(ClientAuth::Required, Limits::default()).await;
    let client = echo.client("client");
    // The certificate counts the time by which it is backdated.
    echo.clock.set(epoch() + DAY - backdate(DAY) - Duration::from_millis(200));
    let server = tls_of(&echo.issuer, "server", echo.clock.clone(), DAY);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener::new(
        tcp,
        server,
        ClientAuth::Required,
        Limits::default(),
        echo.clock.clone(),
        &Registry::new(),
    );
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let mut incoming = listener.incoming();
    let (dialled, accepted) = tokio::join!(client.dial(&address), incoming.next());
    let (_dialled, Some(Ok(mut accepted))) = (dialled.unwrap(), accepted) else { panic!("nobody came") };
    let error = accepted.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn connections_of_one_source_are_bounded_and_the_newest_stay() {
    let limits = Limits { connections_per_source: 2, ..Limits::default() };
    let echo = echo(ClientAuth::Required, limits).await;
    let client = echo.client("client");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = client.dial(&echo.address()).await.unwrap();
        greeting(&mut stream).await;
        streams.push(stream);
    }
    let [first, second, third] = &mut streams[..] else { panic!("three were dialled") };
    assert!(first.read_u8().await.is_err(), "the oldest had to go");
    for stream in [second, third] {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
}
