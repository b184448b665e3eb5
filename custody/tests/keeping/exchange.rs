//! What is made from other objects: encapsulated, decapsulated and derived, and how each follows its sources.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Bed, bytes, condition, fingerprint, reason, rotate, secret_path, set, versions};

const HOUR: Duration = Duration::from_secs(3600);
const KEM: &str = "QuantumKEMKeyPair";
const ENCAPSULATE: &str = "QuantumEncapsulateSecret";
const DECAPSULATE: &str = "QuantumDecapsulateSecret";
const DERIVED: &str = "QuantumDerivedKey";

fn encapsulate() -> Value {
    json!({ "publicKeyRef": { "name": "kem" } })
}

fn decapsulate() -> Value {
    json!({ "privateKeyRef": { "name": "kem" }, "ciphertextRef": { "name": "enc" }, "ciphertext": "" })
}

fn derived(from: &str) -> Value {
    json!({ "sharedSecretRef": { "name": from }, "keyType": "AES-256", "salt": "", "info": "" })
}

/// Everything of one exchange, made in the wrong order.
async fn exchange(bed: &Bed, algorithm: &str) {
    bed.create(DERIVED, "from-dec", derived("dec"));
    bed.create(DERIVED, "from-enc", derived("enc"));
    bed.create(DECAPSULATE, "dec", decapsulate());
    bed.create(ENCAPSULATE, "enc", encapsulate());
    bed.create(KEM, "kem", json!({ "algorithm": algorithm }));
    for (kind, name) in
        [(ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "from-enc"), (DERIVED, "from-dec")]
    {
        bed.success(kind, name).await;
    }
}

fn shared(bed: &Bed, name: &str) -> Vec<u8> {
    bytes(&bed.secret(&format!("{name}-shared-secret")), "shared-secret")
}

