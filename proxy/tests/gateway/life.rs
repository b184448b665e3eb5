//! How a gateway leaves.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use tokio::net::TcpStream;
use trellis_api::proto::discovery::listener::Kind;
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
