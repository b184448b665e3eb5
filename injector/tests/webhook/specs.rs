//! The nine cryptographic kinds: each wrong value of each field is refused with its path.

use http::StatusCode;
use serde_json::{Value, json};
use trellis_api::crypto::Kind;

use crate::running::*;

const VALIDATIONS: &str = "trellis_injector_validations_total";

/// A spec of each kind that is right.
fn right(kind: Kind) -> Value {
    match kind {
        Kind::EncapsulateSecret => json!({"publicKeyRef": {"name": "k"}}),
        Kind::DecapsulateSecret => json!({"privateKeyRef": {"name": "k"}, "ciphertextRef": {"name": "e"}}),
        Kind::DerivedKey => json!({"sharedSecretRef": {"name": "e"}, "keyType": "AES-256"}),
        Kind::SignMessage => json!({"privateKeyRef": {"name": "k"}, "messageRef": {"name": "m"}}),
        Kind::VerifySignature => {
            json!({"publicKeyRef": {"name": "k"}, "messageRef": {"name": "m"}, "signatureRef": {"name": "s"}})
        }
        Kind::Certificate => json!({"domain": "example.com"}),
        Kind::RandomNumber | Kind::KemKeyPair | Kind::SignatureKeyPair => json!({}),
    }
}

/// As an API server asks about an object of the kind.
fn asked(kind: Kind, group: &str, operation: &str, spec: &Value, before: &Value) -> Value {
    let object = |spec: &Value| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": kind.as_str(),
            "metadata": {"name": "mine", "namespace": "quiet", "uid": "u"}, "spec": spec,
        })
    };
    json!({
        "uid": "7", "operation": operation, "name": "mine", "namespace": "quiet",
        "kind": {"group": group, "version": "v1", "kind": kind.as_str()},
        "resource": {"group": group, "version": "v1", "resource": kind.plural()},
        "userInfo": {"username": "somebody"},
        "object": object(spec),
        "oldObject": if before.is_null() { Value::Null } else { object(before) },
        "dryRun": true,
    })
}

fn create(kind: Kind, changes: &Value) -> Value {
    let mut spec = right(kind);
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    asked(kind, "crypto.trellis.dev", "CREATE", &spec, &Value::Null)
}

#[tokio::test]
async fn what_is_right_is_let_in_without_a_word() {
    let injector = Injector::start().await;
    for kind in Kind::ALL {
        for group in ["crypto.trellis.dev", "qubesec.io"] {
            let response = injector.validate(asked(kind, group, "CREATE", &right(kind), &Value::Null)).await;
            assert_eq!(response, json!({"uid": "7", "allowed": true}), "{kind:?}");
        }
    }
    assert_eq!(injector.count(VALIDATIONS, &[("result", "accepted"), ("reason", "")]), 18);
}

