//! Bytes that go on in TLS of the application's own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use tokio_rustls::TlsAcceptor;
use trellis_api::{
    access::{Entry, Kind as Of},
    evidence::Class,
    names::TUNNEL_PORT,
    proto::discovery::{self as wire, listener::Kind},
};
use trellis_local::Role;
use trellis_pki::{provider, public::KeyExchange};

use crate::{
    stage::{PATIENCE, Proxy, Stage},
    web::*,
};

/// Says for whom it was taken and who called, then what it gets, in upper case; and at its client's end how
/// much that was.
async fn sealed(address: SocketAddr, acceptor: TlsAcceptor) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                counted.fetch_add(1, Relaxed);
                let tls = &stream.get_ref().1;
                let client = tls.peer_certificates().map_or_else(|| "nobody".to_owned(), |all| mark(&all[0]));
                let said = format!("{} of {client};", tls.server_name().unwrap_or_default());
                let _ = stream.write_all(said.as_bytes()).await;
                let (mut data, mut sum) = ([0; 4096], 0);
                while let Ok(read @ 1..) = stream.read(&mut data).await {
                    sum += read;
                    let _ = stream.write_all(&data[..read].to_ascii_uppercase()).await;
                }
                let _ = stream.write_all(format!("{sum} in all").as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    came
}

fn policy(authority: &Authority) -> wire::BackendTls {
    wire::BackendTls {
        hostname: "app.example".into(),
        authorities: vec![authority.pem.clone()],
        ..Default::default()
    }
}

/// A listener of TCP whose connections go to the backend `to`.
fn tcp(port: u32, to: &str) -> wire::Listener {
    let mut listener = listener(&format!("tcp-{port}"), port, Kind::Tcp, "");
    listener.routes = Some(wire::Routes { tcp: vec![bytes(&[], to)], ..Default::default() });
    listener
}

/// One backend in TLS, `sealed`, and the gateway before it, at port 7000.
async fn before(acceptor: TlsAcceptor, authority: &Authority) -> (Stage, Proxy, Arc<AtomicUsize>) {
    let stage = Stage::new().await;
    let at = stage.application(1, 8443);
    let came = sealed(at, acceptor).await;
    let mut service = stage.plain("sealed", at);
    service.tls = Some(policy(authority));
    stage.control.backend(service);
    stage.control.gateway(vec![tcp(7000, "sealed")]);
    let gateway = stage.gateway(&["--access-log=enabled"]).await;
    (stage, gateway, came)
}

/// Everything that is said on a new connection where `what` was said, in good order or not.
async fn heard(at: SocketAddr, what: &str) -> (String, bool) {
    // A reset may come before the client has noticed that it is connected.
    let Ok(mut client) = TcpStream::connect(at).await else { return (String::new(), false) };
    let _ = client.write_all(what.as_bytes()).await;
    let _ = client.shutdown().await;
    let mut said = Vec::new();
    let ended = time::timeout(PATIENCE, client.read_to_end(&mut said)).await.unwrap();
    (String::from_utf8_lossy(&said).into_owned(), ended.is_ok())
}

