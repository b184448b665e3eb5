//! Namespaces that want certificates which resist: Secrets, Ingresses, Gateways and ListenerSets.

use k8s_openapi::ByteString;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ML_DSA_65, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use serde_json::{Value, json};
use trellis_fake_api::FakeApi;
use trellis_injector::certificates::Certificates;

use crate::running::*;

const VALIDATIONS: &str = "trellis_injector_validations_total";

fn pem(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> ByteString {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "web");
    let key = KeyPair::generate_for(algorithm).unwrap();
    ByteString(params.self_signed(&key).unwrap().pem().into_bytes())
}

fn ecdsa() -> ByteString {
    pem(&PKCS_ECDSA_P256_SHA256, &["web.example.org"])
}

fn ml_dsa() -> ByteString {
    pem(&PKCS_ML_DSA_65, &["web.example.org"])
}

fn secret(kind: &str, items: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": "web-tls"}, "data": items})
}

fn tls(certificate: &ByteString) -> Value {
    secret("kubernetes.io/tls", json!({"tls.crt": certificate, "tls.key": "c2VjcmV0LWtleQ=="}))
}

fn ask(namespace: &str, (group, resource): (&str, &str), object: &Value, before: &Value) -> Value {
    json!({
        "uid": "7", "name": "web-tls", "namespace": namespace,
        "operation": if before.is_null() { "CREATE" } else { "UPDATE" },
        "resource": {"group": group, "version": "v1", "resource": resource},
        "object": object, "oldObject": before,
    })
}

const SECRET: (&str, &str) = ("", "secrets");
const INGRESS: (&str, &str) = ("networking.k8s.io", "ingresses");
const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io", "gateways");
const LISTENER_SET: (&str, &str) = ("gateway.networking.k8s.io", "listenersets");

fn ingress(secrets: &[&str]) -> Value {
    let tls: Vec<Value> = secrets.iter().map(|name| json!({"secretName": name})).collect();
    json!({"metadata": {"name": "web"}, "spec": {"tls": tls}})
}

fn gateway(listeners: &[&[&str]]) -> Value {
    let listener = |secrets: &&[&str]| {
        let references = secrets.iter().map(|name| match name.split_once('/') {
            Some((namespace, name)) => json!({"namespace": namespace, "name": name}),
            None => json!({"name": name}),
        });
        json!({"name": "web", "tls": {"certificateRefs": references.collect::<Vec<_>>()}})
    };
    json!({"metadata": {"name": "web"}, "spec": {"listeners": listeners.iter().map(listener).collect::<Vec<_>>()}})
}

