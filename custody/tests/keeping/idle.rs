//! What objects cost of which nothing is wished: ten thousand of all kinds, as a controller finds them that begins
//! when everything was done long ago.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use trellis_fake_api::{Asked, Fate};

use crate::bed::{Bed, SYSTEM, rotate, secret_path};

const HOUR: Duration = Duration::from_secs(3600);
/// One of each kind.
const SETS: usize = 1_112;
const FOREIGN: usize = 10_000;
/// Secrets that the sets refer to by their names.
const NAMED: [&str; 2] = ["message", "first-sign-signature"];
/// Kinds, names behind that of the set, and Secrets.
const SET: [(&str, &str, Option<&str>); 9] = [
    ("QuantumRandomNumber", "number", Some("number")),
    ("QuantumKEMKeyPair", "kem", Some("kem")),
    ("QuantumEncapsulateSecret", "enc", Some("enc-shared-secret")),
    ("QuantumDecapsulateSecret", "dec", Some("dec-shared-secret")),
    ("QuantumDerivedKey", "key", Some("key-derived-key")),
    ("QuantumSignatureKeyPair", "pair", Some("pair")),
    ("QuantumSignMessage", "sign", Some("sign-signature")),
    ("QuantumVerifySignature", "verify", None),
    ("QuantumCertificate", "web", Some("web")),
];

/// The first set, and the message that all of them sign.
fn first(bed: &Bed) {
    let message = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "message", "namespace": "shop" },
        "data": { "message": STANDARD.encode("hello") },
    });
    bed.api.create(&secret_path("shop", "message"), message);
    let to = |name: &str| json!({ "name": format!("s0000-{name}") });
    let message = json!({ "name": "message" });
    for (kind, name, _) in SET {
        let spec = match name {
            "number" => json!({ "bytes": 32 }),
            "kem" => json!({ "algorithm": "ML-KEM-512" }),
            "enc" => json!({ "publicKeyRef": to("kem") }),
            "dec" => json!({ "privateKeyRef": to("kem"), "ciphertextRef": to("enc") }),
            "key" => json!({ "sharedSecretRef": to("dec"), "keyType": "AES-256" }),
            "pair" => json!({ "algorithm": "ML-DSA-44" }),
            "sign" => json!({ "privateKeyRef": to("pair"), "messageRef": message }),
            // What it verifies is named in full, since its status tells of that place.
            "verify" => json!({
                "publicKeyRef": { "name": "first-pair" }, "messageRef": message,
                "signatureRef": { "name": "first-sign-signature" },
            }),
            _ => json!({ "domain": "web.example", "algorithm": "ML-DSA-44", "days": 36_500 }),
        };
        bed.create(kind, &format!("s0000-{name}"), spec);
    }
    bed.create("QuantumSignatureKeyPair", "first-pair", json!({ "algorithm": "ML-DSA-44" }));
    bed.create(
        "QuantumSignMessage",
        "first-sign",
        json!({ "privateKeyRef": { "name": "first-pair" }, "messageRef": message }),
    );
}

