//! What can go wrong around the controller: rights that are missing, an API server without time, two leaders,
//! a lost key for fingerprints.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use trellis_election::Role;
use trellis_fake_api::Fate;

use crate::bed::{Bed, bytes, condition, fingerprint, reason, rotate, secret_path, set};

const HOUR: Duration = Duration::from_secs(3600);
const RANDOM: &str = "QuantumRandomNumber";
const KEM: &str = "QuantumKEMKeyPair";
const ENCAPSULATE: &str = "QuantumEncapsulateSecret";
const DECAPSULATE: &str = "QuantumDecapsulateSecret";
const DERIVED: &str = "QuantumDerivedKey";

/// Numbers that look random and are the same each time.
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Below `sides`. SplitMix64.
    pub fn roll(&self, sides: u64) -> u64 {
        let mut x =
            self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }
}

pub fn exchange(bed: &Bed) {
    bed.create(KEM, "kem", json!({}));
    bed.create(ENCAPSULATE, "enc", json!({ "publicKeyRef": { "name": "kem" } }));
    bed.create(
        DECAPSULATE,
        "dec",
        json!({ "privateKeyRef": { "name": "kem" }, "ciphertextRef": { "name": "enc" } }),
    );
    bed.create(DERIVED, "key", json!({ "sharedSecretRef": { "name": "dec" }, "keyType": "ChaCha20" }));
}

fn binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "trellis-crypto", "namespace": "shop",
            "labels": { "crypto.trellis.dev/access": "secrets" } },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "trellis-crypto-secrets" },
    })
}

const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/trellis-crypto";

#[tokio::test(start_paused = true)]
async fn without_rights_the_remedy_is_named_and_with_them_it_goes_on_within_seconds() {
    let mut bed = Bed::idle();
    bed.api.close("/api/v1/namespaces/shop/secrets", true);
    bed.lead(bed.api.client());
    bed.create(KEM, "kem", json!({}));
    let status = bed.reason(KEM, "kem", "NoAccess").await;
    assert_eq!(
        (&status["status"], &condition(&status, "NoAccess")["status"]),
        (&json!("Failed"), &json!("True"))
    );
    assert!(status["error"].as_str().unwrap().contains("trellis crypto allow shop"), "{status}");
    tokio::time::sleep(HOUR).await;
    // Nobody gives itself rights, and nobody asks all the time.
    assert!(!bed.api.written().iter().any(|path| path.contains("rolebindings")));
    bed.api.close("/api/v1/namespaces/shop/secrets", false);
    let before = tokio::time::Instant::now();
    bed.api.put(BINDING, binding());
    bed.success(KEM, "kem").await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert!(condition(&bed.status(KEM, "kem"), "NoAccess").is_null());
    // Taken away, what is in use is still remembered.
    let fingerprint = bed.status(KEM, "kem")["fullFingerprint"].clone();
    bed.api.close("/api/v1/namespaces/shop/secrets", true);
    bed.kill();
    bed.lead(bed.api.client());
    let status = bed.reason(KEM, "kem", "NoAccess").await;
    assert_eq!((&status["fullFingerprint"], &status["version"]), (&fingerprint, &json!(1)));
    bed.api.close("/api/v1/namespaces/shop/secrets", false);
    bed.api.put(BINDING, binding());
    assert_eq!(bed.success(KEM, "kem").await["fullFingerprint"], fingerprint);
}

