//! What goes on record: everything that happens to a key, by its fingerprint, and nothing that is in it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use trellis_crypto::hex;
use trellis_fake_api::Fate;

use crate::{
    bed::{Bed, rotate, secret_path, set, versions},
    faults::exchange,
};

const HOUR: Duration = Duration::from_secs(3600);
const RANDOM: &str = "QuantumRandomNumber";
const KEM: &str = "QuantumKEMKeyPair";
const SIGNATURE: &str = "QuantumSignatureKeyPair";

/// The fingerprint of a version, as the status shows it.
fn shown(status: &Value, version: u64) -> Value {
    let all = status["versions"].as_array().unwrap();
    all.iter().find(|one| one["version"] == version).unwrap()["fingerprint"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_key_is_on_record_from_its_making_to_its_end() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "rotation": { "grace": "2h" } }));
    bed.success(KEM, "kem").await;
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    bed.edit(KEM, "kem", |object| set(object, "/spec/version", json!(1)));
    bed.until(KEM, "kem", "version 1", |status| status["version"] == 1).await;
    bed.edit(KEM, "kem", |object| set(object, "/spec/version", json!(null)));
    bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    tokio::time::sleep(HOUR * 3).await;
    let status = bed.status(KEM, "kem");
    assert_eq!(versions(&status), ["2 Active", "1 Destroyed"]);
    // The one that was put back into use is kept beside it until it is out of use.
    bed.delete_secret("kem-v2");
    bed.delete_secret("kem");
    bed.reason(KEM, "kem", "Lost").await;
    bed.edit(KEM, "kem", |object| set(object, "/spec/recreatePolicy", json!("Recreate")));
    let status = bed.success(KEM, "kem").await;
    assert_eq!(
        bed.recorded.of("kem"),
        [
            "made 1",
            "rotated 2",
            "retired 1",
            "retired 2",
            "restored 1",
            "restored 2",
            "retired 1",
            "destroyed 1",
            "lost 2",
            "made 3"
        ]
    );
    let uid = bed.object(KEM, "kem")["metadata"]["uid"].clone();
    for deed in bed.recorded.all() {
        let version = deed["version"].as_u64().unwrap();
        assert_eq!(deed["fingerprint"], shown(&status, version), "{deed}");
        assert_eq!(
            (&deed["group"], &deed["kind"], &deed["namespace"], &deed["uid"], &deed["algorithm"]),
            (&json!("crypto.trellis.dev"), &json!(KEM), &json!("shop"), &uid, &json!("ML-KEM-768"))
        );
    }
    let secrets: Vec<Value> = bed.recorded.all().iter().map(|deed| deed["secret"].clone()).collect();
    assert_eq!(secrets[..3], [json!("kem"), json!("kem"), json!("kem-v1")]);
    assert_eq!(secrets[7], Value::Null, "what is destroyed is nowhere");
    assert!(bed.api.remove(&bed.path("shop", KEM, "kem")));
    tokio::time::sleep(HOUR).await;
    assert_eq!(bed.recorded.of("kem").last().unwrap(), "deleted 3");
}