/// Another set that is in the same state.
fn again(bed: &Bed, of: &[(String, String)], number: usize) {
    // Every uid of the first set ends in a number below a hundred.
    let uid = format!("-8000-{number:010}");
    let name = format!("s{number:04}-");
    for (path, text) in of {
        let text = text.replace("s0000-", &name).replace("-8000-0000000000", &uid);
        let object: Value = serde_json::from_str(&text).unwrap();
        bed.api.put(&path.replace("s0000-", &name), object);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_idle_objects_cost_nothing_but_their_watches() {
    let mut bed = Bed::new();
    first(&bed);
    for (kind, name, _) in SET {
        let word = if name == "verify" { "Valid" } else { "Success" };
        bed.word(kind, &format!("s0000-{name}"), word).await;
    }
    bed.rests(HOUR).await;
    bed.kill();
    let mut stored = Vec::new();
    for (kind, name, secret) in SET {
        let secret = secret.map(|secret| secret_path("shop", &format!("s0000-{secret}")));
        for path in [Some(bed.path("shop", kind, &format!("s0000-{name}"))), secret].into_iter().flatten() {
            stored.push((path.clone(), bed.api.get(&path).unwrap().to_string()));
        }
    }
    (1..SETS).for_each(|number| again(&bed, &stored, number));
    let api = bed.api.clone();
    let foreign = |number: usize, text: &str| {
        let name = format!("foreign-{number:05}");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "app": "shop" } },
            "data": { "password": STANDARD.encode(text) },
        });
        api.put(&secret_path("shop", &name), secret);
    };
    (0..FOREIGN).for_each(|number| foreign(number, "secret"));
    bed.api.forget();
    let ours = bed.api.under("/apis/crypto.trellis.dev/").len();
    // The message is somebody else's too.
    let kept = bed.api.under("/api/v1/namespaces/shop/secrets/").len() - FOREIGN - 1;
    assert!(ours >= 10_000, "{ours}");

    let (sent, writes) = (bed.api.sent(), bed.api.writes());
    let asked = Arc::new(Mutex::new(Vec::<Asked>::new()));
    let seen = asked.clone();
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        seen.lock().push(asked.clone());
        Fate::Pass
    })));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let begun = asked.lock().len();
    tokio::time::sleep(HOUR).await;
    // Nobody reads what is not theirs.
    (0..100).for_each(|number| foreign(number, "another"));
    tokio::time::sleep(HOUR).await;

    assert_eq!(bed.api.writes(), writes, "something was written");
    let asked = std::mem::take(&mut *asked.lock());
    let mut named = 0;
    for (at, one) in asked.iter().enumerate() {
        let Asked { method, path, query, metadata } = one;
        let watches = one.watches() || query.contains("limit=");
        let key = at < begun && path.starts_with(&format!("/api/v1/namespaces/{SYSTEM}/secrets/"));
        let read = at < begun && one.gets() && NAMED.iter().any(|name| *path == secret_path("shop", name));
        named += usize::from(read);
        assert!(watches || key || read, "{method} {path}?{query}");
        // Of a collection of Secrets only those with our label, or nothing of what is in them.
        let ours = query.contains("labelSelector=crypto.trellis.dev%2Fkind&")
            || query.ends_with("labelSelector=crypto.trellis.dev%2Fkind");
        assert!(!path.ends_with("/secrets") || ours || *metadata, "{method} {path}?{query}");
    }
    assert_eq!(named, NAMED.len(), "each name is read once");
    let sent = bed.api.sent() - sent;
    assert_eq!(sent, ours + kept, "of what is not theirs nothing but metadata is sent");

    // They are not forgotten.
    bed.edit("QuantumKEMKeyPair", "s0777-kem", |object| rotate(object, "1"));
    let followed = |status: &Value| status["version"] == 2 && status["status"] == "Success";
    bed.until("QuantumDerivedKey", "s0777-key", "it follows", followed).await;
    assert_eq!(bed.status("QuantumDerivedKey", "s0778-key")["version"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_happens_between_two_pages_of_a_list_is_seen_and_a_list_that_cannot_go_on_begins_anew() {
    const RANDOM: &str = "QuantumRandomNumber";
    let mut bed = Bed::idle();
    let name = |number: usize| format!("n{number:04}");
    for number in (0..1_200).filter(|number| *number != 7) {
        bed.create(RANDOM, &name(number), json!({}));
    }
    let pages = Arc::new(Mutex::new(0));
    let (count, api) = (pages.clone(), bed.api.clone());
    let at = |number| bed.path("shop", RANDOM, &name(number));
    let (goes, comes) = (at(3), at(7));
    let new = json!({ "kind": RANDOM, "metadata": { "name": name(7), "namespace": "shop" }, "spec": {} });
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        if !asked.path.ends_with("/quantumrandomnumbers") || !asked.query.contains("continue=") {
            return Fate::Pass;
        }
        let mut pages = count.lock();
        *pages += 1;
        match *pages {
            // Where the second of three pages goes on is forgotten, and then where the third does.
            1 | 3 => return Fate::Refuse(StatusCode::GONE),
            // Both were on the first page, or would have been.
            4 => {
                assert!(api.remove(&goes));
                api.create(&comes, new.clone());
            }
            _ => {}
        }
        Fate::Pass
    })));
    for number in (0..1_200).filter(|number| *number != 3) {
        bed.success(RANDOM, &name(number)).await;
    }
    bed.rests(HOUR).await;
    assert_eq!(*pages.lock(), 5);
    assert!(!bed.has_secret(&name(3)), "it was gone before anybody could keep it");
}
