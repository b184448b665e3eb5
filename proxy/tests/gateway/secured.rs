//! TLS as the world speaks it.

use std::{fs, process::Command, sync::Arc};

use rcgen::{PKCS_ECDSA_P256_SHA256 as P256, PKCS_ML_DSA_65};
use rustls::crypto::CryptoProvider;
use trellis_api::{
    evidence::Class,
    proto::discovery::{self as wire, listener::Kind},
};
use trellis_pki::{provider, public::KeyExchange};

use crate::{stage::Stage, web::*};

fn modern() -> Arc<CryptoProvider> {
    provider::public(KeyExchange::Prefer)
}

async fn applications(stage: &Stage) {
    for (name, number) in [("one", 1), ("two", 2)] {
        let at = stage.application(number, 8080);
        application(name, at, None).await;
        stage.control.backend(stage.plain(name, at));
    }
}

fn web(hostname: &str, to: &str, certificates: Vec<wire::Certificate>) -> wire::Listener {
    let hostnames: &[&str] = if hostname.is_empty() { &[] } else { &[hostname] };
    let name = format!("web-{to}");
    tls(http(listener(&name, 443, Kind::Https, hostname), vec![route(hostnames, "/", to)]), certificates)
}

#[tokio::test]
async fn old_and_new_clients_are_served_and_each_is_put_on_record_as_what_it_had() {
    let stage = Stage::new().await;
    applications(&stage).await;
    let [classical, quantum] = [&P256, &PKCS_ML_DSA_65].map(Authority::new);
    let old = classical.issue(&P256, &["shop.example"]);
    let new = quantum.issue(&PKCS_ML_DSA_65, &["shop.example"]);
    stage.control.gateway(vec![web("", "one", vec![old.wire("edge/old"), new.wire("edge/new")])]);
    let gateway = stage.gateway(&[]).await;
    let ca = stage.folder.path().join("web.pem");
    fs::write(&ca, &classical.pem).unwrap();
    let ca = ca.display().to_string();
    for (version, http, spoken) in
        [(&["--tls-max", "1.2"][..], "--http1.1", "http/1.1"), (&["--tlsv1.3"], "--http2", "http/2")]
    {
        let got =
            curl(gateway.at(443), "https://shop.example/", &[&["--cacert", &ca, http][..], version].concat())
                .await;
        assert_eq!(got.status, 200, "{got:?}");
        assert!(got.head.starts_with(spoken) && got.body.contains("x-forwarded-proto: https"), "{got:?}");
    }
    // Who knows ML-DSA sees it, and only the key exchange of the others may be recorded for later.
    let mut client = secure(gateway.at(443), "shop.example", &quantum, modern()).await.unwrap();
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], new.der());
    assert!(ask(&mut client, "shop.example", "/").await.contains("application: one"));
    let evidence = gateway.evidence().await;
    let of = |class: Class, tls: &str| {
        let rows =
            evidence.inbound.iter().filter(|row| row.class == class && row.tls.as_deref() == Some(tls));
        rows.map(|row| {
            (row.source.as_str(), row.signatures.server.as_deref(), row.reason.as_deref(), row.count)
        })
        .collect::<Vec<_>>()
    };
    let (client, lacking) = ("unverified:client", Some("peer_offered_no_hybrid_group"));
    assert_eq!(of(Class::Classical, "1.2"), [(client, Some("ECDSA-P256"), lacking, 1)]);
    assert_eq!(of(Class::Classical, "1.3"), [(client, Some("ECDSA-P256"), lacking, 1)]);
    assert_eq!(of(Class::Pq, "1.3"), [(client, Some("ML-DSA-65"), None, 1)]);
    let handshakes =
        ["trellis_handshakes_total", "direction=\"inbound\"", "tls=\"1.2\"", "class=\"classical\""];
    assert_eq!(gateway.metric(&handshakes).await, 1.0);
    let [begins, ends] =
        ["begin", "end"].map(|which| format!("trellis_gateway_certificate_{which}_timestamp"));
    let life = gateway.metric(&[&ends, "certificate=\"edge/new\""]).await
        - gateway.metric(&[&begins, "certificate=\"edge/new\""]).await;
    assert_eq!(life, 2.0 * 24.0 * 3600.0);
}