#[tokio::test]
async fn bytes_go_on_in_the_applications_own_tls_or_not_at_all() {
    let stage = Stage::new().await;
    let [authority, stranger] = [(); 2].map(|()| Authority::new(&P256));
    let own = authority.issue(&P256, &["app.example", "also.example"]);
    let (plain, inside, bare) =
        (stage.application(1, 8443), stage.application(7, 8080), stage.application(3, 9000));
    sealed(plain, acceptor(&own, None, &[])).await;
    sealed(inside, acceptor(&own, None, &[])).await;
    let mail = TcpListener::bind(bare).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = mail.accept().await {
            let _ = socket.write_all(b"220 speaks first, and no TLS\r\n").await;
            let _ = socket.read(&mut [0; 4096]).await;
        }
    });
    // The one that the mesh knows is spoken to inside its tunnel.
    let pod = SocketAddr::new(stage.network.address(Role::Pod, 7).into(), 8080);
    let identity = "spiffe://cluster.local/ns/shop/sa/inside".to_owned();
    let tunnel = wire::endpoint::Reach::Tunnel(wire::Tunnel { identity, port: TUNNEL_PORT.into() });
    let mut meshed = stage.service("inside", pod, tunnel);
    stage.control.workload(meshed.endpoints[0].clone());
    let sidecar = stage.sidecar("inside", 7).await;
    meshed.tls = Some(policy(&authority));
    // Beside it nothing listens.
    let mut absent = wire::Service { name: "absent".into(), ..meshed.clone() };
    absent.endpoints[0].port = 8081;
    stage.control.backend(meshed);
    stage.control.backend(absent);
    let backend = |name: &str, at: SocketAddr, change: &dyn Fn(&mut wire::BackendTls)| {
        let mut service = stage.plain(name, at);
        change(service.tls.insert(policy(&authority)));
        stage.control.backend(service);
    };
    let alternative = wire::subject_alt_name::Name::Hostname("also.example".into());
    let alternative = vec![wire::SubjectAltName { name: Some(alternative) }];
    backend("good", plain, &|_| {});
    backend("web", plain, &|tls| tls.authorities.clear());
    backend("alternative", plain, &|tls| {
        (tls.hostname, tls.names) = ("else.example".into(), alternative.clone());
    });
    backend("other-name", plain, &|tls| tls.hostname = "else.example".into());
    backend("untrusted", plain, &|tls| tls.authorities = vec![stranger.pem.clone()]);
    backend("invalid", plain, &|tls| tls.invalid = "the ConfigMap shop/ca is missing".into());
    backend("bare", bare, &|_| {});
    let names =
        ["good", "inside", "web", "alternative", "other-name", "untrusted", "invalid", "bare", "absent"];
    let mut listeners: Vec<_> = names.iter().zip(7000..).map(|(name, port)| tcp(port, name)).collect();
    // Where TLS ends at the gateway, it begins anew; where it goes through, it is the client's own.
    let certificate = authority.issue(&P256, &["ends.example"]).wire("edge/ends");
    let mut ends = tls(listener("ends", 443, Kind::Tls, "ends.example"), vec![certificate]);
    ends.routes = Some(wire::Routes { tls: vec![bytes(&["ends.example"], "good")], ..Default::default() });
    let mut through = listener("through", 443, Kind::Passthrough, "also.example");
    through.routes = Some(wire::Routes { tls: vec![bytes(&["also.example"], "good")], ..Default::default() });
    listeners.extend([ends, through]);
    stage.control.gateway(listeners);
    let roots = stage.folder.path().join("web.pem");
    std::fs::write(&roots, &authority.pem).unwrap();
    let gateway = stage.gateway(&[&format!("--web-roots={}", roots.display())]).await;

    for (name, port, expected) in [
        ("good", 7000, Ok("app.example")),
        ("inside", 7001, Ok("app.example")),
        ("web", 7002, Ok("app.example")),
        ("alternative", 7003, Ok("else.example")),
        ("other-name", 7004, Err("wrong_identity")),
        ("untrusted", 7005, Err("unknown_issuer")),
        ("invalid", 7006, Err("backend_tls_invalid")),
        ("bare", 7007, Err("not_tls")),
    ] {
        let (said, ended) = heard(gateway.at(port), "hello").await;
        match expected {
            Ok(host) => {
                assert_eq!((said, ended), (format!("{host} of nobody;HELLO5 in all"), true), "{name}");
            }
            Err(reason) => {
                assert_eq!((said.as_str(), ended), ("", false), "{name}");
                let (peer, reason) = (format!("unverified:shop/{name}"), format!("refused_{reason}"));
                gateway.until(&["trellis_connections_total", &peer, &reason], 1.0).await;
            }
        }
    }
    assert_eq!(heard(gateway.at(7008), "hello").await, (String::new(), false));
    let absent = ["trellis_connections_total", "/sa/inside\"", "refused_peer_unavailable"];
    gateway.until(&absent, 1.0).await;
    let provider = || provider::public(KeyExchange::Prefer);
    let mut client = secure(gateway.at(443), "ends.example", &authority, provider()).await.unwrap();
    assert_eq!(say(&mut client, "hello", "HELLO").await, "app.example of nobody;HELLO");
    let mut client = secure(gateway.at(443), "also.example", &authority, provider()).await.unwrap();
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], own.der());
    assert_eq!(say(&mut client, "hello", "HELLO").await, "also.example of nobody;HELLO");

    let good =
        ["trellis_handshakes_total", "direction=\"outbound\"", "unverified:shop/good", "result=\"ok\""];
    assert_eq!(gateway.metric(&good).await, 2.0);
    let evidence = gateway.evidence().await;
    let rows = |name: &str, class: Class| {
        let peer = format!("unverified:shop/{name}");
        let rows = evidence.outbound.iter().filter(|row| row.destination == peer && row.class == class);
        rows.map(|row| (row.tls.clone(), row.count)).collect::<Vec<_>>()
    };
    // One from each listener that seals, and the one that went through as it was.
    assert_eq!(rows("good", Class::Hybrid), [(Some("1.3".into()), 2)]);
    assert_eq!(rows("good", Class::Plaintext), [(None, 1)]);
    assert_eq!(rows("web", Class::Hybrid), [(Some("1.3".into()), 1)]);
    assert_eq!(rows("other-name", Class::Hybrid), []);
    // To the mesh it is one more connection through the tunnel.
    assert_eq!(
        (sidecar.evidence().await.inbound[0].class, rows("inside", Class::Hybrid).len()),
        (Class::Pq, 0)
    );
}

