//! Policy at a gateway: clients that could not begin any more are let go, the others stay; and the gateway's
//! own demands of the mesh.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use tokio::net::TcpStream;
use trellis_api::proto::discovery::{self as wire, demand::Level, listener::Kind, listener_tls};
use trellis_pki::{provider, public::KeyExchange};

use crate::{
    stage::{PATIENCE, Stage},
    web::*,
};

#[tokio::test]
async fn clients_that_could_not_begin_any_more_are_let_go_and_the_others_stay() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let authority = Authority::new(&P256);
    let certificate = authority.issue(&P256, &["shop.example"]).wire("edge/web");
    let routes = || vec![route(&[], "/", "one")];
    let serve = |key_exchange: listener_tls::KeyExchange, plaintext_denied| {
        let secure = http(listener("secure", 443, Kind::Https, ""), routes());
        let mut secure = tls(secure, vec![certificate.clone()]);
        secure.tls.as_mut().unwrap().key_exchange = key_exchange.into();
        let plain = http(listener("plain", 80, Kind::Http, ""), routes());
        stage.control.gateway(vec![secure, wire::Listener { plaintext_denied, ..plain }]);
    };
    serve(listener_tls::KeyExchange::Prefer, false);
    let gateway = stage.gateway(&[]).await;
    let connect = async |key_exchange| {
        let provider = provider::public(key_exchange);
        secure(gateway.at(443), "shop.example", &authority, provider).await
    };
    let mut old = connect(KeyExchange::Classical).await.unwrap();
    let mut new = connect(KeyExchange::Prefer).await.unwrap();
    let mut plain = TcpStream::connect(gateway.at(80)).await.unwrap();
    assert!(ask(&mut old, "shop.example", "/").await.contains("application: one"));
    assert!(ask(&mut new, "shop.example", "/").await.contains("application: one"));
    assert!(ask(&mut plain, "shop.example", "/").await.contains("application: one"));

    serve(listener_tls::KeyExchange::Require, true);
    assert_eq!(say(&mut old, "", "never").await, "", "its key exchange is none any more");
    assert_eq!(say(&mut plain, "", "never").await, "", "plaintext is not to be");
    assert!(ask(&mut new, "shop.example", "/").await.contains("application: one"));
    assert!(connect(KeyExchange::Classical).await.is_err());
    assert_eq!(curl(gateway.at(80), "http://shop.example/", &[]).await.status, 0);
    gateway.until(&["trellis_connections_total", "refused_plaintext"], 1.0).await;
    gateway.until(&["trellis_plaintext_ended_total", "peer=\"unverified:client\""], 1.0).await;

    serve(listener_tls::KeyExchange::Prefer, false);
    let served = async { while connect(KeyExchange::Classical).await.is_err() {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    assert_eq!(curl(gateway.at(80), "http://shop.example/", &[]).await.status, 200);
    assert!(ask(&mut new, "shop.example", "/").await.contains("application: one"));
}

#[tokio::test]
async fn nobody_without_a_proxy_is_reached_once_policy_lets_nothing_out_in_plaintext() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "one")])]);
    let gateway = stage.gateway(&[]).await;
    let status = async || curl(gateway.at(80), "http://shop.example/", &[]).await.status;
    assert_eq!(status().await, 200);
    let demand = |level: Level| wire::Policy {
        inbound: None,
        outbound: Some(wire::Demands {
            plaintext: Some(wire::Demand { level: level.into(), source: "edge/strict".into() }),
            ..Default::default()
        }),
    };
    stage.control.policy(demand(Level::Strict));
    let shown = ["trellis_policy", "direction=\"outbound\"", "level=\"strict\"", "source=\"edge/strict\""];
    gateway.until(&shown, 1.0).await;
    assert_eq!(status().await, 503);
    gateway.until(&["trellis_requests_total", "reason=\"plaintext_denied\""], 1.0).await;
    stage.control.policy(demand(Level::Permissive));
    let served = async { while status().await != 200 {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
}

#[tokio::test]
async fn a_control_plane_from_before_policies_answers_everything_else() {
    let stage = Stage::new().await;
    let at = stage.application(1, 8080);
    application("one", at, None).await;
    stage.control.backend(stage.plain("one", at));
    let web = |name: &str, port| http(listener(name, port, Kind::Http, ""), vec![route(&[], "/", "one")]);
    stage.control.gateway(vec![web("before", 80)]);
    let inbound = wire::Demands {
        signatures: Some(wire::Demand { level: Level::Prefer.into(), source: "edge/open".into() }),
        ..Default::default()
    };
    stage.control.policy(wire::Policy { inbound: Some(inbound), outbound: None });
    let gateway = stage.gateway(&[]).await;
    stage.control.older();
    stage.control.gateway(vec![web("before", 80), web("after", 8081)]);
    let served =
        async { while curl(gateway.at(8081), "http://shop.example:8081/", &[]).await.status != 200 {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    assert_eq!(gateway.metric(&["trellis_policy", "source=\"edge/open\"", "level=\"prefer\""]).await, 1.0);
}