#[tokio::test(start_paused = true)]
async fn both_sides_come_to_the_same_key() {
    for (algorithm, length) in
        [("Kyber512", 32), ("ML-KEM-768", 32), ("ML-KEM-1024", 32), ("X25519MLKEM768", 64)]
    {
        let bed = Bed::new();
        exchange(&bed, algorithm).await;
        let secret = shared(&bed, "enc");
        assert_eq!((secret.len(), &secret), (length, &shared(&bed, "dec")));
        let (enc, dec) = (bed.status(ENCAPSULATE, "enc"), bed.status(DECAPSULATE, "dec"));
        assert_eq!(enc["fingerprint"], dec["fingerprint"]);
        assert_eq!(enc["publicKeyFingerprint"], bed.status(KEM, "kem")["publicKeyFingerprint"]);
        let confirmed = condition(&dec, "KeyConfirmed");
        assert_eq!((&confirmed["status"], &confirmed["reason"]), (&json!("True"), &json!("SameFingerprint")));
        let (one, other) = (bed.secret("from-enc-derived-key"), bed.secret("from-dec-derived-key"));
        assert_eq!(bytes(&one, "derived-key"), bytes(&other, "derived-key"));
        assert_eq!(bytes(&one, "derived-key").len(), 32);
        assert_eq!(bytes(&one, "key-type"), b"AES-256");
        let status = bed.status(DERIVED, "from-enc");
        assert_eq!(bytes(&one, "fingerprint"), status["keyFingerprint"].as_str().unwrap().as_bytes());
        assert_eq!((&status["usedSalt"], &status["kdfProfile"]), (&json!(""), &json!("Separated")));
        bed.rests(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_is_named() {
    let bed = Bed::new();
    bed.create(DECAPSULATE, "dec", decapsulate());
    let status = bed.word(DECAPSULATE, "dec", "Pending").await;
    assert_eq!(reason(&status), "SourceNotFound");
    assert!(status["error"].as_str().unwrap().contains("QuantumKEMKeyPair shop/kem"), "{status}");
    bed.create(KEM, "kem", json!({}));
    let named = |status: &Value| status["error"].as_str().unwrap_or_default().contains("shop/enc");
    bed.until(DECAPSULATE, "dec", "the next one is named", named).await;
    bed.rests(HOUR).await;
    bed.create(ENCAPSULATE, "enc", encapsulate());
    bed.success(DECAPSULATE, "dec").await;
}

#[tokio::test(start_paused = true)]
async fn all_follow_a_rotated_key_and_the_old_stays_for_its_grace() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    let before = shared(&bed, "enc");
    bed.edit(DERIVED, "from-dec", |object| set(object, "/spec/rotation", json!({ "grace": "1h" })));
    bed.rests(HOUR).await;
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    for (kind, name) in
        [(ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "from-enc"), (DERIVED, "from-dec")]
    {
        let done = |status: &Value| status["version"] == 2 && status["status"] == "Success";
        let status = bed.until(kind, name, "it follows", done).await;
        assert_eq!(versions(&status), ["2 Active", "1 Retired"], "{kind}");
    }
    assert_eq!(shared(&bed, "enc"), shared(&bed, "dec"));
    assert_ne!(shared(&bed, "enc"), before);
    assert_eq!(bytes(&bed.secret("enc-shared-secret-v1"), "shared-secret"), before);
    assert_eq!(
        bytes(&bed.secret("from-enc-derived-key"), "derived-key"),
        bytes(&bed.secret("from-dec-derived-key"), "derived-key")
    );
    tokio::time::sleep(HOUR).await;
    let gone = |status: &Value| versions(status) == ["2 Active", "1 Destroyed"];
    bed.until(DERIVED, "from-dec", "the grace ends", gone).await;
    bed.rests(HOUR).await;
    // Rolled back, the key brings the others with it: to a fresh secret under the old key.
    bed.edit(KEM, "kem", |object| set(object, "/spec/version", json!(1)));
    let done = |status: &Value| status["version"] == 3 && status["status"] == "Success";
    bed.until(DERIVED, "from-dec", "it follows again", done).await;
    assert_eq!(shared(&bed, "enc"), shared(&bed, "dec"));
}

#[tokio::test(start_paused = true)]
async fn another_ciphertext_is_noticed_and_confirmed() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    bed.edit(ENCAPSULATE, "enc", |object| rotate(object, "1"));
    let done =
        |status: &Value| status["version"] == 2 && condition(status, "KeyConfirmed")["status"] == "True";
    bed.until(DECAPSULATE, "dec", "it follows", done).await;
    assert_eq!(shared(&bed, "enc"), shared(&bed, "dec"));
    // Encapsulated under an old version of the key, it is opened by that.
    bed.edit(ENCAPSULATE, "enc", |object| set(object, "/spec/version", json!(1)));
    let back =
        |status: &Value| status["version"] == 3 && condition(status, "KeyConfirmed")["status"] == "True";
    bed.until(DECAPSULATE, "dec", "it follows back", back).await;
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    bed.until(KEM, "kem", "the key rotates", |status| status["version"] == 2).await;
    bed.rests(HOUR).await;
    assert_eq!(shared(&bed, "enc"), shared(&bed, "dec"));
    assert_eq!(condition(&bed.status(DECAPSULATE, "dec"), "KeyConfirmed")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn another_key_never_looks_like_success() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    bed.create(KEM, "other", json!({}));
    bed.success(KEM, "other").await;
    let mut spec = decapsulate();
    spec["privateKeyRef"]["name"] = json!("other");
    bed.create(DECAPSULATE, "wrong", spec.clone());
    let status = bed.word(DECAPSULATE, "wrong", "Failed").await;
    assert_eq!(reason(&status), "KeyNotConfirmed");
    assert!(!bed.has_secret("wrong-shared-secret"));
    // The ciphertext itself, which gives some secret without an error.
    spec["ciphertext"] = bed.status(ENCAPSULATE, "enc")["ciphertext"].clone();
    bed.create(DECAPSULATE, "wrong-too", spec.clone());
    bed.reason(DECAPSULATE, "wrong-too", "KeyNotConfirmed").await;
    // A changed one for the right key.
    spec["privateKeyRef"]["name"] = json!("kem");
    let mut text = spec["ciphertext"].as_str().unwrap().to_owned();
    text.replace_range(0..1, if text.starts_with('0') { "1" } else { "0" });
    spec["ciphertext"] = json!(text);
    bed.create(DECAPSULATE, "changed", spec.clone());
    bed.reason(DECAPSULATE, "changed", "KeyNotConfirmed").await;
    assert!(!bed.has_secret("changed-shared-secret"));
    // Nobody says what it should be: it cannot be told, and is not said to be confirmed.
    spec.as_object_mut().unwrap().remove("ciphertextRef");
    bed.create(DECAPSULATE, "alone", spec.clone());
    let status = bed.success(DECAPSULATE, "alone").await;
    assert_eq!(condition(&status, "KeyConfirmed")["status"], "Unknown");
    assert_ne!(shared(&bed, "alone"), shared(&bed, "enc"));
    spec["ciphertext"] = json!("00ff");
    bed.create(DECAPSULATE, "short", spec);
    let status = bed.word(DECAPSULATE, "short", "Failed").await;
    assert!(status["error"].as_str().unwrap().contains("spec.ciphertext"), "{status}");
    bed.rests(HOUR).await;
    // It heals when the right key is named.
    bed.edit(DECAPSULATE, "wrong", |object| set(object, "/spec/privateKeyRef/name", json!("kem")));
    bed.success(DECAPSULATE, "wrong").await;
}

#[tokio::test(start_paused = true)]
async fn what_can_be_derived_comes_back_and_is_the_same() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    for name in ["dec-shared-secret", "from-enc-derived-key"] {
        let before = bed.secret(name);
        bed.delete_secret(name);
        let back = bed.secret_until(name, "it is back", |secret| !secret["data"].is_null()).await;
        assert_eq!(
            (back["data"].clone(), fingerprint(&back)),
            (before["data"].clone(), fingerprint(&before))
        );
        bed.api.edit(&secret_path("shop", name), |secret| secret["data"] = json!({ "x": "AAAA" }));
        bed.secret_until(name, "it is mended", |secret| secret["data"] == before["data"]).await;
    }
    bed.rests(HOUR).await;
    assert_eq!(versions(&bed.status(DECAPSULATE, "dec")), ["1 Active"]);
    assert_eq!(versions(&bed.status(DERIVED, "from-enc")), ["1 Active"]);
    // What cannot be is lost, and who depends on it keeps what it has and is told.
    bed.delete_secret("enc-shared-secret");
    let lost = bed.reason(ENCAPSULATE, "enc", "Lost").await;
    let told = lost["error"].as_str().unwrap();
    assert!(told.contains("QuantumDecapsulateSecret shop/dec") && told.contains("shop/from-enc"), "{told}");
    let told = |status: &Value| condition(status, "SourceAvailable")["reason"] == "SourceLost";
    let status = bed.until(DERIVED, "from-enc", "it is told", told).await;
    assert_eq!(
        (&status["status"], condition(&status, "Ready")["status"].clone()),
        (&json!("Success"), json!("True"))
    );
    assert!(bed.has_secret("from-enc-derived-key"));
    // Its own Secret is lost as well now, and there is nothing to derive it from.
    bed.delete_secret("from-enc-derived-key");
    let status = bed.word(DERIVED, "from-enc", "Failed").await;
    assert_eq!(reason(&status), "SourceLost");
    bed.rests(HOUR).await;
    bed.edit(ENCAPSULATE, "enc", |object| set(object, "/spec/recreatePolicy", json!("Recreate")));
    let status = bed.success(DERIVED, "from-enc").await;
    assert_eq!(status["version"], 2, "it is another one");
    bed.success(DECAPSULATE, "dec").await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_ciphertext_is_mended_from_the_status() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    let before = bed.secret("enc-shared-secret");
    bed.api.edit(&secret_path("shop", "enc-shared-secret"), |secret| {
        secret["data"]["ciphertext"] = json!("AAAA")
    });
    bed.secret_until("enc-shared-secret", "it is mended", |secret| secret["data"] == before["data"]).await;
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_different_use_have_nothing_in_common() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({}));
    bed.create(ENCAPSULATE, "enc", encapsulate());
    let mut all = Vec::new();
    for (name, changes) in [
        ("a", json!({})),
        ("b", json!({ "keyType": "ChaCha20" })),
        ("c", json!({ "keyType": "HMAC-SHA256" })),
        ("d", json!({ "keyType": "HMAC-SHA256", "keyLength": 64 })),
        ("e", json!({ "kdf": "HKDF-SHA384" })),
        ("f", json!({ "kdf": "HKDF-SHA512" })),
        ("g", json!({ "salt": "01" })),
        ("h", json!({ "info": "00" })),
        ("i", json!({ "kdfProfile": "Plain" })),
        ("j", json!({ "kdfProfile": "Separated", "info": "00" })),
    ] {
        let mut spec = derived("enc");
        for (field, value) in changes.as_object().unwrap() {
            spec[field] = value.clone();
        }
        bed.create(DERIVED, name, spec);
        bed.success(DERIVED, name).await;
        all.push(bytes(&bed.secret(&format!("{name}-derived-key")), "derived-key"));
    }
    let length = all.len();
    all.sort();
    all.dedup_by(|one, other| one.get(..32) == other.get(..32));
    assert_eq!(all.len(), length);
    // What is set is what is used, and a change is another version.
    bed.edit(DERIVED, "h", |object| set(object, "/spec/info", json!("01")));
    let status = bed.until(DERIVED, "h", "another key", |status| status["version"] == 2).await;
    assert_eq!((&status["usedInfo"], &status["kdfProfile"]), (&json!("01"), &json!("Plain")));
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_two_kinds_have_is_told_apart() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    bed.create(DERIVED, "key", derived("both"));
    bed.create(ENCAPSULATE, "both", encapsulate());
    bed.success(DERIVED, "key").await;
    let mut spec = decapsulate();
    spec["ciphertextRef"]["name"] = json!("both");
    bed.create(DECAPSULATE, "both", {
        spec["secretName"] = json!("both-dec");
        spec
    });
    let status = bed.reason(DERIVED, "key", "AmbiguousReference").await;
    assert!(status["error"].as_str().unwrap().contains("spec.sharedSecretRef.kind"), "{status}");
    bed.edit(DERIVED, "key", |object| {
        set(object, "/spec/sharedSecretRef/kind", json!("QuantumDecapsulateSecret"));
    });
    let status = bed.success(DERIVED, "key").await;
    assert_eq!(status["version"], 1, "it is the same secret");
}