#[tokio::test]
async fn a_gateway_proves_itself_by_bytes_as_well() {
    let (authority, clients) = (Authority::new(&P256), Authority::new(&P256));
    let own = authority.issue(&P256, &["app.example"]);
    let (stage, gateway, came) = before(acceptor(&own, Some(&clients), &[]), &authority).await;
    let (said, _) = heard(gateway.at(7000), "hello").await;
    assert_eq!((said.as_str(), came.load(Relaxed)), ("", 0), "nobody was asked who calls");
    for source in ["edge/one", "edge/two"] {
        let proof = clients.issue(&P256, &["gateway.example"]);
        stage.control.proof(Ok(proof.wire(source)));
        let ends = ["trellis_gateway_certificate_end_timestamp_seconds", source];
        let shown = async { while gateway.metric(&ends).await == 0.0 {} };
        time::timeout(PATIENCE, shown).await.unwrap();
        let (said, ended) = heard(gateway.at(7000), "hello").await;
        let expected = format!("app.example of {};HELLO5 in all", mark(&proof.der()));
        assert_eq!((said, ended), (expected, true));
    }
    stage.control.proof(Err("there is no Secret edge/none"));
    gateway.until(&["trellis_gateway_troubles", "certificate=\"\""], 1.0).await;
    assert_eq!(heard(gateway.at(7000), "hello").await.0, "");
    let refused = ["trellis_connections_total", "refused_client_certificate_invalid"];
    gateway.until(&refused, 1.0).await;
    assert_eq!(came.load(Relaxed), 2);
}

/// The end of either side travels, in good order or not, and the log says what both sides negotiated.
#[tokio::test]
async fn a_connection_in_tls_ends_as_either_side_ends_it() {
    let authority = Authority::new(&P256);
    let own = authority.issue(&P256, &["app.example"]);
    let (stage, mut gateway, _) = before(acceptor(&own, None, &[]), &authority).await;
    // The client finishes, and hears the rest.
    let mut client = TcpStream::connect(gateway.at(7000)).await.unwrap();
    assert_eq!(say(&mut client, "hello", "HELLO").await, "app.example of nobody;HELLO");
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "5 in all");
    drop(client);
    // The application finishes, and hears the rest; another breaks off, which is no end.
    for (number, in_order) in [(2, true), (3, false)] {
        let listener = TcpListener::bind(stage.application(number, 8443)).await.unwrap();
        let mut service = stage.plain("sealed", listener.local_addr().unwrap());
        service.tls = Some(policy(&authority));
        stage.control.backend(service);
        let acceptor = acceptor(&own, None, &[]);
        let (told, mut tells) = watch::channel(String::new());
        let serving = tokio::spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            stream.write_all(b"all").await.unwrap();
            if in_order {
                stream.shutdown().await.unwrap();
                let mut said = String::new();
                stream.read_to_string(&mut said).await.unwrap();
                told.send_replace(said);
            } else {
                // Its close_notify is missing.
                stream.get_mut().0.shutdown().await.unwrap();
            }
        });
        let reached = async {
            loop {
                let Ok(mut client) = TcpStream::connect(gateway.at(7000)).await else { continue };
                if say(&mut client, "", "a").await == "all" {
                    return client;
                }
            }
        };
        let mut client = time::timeout(PATIENCE, reached).await.unwrap();
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).await.is_ok(), in_order);
        assert_eq!(rest, b"");
        if in_order {
            client.write_all(b"and mine").await.unwrap();
            client.shutdown().await.unwrap();
            tells.wait_for(|said| said == "and mine").await.unwrap();
        }
        serving.await.unwrap();
    }
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().await);
    let log = gateway.log();
    let lines = log.lines().filter(|line| line.starts_with("{\"time\":"));
    let entries = lines.map(|line| serde_json::from_str::<Entry>(line).unwrap());
    let seen: Vec<_> = entries.filter(|one| one.kind == Of::Connection).collect();
    let first = &seen[0];
    assert_eq!((first.bytes_sent, first.bytes_received, first.reason.as_ref()), (5, 35, None), "{first:?}");
    let posture = first.posture.as_ref().unwrap();
    assert_eq!((posture.class, posture.group.as_deref()), (Class::Hybrid, Some("X25519MLKEM768")));
    assert_eq!(first.client_posture.as_ref().unwrap().class, Class::Plaintext);
    let broken = seen.iter().filter(|one| one.reason.as_deref() == Some("connection_broke"));
    assert_eq!(broken.count(), 1, "{seen:?}");
}

