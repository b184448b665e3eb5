//! What is behind a gateway: workloads of the mesh, and applications that speak TLS themselves.

use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use trellis_api::{
    evidence::Class,
    names::TUNNEL_PORT,
    proto::discovery::{self as wire, listener::Kind},
};
use trellis_local::Role;
use trellis_loopback::load::Load;

use crate::{
    stage::{Proxy, Stage},
    web::*,
};

fn endpoint_of(service: &wire::Service) -> wire::Endpoint {
    service.endpoints[0].clone()
}

/// A workload with a proxy, whose Service the gateway may call.
pub async fn meshed(stage: &Stage, name: &'static str, number: u8) -> (Proxy, wire::Service) {
    let pod = std::net::SocketAddr::new(stage.network.address(Role::Pod, number).into(), 8080);
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}");
    let reach = wire::endpoint::Reach::Tunnel(wire::Tunnel { identity, port: TUNNEL_PORT.into() });
    let service = stage.service(name, pod, reach);
    stage.control.workload(endpoint_of(&service));
    let sidecar = stage.sidecar(name, number).await;
    (sidecar, service)
}

#[tokio::test]
async fn a_workload_of_the_mesh_is_reached_through_its_tunnel() {
    let stage = Stage::new().await;
    application("meshed", stage.application(7, 8080), None).await;
    let (sidecar, service) = meshed(&stage, "meshed", 7).await;
    stage.control.backend(service);
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "meshed")])]);
    let gateway = stage.gateway(&[]).await;
    for _ in 0..3 {
        let got = curl(gateway.at(80), "http://shop.example/", &[]).await;
        assert!(got.status == 200 && got.body.contains("application: meshed"), "{got:?}");
    }
    let [there, here] = [sidecar.evidence().await.inbound, gateway.evidence().await.outbound];
    for row in [&there[0], &here[0]] {
        assert_eq!(
            (row.source.as_str(), row.class, row.count),
            ("spiffe://cluster.local/ns/edge/sa/web-trellis", Class::Pq, 1)
        );
    }
}

/// One of two endpoints comes and goes hundreds of times a second, under load.
#[tokio::test]
async fn an_endpoint_that_flaps_fails_no_request() {
    let stage = Stage::new().await;
    for (name, number) in [("stays", 7), ("flaps", 8)] {
        application(name, stage.application(number, 8080), None).await;
    }
    let (_stays, both) = meshed(&stage, "stays", 7).await;
    let (flapping, other) = meshed(&stage, "flaps", 8).await;
    let (mut both, one) = (both.clone(), both);
    both.endpoints.push(endpoint_of(&other));
    stage.control.backend(both.clone());
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), vec![route(&[], "/", "stays")])]);
    let gateway = stage.gateway(&[]).await;
    let at = gateway.at(80);
    let mut load = Load::start(move || at);
    load.goes_on(100).await.unwrap();
    let flaps = async {
        loop {
            for service in [&one, &both] {
                stage.control.backend(service.clone());
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    };
    tokio::select! {
        went_on = load.goes_on(1_500) => went_on.unwrap(),
        () = flaps => {}
    }
    let answered = load.end().await.unwrap();
    assert_eq!(answered.again, 0);
    let label = "peer=\"spiffe://cluster.local/ns/shop/sa/flaps\"";
    assert!(gateway.metric(&["trellis_requests_total", label, "status=\"200\""]).await > 100.0);
    assert!(flapping.metric(&["trellis_connections_total", "inbound"]).await > 0.0);
}

#[tokio::test]
async fn an_application_is_spoken_to_in_its_own_tls_or_not_at_all() {
    let stage = Stage::new().await;
    let [authority, stranger] = [(); 2].map(|()| Authority::new(&P256));
    let own = authority.issue(&P256, &["app.example", "also.example"]);
    let (plain, inside) = (stage.application(1, 8443), stage.application(7, 8080));
    application("plain", plain, Some(&own)).await;
    application("inside", inside, Some(&own)).await;
    let (sidecar, service) = meshed(&stage, "inside", 7).await;
    let policy = |change: fn(&mut wire::BackendTls)| {
        let mut tls = wire::BackendTls {
            hostname: "app.example".into(),
            authorities: vec![authority.pem.clone()],
            ..Default::default()
        };
        change(&mut tls);
        Some(tls)
    };
    let backend = |name: &str, tls| {
        let mut service = stage.plain(name, plain);
        service.tls = tls;
        stage.control.backend(service);
    };
    backend("good", policy(|_| {}));
    backend("h2", policy(|_| {}));
    backend("other-name", policy(|tls| tls.hostname = "else.example".into()));
    backend(
        "alternative",
        policy(|tls| {
            tls.hostname = "else.example".into();
            let name = wire::subject_alt_name::Name::Hostname("also.example".into());
            tls.names = vec![wire::SubjectAltName { name: Some(name) }];
        }),
    );
    let mut untrusted = policy(|_| {});
    untrusted.as_mut().unwrap().authorities = vec![stranger.pem.clone()];
    backend("untrusted", untrusted);
    backend("invalid", policy(|tls| tls.invalid = "the ConfigMap shop/ca is missing".into()));
    let mut web = stage.plain("web", plain);
    web.tls = policy(|tls| tls.authorities.clear());
    stage.control.backend(web);
    let mut http2 = stage.plain("h2", plain);
    (http2.tls, http2.protocol) = (policy(|_| {}), wire::Protocol::Http2.into());
    stage.control.backend(http2);
    stage.control.backend(wire::Service { tls: policy(|_| {}), ..service });
    let names = ["good", "h2", "other-name", "alternative", "untrusted", "invalid", "web", "inside"];
    let routes = names.iter().map(|name| route(&[], &format!("/{name}"), name)).collect();
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), routes)]);
    let roots = stage.folder.path().join("web.pem");
    std::fs::write(&roots, &authority.pem).unwrap();
    let gateway = stage.gateway(&[&format!("--web-roots={}", roots.display())]).await;
    for (name, status, said) in [
        ("good", 200, "tls: app.example\nversion: HTTP/1.1"),
        ("h2", 200, "tls: app.example\nversion: HTTP/2.0"),
        ("alternative", 200, "tls: else.example"),
        ("web", 200, "application: plain"),
        ("inside", 200, "application: inside\ntls: app.example"),
        ("other-name", 503, "wrong_identity"),
        ("untrusted", 503, "unknown_issuer"),
        ("invalid", 500, "the ConfigMap shop/ca is missing"),
    ] {
        // Twice, so that what is kept is used by who made it.
        for _ in 0..2 {
            let got = curl(gateway.at(80), &format!("http://shop.example/{name}"), &[]).await;
            assert!(got.status == status && got.body.contains(said), "{name}: {got:?}");
        }
    }
    let made =
        ["trellis_handshakes_total", "direction=\"outbound\"", "unverified:shop/good", "result=\"ok\""];
    assert_eq!(gateway.metric(&made).await, 1.0);
    let evidence = gateway.evidence().await;
    let row = evidence.outbound.iter().find(|row| row.destination == "unverified:shop/good").unwrap();
    assert_eq!((row.class, row.count), (Class::Hybrid, 1));
    // To the mesh it is one more connection through the tunnel.
    assert_eq!(sidecar.evidence().await.inbound[0].class, Class::Pq);
}

