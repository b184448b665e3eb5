//! What a gateway shows of the requests of its clients.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use tokio::net::TcpStream;
use trellis_api::{
    access::{Direction, Entry, Kind as Of},
    diag::Explanation,
    evidence::Class,
    names::ADMIN_PORT,
    proto::discovery::{self as wire, listener::Kind},
};
use trellis_local::get::get;

use crate::{stage::Stage, web::*};

fn entries(log: &str) -> Vec<Entry> {
    let lines = log.lines().filter(|line| line.starts_with("{\"time\":"));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_access_log_names_the_true_client_and_what_both_sides_negotiated() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let issued = Authority::new(&P256).issue(&P256, &["shop.example"]);
    let routes = || vec![route(&["shop.example"], "/", "one")];
    let echoed = stage.application(1, 9000);
    echo(echoed).await;
    stage.control.backend(stage.plain("echo", echoed));
    let mut bare = listener("tcp", 9000, Kind::Tcp, "");
    bare.routes = Some(wire::Routes { tcp: vec![bytes(&[], "echo")], ..Default::default() });
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![issued.wire("a/b")]),
        bare,
    ]);
    let flags = ["--access-log=enabled", "--proxy-protocol=accept", "--proxy-protocol-sources=127.0.0.1"];
    let mut gateway = stage.gateway(&flags).await;
    let mut client = TcpStream::connect(gateway.at(80)).await.unwrap();
    let request = "PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n\
                   POST /cart?token=secret HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\nfour";
    assert!(say(&mut client, request, "body: ").await.starts_with("HTTP/1.1 200"));
    drop(client);
    assert_eq!(curl(gateway.at(443), "https://other.example/", &["-k"]).await.status, 404);
    let mut client = TcpStream::connect(gateway.at(9000)).await.unwrap();
    assert_eq!(say(&mut client, "hello", "HELLO").await, "HELLO");
    drop(client);
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().await);
    let seen = entries(&gateway.log());
    let requests: Vec<&Entry> = seen.iter().filter(|one| one.kind == Of::Request).collect();
    let [one, other] = *requests else { panic!("{seen:?}") };
    assert_eq!((one.direction, one.source.as_str()), (Direction::Inbound, "unverified:client"));
    assert!(one.client.as_ref().unwrap().starts_with("192.0.2.7:"), "{one:?}");
    assert_eq!((one.method.as_deref(), one.path.as_deref()), (Some("POST"), Some("/cart")));
    assert_eq!((one.authority.as_deref(), one.status), (Some("shop.example"), Some(200)));
    assert_eq!((one.bytes_sent, one.destination.as_str()), (4, "unverified:shop/one"));
    assert_eq!(one.service.as_deref(), Some("shop/one:80"));
    let posture = one.posture.as_ref().unwrap();
    assert_eq!((posture.class, posture.weakness.as_deref()), (Class::Plaintext, Some("not_injected")));
    let client = one.client_posture.as_ref().unwrap();
    assert_eq!((client.class, client.weakness.as_deref()), (Class::Plaintext, Some("http_listener")));
    assert!(other.client.as_ref().unwrap().starts_with("127.0.0.1:"), "{other:?}");
    assert_eq!((other.status, other.reason.as_deref()), (Some(404), Some("no_route_for_host")));
    assert!(other.posture.is_none(), "nobody was reached");
    let client = other.client_posture.as_ref().unwrap();
    assert!(client.tls.is_some() && client.class != Class::Plaintext, "{client:?}");
    let connection = seen.iter().find(|one| one.kind == Of::Connection).unwrap();
    assert_eq!((connection.bytes_sent, connection.bytes_received), (5, 5), "{connection:?}");
    assert_eq!(connection.source, "unverified:client");
    assert_eq!(connection.client_posture.as_ref().unwrap().weakness.as_deref(), Some("tcp_listener"));
}

#[tokio::test]
async fn a_clients_trace_is_not_believed() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&[]).await;
    let claims = [
        "-H",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "-H",
        "Tracestate: a=1",
        "-H",
        "Baggage: admin=true",
    ];
    let got = curl(gateway.at(80), "http://shop.example/", &claims).await;
    assert_eq!(got.status, 200, "{got:?}");
    for claim in ["traceparent", "tracestate", "baggage"] {
        assert!(!got.body.contains(claim), "{claim} in {got:?}");
    }
}

#[tokio::test]
async fn a_gateway_explains_which_listener_and_route_a_request_would_take() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    stage.control.backend(stage.plain("one", at));
    let routes = vec![route(&["shop.example"], "/cart", "one")];
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, "shop.example"), routes)]);
    let gateway = stage.gateway(&[]).await;
    let admin = std::net::SocketAddr::new(gateway.address, ADMIN_PORT);
    for (to, reason) in [
        ("http://shop.example/cart", ""),
        ("http://shop.example/other", "no_route"),
        ("http://other.example/cart", "no_listener_for_host"),
        ("http://shop.example:81/cart", "no_listener"),
        ("http://shop.example/a%252fb", "escaped_slash"),
    ] {
        let (status, body) = get(admin, &format!("/explain?to={to}")).await.unwrap();
        assert_eq!(status, 200, "{to}");
        let told: Explanation = serde_json::from_slice(&body).unwrap();
        assert_eq!(told.failure.as_ref().map_or("", |failure| &failure.reason), reason, "{told:?}");
        if reason.is_empty() {
            assert_eq!(told.backends[0].endpoints[0].address, at.to_string());
            assert!(told.steps[0].contains("listener web"), "{told:?}");
        }
    }
    let (status, _) = get(admin, "/explain?to=http://shop.example/a%2520b%0a").await.unwrap();
    assert_eq!(status, 400);
}