#[tokio::test]
async fn an_application_that_does_not_read_in_tls_fills_nobodys_memory() {
    const MUCH: usize = 64 << 20;
    let stage = Stage::new().await;
    let authority = Authority::new(&P256);
    let acceptor = acceptor(&authority.issue(&P256, &["app.example"]), None, &[]);
    let listener = TcpListener::bind(stage.application(1, 8443)).await.unwrap();
    let mut service = stage.plain("lazy", listener.local_addr().unwrap());
    service.tls = Some(policy(&authority));
    stage.control.backend(service);
    stage.control.gateway(vec![tcp(7000, "lazy")]);
    let gateway = stage.gateway(&[]).await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let (wake, mut woken) = watch::channel(false);
    let read = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        woken.wait_for(|woken| *woken).await.unwrap();
        let (mut data, mut sum) = (vec![0; 64 * 1024], 0);
        while let Ok(read @ 1..) = stream.read(&mut data).await {
            assert!(data[..read].iter().all(|byte| *byte == 7));
            sum += read;
        }
        sum
    });
    let mut client = TcpStream::connect(gateway.at(7000)).await.unwrap();
    let (block, mut sent, before) = (vec![7; 64 * 1024], 0, resident());
    // It takes no more, at the latest when all buffers of the kernel are full.
    while let Ok(written) = time::timeout(Duration::from_secs(1), client.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < MUCH, "somebody keeps all of it");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    wake.send_replace(true);
    while sent < MUCH {
        let block = &block[..block.len().min(MUCH - sent)];
        sent += client.write(block).await.unwrap();
    }
    client.shutdown().await.unwrap();
    assert_eq!(time::timeout(PATIENCE, read).await.unwrap().unwrap(), MUCH);
}

#[tokio::test]
async fn an_application_that_stalls_its_handshake_is_given_up() {
    let stage = Stage::new().await;
    let authority = Authority::new(&P256);
    let listener = TcpListener::bind(stage.application(1, 8443)).await.unwrap();
    let mut service = stage.plain("mute", listener.local_addr().unwrap());
    service.tls = Some(policy(&authority));
    stage.control.backend(service);
    stage.control.gateway(vec![tcp(7000, "mute")]);
    let gateway = stage.gateway(&[]).await;
    let held = tokio::spawn(async move { listener.accept().await });
    assert_eq!(heard(gateway.at(7000), "hello").await, (String::new(), false));
    gateway.until(&["trellis_connections_total", "unverified:shop/mute", "refused_timed_out"], 1.0).await;
    // What it was sent was a greeting, and nothing of the client's.
    let mut socket = held.await.unwrap().unwrap().0;
    let mut said = Vec::new();
    socket.read_to_end(&mut said).await.unwrap();
    assert_eq!(said[..3], [22, 3, 1]);
    assert!(!said.windows(5).any(|window| window == b"hello"));
}
