//! Connections whose bytes are nobody's business.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use tokio::net::TcpStream;
use trellis_api::proto::discovery::{self as wire, listener::Kind};
use trellis_pki::{provider, public::KeyExchange};

use crate::{stage::Stage, web::*};

#[tokio::test]
async fn tls_ends_at_the_gateway_or_goes_through_it_on_one_port() {
    let stage = Stage::new().await;
    let authority = Authority::new(&P256);
    let own = authority.issue(&P256, &["through.example"]);
    let (raw, sealed) = (stage.application(1, 7000), stage.application(2, 8443));
    echo(raw).await;
    application("sealed", sealed, Some(&own)).await;
    stage.control.backend(stage.plain("raw", raw));
    stage.control.backend(stage.plain("sealed", sealed));
    let routes = |tls: Vec<wire::ByteRoute>, tcp: Vec<wire::ByteRoute>| {
        Some(wire::Routes { tls, tcp, ..Default::default() })
    };
    let mut ends = tls(
        listener("ends", 443, Kind::Tls, "ends.example"),
        vec![authority.issue(&P256, &["ends.example"]).wire("edge/ends")],
    );
    ends.routes = routes(vec![bytes(&["ends.example"], "raw")], vec![]);
    let mut through = listener("through", 443, Kind::Passthrough, "*.example");
    through.routes = routes(vec![bytes(&["through.example"], "sealed")], vec![]);
    let mut tcp = listener("tcp", 7000, Kind::Tcp, "");
    tcp.routes = routes(vec![], vec![bytes(&[], "raw")]);
    stage.control.gateway(vec![ends, through, tcp.clone()]);
    let gateway = stage.gateway(&[]).await;

    let provider = || provider::public(KeyExchange::Prefer);
    let mut client = secure(gateway.at(443), "ends.example", &authority, provider()).await.unwrap();
    assert_eq!(say(&mut client, "hello", "HELLO").await, "HELLO");
    let mut client = secure(gateway.at(443), "through.example", &authority, provider()).await.unwrap();
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], own.der());
    let said = say(&mut client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "body: \n").await;
    assert!(said.contains("application: sealed") && said.contains("tls: through.example"), "{said}");
    let mut client = TcpStream::connect(gateway.at(7000)).await.unwrap();
    assert_eq!(say(&mut client, "hello", "HELLO").await, "HELLO");
    // A name with a listener and without a route.
    assert!(secure(gateway.at(443), "nobody.example", &authority, provider()).await.is_err());
    gateway.until(&["trellis_connections_total", "refused_no_route"], 1.0).await;
    let evidence = gateway.evidence().await;
    let reasons: Vec<_> = evidence.inbound.iter().filter_map(|row| row.reason.as_deref()).collect();
    for reason in ["classical_signature", "tls_passed_through", "tcp_listener", "refused_no_route"] {
        assert!(reasons.contains(&reason), "{reason} is not in {reasons:?}");
    }
}