#[tokio::test]
async fn hybrid_or_nothing_is_meant_so() {
    let stage = Stage::new().await;
    applications(&stage).await;
    let authority = Authority::new(&P256);
    let mut web = web("", "one", vec![authority.issue(&P256, &["shop.example"]).wire("edge/web")]);
    web.tls.as_mut().unwrap().key_exchange = wire::listener_tls::KeyExchange::Require.into();
    stage.control.gateway(vec![web]);
    let gateway = stage.gateway(&[]).await;
    let mut client = secure(gateway.at(443), "shop.example", &authority, modern()).await.unwrap();
    assert!(ask(&mut client, "shop.example", "/").await.contains("application: one"));
    for (version, reason) in
        [(&["-k", "--tlsv1.3"][..], "no_common_group"), (&["-k", "--tls-max", "1.2"], "no_common_version")]
    {
        let got = curl(gateway.at(443), "https://shop.example/", version).await;
        assert_eq!(got.status, 0, "{got:?}");
        gateway.until(&["trellis_handshakes_total", "refused", &format!("reason=\"{reason}\"")], 1.0).await;
    }
    let evidence = gateway.evidence().await;
    let served: Vec<_> = evidence.inbound.iter().filter(|row| row.tls.is_some()).collect();
    assert_eq!((served.len(), served[0].class, served[0].count), (1, Class::Hybrid, 1));
    assert_eq!(served[0].group.as_deref(), Some("X25519MLKEM768"));
}

#[tokio::test]
async fn certificates_change_under_clients_and_broken_ones_are_named() {
    let stage = Stage::new().await;
    applications(&stage).await;
    let authority = Authority::new(&P256);
    let [before, after] = [(); 2].map(|()| authority.issue(&P256, &["shop.example"]));
    stage.control.gateway(vec![web("", "one", vec![before.wire("edge/web")])]);
    let gateway = stage.gateway(&[]).await;
    let connect = || secure(gateway.at(443), "shop.example", &authority, modern());
    let mut kept = connect().await.unwrap();
    assert_eq!(kept.get_ref().1.peer_certificates().unwrap()[0], before.der());
    let broken = wire::Certificate { key_pem: before.key.clone().into_bytes(), ..after.wire("edge/broken") };
    stage.control.gateway(vec![web("", "one", vec![broken, after.wire("edge/web")])]);
    let trouble = ["trellis_gateway_troubles", "listener=\"web-one\"", "certificate=\"edge/broken\""];
    gateway.until(&trouble, 1.0).await;
    let mut fresh = connect().await.unwrap();
    assert_eq!(fresh.get_ref().1.peer_certificates().unwrap()[0], after.der());
    for client in [&mut kept, &mut fresh] {
        assert!(ask(client, "shop.example", "/").await.contains("application: one"));
    }
    assert!(gateway.log().contains("edge/broken") && !gateway.log().contains("PRIVATE"));
    // Without any certificate it is refused, and the port stays.
    stage.control.gateway(vec![web("", "one", vec![])]);
    gateway.until(&trouble, 0.0).await;
    assert!(connect().await.is_err());
    gateway.until(&["trellis_handshakes_total", "reason=\"listener_has_no_certificate\""], 1.0).await;
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: one"));
}

