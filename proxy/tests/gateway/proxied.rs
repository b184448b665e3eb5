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

/// What stands before a request and is not one header, whole and well formed, never becomes part of it.
#[tokio::test]
async fn nothing_is_smuggled_in_what_a_balancer_says() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&["--proxy-protocol=require", "--proxy-protocol-sources=127.0.0.1"]).await;
    let request = b"GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n".as_slice();
    let v2 = |length: u16, body: &[u8]| {
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11".as_slice(), &length.to_be_bytes(), body].concat()
    };
    let addresses = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];
    let v1 = HEADER.as_bytes();
    // 64 KiB of extensions of which each looks like a request, if it were read as one.
    let extensions = [&[0xe0, 0xff, 0xf0][..], &request.repeat(1_200)[..0xfff0]].concat();
    let huge = v2(0xffff, &[&addresses[..], &extensions].concat());
    let over = v2(20, &[&addresses[..], &[4, 0, 60, 0, 0, 0, 0, 0]].concat());
    for (bytes, counted) in [(&huge, 1.0), (&over, 2.0)] {
        let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, &[bytes, request].concat()).await;
        assert_eq!(say(&mut client, "", "never").await, "");
        gateway.until(&["trellis_connections_total", "refused_proxy_protocol_malformed"], counted).await;
    }
    // One header is believed, and what follows is the client's own: no request.
    for two in [[v1, &v2(12, &addresses)].concat(), [&v2(12, &addresses), v1].concat(), [v1, v1].concat()] {
        let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, &[&two[..], request].concat()).await;
        let said = say(&mut client, "", "never").await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
        assert!(!said.contains("application: one"), "{said}");
    }
    // Of half a header nothing is taken for anything.
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    let half = v2(12, &addresses);
    tokio::io::AsyncWriteExt::write_all(&mut client, &half[..20]).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
    assert_eq!(say(&mut client, "", "never").await, "");
    assert_eq!(gateway.metric(&["trellis_requests_total", "status=\"200\""]).await, 0.0);
    // And whoever says it as it should be is served.
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    let good = [&v2(12, &addresses)[..], request].concat();
    tokio::io::AsyncWriteExt::write_all(&mut client, &good).await.unwrap();
    assert!(say(&mut client, "", "never").await.contains("x-forwarded-for: 192.0.2.7\n"));
}
