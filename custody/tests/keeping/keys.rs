//! What is made of randomness: random numbers and key pairs, and everything that can happen to them.

use std::time::Duration;

use serde_json::json;
use trellis_crypto::{Algorithm, PrivateKey, PublicKey};

use crate::bed::{Bed, annotation, bytes, condition, fingerprint, reason, rotate, set, versions};

const HOUR: Duration = Duration::from_secs(3600);
const RANDOM: &str = "QuantumRandomNumber";
const KEM: &str = "QuantumKEMKeyPair";
const SIGNATURE: &str = "QuantumSignatureKeyPair";

#[tokio::test(start_paused = true)]
async fn each_is_made_once_and_then_rests() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({ "bytes": 64 }));
    bed.create(RANDOM, "other", json!({ "numBytes": 64, "seed": "s".repeat(48), "seedURI": "http://x/" }));
    bed.create(KEM, "kem", json!({ "algorithm": "ML-KEM-1024", "secretName": "kem-keys" }));
    bed.create(SIGNATURE, "signature", json!({ "algorithm": "Dilithium3" }));
    for (kind, name) in [(RANDOM, "number"), (RANDOM, "other"), (KEM, "kem"), (SIGNATURE, "signature")] {
        let status = bed.success(kind, name).await;
        assert_eq!((reason(&status), versions(&status)), ("InPlace".to_owned(), vec!["1 Active".to_owned()]));
        assert_eq!(bed.heard(&format!("{kind}/{name}")), ["Created"]);
    }
    let (number, other) = (bed.secret("number"), bed.secret("other"));
    assert_eq!(bytes(&number, "quantumrandomnumber").len(), 64);
    assert_eq!(bytes(&number, "quantumrandomnumber"), bytes(&number, "random"));
    assert_ne!(bytes(&number, "random"), bytes(&other, "random"));
    let status = bed.status(RANDOM, "number");
    assert_eq!((&status["bytes"], &status["provider"]), (&json!(64), &json!("system")));
    assert_eq!(status["randomNumberReference"], json!({ "name": "number", "namespace": "shop" }));

    let secret = bed.secret("kem-keys");
    let status = bed.status(KEM, "kem");
    let key = PrivateKey::read(&bytes(&secret, "private-key"), None).unwrap();
    assert_eq!(key.algorithm().name(), "ML-KEM-1024");
    let public = PublicKey::read(&bytes(&secret, "public-key"), None).unwrap();
    assert!(public == key.public_key() && public.raw() == bytes(&secret, "public_key"));
    assert_eq!(key.expanded().unwrap().as_bytes(), bytes(&secret, "private_key"));
    assert_eq!(status["fullFingerprint"], public.fingerprint().to_string());
    assert_eq!(status["publicKeyFingerprint"], public.fingerprint().short());
    assert_eq!(status["publicKey"], public.pem());
    assert_eq!(secret["type"], "Opaque");
    let owner = &secret["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["controller"]), (&json!(KEM), &json!(true)));
    assert_eq!(owner["uid"], bed.object(KEM, "kem")["metadata"]["uid"]);

    let status = bed.status(SIGNATURE, "signature");
    assert_eq!(status["algorithm"], "ML-DSA-65");
    let ready = condition(&status, "Ready");
    assert!(ready["message"].as_str().unwrap().contains("Dilithium3"), "{ready}");
    let key = PrivateKey::read(&bytes(&bed.secret("signature"), "private-key"), None).unwrap();
    assert_eq!(key.algorithm(), Algorithm::parse("ML-DSA-65").unwrap().algorithm);
    bed.rests(24 * HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_rotation_keeps_the_old_for_its_grace_and_leaves_a_tombstone() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "rotation": { "every": "24h", "grace": "36h" } }));
    let first = bed.success(KEM, "kem").await["fullFingerprint"].clone();
    tokio::time::sleep(24 * HOUR).await;
    let second = bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    assert_eq!(versions(&second), ["2 Active", "1 Retired"]);
    assert_ne!(second["fullFingerprint"], first);
    let archive = bed.secret("kem-v1");
    assert_eq!(
        (&archive["immutable"], fingerprint(&archive)),
        (&json!(true), first.as_str().unwrap().to_owned())
    );
    assert_eq!(archive["metadata"]["labels"]["crypto.trellis.dev/version"], "1");
    tokio::time::sleep(24 * HOUR).await;
    let third = bed.until(KEM, "kem", "version 3", |status| status["version"] == 3).await;
    assert_eq!(versions(&third), ["3 Active", "2 Retired", "1 Retired"]);
    tokio::time::sleep(12 * HOUR).await;
    let gone = |status: &serde_json::Value| versions(status).contains(&"1 Destroyed".to_owned());
    let status = bed.until(KEM, "kem", "the tombstone", gone).await;
    assert!(!bed.has_secret("kem-v1"));
    let tombstone = status["versions"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(tombstone["fingerprint"], first);
    let (retired, destroyed) =
        (tombstone["retired"].as_str().unwrap(), tombstone["destroyed"].as_str().unwrap());
    assert!(retired < destroyed, "{tombstone}");
    let heard = bed.heard(&format!("{KEM}/kem"));
    assert_eq!(&heard[..4], ["Created", "Rotated", "Rotated", "Destroyed"], "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_gets_another_version_and_can_have_the_old_one_back() {
    let bed = Bed::new();
    bed.create(SIGNATURE, "pair", json!({}));
    let first = bed.success(SIGNATURE, "pair").await["fullFingerprint"].clone();
    bed.edit(SIGNATURE, "pair", |object| rotate(object, "now"));
    let second = bed.until(SIGNATURE, "pair", "version 2", |status| status["version"] == 2).await;
    bed.rests(HOUR).await;
    bed.edit(SIGNATURE, "pair", |object| set(object, "/spec/version", json!(1)));
    let back = bed.until(SIGNATURE, "pair", "version 1", |status| status["version"] == 1).await;
    assert_eq!((&back["fullFingerprint"], reason(&back)), (&first, "Pinned".to_owned()));
    assert_eq!(versions(&back), ["2 Retired", "1 Active"]);
    assert_eq!(fingerprint(&bed.secret("pair")), first.as_str().unwrap());
    // While an old one is wished, none is made; afterwards it is.
    bed.edit(SIGNATURE, "pair", |object| rotate(object, "again"));
    bed.rests(HOUR).await;
    bed.edit(SIGNATURE, "pair", |object| set(object, "/spec/version", json!(7)));
    bed.reason(SIGNATURE, "pair", "VersionUnavailable").await;
    assert_eq!(fingerprint(&bed.secret("pair")), first.as_str().unwrap(), "it stays as it was");
    bed.edit(SIGNATURE, "pair", |object| set(object, "/spec/version", json!(null)));
    let third = bed.until(SIGNATURE, "pair", "version 3", |status| status["version"] == 3).await;
    assert_eq!(versions(&third), ["3 Active", "2 Retired", "1 Retired"]);
    assert_eq!(fingerprint(&bed.secret("pair-v2")), second["fullFingerprint"].as_str().unwrap());
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn another_algorithm_is_a_rotation_to_it() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "algorithm": "ML-KEM-512" }));
    bed.success(KEM, "kem").await;
    bed.edit(KEM, "kem", |object| set(object, "/spec/algorithm", json!("X25519MLKEM768")));
    let status = bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    assert_eq!(status["algorithm"], "X25519MLKEM768");
    assert_eq!(status["observedGeneration"], 2);
    let note = bed.notes().into_iter().find(|note| note.contains("Rotated")).unwrap();
    assert!(note.contains("from ML-KEM-512 to X25519MLKEM768"), "{note}");
    assert!(bed.has_secret("kem-v1"), "without a grace it is kept");
    bed.rests(1000 * HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn another_name_is_a_move_of_the_same() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({ "secretName": "old" }));
    let before = bed.success(RANDOM, "number").await;
    let material = bytes(&bed.secret("old"), "random");
    bed.edit(RANDOM, "number", |object| set(object, "/spec/secretName", json!("new")));
    bed.no_secret("old").await;
    assert_eq!(bytes(&bed.secret("new"), "random"), material);
    let moved = |status: &serde_json::Value| status["randomNumberReference"]["name"] == "new";
    let status = bed.until(RANDOM, "number", "it moved", moved).await;
    assert_eq!((&status["version"], &status["fingerprint"]), (&json!(1), &before["fingerprint"]));
    assert_eq!(bed.heard(&format!("{RANDOM}/number")), ["Created", "Moved"]);
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_said_to_be_lost_unless_another_is_allowed() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({}));
    let first = bed.success(KEM, "kem").await["fullFingerprint"].clone();
    bed.delete_secret("kem");
    let lost = bed.reason(KEM, "kem", "Lost").await;
    assert_eq!((&lost["status"], &lost["version"]), (&json!("Failed"), &json!(1)));
    assert_eq!(versions(&lost), ["1 Lost"]);
    assert_eq!(lost["versions"][0]["fingerprint"], first, "by which it is known when it comes back");
    assert_eq!(condition(&lost, "Lost")["status"], "True");
    assert!(lost["error"].as_str().unwrap().contains("spec.recreatePolicy: Recreate"), "{lost}");
    assert_eq!(bed.heard(&format!("{KEM}/kem")), ["Created", "Lost"]);
    bed.rests(HOUR).await;
    assert!(!bed.has_secret("kem"));
    bed.edit(KEM, "kem", |object| set(object, "/spec/recreatePolicy", json!("Recreate")));
    let status = bed.success(KEM, "kem").await;
    assert_eq!(versions(&status), ["2 Active", "1 Lost"], "another one has another number");
    assert_ne!(status["fullFingerprint"], first);
    assert_eq!(status["versions"][1]["fingerprint"], first);
    assert!(bed.heard(&format!("{KEM}/kem")).contains(&"Recreated"));
    bed.rests(HOUR).await;
    // A version that was kept, likewise.
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    let second = status["fullFingerprint"].clone();
    bed.until(KEM, "kem", "version 3", |status| status["version"] == 3).await;
    bed.delete_secret("kem-v2");
    let told = |status: &serde_json::Value| versions(status) == ["3 Active", "2 Lost", "1 Lost"];
    let status = bed.until(KEM, "kem", "the loss of version 2", told).await;
    assert_eq!((&status["versions"][1]["fingerprint"], &status["status"]), (&second, &json!("Success")));
    let told =
        |note: &String| note.starts_with("Warning QuantumKEMKeyPair/kem Lost: version 2, which was kept");
    assert_eq!(bed.notes().iter().filter(|note| told(note)).count(), 1, "{:?}", bed.notes());
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_brings_back_what_was_lost_and_nothing_else_does() {
    let bed = Bed::new();
    for name in ["kem", "other"] {
        bed.create(KEM, name, json!({}));
        bed.success(KEM, name).await;
    }
    let (backup, other) = (bed.secret("kem"), bed.secret("other"));
    bed.delete_secret("kem");
    bed.reason(KEM, "kem", "Lost").await;
    // What another object had, with the marks of this one, is not what was lost.
    let mut forged = other.clone();
    forged["metadata"] = backup["metadata"].clone();
    bed.api.put("/api/v1/namespaces/shop/secrets/kem", forged);
    bed.rests(HOUR).await;
    assert_eq!(reason(&bed.status(KEM, "kem")), "Lost");
    bed.delete_secret("kem");
    // As a backup restores it: another uid, and nobody's.
    let mut restored = backup.clone();
    restored["metadata"] = json!({
        "name": "kem", "namespace": "shop", "uid": "restored",
        "annotations": { "crypto.trellis.dev/adopt": format!("{KEM}/kem") },
    });
    bed.api.put("/api/v1/namespaces/shop/secrets/kem", restored);
    let status = bed.success(KEM, "kem").await;
    assert_eq!((versions(&status), &status["version"]), (vec!["1 Active".to_owned()], &json!(1)));
    assert_eq!(bytes(&bed.secret("kem"), "private-key"), bytes(&backup, "private-key"));
    assert_eq!(bed.secret("kem")["metadata"]["labels"]["crypto.trellis.dev/kind"], KEM);
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_mended_from_what_is_left() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({}));
    bed.create(RANDOM, "number", json!({}));
    bed.success(KEM, "kem").await;
    bed.success(RANDOM, "number").await;
    let whole = [bed.secret("kem"), bed.secret("number")];
    let mends = [
        ("kem", "public-key", json!("AAAA")),
        ("kem", "private_key", json!(null)),
        ("kem", "public_key", json!(null)),
        ("kem", "extra", json!("AAAA")),
        ("number", "random", json!("AAAA")),
        ("number", "quantumrandomnumber", json!(null)),
    ];
    for (name, item, value) in mends {
        let before = whole.iter().find(|secret| secret["metadata"]["name"] == name).unwrap();
        let at = format!("/api/v1/namespaces/shop/secrets/{name}");
        bed.api.edit(&at, |secret| set(secret, &format!("/data/{item}"), value));
        let what = format!("{name} is mended, of which {item} was damaged");
        bed.secret_until(name, &what, |secret| secret["data"] == before["data"]).await;
    }
    // Of the raw private key follows the rest, but for the seed that it was made of.
    bed.api.edit("/api/v1/namespaces/shop/secrets/kem", |secret| set(secret, "/data/private-key", json!("")));
    let readable = |secret: &serde_json::Value| PrivateKey::read(&bytes(secret, "private-key"), None).is_ok();
    let mended = bed.secret_until("kem", "the private key is back", readable).await;
    assert_eq!(bytes(&mended, "private_key"), bytes(&whole[0], "private_key"));
    assert_eq!(bytes(&mended, "public-key"), bytes(&whole[0], "public-key"));
    bed.api.put("/api/v1/namespaces/shop/secrets/kem", whole[0].clone());
    // Its annotations are gone: what it is, is found out again.
    bed.api.edit("/api/v1/namespaces/shop/secrets/kem", |secret| {
        set(secret, "/metadata/annotations", json!(null));
        set(secret, "/metadata/labels", json!(null));
    });
    let again = bed.secret_until("kem", "it is known again", |secret| !fingerprint(secret).is_empty()).await;
    assert_eq!(fingerprint(&again), fingerprint(&whole[0]));
    bed.rests(HOUR).await;
    assert_eq!(
        (bed.success(KEM, "kem").await["version"].clone(), versions(&bed.status(RANDOM, "number"))),
        (json!(1), vec!["1 Active".to_owned()])
    );
    // Both forms of the private key are damaged: it is lost, and left as it is.
    bed.api.edit("/api/v1/namespaces/shop/secrets/kem", |secret| {
        set(secret, "/data/private-key", json!("AAAA"));
        set(secret, "/data/private_key", json!("AAAA"));
    });
    bed.reason(KEM, "kem", "Lost").await;
    assert_eq!(bed.secret("kem")["data"]["private-key"], "AAAA");
    bed.rests(HOUR).await;
    let at = "/api/v1/namespaces/shop/secrets/kem";
    bed.api.edit(at, |secret| set(secret, "/data/private-key", whole[0]["data"]["private-key"].clone()));
    bed.success(KEM, "kem").await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_kept_comes_back_when_the_one_in_use_is_deleted() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({}));
    bed.success(RANDOM, "number").await;
    let first = bytes(&bed.secret("number"), "random");
    bed.edit(RANDOM, "number", |object| rotate(object, "1"));
    bed.until(RANDOM, "number", "version 2", |status| status["version"] == 2).await;
    bed.edit(RANDOM, "number", |object| set(object, "/spec/version", json!(1)));
    bed.until(RANDOM, "number", "version 1", |status| status["version"] == 1).await;
    bed.delete_secret("number");
    let back = bed.secret_until("number", "it is back", |secret| bytes(secret, "random") == first).await;
    assert_eq!(annotation(&back, "crypto.trellis.dev/secret-version"), "1");
    bed.rests(HOUR).await;
    // The one that is kept goes: its version is lost, and the one in use stays.
    bed.delete_secret("number-v2");
    let lost = |status: &serde_json::Value| versions(status) == ["2 Lost", "1 Active"];
    bed.until(RANDOM, "number", "version 2 is lost", lost).await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_else_is_never_touched() {
    let bed = Bed::new();
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "mine": "AAAA" },
        "metadata": { "name": "kem", "namespace": "shop", "uid": "theirs" },
    });
    bed.api.put("/api/v1/namespaces/shop/secrets/kem", foreign);
    let before = bed.secret("kem");
    bed.create(KEM, "kem", json!({}));
    let status = bed.reason(KEM, "kem", "SecretConflict").await;
    assert_eq!(
        (&status["status"], condition(&status, "SecretConflict")["status"].clone()),
        (&json!("Failed"), json!("True"))
    );
    bed.rests(HOUR).await;
    assert_eq!(bed.secret("kem"), before);
    // It makes way, and nobody has to tell.
    bed.delete_secret("kem");
    let status = bed.success(KEM, "kem").await;
    assert!(condition(&status, "SecretConflict").is_null());
    // A copy of all its labels does not make another one ours, nor does another name get in the way.
    bed.edit(KEM, "kem", |object| set(object, "/spec/secretName", json!("taken")));
    let mut copy = bed.secret("kem");
    copy["metadata"]["name"] = json!("taken");
    copy["metadata"]["ownerReferences"] = json!([]);
    bed.api.put("/api/v1/namespaces/shop/secrets/taken", copy);
    let status = bed.reason(KEM, "kem", "SecretConflict").await;
    assert_eq!(status["version"], 1, "what is in use stays in use");
    assert!(bed.has_secret("kem"));
    bed.rests(HOUR).await;
    // So is one whose name a version would have.
    bed.edit(KEM, "kem", |object| set(object, "/spec/secretName", json!(null)));
    bed.success(KEM, "kem").await;
    bed.api.put(
        "/api/v1/namespaces/shop/secrets/kem-v1",
        json!({ "kind": "Secret", "metadata": { "name": "kem-v1", "namespace": "shop", "uid": "b" } }),
    );
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    bed.reason(KEM, "kem", "SecretConflict").await;
    assert_eq!(bed.status(KEM, "kem")["version"], 1);
    bed.delete_secret("kem-v1");
    bed.until(KEM, "kem", "it goes on", |status| status["version"] == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_of_a_version_of_its_own_is_no_name_for_the_secret() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({}));
    bed.success(RANDOM, "number").await;
    bed.edit(RANDOM, "number", |object| rotate(object, "1"));
    bed.until(RANDOM, "number", "version 2", |status| status["version"] == 2).await;
    bed.edit(RANDOM, "number", |object| set(object, "/spec/secretName", json!("number-v1")));
    bed.reason(RANDOM, "number", "SecretConflict").await;
    bed.rests(HOUR).await;
    assert!(bed.has_secret("number"));
}