#[tokio::test(start_paused = true)]
async fn an_algorithm_that_the_key_has_not_is_refused() {
    let bed = Bed::new();
    exchange(&bed, "ML-KEM-768").await;
    for (kind, name, spec) in [(ENCAPSULATE, "e", encapsulate()), (DECAPSULATE, "d", decapsulate())] {
        let mut spec = spec;
        spec["algorithm"] = json!("ML-KEM-1024");
        bed.create(kind, name, spec);
        let status = bed.word(kind, name, "Failed").await;
        assert_eq!(reason(&status), "AlgorithmMismatch");
        assert!(!bed.has_secret(&format!("{name}-shared-secret")));
        bed.edit(kind, name, |object| set(object, "/spec/algorithm", json!("Kyber768")));
        bed.success(kind, name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_namespaces_are_reached_by_a_grant_alone() {
    let bed = Bed::new();
    bed.create_in("alice", KEM, "kem", json!({}));
    bed.create_in(
        "bob",
        ENCAPSULATE,
        "enc",
        json!({ "publicKeyRef": { "name": "kem", "namespace": "alice" } }),
    );
    bed.create_in(
        "bob",
        ENCAPSULATE,
        "none",
        json!({ "publicKeyRef": { "name": "x", "namespace": "alice" } }),
    );
    let refused = |status: &Value| status["status"] == "Failed" && reason(status) == "RefNotPermitted";
    let status = bed.until_in("bob", ENCAPSULATE, "enc", "it is refused", refused).await;
    assert!(status["error"].as_str().unwrap().contains("ReferenceGrant"), "{status}");
    // Whether there is such a key is nothing that it is told.
    bed.until_in("bob", ENCAPSULATE, "none", "it is refused", refused).await;
    let grant = |name: &str, from: (&str, &str), to: Value| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
            "metadata": { "name": name, "namespace": "alice" },
            "spec": {
                "from": [{ "group": "crypto.trellis.dev", "kind": from.0, "namespace": from.1 }],
                "to": [to],
            },
        })
    };
    let at =
        |name: &str| format!("/apis/gateway.networking.k8s.io/v1/namespaces/alice/referencegrants/{name}");
    let key = json!({ "group": "crypto.trellis.dev", "kind": KEM, "name": "kem" });
    for (name, from, to) in [
        ("kind", (DECAPSULATE, "bob"), key.clone()),
        ("namespace", (ENCAPSULATE, "eve"), key.clone()),
        (
            "name",
            (ENCAPSULATE, "bob"),
            json!({ "group": "crypto.trellis.dev", "kind": KEM, "name": "other" }),
        ),
        ("group", (ENCAPSULATE, "bob"), json!({ "group": "", "kind": "Secret" })),
    ] {
        bed.api.put(&at(name), grant(name, from, to));
    }
    bed.rests(HOUR).await;
    bed.api.put(&at("right"), grant("right", (ENCAPSULATE, "bob"), key));
    let done = |status: &Value| status["status"] == "Success";
    bed.until_in("bob", ENCAPSULATE, "enc", "it heals", done).await;
    assert_eq!(
        reason(&bed.api.get(&bed.path("bob", ENCAPSULATE, "none")).unwrap()["status"]),
        "RefNotPermitted"
    );
    // Taken back, it fails again, and what was made stays.
    assert!(bed.api.remove(&at("right")));
    bed.until_in("bob", ENCAPSULATE, "enc", "it is refused again", refused).await;
    assert!(bed.api.get(&secret_path("bob", "enc-shared-secret")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_for_certain_accounts_is_for_no_others() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "allowedServiceAccounts": ["billing", "other/app"] }));
    bed.create(ENCAPSULATE, "enc", encapsulate());
    bed.success(ENCAPSULATE, "enc").await;
    let mut spec = decapsulate();
    bed.create(DECAPSULATE, "nobody", spec.clone());
    spec["serviceAccountName"] = json!("app");
    bed.create(DECAPSULATE, "app", spec.clone());
    spec["serviceAccountName"] = json!("billing");
    bed.create(DECAPSULATE, "billing", spec);
    bed.success(DECAPSULATE, "billing").await;
    for name in ["nobody", "app"] {
        let status = bed.reason(DECAPSULATE, name, "Denied").await;
        assert_eq!(condition(&status, "Denied")["status"], "True");
        assert!(!bed.has_secret(&format!("{name}-shared-secret")));
    }
    bed.edit(KEM, "kem", |object| set(object, "/spec/allowedServiceAccounts", json!(["app"])));
    bed.success(DECAPSULATE, "app").await;
    bed.reason(DECAPSULATE, "billing", "Denied").await;
}