#[tokio::test(start_paused = true)]
async fn who_may_look_and_not_write_is_told_what_the_api_says() {
    let bed = Bed::new();
    bed.api.forbid("/api/v1/namespaces/shop/secrets", true);
    bed.create(RANDOM, "number", json!({}));
    let status = bed.reason(RANDOM, "number", "NoAccess").await;
    assert!(status["error"].as_str().unwrap().contains("fake: Forbidden"), "{status}");
    bed.api.forbid("/api/v1/namespaces/shop/secrets", false);
    bed.success(RANDOM, "number").await;
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn objects_of_other_namespaces_do_not_wait_for_a_closed_one() {
    let mut bed = Bed::idle();
    bed.api.close("/api/v1/namespaces/closed/secrets", true);
    bed.create_in("closed", KEM, "kem", json!({}));
    bed.lead(bed.api.client());
    bed.create(RANDOM, "number", json!({}));
    bed.success(RANDOM, "number").await;
    // A source in a closed namespace is named with it.
    bed.create(ENCAPSULATE, "enc", json!({ "publicKeyRef": { "name": "kem", "namespace": "closed" } }));
    bed.api.put(
        "/apis/gateway.networking.k8s.io/v1/namespaces/closed/referencegrants/g",
        json!({ "kind": "ReferenceGrant", "metadata": { "name": "g", "namespace": "closed" }, "spec": {
            "from": [{ "group": "crypto.trellis.dev", "kind": ENCAPSULATE, "namespace": "shop" }],
            "to": [{ "group": "crypto.trellis.dev", "kind": KEM }] } }),
    );
    let status = bed.reason(ENCAPSULATE, "enc", "NoAccess").await;
    assert!(status["error"].as_str().unwrap().contains("trellis crypto allow closed"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_now_and_then_delays_and_nothing_more() {
    for seed in 0..8 {
        let mut bed = Bed::idle();
        let dice = Dice::new(seed);
        let codes = [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR];
        bed.lead(bed.api.client_judged(Box::new(move |asked| {
            let code = codes[usize::try_from(dice.roll(3)).unwrap()];
            match dice.roll(if asked.watches() { 20 } else { 6 }) {
                0 => Fate::Refuse(code),
                // It is done, and the answer is lost.
                1 if asked.writes() => Fate::Deny(code),
                _ => Fate::Pass,
            }
        })));
        exchange(&bed);
        for (kind, name) in [(KEM, "kem"), (ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "key")] {
            bed.success(kind, name).await;
        }
        bed.edit(KEM, "kem", |object| rotate(object, "1"));
        let followed = |status: &Value| status["version"] == 2 && status["status"] == "Success";
        bed.until(DERIVED, "key", "it follows", followed).await;
        crate::kills::nothing_twice(&bed.api, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_wants_patience_gets_it() {
    let mut bed = Bed::idle();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        if asked.method == Method::POST && asked.path.contains("/namespaces/shop/secrets") {
            count.fetch_add(1, Ordering::SeqCst);
            return Fate::Refuse(StatusCode::TOO_MANY_REQUESTS);
        }
        Fate::Pass
    })));
    bed.create(RANDOM, "number", json!({}));
    tokio::time::sleep(HOUR).await;
    let count = asked.load(Ordering::SeqCst);
    assert!((60..200).contains(&count), "asked {count} times in an hour");
}

#[tokio::test(start_paused = true)]
async fn answers_that_never_come_hold_up_nobody_for_long() {
    let mut bed = Bed::idle();
    let asked = AtomicUsize::new(0);
    bed.lead(bed.api.client_judged(Box::new(move |request| {
        let creates = request.method == Method::POST && request.path.ends_with("/namespaces/shop/secrets");
        match creates.then(|| asked.fetch_add(1, Ordering::SeqCst)) {
            // More than are attended to at the same time.
            Some(number @ 0..40) => [Fate::Vanish, Fate::Lose].into_iter().nth(number % 2).unwrap(),
            _ => Fate::Pass,
        }
    })));
    let names = (0..40).map(|number| format!("number-{number}")).collect::<Vec<_>>();
    names.iter().for_each(|name| bed.create(RANDOM, name, json!({})));
    tokio::time::sleep(HOUR / 4).await;
    for name in &names {
        assert_eq!(bed.status(RANDOM, name)["status"], "Success", "{name}");
    }
    crate::kills::nothing_twice(&bed.api, 0);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_answered_whoever_has_to_wait_rests() {
    let mut bed = Bed::idle();
    let lost = Arc::new(AtomicBool::new(true));
    let loses = lost.clone();
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        match (loses.load(Ordering::SeqCst), asked.path.contains("/namespaces/shop/"), asked.watches()) {
            (true, true, false) if asked.path.ends_with("/busy") => {
                Fate::Refuse(StatusCode::TOO_MANY_REQUESTS)
            }
            (true, true, false) if asked.gets() => Fate::Wait(HOUR),
            _ => Fate::Pass,
        }
    })));
    bed.create(RANDOM, "busy", json!({}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 0..40 {
        bed.create(RANDOM, &format!("number-{number}"), json!({}));
    }
    // Whoever never rests would let no time pass, and this would wait forever.
    tokio::time::sleep(HOUR / 2).await;
    lost.store(false, Ordering::SeqCst);
    tokio::time::sleep(HOUR).await;
    for number in 0..40 {
        bed.success(RANDOM, &format!("number-{number}")).await;
    }
    bed.success(RANDOM, "busy").await;
}

#[tokio::test(start_paused = true)]
async fn two_that_both_believe_to_lead_make_one_of_everything() {
    let mut bed = Bed::idle();
    for _ in 0..3 {
        bed.lead(bed.api.client());
    }
    exchange(&bed);
    for (kind, name) in [(KEM, "kem"), (ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "key")] {
        bed.success(kind, name).await;
    }
    for round in 0..10 {
        bed.edit(KEM, "kem", |object| rotate(object, &round.to_string()));
        let followed = |status: &Value| status["version"] == round + 2 && status["status"] == "Success";
        for (kind, name) in [(KEM, "kem"), (ENCAPSULATE, "enc"), (DERIVED, "key")] {
            bed.until(kind, name, "it follows", followed).await;
        }
    }
    bed.rests(HOUR).await;
    crate::kills::nothing_twice(&bed.api, 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_does_nothing() {
    let mut bed = Bed::idle();
    let (role, roles) = watch::channel(Role::Follower { leader: None });
    bed.candidate(roles);
    bed.create(RANDOM, "number", json!({}));
    tokio::time::sleep(HOUR).await;
    assert_eq!(bed.api.requests(), 0);
    role.send_replace(Role::Leader { term: 1 });
    bed.success(RANDOM, "number").await;
    role.send_replace(Role::Follower { leader: None });
    tokio::time::sleep(HOUR).await;
    bed.delete_secret("number");
    let before = bed.api.requests();
    tokio::time::sleep(HOUR).await;
    assert_eq!(
        (bed.api.requests(), bed.status(RANDOM, "number")["status"].clone()),
        (before, json!("Success"))
    );
    role.send_replace(Role::Leader { term: 2 });
    bed.reason(RANDOM, "number", "Lost").await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_wrote_over_is_written_again() {
    let bed = Bed::new();
    bed.create(RANDOM, "number", json!({}));
    let before = bed.success(RANDOM, "number").await;
    let at = bed.path("shop", RANDOM, "number");
    bed.api.edit(&at, |object| object["status"] = json!({ "status": "Failed", "error": "no" }));
    let status = bed.success(RANDOM, "number").await;
    assert_eq!((&status["fullFingerprint"], status["error"].is_null()), (&before["fullFingerprint"], true));
    // A status that is nothing at all.
    bed.api.edit(&at, |object| object["status"] = json!({ "status": 7, "versions": "x" }));
    bed.success(RANDOM, "number").await;
    bed.rests(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_for_fingerprints_loses_no_other() {
    let mut bed = Bed::new();
    exchange(&bed);
    bed.create(RANDOM, "number", json!({}));
    bed.success(RANDOM, "number").await;
    bed.success(DERIVED, "key").await;
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    let followed = |status: &Value| status["version"] == 2 && status["status"] == "Success";
    bed.until(DERIVED, "key", "it follows", followed).await;
    let all = ["kem", "kem-v1", "enc-shared-secret", "enc-shared-secret-v1", "dec-shared-secret", "number"];
    let before = all.map(|name| bed.secret(name));
    let derived = bytes(&bed.secret("key-derived-key"), "derived-key");
    bed.kill();
    assert!(bed.api.remove(&secret_path("trellis-system", "trellis-crypto-fingerprint-key")));
    bed.lead(bed.api.client());
    let anew = |secret: &Value| fingerprint(secret) != fingerprint(&before[5]);
    bed.secret_until("number", "it has another fingerprint", anew).await;
    tokio::time::sleep(HOUR).await;
    bed.rests(HOUR).await;
    for (name, before) in all.iter().zip(&before) {
        assert_eq!(bed.secret(name)["data"], before["data"], "{name}");
    }
    assert_eq!(bytes(&bed.secret("key-derived-key"), "derived-key"), derived);
    for (kind, name) in [(KEM, "kem"), (ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "key")] {
        let status = bed.status(kind, name);
        assert_eq!(
            (&status["version"], reason(&status)),
            (&json!(2), "InPlace".to_owned()),
            "{kind} {status}"
        );
    }
    assert_eq!(condition(&bed.status(DECAPSULATE, "dec"), "KeyConfirmed")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_key_for_fingerprints_stops_everything_and_says_so() {
    let mut bed = Bed::idle();
    let at = secret_path("trellis-system", "trellis-crypto-fingerprint-key");
    bed.api.put(&at, json!({ "kind": "Secret", "metadata": { "name": "k" }, "data": { "key": "AAAA" } }));
    bed.lead(bed.api.client());
    bed.create(RANDOM, "number", json!({}));
    tokio::time::sleep(HOUR).await;
    assert!(bed.status(RANDOM, "number").is_null() && bed.api.writes() == 0);
    assert!(bed.api.remove(&at));
    bed.success(RANDOM, "number").await;
}

#[tokio::test(start_paused = true)]
async fn what_goes_and_comes_again_is_another_object() {
    let bed = Bed::new();
    exchange(&bed);
    bed.success(DERIVED, "key").await;
    let before = fingerprint(&bed.secret("kem"));
    assert!(bed.api.remove(&bed.path("shop", KEM, "kem")));
    let told = |status: &Value| condition(status, "SourceAvailable")["reason"] == "SourceNotFound";
    bed.until(ENCAPSULATE, "enc", "it is told", told).await;
    // As the garbage collector does.
    bed.delete_secret("kem");
    bed.create(KEM, "kem", json!({}));
    let status = bed.success(KEM, "kem").await;
    assert_eq!(status["version"], 1);
    assert_ne!(fingerprint(&bed.secret("kem")), before);
    let followed = |status: &Value| status["version"] == 2 && status["status"] == "Success";
    bed.until(DERIVED, "key", "it follows", followed).await;
    assert!(bed.heard(&format!("{KEM}/kem")).contains(&"Deleted"));
    // While it is on its way out, nothing is done about it.
    bed.edit(KEM, "kem", |object| set(object, "/metadata/deletionTimestamp", json!("2027-01-01T00:00:00Z")));
    bed.delete_secret("kem");
    bed.rests(HOUR).await;
    assert!(!bed.has_secret("kem"));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_objects_wait_for_a_slow_api_server_together() {
    const SLOW: Duration = Duration::from_millis(100);
    let mut bed = Bed::idle();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    bed.lead(bed.api.client_judged(Box::new(move |asked| {
        if asked.watches() || asked.query.contains("limit=") {
            return Fate::Pass;
        }
        count.fetch_add(1, Ordering::SeqCst);
        Fate::Wait(SLOW)
    })));
    let kinds = [
        (RANDOM, "number", json!({})),
        (KEM, "kem", json!({ "algorithm": "ML-KEM-512" })),
        (ENCAPSULATE, "enc", json!({ "publicKeyRef": { "name": "kem-N" } })),
        (
            DECAPSULATE,
            "dec",
            json!({ "privateKeyRef": { "name": "kem-N" }, "ciphertextRef": { "name": "enc-N" } }),
        ),
        (DERIVED, "key", json!({ "sharedSecretRef": { "name": "dec-N" }, "keyType": "AES-256" })),
    ];
    let began = tokio::time::Instant::now();
    for number in 0..20 {
        for (kind, name, spec) in &kinds {
            let spec = spec.to_string().replace("-N", &format!("-{number}"));
            bed.create(kind, &format!("{name}-{number}"), serde_json::from_str(&spec).unwrap());
        }
    }
    for number in 0..20 {
        for (kind, name, _) in &kinds {
            bed.success(kind, &format!("{name}-{number}")).await;
        }
    }
    let one_after_the_other = SLOW * u32::try_from(asked.load(Ordering::SeqCst)).unwrap();
    assert!(began.elapsed() * 8 < one_after_the_other, "{:?} of {one_after_the_other:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn labels_and_annotations_that_somebody_takes_away_come_back_and_the_bytes_stay() {
    let bed = Bed::new();
    exchange(&bed);
    bed.success(DERIVED, "key").await;
    let all = [
        (KEM, "kem", "kem"),
        (ENCAPSULATE, "enc", "enc-shared-secret"),
        (DECAPSULATE, "dec", "dec-shared-secret"),
        (DERIVED, "key", "key-derived-key"),
    ];
    for (kind, name, secret) in all {
        let (before, status) = (bed.secret(secret), bed.status(kind, name));
        for taken in ["labels", "annotations", "both"] {
            bed.api.edit(&secret_path("shop", secret), |secret| {
                for part in
                    ["labels", "annotations"].into_iter().filter(|part| *part == taken || taken == "both")
                {
                    secret["metadata"][part] = json!({ "somebody": "else" });
                }
            });
            let back = |secret: &Value| {
                let meta = &secret["metadata"];
                meta["labels"]["crypto.trellis.dev/kind"] == kind
                    && meta["annotations"]["crypto.trellis.dev/secret-version"] == "1"
            };
            let now = bed.secret_until(secret, &format!("{taken} of {secret} come back"), back).await;
            assert_eq!(now["data"], before["data"], "{secret} without {taken}");
            let part = if taken == "both" { "labels" } else { taken };
            assert_eq!(now["metadata"][part]["somebody"], "else", "what others write stays");
        }
        bed.rests(HOUR).await;
        let now = bed.status(kind, name);
        assert_eq!((&now["versions"], &now["status"]), (&status["versions"], &json!("Success")), "{kind}");
    }
    // Of a version that is kept, likewise.
    bed.edit(KEM, "kem", |object| rotate(object, "1"));
    bed.until(KEM, "kem", "version 2", |status| status["version"] == 2).await;
    bed.rests(HOUR).await;
    let before = bed.secret("kem-v1");
    for taken in [["labels"].as_slice(), &["labels", "annotations"]] {
        bed.api.edit(&secret_path("shop", "kem-v1"), |secret| {
            taken.iter().for_each(|part| secret["metadata"][*part] = json!({}));
        });
        let back = |secret: &Value| secret["metadata"]["labels"]["crypto.trellis.dev/version"] == "1";
        let now = bed.secret_until("kem-v1", "its labels come back", back).await;
        assert_eq!((&now["data"], fingerprint(&now)), (&before["data"], fingerprint(&before)));
        bed.rests(HOUR).await;
    }
    assert!(!bed.recorded.of("kem").contains(&"lost 1".to_owned()), "{:?}", bed.recorded.of("kem"));
}
