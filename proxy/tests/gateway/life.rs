//! How a gateway leaves, and another one takes over.

use std::sync::Arc;

use parking_lot::Mutex;
use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use tokio::net::TcpStream;
use trellis_api::proto::discovery::listener::Kind;
use trellis_loopback::load::Load;
use trellis_pki::{provider, public::KeyExchange};

use crate::{
    stage::{PATIENCE, Stage},
    web::*,
};

#[tokio::test]
async fn a_gateway_that_leaves_is_not_ready_first_and_finishes_what_it_has() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let authority = Authority::new(&P256);
    let issued = authority.issue(&P256, &["shop.example"]);
    let routes = || vec![route(&[], "/", "one")];
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![issued.wire("a/b")]),
    ]);
    let mut gateway = stage.gateway(&["--drain-delay-seconds=2"]).await;
    let provider = provider::public(KeyExchange::Prefer);
    let mut idle = secure(gateway.at(443), "shop.example", &authority, provider).await.unwrap();
    assert!(ask(&mut idle, "shop.example", "/").await.contains("application: one"));
    // A request of which half is there.
    let mut busy = TcpStream::connect(gateway.at(80)).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 10\r\n\r\nhello";
    tokio::io::AsyncWriteExt::write_all(&mut busy, head.as_bytes()).await.unwrap();
    // Whoever is heard by the application is under way.
    gateway.until(&["trellis_connections_open", "inbound"], 2.0).await;
    gateway.signal(Signal::TERM);
    let unready = async { while gateway.readiness().await.0 != 503 {} };
    tokio::time::timeout(PATIENCE, unready).await.unwrap();
    // Who has not noticed yet is still served.
    assert_eq!(curl(gateway.at(80), "http://shop.example/", &[]).await.status, 200);
    let closed = async { while TcpStream::connect(gateway.at(80)).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(say(&mut idle, "", "never").await, "", "who rests is let go");
    let said = say(&mut busy, "hello", "body: hellohello\n").await;
    assert!(said.to_ascii_lowercase().contains("connection: close"), "{said}");
    assert!(said.contains("body: hellohello"), "{said}");
    assert!(gateway.ended().await, "{}", gateway.log());
}

/// All pods of a gateway are replaced, as a rollout does it, while five hundred requests come every second to
/// those that are ready.
#[tokio::test]
async fn a_gateway_is_replaced_under_load() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let delay = ["--drain-delay-seconds=2"];
    let mut pods = vec![stage.replica(1, &delay).await, stage.replica(2, &delay).await];
    let balancer = Arc::new(Mutex::new(pods.iter().map(|pod| pod.at(80)).collect::<Vec<_>>()));
    let (ready, mut turn) = (balancer.clone(), 0);
    let mut load = Load::start(move || {
        let ready = ready.lock();
        turn += 1;
        ready[turn % ready.len()]
    });
    load.goes_on(500).await.unwrap();
    for number in 3..=4 {
        let new = stage.replica(number, &delay).await;
        balancer.lock().push(new.at(80));
        pods.push(new);
        let mut old = pods.remove(0);
        old.signal(Signal::TERM);
        let unready = async { while old.readiness().await.0 != 503 {} };
        tokio::time::timeout(PATIENCE, unready).await.unwrap();
        // The balancer hears of it a little later.
        load.goes_on(100).await.unwrap();
        balancer.lock().retain(|at| *at != old.at(80));
        assert!(old.ended().await, "{}", old.log());
        load.goes_on(250).await.unwrap();
    }
    let answered = load.end().await.unwrap();
    eprintln!("{} answered, none failed; {} asked again", answered.requests, answered.again);
}
