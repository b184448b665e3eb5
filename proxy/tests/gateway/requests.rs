//! What becomes of requests on their way through.

use tokio::net::TcpStream;
use trellis_api::proto::discovery::{self as wire, listener::Kind};

use crate::{stage::Stage, web::*};

async fn one(stage: &Stage) -> std::net::SocketAddr {
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    at
}

#[tokio::test]
async fn an_application_hears_who_the_client_is_from_the_gateway_alone() {
    let stage = Stage::new().await;
    one(&stage).await;
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&[]).await;
    let headers = [
        "-H",
        "X-Forwarded-For: 10.9.9.9",
        "-H",
        "Forwarded: for=10.9.9.9",
        "-H",
        "X-Real-IP: 10.9.9.9",
        "-H",
        "X-Forwarded-Client-Cert: By=me",
        "-H",
        "Connection: x-forwarded-for, x-mine",
        "-H",
        "X-Mine: 1",
    ];
    let client = std::net::SocketAddr::new(gateway.address, 0).ip();
    for extra in [&["--http1.1"], &["--http2-prior-knowledge"]] {
        let got =
            curl(gateway.at(80), "http://shop.example:8000/a//b/../c", &[&headers[..], extra].concat()).await;
        assert_eq!(got.status, 200, "{got:?}");
        for said in [
            "GET /a/c\n".to_owned(),
            "host: shop.example:8000".to_owned(),
            "x-forwarded-for: 127.0.0.1\n".to_owned(),
            "x-forwarded-proto: http\n".to_owned(),
            "x-forwarded-host: shop.example:8000\n".to_owned(),
            "forwarded: for=127.0.0.1;host=\"shop.example:8000\";proto=http\n".to_owned(),
            // Whatever a client speaks, applications are spoken to as gateways do.
            "version: HTTP/1.1".to_owned(),
        ] {
            assert!(got.body.contains(&said), "{said:?} of {client} is not in {}", got.body);
        }
        for unsaid in ["10.9.9.9", "by=me", "x-real-ip"] {
            assert!(!got.body.to_ascii_lowercase().contains(unsaid), "{unsaid} is in {}", got.body);
        }
    }
    let got = curl(gateway.at(80), "http://shop.example/", &headers).await;
    assert!(!got.body.contains("x-mine"), "it belongs to the connection: {got:?}");
    // But gRPC, which is HTTP/2 everywhere.
    let grpc = ["--http2-prior-knowledge", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
    let got = curl(gateway.at(80), "http://shop.example/", &grpc).await;
    assert!(got.body.contains("version: HTTP/2.0") && got.body.contains("te: trailers"), "{got:?}");
    let got = curl(gateway.at(80), "http://shop.example/", &["-H", "X_Forwarded_For: 10.9.9.9"]).await;
    assert!(got.status == 400 && got.head.contains("trellis-error: underscore_in_header"), "{got:?}");
    let got = curl(gateway.at(80), "http://shop.example/a%2fb", &[]).await;
    assert!(got.status == 400 && got.head.contains("trellis-error: escaped_slash"), "{got:?}");
    // What the two sides are counted as.
    let evidence = gateway.evidence().await;
    let row = evidence.inbound.iter().find(|row| row.reason.as_deref() == Some("http_listener")).unwrap();
    assert_eq!((row.source.as_str(), row.count), ("unverified:client", 6));
    assert!(
        gateway.metric(&["trellis_requests_total", "service=\"shop/one:80\"", "status=\"200\""]).await >= 2.0
    );
}

#[tokio::test]
async fn a_redirect_knows_where_the_request_came_in() {
    let stage = Stage::new().await;
    let authority = Authority::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let issued = authority.issue(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.example"]);
    let redirect = |redirect: wire::Redirect| {
        let mut route = route(&[], "/", "one");
        let filter = wire::filter::Filter::Redirect(redirect);
        route.rules[0].filters = vec![wire::Filter { filter: Some(filter) }];
        route.rules[0].backends.clear();
        vec![route]
    };
    let path = |path: &str| wire::Redirect {
        path: Some(wire::PathChange { change: Some(wire::path_change::Change::Full(path.into())) }),
        ..Default::default()
    };
    let secure = wire::Redirect { scheme: "https".into(), status: 301, ..Default::default() };
    stage.control.gateway(vec![
        http(listener("up", 80, Kind::Http, ""), redirect(secure)),
        http(listener("odd", 8080, Kind::Http, ""), redirect(path("/here"))),
        tls(http(listener("web", 443, Kind::Https, ""), redirect(path("/here"))), vec![issued.wire("a/b")]),
        tls(http(listener("far", 8443, Kind::Https, ""), redirect(path("/here"))), vec![issued.wire("a/b")]),
    ]);
    let gateway = stage.gateway(&[]).await;
    for (port, url, location) in [
        (80, "http://shop.example/a?b", "https://shop.example/a?b"),
        (8080, "http://shop.example/a", "http://shop.example:8080/here"),
        (443, "https://shop.example/a", "https://shop.example/here"),
        (8443, "https://shop.example/a", "https://shop.example:8443/here"),
    ] {
        let got = curl(gateway.at(port), url, &["-k"]).await;
        assert!(got.head.contains(&format!("location: {location}")), "{url} on {port}: {got:?}");
    }
}

#[tokio::test]
async fn a_connection_leaves_http_over_tls_and_without() {
    let stage = Stage::new().await;
    one(&stage).await;
    let authority = Authority::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let issued = authority.issue(&rcgen::PKCS_ECDSA_P256_SHA256, &["shop.example"]);
    let routes = || vec![route(&[], "/", "one")];
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![issued.wire("a/b")]),
    ]);
    let gateway = stage.gateway(&[]).await;
    const UPGRADE: &str =
        "GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut plain = TcpStream::connect(gateway.at(80)).await.unwrap();
    assert!(say(&mut plain, UPGRADE, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    assert_eq!(say(&mut plain, "hello", "HELLO").await, "HELLO");
    let provider = trellis_pki::provider::public(trellis_pki::public::KeyExchange::Prefer);
    let mut sealed = secure(gateway.at(443), "shop.example", &authority, provider).await.unwrap();
    assert!(say(&mut sealed, UPGRADE, "\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    assert_eq!(say(&mut sealed, "hello", "HELLO").await, "HELLO");
    // A listener that goes takes no connection out of the middle of what is no request.
    assert_eq!(say(&mut sealed, "again", "AGAIN").await, "AGAIN");
}

#[tokio::test]
async fn one_source_has_its_places_and_no_more() {
    let stage = Stage::new().await;
    one(&stage).await;
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&["--connections-per-source=2"]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut one = TcpStream::connect(gateway.at(80)).await.unwrap();
        assert!(ask(&mut one, "shop.example", "/").await.contains("application: one"));
        held.push(one);
    }
    let mut third = TcpStream::connect(gateway.at(80)).await.unwrap();
    assert_eq!(ask(&mut third, "shop.example", "/").await, "");
    let refused = ["trellis_connections_total", "refused_too_many_connections_of_this_source"];
    gateway.until(&refused, 1.0).await;
    drop(held.pop());
    // Its end is seen in a moment.
    let again = async {
        loop {
            let mut one = TcpStream::connect(gateway.at(80)).await.unwrap();
            if ask(&mut one, "shop.example", "/").await.contains("application: one") {
                return;
            }
        }
    };
    tokio::time::timeout(crate::stage::PATIENCE, again).await.unwrap();
}
