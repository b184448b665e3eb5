//! The nine kinds at their border: what the API server takes and what it refuses, judged by the generated
//! definitions themselves, and that the same is refused by who reads a spec without them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod admission;
mod refused;
mod structure;

use std::collections::BTreeMap;

use kube_cel::{ErrorKind, Validator};
use serde_json::{Value, json};
use trellis_api::crypto::{GROUP, Kind, QUBESEC_GROUP, definition};

/// Everything that an API server would say against an object.
pub fn objections(kind: Kind, object: &Value) -> Vec<String> {
    let definition = definition(kind, GROUP);
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut said = structure::check(schema, object);
    if let Err(errors) = Validator::new().validate(schema, object, None) {
        for error in errors.as_slice() {
            assert!(matches!(error.kind, ErrorKind::ValidationFailure), "{kind:?}: {error:?}");
            said.push(error.to_string());
        }
    }
    said
}

fn samples() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/suite/manifests/quantum.yaml");
    let text = std::fs::read_to_string(path).unwrap().replace("${NAMESPACE}", "default");
    serde_saphyr::from_multiple(&text).unwrap()
}

#[test]
fn what_was_written_for_qubesec_is_accepted() {
    let mut seen = BTreeMap::<Kind, usize>::new();
    for object in samples() {
        let Some(kind) = Kind::of(object["kind"].as_str().unwrap()) else { continue };
        assert_eq!(objections(kind, &object), Vec::<String>::new(), "{object}");
        assert_eq!(kind.check(object["spec"].clone()), [], "{object}");
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!((seen.len(), seen.values().sum::<usize>()), (9, 10));
}

#[test]
fn what_all_have_in_common_is_what_clients_of_qubesec_know() {
    let names = [
        ("QuantumRandomNumber", "quantumrandomnumbers", vec!["qrn", "qrng"]),
        ("QuantumKEMKeyPair", "quantumkemkeypairs", vec!["qkkp"]),
        ("QuantumEncapsulateSecret", "quantumencapsulatesecrets", vec!["qes"]),
        ("QuantumDecapsulateSecret", "quantumdecapsulatesecrets", vec!["qds"]),
        ("QuantumDerivedKey", "quantumderivedkeys", vec!["qdk"]),
        ("QuantumSignatureKeyPair", "quantumsignaturekeypairs", vec!["qskp"]),
        ("QuantumSignMessage", "quantumsignmessages", vec!["qsm"]),
        ("QuantumVerifySignature", "quantumverifysignatures", vec!["qvs"]),
        ("QuantumCertificate", "quantumcertificates", vec!["qc"]),
    ];
    let columns = [
        "Status Bytes Provider Entropy Age",
        "Status Algorithm Fingerprint Age",
        "Status Algorithm Fingerprint Age",
        "Status Algorithm Fingerprint Age",
        "Status KeyType Fingerprint Age",
        "Status Algorithm Fingerprint Age",
        "Status Algorithm Fingerprint Age",
        "Status Algorithm Verified Fingerprint Age",
        "Status Algorithm Domain Age",
    ];
    for ((kind, (name, plural, short)), columns) in Kind::ALL.into_iter().zip(names).zip(columns) {
        for group in [GROUP, QUBESEC_GROUP] {
            let definition = definition(kind, group);
            let spec = &definition["spec"];
            assert_eq!(definition["metadata"]["name"], format!("{plural}.{group}"));
            assert_eq!((&spec["names"]["kind"], &spec["names"]["plural"]), (&json!(name), &json!(plural)));
            assert_eq!(spec["names"]["shortNames"], json!(short));
            let version = &spec["versions"][0];
            assert_eq!(version["subresources"]["status"], json!({}));
            let shown = version["additionalPrinterColumns"].as_array().unwrap();
            let shown = shown.iter().filter(|column| column["priority"].is_null());
            let shown: Vec<_> = shown.map(|column| column["name"].as_str().unwrap()).collect();
            assert_eq!(shown.join(" "), columns);
            let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
            for field in ["status", "error", "lastUpdateTime", "conditions", "observedGeneration"] {
                assert!(status[field].is_object(), "{kind:?} shows no {field}");
            }
        }
    }
}

#[test]
fn statuses_have_the_fields_that_clients_of_qubesec_read() {
    let fields = [
        (Kind::RandomNumber, "randomNumberReference bytes provider entropy"),
        (Kind::KemKeyPair, "keyPairReference publicKeyFingerprint"),
        (Kind::EncapsulateSecret, "ciphertext sharedSecretReference fingerprint"),
        (Kind::DecapsulateSecret, "sharedSecretReference fingerprint"),
        (Kind::DerivedKey, "derivedKeyReference keyFingerprint fingerprint usedSalt usedInfo"),
        (Kind::SignatureKeyPair, "keyPairReference publicKeyFingerprint"),
        (Kind::SignMessage, "signature signatureReference messageFingerprint"),
        (Kind::VerifySignature, "verified messageFingerprint lastCheckedTime"),
        (Kind::Certificate, "certificateReference certificateFingerprint"),
    ];
    for (kind, fields) in fields {
        let definition = definition(kind, GROUP);
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for field in fields.split(' ') {
            assert!(schema["status"]["properties"][field].is_object(), "{kind:?} shows no {field}");
        }
    }
}

#[test]
fn who_leaves_all_out_gets_defaults() {
    for (kind, field, value) in [
        (Kind::KemKeyPair, "algorithm", "ML-KEM-768"),
        (Kind::SignatureKeyPair, "algorithm", "ML-DSA-65"),
        (Kind::RandomNumber, "provider", "system"),
        (Kind::RandomNumber, "recreatePolicy", "Never"),
    ] {
        let definition = definition(kind, GROUP);
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert_eq!(schema["properties"]["spec"]["default"], json!({}));
        assert_eq!(schema["properties"]["spec"]["properties"][field]["default"], value);
        assert!(kind.check(Value::Null).is_empty());
    }
    // An API server refuses a definition whose own default breaks its rules.
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.needs_spec()) {
        assert_eq!(objections(kind, &json!({ "spec": {} })), Vec::<String>::new(), "{kind:?}");
    }
}

/// An API server refuses a definition that is not structural, and one whose rules could cost too much.
#[test]
fn an_api_server_takes_the_definitions() {
    for kind in Kind::ALL {
        let definition = definition(kind, GROUP);
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        structure::check_schema(schema, kind.as_str());
        let compiled = kube_cel::compile_schema(schema);
        assert!(!compiled.has_errors(), "{kind:?}: {:?}", compiled.compilation_errors());
        for rule in structure::rules(schema) {
            let warnings = kube_cel::analyze_rule(&rule, &compiled, kube_cel::ScopeContext::CrdValidation);
            assert!(warnings.is_empty(), "{kind:?}: {warnings:?}");
        }
    }
}