#[tokio::test]
async fn what_is_meant_for_another_listener_is_sent_there() {
    let stage = Stage::new().await;
    applications(&stage).await;
    let authority = Authority::new(&P256);
    let issue = |name: &str| vec![authority.issue(&P256, &[name]).wire(name)];
    stage.control.gateway(vec![
        web("one.example", "one", issue("one.example")),
        web("*.two.example", "two", issue("*.two.example")),
        listener("through", 443, Kind::Passthrough, "db.example"),
    ]);
    let gateway = stage.gateway(&[]).await;
    let mut client = secure(gateway.at(443), "one.example", &authority, modern()).await.unwrap();
    for (host, status) in [
        ("one.example", "200"),
        ("ONE.example:443", "200"),
        ("a.two.example", "421"),
        ("db.example", "421"),
        ("nobody.example", "404"),
        ("one.example", "200"),
    ] {
        let end = if status == "200" { "body: \n" } else { "host\n" };
        let said = say(&mut client, &format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), end).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {said}");
    }
    let mut client = secure(gateway.at(443), "x.two.example", &authority, modern()).await.unwrap();
    assert!(ask(&mut client, "a.two.example", "/").await.contains("application: two"));
    // A name that nobody serves is told so in TLS.
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &gateway.at(443).to_string(), "-servername", "nobody.example"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("unrecognized name"), "{said}");
    gateway.until(&["trellis_handshakes_total", "reason=\"no_listener_for_name\""], 1.0).await;
}

#[tokio::test]
async fn a_listener_that_changes_its_terms_lets_go_of_who_came_under_the_old_ones() {
    let stage = Stage::new().await;
    applications(&stage).await;
    let [authority, clients, stranger] = [(); 3].map(|()| Authority::new(&P256));
    let certificate = authority.issue(&P256, &["shop.example"]).wire("edge/web");
    let write = |name: &str, issued: &Issued| {
        let path = |end: &str| stage.folder.path().join(format!("{name}.{end}")).display().to_string();
        fs::write(path("pem"), &issued.chain).unwrap();
        fs::write(path("key"), &issued.key).unwrap();
        ["-k".to_owned(), "--cert".into(), path("pem"), "--key".into(), path("key")]
    };
    let alice = write("alice", &clients.issue(&P256, &["alice.example"]));
    let mallory = write("mallory", &stranger.issue(&P256, &["alice.example"]));
    stage.control.gateway(vec![web("", "one", vec![certificate.clone()])]);
    let gateway = stage.gateway(&[]).await;
    let mut kept = secure(gateway.at(443), "shop.example", &authority, modern()).await.unwrap();
    assert!(ask(&mut kept, "shop.example", "/").await.contains("application: one"));
    let validating = |optional| {
        let mut web = web("", "one", vec![certificate.clone()]);
        let authorities = vec![clients.pem.clone()];
        web.tls.as_mut().unwrap().clients = Some(wire::ClientValidation { authorities, optional });
        vec![web]
    };
    stage.control.gateway(validating(false));
    assert_eq!(say(&mut kept, "", "never").await, "", "it came without a certificate");
    let call = async |extra: &[String]| {
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        curl(gateway.at(443), "https://shop.example/", &extra).await.status
    };
    let none = ["-k".to_owned()];
    assert_eq!((call(&alice).await, call(&mallory).await, call(&none).await), (200, 0, 0));
    gateway.until(&["trellis_handshakes_total", "reason=\"no_certificate\""], 1.0).await;
    gateway.until(&["trellis_handshakes_total", "reason=\"unknown_issuer\""], 1.0).await;
    stage.control.gateway(validating(true));
    // The answer has been taken in once a stranger is served.
    let served = async { while call(&mallory).await != 200 {} };
    tokio::time::timeout(crate::stage::PATIENCE, served).await.unwrap();
    assert_eq!((call(&alice).await, call(&none).await), (200, 200));
    let evidence = gateway.evidence().await;
    let proven = evidence.inbound.iter().find(|row| row.source == "client:alice.example").unwrap();
    assert_eq!((proven.count, proven.signatures.client.as_deref()), (2, Some("ECDSA-P256")));
}