/// The fields that a refusal names, and all that it says.
fn refused(response: &Value) -> (Vec<String>, String) {
    assert_eq!(response["allowed"], false, "{response}");
    assert_eq!(response["status"]["code"], 422);
    let causes = response["status"]["details"]["causes"].as_array().unwrap();
    let fields = causes.iter().map(|cause| cause["field"].as_str().unwrap().to_owned()).collect();
    (fields, response["status"]["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_classical_certificate_is_refused_with_what_it_is_and_what_to_do() {
    let injector = Injector::start().await;
    for certificate in [ecdsa(), pem(&PKCS_RSA_SHA256, &["web.example.org"])] {
        let (fields, message) =
            refused(&injector.validate(ask("closed", SECRET, &tls(&certificate), &Value::Null)).await);
        assert_eq!(fields, ["data[tls.crt]"]);
        for part in
            ["CN=web", "a key of ", "QuantumCertificate", "secretName: web-tls", "domain: web.example.org"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("c2VjcmV0"), "{message}");
    }
    // Whatever a Secret with a certificate calls itself.
    let opaque = secret("Opaque", json!({"tls.crt": ecdsa()}));
    refused(&injector.validate(ask("closed", SECRET, &opaque, &Value::Null)).await);
    for broken in [json!("%%%"), json!("Y2VydGlmaWNhdGU="), json!(5)] {
        let object = secret("kubernetes.io/tls", json!({"tls.crt": broken}));
        let (fields, _) = refused(&injector.validate(ask("closed", SECRET, &object, &Value::Null)).await);
        assert_eq!(fields, ["data[tls.crt]"]);
    }
    for fine in [
        tls(&ml_dsa()),
        tls(&ByteString(Vec::new())),
        secret("Opaque", json!({"password": "eA=="})),
        secret("kubernetes.io/tls", Value::Null),
    ] {
        let response = injector.validate(ask("closed", SECRET, &fine, &Value::Null)).await;
        assert_eq!(response, json!({"uid": "7", "allowed": true}));
    }
    assert_eq!(injector.count(VALIDATIONS, &[("result", "refused"), ("reason", "certificate")]), 6);
}

#[tokio::test]
async fn each_value_of_the_label_does_what_it_says() {
    let injector = Injector::start().await;
    let classical = tls(&ecdsa());
    let ask = |namespace| ask(namespace, SECRET, &classical, &Value::Null);
    let warned = injector.validate(ask("warned")).await;
    assert_eq!(warned["allowed"], true);
    let warnings = warned["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().contains("a key of ECDSA-P256"), "{warnings:?}");
    assert!(warnings[1].as_str().unwrap().contains("QuantumCertificate"), "{warnings:?}");
    let hybrid = injector.validate(ask("public")).await;
    assert_eq!(hybrid["allowed"], true);
    assert!(hybrid["warnings"][0].as_str().unwrap().contains("only beside one that resists"));
    refused(&injector.validate(ask("closed")).await);
    let (_, message) = refused(&injector.validate(ask("mistyped")).await);
    assert!(
        message.contains("`trellis.dev/enforce: dny`")
            && message.contains("kubectl label namespace mistyped")
    );
    assert_eq!(injector.validate(ask("quiet")).await, json!({"uid": "7", "allowed": true}));
    let unknown = injector.validate(ask("nowhere")).await;
    assert_eq!((&unknown["allowed"], &unknown["status"]["code"]), (&json!(false), &json!(503)));
}

#[tokio::test]
async fn what_is_there_already_is_not_broken() {
    let injector = Injector::start().await;
    let (before, mut after) = (tls(&ecdsa()), Value::Null);
    after.clone_from(&before);
    after["metadata"]["labels"] = json!({"team": "blue"});
    let response = injector.validate(ask("closed", SECRET, &after, &before)).await;
    assert_eq!(response["allowed"], true);
    refused(&injector.validate(ask("closed", SECRET, &tls(&ecdsa()), &before)).await);

    let api = FakeApi::new();
    api.put("/api/v1/namespaces/closed/secrets/old", tls(&ecdsa()));
    api.put("/api/v1/namespaces/closed/secrets/new", tls(&ecdsa()));
    let injector = Injector::beside(Certificates::Cluster(api.client())).await;
    let asked = |now: &[&str], before: &[&str]| ask("closed", INGRESS, &ingress(now), &ingress(before));
    assert_eq!(injector.validate(asked(&["old"], &["old"])).await["allowed"], true);
    let (fields, _) = refused(&injector.validate(asked(&["old", "new"], &["old"])).await);
    assert_eq!(fields, ["spec.tls[1].secretName"]);
}

#[tokio::test]
async fn an_ingress_and_a_gateway_may_not_name_a_classical_certificate() {
    let api = FakeApi::new();
    api.put("/api/v1/namespaces/closed/secrets/weak", tls(&ecdsa()));
    api.put("/api/v1/namespaces/closed/secrets/strong", tls(&ml_dsa()));
    api.put("/api/v1/namespaces/other/secrets/weak", tls(&ecdsa()));
    let injector = Injector::beside(Certificates::Cluster(api.client())).await;
    let create = |resource, object: &Value| ask("closed", resource, object, &Value::Null);
    let (fields, message) = refused(&injector.validate(create(INGRESS, &ingress(&["strong", "weak"]))).await);
    assert_eq!(fields, ["spec.tls[1].secretName"]);
    assert!(
        message.contains("Secret closed/weak: the certificate of CN=web has a key of ECDSA-P256"),
        "{message}"
    );
    for resource in [GATEWAY, LISTENER_SET] {
        let object = gateway(&[&["strong"], &["strong", "weak", "other/weak"]]);
        let (fields, message) = refused(&injector.validate(create(resource, &object)).await);
        let listener = "spec.listeners[1].tls.certificateRefs";
        assert_eq!(fields, [format!("{listener}[1]"), format!("{listener}[2]")]);
        // Of another namespace it is said that it is so, and no more.
        assert_eq!(message.matches("CN=web").count(), 1, "{message}");
        assert_eq!(injector.validate(create(resource, &gateway(&[&["strong"]]))).await["allowed"], true);
    }
    let warned = injector.validate(ask("warned", INGRESS, &ingress(&["weak"]), &Value::Null)).await;
    assert_eq!(
        warned,
        json!({"uid": "7", "allowed": true}),
        "it is not there: it is looked at when it comes"
    );
}

#[tokio::test]
async fn what_may_not_be_read_is_refused_with_how_to_allow_it() {
    let api = FakeApi::new();
    for namespace in ["closed", "warned"] {
        api.put(&format!("/api/v1/namespaces/{namespace}/secrets/weak"), tls(&ecdsa()));
        api.close(&format!("/api/v1/namespaces/{namespace}/secrets"), true);
    }
    let injector = Injector::beside(Certificates::Cluster(api.client())).await;
    let object = ingress(&["weak"]);
    let (_, message) = refused(&injector.validate(ask("closed", INGRESS, &object, &Value::Null)).await);
    let remedy = "kubectl create rolebinding trellis-injector-certificates -n closed \
                  --clusterrole=trellis-injector-certificates --serviceaccount=trellis-system:trellis-injector";
    assert!(message.contains("the injector may not read it") && message.contains(remedy), "{message}");
    let warned = injector.validate(ask("warned", INGRESS, &object, &Value::Null)).await;
    assert_eq!(warned["allowed"], true);
    assert!(warned["warnings"][1].as_str().unwrap().contains("create rolebinding"), "{warned}");
    // In its own namespace it is looked at when it comes; elsewhere it may come where nobody looks.
    assert_eq!(
        injector.validate(ask("public", INGRESS, &ingress(&["none"]), &Value::Null)).await["allowed"],
        true
    );
    let elsewhere = ask("public", GATEWAY, &gateway(&[&["else/none"]]), &Value::Null);
    let (_, message) = refused(&injector.validate(elsewhere).await);
    assert!(message.contains("there is no such Secret; it is not there yet"), "{message}");
    // Without anybody to ask.
    let alone = Injector::start().await;
    let (_, message) = refused(&alone.validate(ask("closed", INGRESS, &object, &Value::Null)).await);
    assert!(message.contains("cannot be read now"), "{message}");
}

#[tokio::test]
async fn in_a_hybrid_namespace_a_classical_certificate_needs_one_that_resists_beside_it() {
    let api = FakeApi::new();
    let put =
        |name: &str, object: Value| api.put(&format!("/api/v1/namespaces/public/secrets/{name}"), object);
    put("weak", tls(&ecdsa()));
    put("strong", tls(&ml_dsa()));
    put("stranger", tls(&pem(&PKCS_ML_DSA_65, &["else.example.org"])));
    put(
        "both",
        secret("kubernetes.io/tls", json!({"tls.crt": ecdsa(), "tls-pq.crt": ml_dsa(), "tls.key": "eA=="})),
    );
    let injector = Injector::beside(Certificates::Cluster(api.client())).await;
    let create = |resource, object: &Value| ask("public", resource, object, &Value::Null);
    for (object, allowed) in [
        (gateway(&[&["weak", "strong"]]), true),
        (gateway(&[&["strong"]]), true),
        (gateway(&[&["both"]]), true),
        (gateway(&[&["weak"]]), false),
        (gateway(&[&["weak", "stranger"]]), false),
        (gateway(&[&["weak"], &["strong"]]), false),
    ] {
        let response = injector.validate(create(GATEWAY, &object)).await;
        assert_eq!(response["allowed"], allowed, "{object}: {response}");
    }
    assert_eq!(injector.validate(create(INGRESS, &ingress(&["weak", "strong"]))).await["allowed"], true);
    let (_, message) = refused(&injector.validate(create(INGRESS, &ingress(&["weak"]))).await);
    assert!(message.contains("beside it, and name both"), "{message}");
    // Who takes the other half away is asked again.
    let (pair, half) = (gateway(&[&["weak", "strong"]]), gateway(&[&["weak"]]));
    refused(&injector.validate(ask("public", GATEWAY, &half, &pair)).await);
    assert_eq!(injector.validate(ask("public", GATEWAY, &half, &half)).await["allowed"], true);
}

#[tokio::test]
async fn what_one_object_can_make_the_injector_read_is_bounded() {
    let api = FakeApi::new();
    let injector = Injector::beside(Certificates::Cluster(api.client())).await;
    let names: Vec<String> = (0..65).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (fields, message) =
        refused(&injector.validate(ask("closed", INGRESS, &ingress(&names), &Value::Null)).await);
    assert_eq!((fields.as_slice(), api.requests()), (["spec".to_owned()].as_slice(), 0));
    assert!(message.contains("names 65 Secrets"), "{message}");
    let same = ingress(&vec!["s"; 500]);
    assert_eq!(injector.validate(ask("closed", INGRESS, &same, &Value::Null)).await["allowed"], true);
    assert_eq!(api.requests(), 1);
}
