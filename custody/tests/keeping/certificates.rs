//! Certificates in front of an API server: chains, what they need of others, and their renewal as time passes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Bed, bytes, reason, rotate, versions};

const CERTIFICATE: &str = "QuantumCertificate";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn ca(more: Value) -> Value {
    merged(json!({ "certType": "ca", "commonName": "Shop Root", "algorithm": "ML-DSA-44" }), more)
}

fn web(issuer: &str) -> Value {
    json!({ "domain": "web.example", "algorithm": "ML-DSA-44", "days": 90, "secretName": "web-tls",
            "issuerRef": { "name": issuer } })
}

fn merged(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[tokio::test(start_paused = true)]
async fn a_chain_comes_together_in_any_order_and_then_rests() {
    let bed = Bed::new();
    bed.create(CERTIFICATE, "web", web("middle"));
    bed.create(CERTIFICATE, "middle", ca(json!({ "commonName": "Middle", "issuerRef": { "name": "root" } })));
    assert_eq!(reason(&bed.word(CERTIFICATE, "web", "Pending").await), "SourceNotReady");
    bed.create(CERTIFICATE, "root", ca(json!({ "days": 3650 })));
    let status = bed.success(CERTIFICATE, "web").await;
    assert_eq!(
        (status["issuer"].as_str(), status["subject"].as_str()),
        (Some("CN=Middle"), Some("CN=web.example"))
    );
    let secret = bed.secret("web-tls");
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let text = |item: &str| String::from_utf8(bytes(&secret, item)).unwrap();
    assert_eq!(
        text("tls.crt").matches("BEGIN CERTIFICATE").count(),
        2,
        "the leaf, and the CA below the root"
    );
    assert_eq!(text("ca.crt").matches("BEGIN CERTIFICATE").count(), 1);
    assert!(text("tls.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(bed.heard("QuantumCertificate/web"), ["Created"]);
    bed.rests(DAY).await;

    bed.edit(CERTIFICATE, "root", |root| rotate(root, "again"));
    let other = |now: &Value| now["serialNumber"] != status["serialNumber"];
    let status = bed.until(CERTIFICATE, "web", "the leaf follows the root", other).await;
    assert!(versions(&status).contains(&"1 Retired".to_owned()), "{status}");
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_before_its_end_as_time_passes() {
    let bed = Bed::new();
    let spec = json!({ "domain": "web.example", "algorithm": "ML-DSA-44", "duration": "24h", "secretName": "web-tls" });
    bed.create(CERTIFICATE, "web", spec);
    let first = bed.success(CERTIFICATE, "web").await;
    bed.rests(Duration::from_secs(15 * 60 * 60)).await;
    let renewed = |status: &Value| status["version"] == 2;
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    let second = bed.until(CERTIFICATE, "web", "it is renewed", renewed).await;
    assert_ne!(first["serialNumber"], second["serialNumber"]);
    assert!(second["notBefore"].as_str() < first["notAfter"].as_str());
    assert_eq!(bed.heard("QuantumCertificate/web"), ["Created", "Rotated"]);
}

#[tokio::test(start_paused = true)]
async fn issuers_in_a_circle_and_of_closed_namespaces_are_named() {
    let bed = Bed::new();
    bed.create(CERTIFICATE, "a", ca(json!({ "commonName": "A", "issuerRef": { "name": "b" } })));
    bed.create(CERTIFICATE, "b", ca(json!({ "commonName": "B", "issuerRef": { "name": "a" } })));
    bed.create(CERTIFICATE, "own", ca(json!({ "issuerRef": { "name": "own" } })));
    for name in ["a", "b", "own"] {
        assert_eq!(bed.reason(CERTIFICATE, name, "CircularReference").await["status"], "Failed");
    }
    bed.rests(DAY).await;
    bed.edit(CERTIFICATE, "b", |object| object["spec"]["issuerRef"] = Value::Null);
    for name in ["a", "b"] {
        bed.success(CERTIFICATE, name).await;
    }
    bed.create_in("vault", CERTIFICATE, "root", ca(json!({})));
    bed.create(
        CERTIFICATE,
        "web",
        merged(web("root"), json!({ "issuerRef": { "name": "root", "namespace": "vault" } })),
    );
    let status = bed.reason(CERTIFICATE, "web", "RefNotPermitted").await;
    assert!(status["error"].as_str().unwrap().contains("make a ReferenceGrant there"), "{status}");
    let grant = "/apis/gateway.networking.k8s.io/v1/namespaces/vault/referencegrants/shop";
    bed.api.create(
        grant,
        json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
                "metadata": { "name": "shop", "namespace": "vault" },
                "spec": { "from": [{ "group": "crypto.trellis.dev", "kind": CERTIFICATE, "namespace": "shop" }],
                          "to": [{ "group": "crypto.trellis.dev", "kind": CERTIFICATE }] } }),
    );
    bed.success(CERTIFICATE, "web").await;
}