#[tokio::test(start_paused = true)]
async fn of_every_kind_there_is_a_record_and_in_none_a_byte_of_what_is_kept() {
    let bed = Bed::new();
    exchange(&bed);
    bed.create(RANDOM, "number", json!({ "bytes": 64 }));
    bed.create(SIGNATURE, "pair", json!({ "algorithm": "ML-DSA-44" }));
    bed.create(
        "QuantumCertificate",
        "web",
        json!({ "domain": "web.example", "algorithm": "ML-DSA-44", "secretName": "web-tls" }),
    );
    let message = json!({ "kind": "Secret", "metadata": { "name": "message", "namespace": "shop", "uid": "m" },
                          "data": { "message": STANDARD.encode("hello") } });
    bed.api.put(&secret_path("shop", "message"), message);
    let spec = json!({ "privateKeyRef": { "name": "pair" }, "messageRef": { "name": "message" } });
    bed.create("QuantumSignMessage", "sign", spec);
    let all = [
        (RANDOM, "number"),
        (KEM, "kem"),
        ("QuantumEncapsulateSecret", "enc"),
        ("QuantumDecapsulateSecret", "dec"),
        ("QuantumDerivedKey", "key"),
        (SIGNATURE, "pair"),
        ("QuantumSignMessage", "sign"),
        ("QuantumCertificate", "web"),
    ];
    for (kind, name) in all {
        let status = bed.success(kind, name).await;
        let deeds = bed.recorded.all();
        let deed = deeds.iter().find(|deed| deed["object"] == name).unwrap();
        assert_eq!((&deed["act"], &deed["kind"]), (&json!("made"), &json!(kind)));
        assert_eq!(deed["fingerprint"], status["fullFingerprint"]);
        assert!(deed["fingerprint"].as_str().unwrap().len() == 64, "{deed}");
    }
    // What is derived comes back, and that is told as well.
    tokio::time::sleep(HOUR).await;
    bed.delete_secret("key-derived-key");
    bed.secret_until("key-derived-key", "it is back", |secret| !secret["data"].is_null()).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(bed.recorded.of("key"), ["made 1", "restored 1"]);
    bed.api.edit(&secret_path("shop", "message"), |secret| {
        secret["data"]["message"] = json!(STANDARD.encode("hallo"));
    });
    tokio::time::sleep(HOUR).await;
    assert_eq!(bed.recorded.of("sign"), ["made", "rotated"]);
    let told = serde_json::to_string(&(bed.recorded.all(), bed.notes())).unwrap();
    for secret in bed.api.under("/api/v1/namespaces/shop/secrets/") {
        for (item, value) in secret["data"].as_object().unwrap() {
            let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
            // Their own fingerprints and types are no secrets.
            if matches!(item.as_str(), "fingerprint" | "key-type" | "metadata" | "message") {
                continue;
            }
            // Any sixteen of them in a row would be told by one of these.
            for part in bytes.chunks_exact(12) {
                let (base64, hex) = (STANDARD.encode(part), hex::encode(part));
                assert!(!told.contains(&base64) && !told.contains(&hex), "{item} of {}", secret["metadata"]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_or_destroyed_that_cannot_be_told() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "rotation": { "grace": "2h" } }));
    bed.success(KEM, "kem").await;
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    bed.rests(HOUR).await;
    bed.recorded.full.store(true, Ordering::SeqCst);
    bed.create(RANDOM, "number", json!({}));
    bed.edit(KEM, "kem", |object| rotate(object, "2"));
    tokio::time::sleep(HOUR * 24).await;
    assert!(!bed.has_secret("number") && bed.has_secret("kem-v1") && !bed.has_secret("kem-v3"));
    assert_eq!(bed.status(KEM, "kem")["version"], 2);
    bed.recorded.full.store(false, Ordering::SeqCst);
    bed.success(RANDOM, "number").await;
    let done = |status: &Value| versions(status) == ["3 Active", "2 Retired", "1 Destroyed"];
    bed.until(KEM, "kem", "it goes on", done).await;
    assert_eq!(bed.recorded.of("number"), ["made 1"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_between_a_key_and_its_record_has_it_told_by_the_next() {
    let mut bed = Bed::idle();
    let died = std::sync::Arc::new(AtomicBool::new(false));
    let dead = died.clone();
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        if dead.load(Ordering::SeqCst) {
            return Fate::Vanish;
        }
        if asked.writes() && asked.path.ends_with("/namespaces/shop/secrets") {
            dead.store(true, Ordering::SeqCst);
            return Fate::Lose;
        }
        Fate::Pass
    })));
    bed.create(KEM, "kem", json!({}));
    tokio::time::sleep(HOUR).await;
    assert!(bed.has_secret("kem") && died.load(Ordering::SeqCst));
    assert!(bed.recorded.all().is_empty());
    bed.kill();
    bed.lead(bed.api.client());
    let status = bed.success(KEM, "kem").await;
    assert_eq!(bed.recorded.of("kem"), ["made 1"]);
    assert_eq!(bed.recorded.all()[0]["fingerprint"], status["fullFingerprint"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_saw_go_is_told_of_as_well() {
    let mut bed = Bed::idle();
    // No watch of it tells anything, so that there are lists alone.
    bed.lead(bed.api.client_judged(Box::new(|asked| {
        if asked.watches() && asked.path.ends_with("/quantumkemkeypairs") {
            return Fate::Expire;
        }
        Fate::Pass
    })));
    bed.create(KEM, "kem", json!({}));
    bed.success(KEM, "kem").await;
    assert!(bed.api.remove(&bed.path("shop", KEM, "kem")));
    tokio::time::sleep(HOUR).await;
    assert_eq!(bed.recorded.of("kem"), ["made 1", "deleted 1"]);
    assert!(bed.heard(&format!("{KEM}/kem")).contains(&"Deleted"));
}
