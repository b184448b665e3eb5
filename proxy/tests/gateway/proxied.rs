//! Clients behind a balancer that says who they are.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use tokio::net::TcpStream;
use trellis_api::proto::discovery::listener::Kind;

use crate::{stage::Stage, web::*};

const HEADER: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n";

#[tokio::test]
async fn a_balancer_that_is_trusted_names_the_client() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let issued = Authority::new(&P256).issue(&P256, &["shop.example"]);
    let routes = || vec![route(&[], "/", "one")];
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![issued.wire("a/b")]),
    ]);
    let gateway = stage.gateway(&["--proxy-protocol=require", "--proxy-protocol-sources=127.0.0.1"]).await;
    let request = "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    let said = say(&mut client, &format!("{HEADER}{request}"), "body: \n").await;
    assert!(said.contains("x-forwarded-for: 192.0.2.7\n"), "{said}");
    // curl speaks version 1 as well, of the connection itself.
    for url in ["http://shop.example/", "https://shop.example/"] {
        let port = if url.starts_with("https") { 443 } else { 80 };
        let got = curl(gateway.at(port), url, &["-k", "--haproxy-protocol"]).await;
        assert!(got.body.contains("x-forwarded-for: 127.0.0.1\n"), "{got:?}");
        let got = curl(gateway.at(port), url, &["-k"]).await;
        assert_eq!(got.status, 0, "{got:?}");
    }
    gateway
        .until(&["trellis_connections_total", "class=\"plaintext\"", "refused_proxy_protocol_missing"], 1.0)
        .await;
    gateway.until(&["trellis_handshakes_total", "reason=\"proxy_protocol_missing\""], 1.0).await;
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    assert_eq!(say(&mut client, &format!("PROXY TCP4 192.0.2.7\r\n{request}"), "body: \n").await, "");
    gateway.until(&["trellis_connections_total", "refused_proxy_protocol_malformed"], 1.0).await;
}

#[tokio::test]
async fn nobody_else_may() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&["--proxy-protocol=accept", "--proxy-protocol-sources=192.0.2.0/24"]).await;
    assert_eq!(curl(gateway.at(80), "http://shop.example/", &[]).await.status, 200);
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    let request = format!("{HEADER}GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    let said = say(&mut client, &request, "body: \n").await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}
