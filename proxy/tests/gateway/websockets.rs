//! WebSockets of clients that speak HTTP/2, as browsers do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{Method, Request, StatusCode};
use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time};
use tokio_rustls::TlsConnector;
use trellis_api::{
    access::{Entry, Kind as Of},
    evidence::Class,
    proto::discovery::{self as wire, listener::Kind},
};
use trellis_pki::{provider, public::KeyExchange};

use crate::{
    stage::{PATIENCE, Proxy, Stage},
    web::*,
};

/// A client in TLS that found out that the gateway takes WebSockets in HTTP/2.
async fn browser(gateway: &Proxy, authority: &Authority) -> SendRequest<Bytes> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider::public(KeyExchange::Prefer))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let socket = TcpStream::connect(gateway.at(443)).await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut builder = h2::client::Builder::new();
    // As browsers have them.
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 22);
    let (send, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let said = async {
        while !send.is_extended_connect_protocol_enabled() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, said).await.unwrap();
    send.ready().await.unwrap()
}

async fn open(client: &SendRequest<Bytes>, path: &str) -> (StatusCode, SendStream<Bytes>, RecvStream) {
    let request = Request::builder().method(Method::CONNECT).uri(format!("https://shop.example{path}"));
    let mut request = request.header("sec-websocket-version", "13").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (answer, send) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
    let (parts, body) = time::timeout(PATIENCE, answer).await.unwrap().unwrap().into_parts();
    (parts.status, send, body)
}

async fn hear(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < length {
        let data = time::timeout(PATIENCE, body.data()).await.unwrap();
        let data = data.unwrap_or_else(|| panic!("ended after {} of {length} bytes", heard.len())).unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        heard.extend_from_slice(&data);
    }
    heard
}

/// Nothing more comes.
async fn ended(body: &mut RecvStream) {
    while let Some(data) = time::timeout(PATIENCE, body.data()).await.unwrap() {
        assert!(data.unwrap().is_empty());
    }
}

/// An application without TLS, one with TLS of its own, and one of HTTP/2.
async fn stage(authority: &Authority) -> Stage {
    let stage = Stage::new().await;
    let (plain, sealed) = (stage.application(1, 8080), stage.application(2, 8443));
    application("plain", plain, None).await;
    application("sealed", sealed, Some(&authority.issue(&P256, &["app.example"]))).await;
    stage.control.backend(stage.plain("plain", plain));
    let mut service = stage.plain("sealed", sealed);
    service.tls = Some(wire::BackendTls {
        hostname: "app.example".into(),
        authorities: vec![authority.pem.clone()],
        ..Default::default()
    });
    stage.control.backend(service.clone());
    // Its own server would take an upgrade, and is said to speak HTTP/2 alone.
    (service.name, service.protocol) = ("modern".into(), wire::Protocol::Http2.into());
    stage.control.backend(service);
    let hosts = ["shop.example"];
    let routes = ["plain", "sealed", "modern"].map(|name| route(&hosts, &format!("/{name}"), name));
    let certificate = authority.issue(&P256, &["shop.example"]).wire("edge/shop");
    let listener = http(listener("web", 443, Kind::Https, ""), routes.to_vec());
    stage.control.gateway(vec![tls(listener, vec![certificate])]);
    stage
}

#[tokio::test]
async fn a_websocket_in_http2_is_led_like_any_request() {
    let authority = Authority::new(&P256);
    let stage = stage(&authority).await;
    let mut gateway = stage.gateway(&["--access-log=enabled"]).await;
    let client = browser(&gateway, &authority).await;
    let much = vec![b'a'; 200 * 1024];
    for path in ["/plain/a?token=secret", "/sealed"] {
        let (status, mut send, mut body) = open(&client, path).await;
        assert_eq!(status, 200, "{path}");
        send.send_data("hello".into(), false).unwrap();
        assert_eq!(hear(&mut body, 5).await, b"HELLO");
        send.send_data(much.clone().into(), true).unwrap();
        assert_eq!(hear(&mut body, much.len()).await, much.to_ascii_uppercase());
        ended(&mut body).await;
    }
    assert_eq!(open(&client, "/nowhere").await.0, 404);
    assert_eq!(open(&client, "/modern").await.0, 502);
    // What it carries is counted once.
    let sent = ["trellis_bytes_total", "direction=\"outbound\"", "flow=\"sent\"", "class=\"hybrid\""];
    let sent = gateway.metric(&sent).await;
    assert!((much.len() as f64..1.5 * much.len() as f64).contains(&sent), "{sent}");
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().await);
    let log = gateway.log();
    let lines = log.lines().filter(|line| line.starts_with("{\"time\":"));
    let entries = lines.map(|line| serde_json::from_str::<Entry>(line).unwrap());
    let seen: Vec<_> = entries.filter(|one| one.kind == Of::Request).collect();
    let said: Vec<_> = seen
        .iter()
        .map(|one| {
            (one.path.as_deref().unwrap(), one.status.unwrap(), one.reason.as_deref().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        said,
        [
            ("/plain/a", 200, ""),
            ("/sealed", 200, ""),
            ("/nowhere", 404, "no_route"),
            ("/modern", 502, "no_websockets_in_http2")
        ]
    );
    for (one, route, class) in [(0, "to-plain", Class::Plaintext), (1, "to-sealed", Class::Hybrid)] {
        let one = &seen[one];
        let method = (one.method.as_deref(), one.protocol.as_deref(), one.authority.as_deref());
        assert_eq!(method, (Some("CONNECT"), Some("HTTP/2.0"), Some("shop.example")), "{one:?}");
        assert!(one.route.as_deref().unwrap().contains(route), "{one:?}");
        assert_eq!(one.posture.as_ref().unwrap().class, class, "{one:?}");
        assert_eq!(one.client_posture.as_ref().unwrap().class, Class::Hybrid, "{one:?}");
    }
}

#[tokio::test]
async fn a_websocket_in_http2_may_rest_and_outlasts_a_goodbye() {
    let authority = Authority::new(&P256);
    let stage = stage(&authority).await;
    let mut gateway = stage.gateway(&["--client-stall-seconds=1", "--drain-delay-seconds=0"]).await;
    let client = browser(&gateway, &authority).await;
    let (_, mut send, mut body) = open(&client, "/plain").await;
    // For longer than a client may be waited for in the middle of a request.
    time::sleep(Duration::from_secs(3)).await;
    send.send_data("still".into(), false).unwrap();
    assert_eq!(hear(&mut body, 5).await, b"STILL");
    gateway.signal(Signal::TERM);
    let closed = async {
        while TcpStream::connect(gateway.at(443)).await.is_ok() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, closed).await.unwrap();
    send.send_data("there".into(), false).unwrap();
    assert_eq!(hear(&mut body, 5).await, b"THERE");
    send.send_data(Bytes::new(), true).unwrap();
    ended(&mut body).await;
    assert!(gateway.ended().await);
}
