//! Signatures over messages that somebody else wrote, and verifications, which follow all that they are about.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use trellis_crypto::PublicKey;
use trellis_fake_api::Fate;

use crate::bed::{Bed, bytes, condition, reason, rotate, secret_path, set};

const HOUR: Duration = Duration::from_secs(3600);
const PAIR: &str = "QuantumSignatureKeyPair";
const SIGN: &str = "QuantumSignMessage";
const VERIFY: &str = "QuantumVerifySignature";

fn message(bed: &Bed, text: &str) {
    message_in(bed, "shop", text);
}

fn message_in(bed: &Bed, namespace: &str, text: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "message", "namespace": namespace, "uid": "m" },
        "data": { "message": STANDARD.encode(text) },
    });
    bed.api.put(&secret_path(namespace, "message"), secret);
}

fn sign() -> Value {
    json!({ "privateKeyRef": { "name": "pair" }, "messageRef": { "name": "message" } })
}

fn verify() -> Value {
    json!({
        "publicKeyRef": { "name": "pair" }, "messageRef": { "name": "message" },
        "signatureRef": { "name": "sign-signature" },
    })
}

async fn signed(bed: &Bed, algorithm: &str) {
    message(bed, "hello");
    bed.create(VERIFY, "verify", verify());
    bed.create(SIGN, "sign", sign());
    bed.create(PAIR, "pair", json!({ "algorithm": algorithm }));
    bed.success(SIGN, "sign").await;
    bed.word(VERIFY, "verify", "Valid").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_signed_is_valid_for_whoever_verifies() {
    for algorithm in ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "SLH-DSA-SHA2-128f"] {
        let bed = Bed::new();
        signed(&bed, algorithm).await;
        let key = PublicKey::read(&bytes(&bed.secret("pair"), "public-key"), None).unwrap();
        let PublicKey::Signature(key) = key else { panic!("no key for signatures") };
        let signature = bytes(&bed.secret("sign-signature"), "signature");
        assert!(key.verify(b"hello", b"", &signature).is_ok());
        let (sign, verify) = (bed.status(SIGN, "sign"), bed.status(VERIFY, "verify"));
        assert_eq!((&sign["algorithm"], &verify["algorithm"]), (&json!(algorithm), &json!(algorithm)));
        assert_eq!(sign["messageFingerprint"], verify["messageFingerprint"]);
        assert_eq!(verify["verified"], true);
        assert_eq!(sign["signatureReference"], json!({ "name": "sign-signature", "namespace": "shop" }));
        let shown = sign["signature"].as_str().map(|text| STANDARD.decode(text).unwrap());
        assert_eq!(
            shown,
            (signature.len() <= 8192).then_some(signature),
            "long ones are in the Secret alone"
        );
        bed.rests(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_message_is_signed_again_and_what_was_verified_is_verified_again() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-65").await;
    let copy = bed.secret("sign-signature");
    bed.api.put(
        &secret_path("shop", "kept"),
        json!({ "kind": "Secret", "metadata": { "name": "kept", "namespace": "shop", "uid": "k" }, "data": copy["data"] }),
    );
    let mut spec = verify();
    spec["signatureRef"]["name"] = json!("kept");
    bed.create(VERIFY, "kept", spec);
    bed.word(VERIFY, "kept", "Valid").await;
    message(&bed, "hallo");
    let status = bed.word(VERIFY, "kept", "Invalid").await;
    assert_eq!((&status["verified"], reason(&status)), (&json!(false), "Invalid".to_owned()));
    let other = |secret: &Value| secret["data"] != copy["data"];
    bed.secret_until("sign-signature", "it is signed again", other).await;
    let checked = |status: &Value| {
        status["status"] == "Valid"
            && status["messageFingerprint"] == bed.status(SIGN, "sign")["messageFingerprint"]
    };
    bed.until(VERIFY, "verify", "it is verified again", checked).await;
    bed.rests(HOUR).await;
    message(&bed, "hello");
    bed.word(VERIFY, "kept", "Valid").await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_replaced_is_good_as_long_as_it_is_kept() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-65").await;
    let copy = bed.secret("sign-signature");
    bed.api.put(
        &secret_path("shop", "kept"),
        json!({ "kind": "Secret", "metadata": { "name": "kept", "namespace": "shop", "uid": "k" }, "data": copy["data"] }),
    );
    let mut spec = verify();
    spec["signatureRef"]["name"] = json!("kept");
    bed.create(VERIFY, "kept", spec);
    bed.word(VERIFY, "kept", "Valid").await;
    bed.edit(PAIR, "pair", |object| {
        set(object, "/spec/rotation", json!({ "grace": "1h" }));
        rotate(object, "1");
    });
    bed.until(PAIR, "pair", "it rotates", |status| status["version"] == 2).await;
    let other = |secret: &Value| secret["data"] != copy["data"];
    bed.secret_until("sign-signature", "it is signed by the new key", other).await;
    let by_old = |status: &Value| {
        let message = condition(status, "Ready")["message"].clone();
        status["status"] == "Valid" && message.as_str().unwrap_or_default().contains("version 1")
    };
    bed.until(VERIFY, "kept", "by the old key", by_old).await;
    tokio::time::sleep(HOUR).await;
    bed.word(VERIFY, "kept", "Invalid").await;
    bed.word(VERIFY, "verify", "Valid").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_neither_valid_nor_invalid() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-65").await;
    assert!(bed.api.remove(&secret_path("shop", "message")));
    let status = bed.word(VERIFY, "verify", "Pending").await;
    assert_eq!((&status["verified"], reason(&status)), (&json!(false), "SourceNotFound".to_owned()));
    let told = |status: &Value| condition(status, "SourceAvailable")["status"] == "False";
    let status = bed.until(SIGN, "sign", "it is told", told).await;
    assert_eq!(status["status"], "Success", "the signature is still one");
    bed.rests(HOUR).await;
    message(&bed, "hello");
    bed.word(VERIFY, "verify", "Valid").await;
    // An item that does not exist.
    for (kind, name) in [(SIGN, "sign"), (VERIFY, "verify")] {
        bed.edit(kind, name, |object| set(object, "/spec/messageKey", json!("nothing")));
        let named = |status: &Value| status.to_string().contains(r#"item \"nothing\""#);
        bed.until(kind, name, "the item is named", named).await;
    }
    assert_eq!(bed.status(VERIFY, "verify")["status"], "Pending");
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_is_gone_is_made_again() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-44").await;
    bed.delete_secret("sign-signature");
    bed.secret_until("sign-signature", "it is back", |secret| !secret["data"].is_null()).await;
    bed.word(VERIFY, "verify", "Valid").await;
    let at = secret_path("shop", "sign-signature");
    bed.api.edit(&at, |secret| secret["data"] = json!({ "signature": "AAAA" }));
    bed.secret_until("sign-signature", "it is mended", |secret| bytes(secret, "signature").len() > 100).await;
    bed.word(VERIFY, "verify", "Valid").await;
    // Under another item, and another name.
    bed.edit(SIGN, "sign", |object| set(object, "/spec/signatureKey", json!("sig")));
    bed.secret_until("sign-signature", "the item moves", |secret| bytes(secret, "sig").len() > 100).await;
    bed.word(VERIFY, "verify", "Pending").await;
    bed.edit(SIGN, "sign", |object| set(object, "/spec/outputSecretName", json!("elsewhere")));
    bed.no_secret("sign-signature").await;
    bed.edit(VERIFY, "verify", |object| {
        set(object, "/spec/signatureRef/name", json!("elsewhere"));
        set(object, "/spec/signatureKey", json!("sig"));
    });
    bed.word(VERIFY, "verify", "Valid").await;
    bed.rests(HOUR).await;
    assert!(bed.status(SIGN, "sign")["version"].is_null(), "signatures have no versions");
}

#[tokio::test(start_paused = true)]
async fn contexts_and_keys_from_elsewhere() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-65").await;
    bed.edit(SIGN, "sign", |object| set(object, "/spec/context", json!("invoice")));
    bed.word(VERIFY, "verify", "Invalid").await;
    bed.edit(VERIFY, "verify", |object| set(object, "/spec/context", json!("invoice")));
    bed.word(VERIFY, "verify", "Valid").await;
    let mut spec = verify();
    spec.as_object_mut().unwrap().remove("publicKeyRef");
    spec["publicKey"] = bed.status(PAIR, "pair")["publicKey"].clone();
    spec["context"] = json!("invoice");
    bed.create(VERIFY, "inline", spec.clone());
    bed.word(VERIFY, "inline", "Valid").await;
    spec["algorithm"] = json!("ML-DSA-87");
    bed.create(VERIFY, "other", spec.clone());
    assert_eq!(reason(&bed.word(VERIFY, "other", "Failed").await), "UnfitSource");
    spec["publicKey"] = json!("no key");
    bed.create(VERIFY, "no-key", spec);
    let status = bed.word(VERIFY, "no-key", "Failed").await;
    assert!(status["error"].as_str().unwrap().starts_with("spec.publicKey"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn messages_may_stand_in_config_maps() {
    let bed = Bed::new();
    bed.api.put(
        "/api/v1/namespaces/shop/configmaps/image",
        json!({ "kind": "ConfigMap", "metadata": { "name": "image", "namespace": "shop", "uid": "c" }, "data": { "message": "sha256:00" } }),
    );
    bed.create(PAIR, "pair", json!({}));
    let mut spec = sign();
    spec["messageRef"] = json!({ "name": "image", "kind": "ConfigMap" });
    bed.create(SIGN, "sign", spec);
    let mut spec = verify();
    spec["messageRef"] = json!({ "name": "image", "kind": "ConfigMap" });
    bed.create(VERIFY, "verify", spec);
    bed.word(VERIFY, "verify", "Valid").await;
}

#[tokio::test(start_paused = true)]
async fn a_verifier_elsewhere_needs_grants_for_all_that_it_reads() {
    let bed = Bed::new();
    signed(&bed, "ML-DSA-65").await;
    message_in(&bed, "third", "hello");
    let mut spec = verify();
    for field in ["publicKeyRef", "signatureRef"] {
        spec[field]["namespace"] = json!("shop");
    }
    bed.create_in("third", VERIFY, "verify", spec);
    let refused = |status: &Value| reason(status) == "RefNotPermitted" && status["verified"] == false;
    bed.until_in("third", VERIFY, "verify", "it is refused", refused).await;
    let grant = |to: Value| {
        json!({
            "kind": "ReferenceGrant", "metadata": { "name": "g", "namespace": "shop" },
            "spec": { "from": [{ "group": "crypto.trellis.dev", "kind": VERIFY, "namespace": "third" }], "to": to },
        })
    };
    let at = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/referencegrants/g";
    let pair = json!({ "group": "crypto.trellis.dev", "kind": PAIR });
    bed.api.put(at, grant(json!([pair.clone()])));
    let next = |status: &Value| status["error"].as_str().unwrap_or_default().contains("spec.signatureRef");
    bed.until_in("third", VERIFY, "verify", "the signature is refused", next).await;
    bed.api.put(at, grant(json!([pair, { "group": "", "kind": "Secret", "name": "sign-signature" }])));
    let valid = |status: &Value| status["status"] == "Valid";
    bed.until_in("third", VERIFY, "verify", "it is valid", valid).await;
    // Fingerprints of the same message at two places have nothing to do with each other.
    let third = bed.api.get(&bed.path("third", VERIFY, "verify")).unwrap();
    assert_ne!(third["status"]["messageFingerprint"], bed.status(VERIFY, "verify")["messageFingerprint"]);
}

#[tokio::test(start_paused = true)]
async fn signatures_of_each_other_are_named_and_not_made_over_and_over() {
    let mut bed = Bed::idle();
    // Whoever never rests would let no time pass, and this would wait forever.
    let asked = AtomicUsize::new(0);
    bed.lead(bed.api.client_judged(Box::new(move |request| match asked.load(Ordering::SeqCst) {
        2_000.. => Fate::Vanish,
        _ => {
            asked.fetch_add(usize::from(request.writes()), Ordering::SeqCst);
            Fate::Pass
        }
    })));
    message(&bed, "hello");
    bed.create(PAIR, "pair", json!({ "algorithm": "ML-DSA-44" }));
    let of = |secret: &str, item: &str| json!({ "privateKeyRef": { "name": "pair" }, "messageRef": { "name": secret }, "messageKey": item });
    // Whether they are there already, or none of them can be the first.
    bed.create(SIGN, "c", of("d-signature", "signature"));
    bed.create(SIGN, "d", of("c-signature", "signature"));
    bed.create(SIGN, "own", of("own-signature", "signature"));
    bed.create(SIGN, "a", of("message", "message"));
    bed.create(SIGN, "b", of("a-signature", "signature"));
    bed.success(SIGN, "b").await;
    bed.edit(SIGN, "a", |object| set(object, "/spec", of("b-signature", "signature")));
    for name in ["a", "c", "d", "own"] {
        let status = bed.reason(SIGN, name, "CircularReference").await;
        assert_eq!(status["status"], "Failed");
        let error = status["error"].as_str().unwrap();
        assert!(
            error.starts_with("spec.messageRef: Secret shop/") && error.contains("itself made"),
            "{error}"
        );
    }
    bed.rests(24 * HOUR).await;
    bed.edit(SIGN, "a", |object| set(object, "/spec", of("message", "message")));
    bed.edit(SIGN, "d", |object| set(object, "/spec", of("message", "message")));
    for name in ["a", "b", "c", "d"] {
        bed.success(SIGN, name).await;
    }
    bed.rests(24 * HOUR).await;
}

/// One of them was not even asked to change.
#[tokio::test(start_paused = true)]
async fn whoever_was_in_a_circle_is_looked_at_once_it_is_open() {
    let mut bed = Bed::idle();
    bed.lead(bed.api.client());
    message(&bed, "hello");
    bed.create(PAIR, "pair", json!({ "algorithm": "ML-DSA-44" }));
    let of = |secret: &str, item: &str| json!({ "privateKeyRef": { "name": "pair" }, "messageRef": { "name": secret }, "messageKey": item });
    bed.create(SIGN, "a", of("message", "message"));
    bed.create(SIGN, "b", of("a-signature", "signature"));
    bed.create(SIGN, "c", of("b-signature", "signature"));
    bed.success(SIGN, "c").await;
    bed.edit(SIGN, "a", |object| set(object, "/spec", of("c-signature", "signature")));
    bed.reason(SIGN, "a", "CircularReference").await;
    for name in ["b", "c"] {
        bed.edit(SIGN, name, |object| set(object, "/metadata/annotations", json!({ "looked": "at" })));
        bed.reason(SIGN, name, "CircularReference").await;
    }
    bed.rests(24 * HOUR).await;
    // What it signed before is what it signs again: its Secret stays as it is.
    bed.edit(SIGN, "a", |object| set(object, "/spec", of("message", "message")));
    for name in ["a", "b", "c"] {
        bed.success(SIGN, name).await;
    }
    bed.rests(24 * HOUR).await;
}