#[tokio::test(start_paused = true)]
async fn both_forms_of_keys_are_written_and_changed() {
    let bed = Bed::new();
    bed.create(KEM, "kem", json!({ "algorithm": "ML-KEM-512", "keyFormat": "qubesec" }));
    let before = bed.success(KEM, "kem").await;
    let pem = String::from_utf8(bytes(&bed.secret("kem"), "private-key")).unwrap();
    assert!(pem.starts_with("-----BEGIN ML-KEM-512 SECRET KEY-----"), "{}", &pem[..40]);
    bed.edit(KEM, "kem", |object| set(object, "/spec/keyFormat", json!("standard")));
    let is_standard =
        |secret: &serde_json::Value| bytes(secret, "private-key").starts_with(b"-----BEGIN PRIVATE KEY");
    bed.secret_until("kem", "it is written anew", is_standard).await;
    bed.rests(HOUR).await;
    let after = bed.status(KEM, "kem");
    assert_eq!((&after["fullFingerprint"], &after["version"]), (&before["fullFingerprint"], &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_cannot_be_obeyed_fails_with_its_field_and_changes_nothing() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({ "bytes": -1 }));
    let status = bed.word(RANDOM, "number", "Failed").await;
    assert_eq!(reason(&status), "InvalidSpec");
    assert!(status["error"].as_str().unwrap().starts_with("spec.bytes: \"-1\""), "{status}");
    bed.edit(RANDOM, "number", |object| set(object, "/spec/bytes", json!(16)));
    bed.success(RANDOM, "number").await;
    let before = bed.secret("number");
    bed.edit(RANDOM, "number", |object| set(object, "/spec/bytes", json!("many")));
    let status = bed.reason(RANDOM, "number", "InvalidSpec").await;
    assert_eq!((&status["version"], bed.secret("number")), (&json!(1), before));
    bed.create(SIGNATURE, "falcon", json!({ "algorithm": "Falcon512" }));
    let status = bed.word(SIGNATURE, "falcon", "Failed").await;
    assert!(status["error"].as_str().unwrap().contains("spec.algorithm"), "{status}");
    let long = "n".repeat(250);
    bed.create(RANDOM, &long, json!({}));
    let status = bed.word(RANDOM, &long, "Failed").await;
    assert!(status["error"].as_str().unwrap().contains("spec.secretName"), "{status}");
    bed.rests(HOUR).await;
}