#[tokio::test]
async fn a_gateway_proves_itself_to_applications_that_ask() {
    let stage = Stage::new().await;
    let (authority, clients) = (Authority::new(&P256), Authority::new(&P256));
    let at = stage.application(1, 8443);
    demanding("careful", at, &authority.issue(&P256, &["app.example"]), &clients).await;
    let mut service = stage.plain("careful", at);
    service.tls = Some(wire::BackendTls {
        hostname: "app.example".into(),
        authorities: vec![authority.pem.clone()],
        ..Default::default()
    });
    stage.control.backend(service);
    let plain = stage.application(2, 8080);
    application("open", plain, None).await;
    stage.control.backend(stage.plain("open", plain));
    let routes = vec![route(&[], "/", "careful"), route(&[], "/open", "open")];
    stage.control.gateway(vec![http(listener("web", 80, Kind::Http, ""), routes)]);
    let gateway = stage.gateway(&[]).await;
    let ask = async || curl(gateway.at(80), "http://shop.example/", &[]).await;
    assert!(ask().await.status >= 500, "nobody was asked who calls");
    // Each proof counts from the next request, on a connection that was made with it.
    for source in ["edge/one", "edge/two"] {
        let proof = clients.issue(&P256, &["gateway.example"]);
        stage.control.proof(Ok(proof.wire(source)));
        let ends = ["trellis_gateway_certificate_end_timestamp_seconds", source];
        let shown = async { while gateway.metric(&ends).await == 0.0 {} };
        tokio::time::timeout(crate::stage::PATIENCE, shown).await.unwrap();
        for _ in 0..2 {
            let got = ask().await;
            let client = format!("client: {}\n", mark(&proof.der()));
            assert!(got.status == 200 && got.body.contains(&client), "{source}: {got:?}");
        }
    }
    // One that is none, and one that cannot be had: nobody is spoken to without.
    let mut broken = clients.issue(&P256, &["gateway.example"]).wire("edge/broken");
    broken.key_pem = clients.issue(&P256, &["other.example"]).key.into_bytes();
    for (proof, troubles) in
        [(Ok(broken), "edge/broken"), (Err("there is no Secret edge/none"), "certificate=\"\"")]
    {
        stage.control.proof(proof);
        gateway.until(&["trellis_gateway_troubles", troubles], 1.0).await;
        let got = ask().await;
        assert_eq!(got.status, 503, "{got:?}");
        assert!(got.head.contains("trellis-error: client_certificate_invalid"), "{got:?}");
        let got = curl(gateway.at(80), "http://shop.example/open", &[]).await;
        assert!(got.status == 200 && got.body.contains("application: open"), "{got:?}");
    }
}