#[tokio::test]
async fn each_wrong_value_is_refused_with_its_path() {
    let injector = Injector::start().await;
    let long = "a".repeat(300);
    let mut table: Vec<(Kind, Value, &str)> = vec![
        (Kind::RandomNumber, json!({"bytes": 0}), "spec.bytes"),
        (Kind::RandomNumber, json!({"bytes": 65_537}), "spec.bytes"),
        (Kind::RandomNumber, json!({"numBytes": -1}), "spec.numBytes"),
        (Kind::RandomNumber, json!({"bytes": 16, "numBytes": 32}), "spec.numBytes"),
        (Kind::RandomNumber, json!({"seed": "short"}), "spec.seed"),
        (Kind::KemKeyPair, json!({"algorithm": "ML-DSA-65"}), "spec.algorithm"),
        (Kind::KemKeyPair, json!({"allowedServiceAccounts": ["A_b"]}), "spec.allowedServiceAccounts[0]"),
        (Kind::EncapsulateSecret, json!({"algorithm": "RSA"}), "spec.algorithm"),
        (Kind::EncapsulateSecret, json!({"publicKeyRef": {"name": "A"}}), "spec.publicKeyRef.name"),
        (Kind::DecapsulateSecret, json!({"privateKeyRef": {"name": long}}), "spec.privateKeyRef.name"),
        (
            Kind::DecapsulateSecret,
            json!({"ciphertextRef": {"name": "a", "namespace": "b.c"}}),
            "spec.ciphertextRef.namespace",
        ),
        (Kind::DecapsulateSecret, json!({"serviceAccountName": "A"}), "spec.serviceAccountName"),
        (Kind::DerivedKey, json!({"sharedSecretRef": {"name": ""}}), "spec.sharedSecretRef.name"),
        (Kind::DerivedKey, json!({"salt": "xyz"}), "spec.salt"),
        (Kind::SignatureKeyPair, json!({"algorithm": "Falcon512"}), "spec.algorithm"),
        (Kind::SignMessage, json!({"messageKey": "a/b"}), "spec.messageKey"),
        (Kind::SignMessage, json!({"signatureKey": ""}), "spec.signatureKey"),
        (Kind::SignMessage, json!({"context": long}), "spec.context"),
        (Kind::SignMessage, json!({"serviceAccountName": "-"}), "spec.serviceAccountName"),
        (Kind::VerifySignature, json!({"signatureRef": {"name": "_"}}), "spec.signatureRef.name"),
        (Kind::VerifySignature, json!({"algorithm": "ECDSA"}), "spec.algorithm"),
        (Kind::Certificate, json!({"algorithm": "rsa:16384"}), "spec.algorithm"),
        (Kind::Certificate, json!({"days": 0}), "spec.days"),
        (Kind::Certificate, json!({"duration": "1y"}), "spec.duration"),
        (Kind::Certificate, json!({"renewBefore": "0d"}), "spec.renewBefore"),
        (Kind::Certificate, json!({"dnsNames": ["ok.example", "a..b"]}), "spec.dnsNames[1]"),
        (Kind::Certificate, json!({"ipAddresses": ["10.0.0.0/8"]}), "spec.ipAddresses[0]"),
        (Kind::Certificate, json!({"issuerRef": {}}), "spec.issuerRef.name"),
        (Kind::Certificate, json!({"bytes": 5, "days": "many"}), "spec"),
    ];
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::VerifySignature) {
        table.push((kind, json!({"secretName": "A"}), "spec.secretName"));
        table.push((kind, json!({"secretName": "a", "outputSecretName": "b"}), "spec.outputSecretName"));
        if kind != Kind::SignMessage {
            table.push((kind, json!({"version": 0}), "spec.version"));
            table.push((kind, json!({"rotation": {"grace": "soon"}}), "spec.rotation.grace"));
        }
    }
    for (kind, changes, field) in &table {
        let response = injector.validate(create(*kind, changes)).await;
        let seen = (&response["allowed"], &response["status"]["code"]);
        assert_eq!(seen, (&json!(false), &json!(422)), "{kind:?} {changes}");
        assert_eq!(response["status"]["reason"], "Invalid");
        let details = &response["status"]["details"];
        let named = [&details["kind"], &details["group"], &details["name"]];
        assert_eq!(named, [kind.as_str(), "crypto.trellis.dev", "mine"]);
        let causes = details["causes"].as_array().unwrap();
        let cause = causes.iter().find(|cause| cause["field"] == *field);
        let cause = cause.unwrap_or_else(|| panic!("{kind:?} {changes}: {causes:?}"));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains(&format!("{field}: {}", cause["message"].as_str().unwrap())), "{message}");
        assert!(message.len() < 9 * 1024);
    }
    assert_eq!(injector.count(VALIDATIONS, &[("result", "refused"), ("reason", "spec")]), table.len() as u64);
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once_and_what_is_too_much_is_counted() {
    let injector = Injector::start().await;
    let changes = json!({"algorithm": "RSA", "days": 0, "secretName": "A"});
    let response = injector.validate(create(Kind::Certificate, &changes)).await;
    let causes = response["status"]["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["spec.algorithm", "spec.days", "spec.secretName"]);
    assert!(causes[0]["message"].as_str().unwrap().starts_with("Invalid value: \"RSA\": "));

    let names: Vec<String> = (0..5_000).map(|number| format!("_{number}")).collect();
    let response = injector.validate(create(Kind::Certificate, &json!({"dnsNames": names}))).await;
    let causes = response["status"]["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 65);
    // Besides each name, that there are too many.
    assert_eq!(causes[64], json!({"message": "and 4937 more"}));
    assert!(response.to_string().len() < 32 * 1024);
}

#[tokio::test]
async fn what_a_name_means_today_is_a_warning() {
    let injector = Injector::start().await;
    let response = injector.validate(create(Kind::KemKeyPair, &json!({"algorithm": "Kyber768"}))).await;
    let warnings = response["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().contains("ML-KEM-768"), "{warnings:?}");
    let seed = "0123456789abcdef".repeat(4);
    let response = injector.validate(create(Kind::RandomNumber, &json!({"seed": seed}))).await;
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("not deterministic") && !warning.contains(&seed), "{warning}");
    assert_eq!(injector.count(VALIDATIONS, &[("result", "warned")]), 2);
}

#[tokio::test]
async fn a_seed_that_is_refused_is_not_repeated() {
    let injector = Injector::start().await;
    let response = injector.validate(create(Kind::RandomNumber, &json!({"seed": "my-secret"}))).await;
    assert!(!response.to_string().contains("my-secret"), "{response}");
}

#[tokio::test]
async fn what_was_wrong_before_may_change_beside_its_spec() {
    let injector = Injector::start().await;
    let (wrong, right) = (json!({"algorithm": "RSA"}), json!({"algorithm": "ML-KEM-768"}));
    for (before, after, allowed) in [(&wrong, &wrong, true), (&right, &wrong, false), (&wrong, &right, true)]
    {
        let request = asked(Kind::KemKeyPair, "qubesec.io", "UPDATE", after, before);
        assert_eq!(injector.validate(request).await["allowed"], allowed);
    }
}

#[tokio::test]
async fn other_questions_pass_with_a_word() {
    let injector = Injector::start().await;
    let wrong = create(Kind::KemKeyPair, &json!({"algorithm": "RSA"}));
    for (field, value) in [
        ("operation", json!("DELETE")),
        ("operation", json!("CONNECT")),
        ("subResource", json!("status")),
        ("resource", json!({"group": "example.org", "version": "v1", "resource": "quantumkemkeypairs"})),
        (
            "resource",
            json!({"group": "crypto.trellis.dev", "version": "v9", "resource": "quantumkemkeypairs"}),
        ),
        ("resource", json!({"version": "v1", "resource": "pods"})),
    ] {
        let mut request = wrong.clone();
        request[field] = value;
        let response = injector.validate(request).await;
        assert_eq!(response["allowed"], true, "{field}");
        assert!(response["warnings"][0].as_str().unwrap().contains("needs no rule but"));
    }
}

#[tokio::test]
async fn what_is_no_question_is_an_error_of_http_and_counted() {
    let injector = Injector::start().await;
    let request = |request: Value| review(request).to_string();
    for (body, expected) in [
        (String::new(), StatusCode::BAD_REQUEST),
        ("[]".into(), StatusCode::BAD_REQUEST),
        (request(Value::Null), StatusCode::BAD_REQUEST),
        (request(json!({"uid": 7})), StatusCode::BAD_REQUEST),
        (request(json!({"uid": "7", "resource": "secrets"})), StatusCode::BAD_REQUEST),
        ("[".repeat(100_000), StatusCode::BAD_REQUEST),
        (" ".repeat(3 * 1024 * 1024 + 1), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, text) = post(injector.connect("h2").await, "/validate", body.into()).await;
        assert_eq!(status, expected, "{text}");
    }
    assert_eq!(injector.count(VALIDATIONS, &[("result", "failed"), ("reason", "malformed")]), 7);
    assert_eq!(injector.count(ADMISSIONS, &[]), 0);
    for object in [Value::Null, json!([]), json!(5), json!({"spec": 5})] {
        let mut question = create(Kind::KemKeyPair, &json!({}));
        question["object"] = object;
        let response = injector.validate(question).await;
        assert!(response["allowed"].is_boolean(), "{response}");
    }
}
