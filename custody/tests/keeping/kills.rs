//! The controller dies a thousand times, between any two requests and in the middle of them, while keys are
//! rotated, moved, rolled back and lost: never is there a second key for a version, and never is one lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use trellis_fake_api::{FakeApi, Fate};

use crate::{
    bed::{Bed, annotation, fingerprint, rotate, set, versions},
    faults::{Dice, exchange},
};

const RANDOM: &str = "QuantumRandomNumber";
const KEM: &str = "QuantumKEMKeyPair";
const SIGNATURE: &str = "QuantumSignatureKeyPair";
/// Clusters in which the controller dies, and how often in each: what is kept in one grows with every rotation, and
/// whoever begins reads all of it.
const CLUSTERS: u64 = 5;
const KILLS: usize = 200;
/// Kills for each change of what is wished.
const KILLS_PER_CHANGE: usize = 3;

/// Each version of each object that ever stood in a Secret has one fingerprint.
pub fn nothing_twice(api: &FakeApi, since: u64) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut all = BTreeMap::<_, BTreeSet<String>>::new();
    for (_, path, secret) in api.history("/api/v1/namespaces/shop/secrets/", since) {
        let Some(secret) = secret else { continue };
        let (owner, version) = version_of(&secret);
        // Signatures have no versions, and of the same message another one is as good.
        if owner.is_empty() || version.is_empty() || path.contains("signature/") {
            continue;
        }
        all.entry((owner, version)).or_default().insert(fingerprint(&secret));
    }
    for (version, fingerprints) in &all {
        assert_eq!(fingerprints.len(), 1, "{version:?} was made more than once: {fingerprints:?}");
    }
    all
}

/// A client that dies at the nth request after those by which every watch begins: before or after it is done.
fn mortal(bed: &Bed, left: i64, after: bool) -> (kube::Client, Arc<Notify>) {
    let (left, died) = (Arc::new(AtomicI64::new(left)), Arc::new(Notify::new()));
    let told = died.clone();
    let client = bed.api.client_judged(Box::new(move |asked| {
        if asked.watches() || asked.query.contains("limit=") {
            return Fate::Pass;
        }
        match left.fetch_sub(1, Ordering::SeqCst) {
            0 => {
                told.notify_one();
                if after { Fate::Lose } else { Fate::Vanish }
            }
            // Who is dead asks nothing more.
            less if less < 0 => Fate::Vanish,
            _ => Fate::Pass,
        }
    }));
    (client, died)
}

/// The object that a Secret is of, and its version.
fn version_of(secret: &Value) -> (String, String) {
    let owner = secret["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default().to_owned();
    (owner, annotation(secret, "crypto.trellis.dev/secret-version"))
}

/// Whether the status tells of what is in a Secret: of what it does not yet, nobody has been told.
fn is_known(bed: &Bed, kind: &str, name: &str, secret: &str) -> bool {
    bed.has_secret(secret) && bed.status(kind, name)["fullFingerprint"] == fingerprint(&bed.secret(secret))
}

/// Everything that was ever made is on record by its fingerprint, and under no other.
fn told(bed: &Bed, made: &BTreeMap<(String, String), BTreeSet<String>>) {
    let mut on_record = BTreeMap::<_, BTreeSet<String>>::new();
    for deed in bed.recorded.all() {
        let text = |field: &str| deed[field].as_str().unwrap_or_default().to_owned();
        if !deed["version"].is_null() {
            let version = (text("uid"), deed["version"].to_string());
            on_record.entry(version).or_default().insert(text("fingerprint"));
        }
    }
    for (version, fingerprints) in made {
        assert_eq!(on_record.get(version), Some(fingerprints), "{version:?}");
    }
}

/// Something that users do; says which version they deleted.
fn change(bed: &Bed, dice: &Dice, round: usize) -> Option<(String, String)> {
    let pairs = [(KEM, "kem"), (SIGNATURE, "pair"), (RANDOM, "number")];
    let (kind, name) = pairs[usize::try_from(dice.roll(3)).unwrap()];
    match dice.roll(9) {
        0..=3 => bed.edit(kind, name, |object| rotate(object, &round.to_string())),
        4 => bed.edit(kind, name, |object| {
            set(object, "/spec/secretName", json!(format!("{name}-{}", dice.roll(3))));
        }),
        5 => {
            let newest = bed.status(kind, name)["versions"][0]["version"].as_u64().unwrap_or(1);
            let wished = newest.saturating_sub(dice.roll(3)).max(1);
            bed.edit(kind, name, |object| set(object, "/spec/version", json!(wished)));
        }
        6 | 7 => bed.edit(kind, name, |object| set(object, "/spec/version", json!(null))),
        _ => {
            let derived = [
                ("QuantumDecapsulateSecret", "dec", "dec-shared-secret"),
                ("QuantumDerivedKey", "key", "key-derived-key"),
            ];
            let (kind, name, derived) = derived[usize::try_from(dice.roll(2)).unwrap()];
            if is_known(bed, kind, name, derived) {
                let deleted = version_of(&bed.secret(derived));
                bed.delete_secret(derived);
                return Some(deleted);
            }
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_dies_a_thousand_times_makes_nothing_twice_and_loses_nothing() {
    let mut tried = BTreeSet::new();
    for seed in 0..CLUSTERS {
        tried.extend(dies_and_loses_nothing(seed).await);
    }
    for reason in ["Created", "Rotated", "Moved", "Restored"] {
        assert!(tried.contains(reason), "{reason} was never tried: {tried:?}");
    }
}

/// In one cluster; says what it tried.
async fn dies_and_loses_nothing(seed: u64) -> BTreeSet<&'static str> {
    let (mut bed, dice) = (Bed::idle(), Dice::new(seed));
    exchange(&bed);
    bed.create(SIGNATURE, "pair", json!({ "algorithm": "ML-DSA-44" }));
    bed.create(RANDOM, "number", json!({}));
    let (mut kills, mut deleted) = (0, BTreeSet::new());
    while kills < KILLS {
        let (client, died) = mortal(&bed, i64::try_from(1 + dice.roll(24)).unwrap(), dice.roll(2) == 0);
        bed.lead(client);
        // Where there is nothing left to do, nobody dies of it.
        let dead = tokio::time::timeout(Duration::from_secs(30), died.notified()).await.is_ok();
        kills += usize::from(dead);
        bed.kill();
        if !dead || kills % KILLS_PER_CHANGE == 0 {
            deleted.extend(change(&bed, &dice, kills));
        }
    }
    bed.lead(bed.api.client());
    for (kind, name) in [(KEM, "kem"), (SIGNATURE, "pair"), (RANDOM, "number")] {
        bed.edit(kind, name, |object| set(object, "/spec/version", json!(null)));
        bed.success(kind, name).await;
    }
    for (kind, name) in [
        ("QuantumEncapsulateSecret", "enc"),
        ("QuantumDecapsulateSecret", "dec"),
        ("QuantumDerivedKey", "key"),
    ] {
        bed.success(kind, name).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    bed.rests(Duration::from_secs(3600)).await;
    let made = nothing_twice(&bed.api, 0);
    told(&bed, &made);
    // Without a grace every version ever made is in use or kept, and is what it was.
    let mut there = BTreeMap::new();
    for secret in bed.api.under("/api/v1/namespaces/shop/secrets/") {
        there.insert(version_of(&secret), fingerprint(&secret));
    }
    // What was derived from something that is another by now cannot come back when it is deleted.
    for (version, fingerprints) in made.iter().filter(|(version, _)| !deleted.contains(version)) {
        assert_eq!(there.get(version), fingerprints.first(), "{version:?} is lost");
    }
    let mut made = 0;
    for (kind, name) in [(KEM, "kem"), (SIGNATURE, "pair"), (RANDOM, "number")] {
        let all = versions(&bed.status(kind, name));
        assert!(all.iter().all(|version| !version.ends_with("Lost")), "{all:?}");
        made += all.len();
    }
    assert!(made > 6, "{made} versions were made, so little was tried");
    let tried = bed.all_heard();
    assert!(!tried.contains("Lost") && !tried.contains("Recreated"), "{tried:?}");
    tried
}

/// The same with graces that end, keys that are deleted, and leave to make others.
#[tokio::test(start_paused = true)]
async fn a_controller_that_dies_leaves_no_second_key_whatever_is_lost_and_destroyed() {
    let (mut bed, dice) = (Bed::idle(), Dice::new(11));
    let rotation = json!({ "every": "10m", "grace": "15m" });
    bed.create(KEM, "kem", json!({ "rotation": rotation, "recreatePolicy": "Recreate" }));
    bed.create(RANDOM, "number", json!({ "rotation": rotation, "recreatePolicy": "Recreate" }));
    bed.create(
        "QuantumEncapsulateSecret",
        "enc",
        json!({ "publicKeyRef": { "name": "kem" }, "rotation": rotation }),
    );
    for _ in 0..KILLS {
        let (client, died) = mortal(&bed, i64::try_from(1 + dice.roll(40)).unwrap(), dice.roll(2) == 0);
        bed.lead(client);
        // Rotations come by themselves, so that it always has something to die of.
        tokio::time::timeout(Duration::from_secs(3600), died.notified()).await.unwrap();
        bed.kill();
        tokio::time::sleep(Duration::from_secs(60 * dice.roll(10))).await;
        if dice.roll(8) == 0 {
            let (kind, name) = [(KEM, "kem"), (RANDOM, "number")][usize::try_from(dice.roll(2)).unwrap()];
            if is_known(&bed, kind, name, name) {
                bed.delete_secret(name);
            }
        }
    }
    bed.lead(bed.api.client());
    for (kind, name) in [(KEM, "kem"), (RANDOM, "number"), ("QuantumEncapsulateSecret", "enc")] {
        bed.success(kind, name).await;
    }
    // What the last one left half done is done.
    tokio::time::sleep(Duration::from_secs(60)).await;
    told(&bed, &nothing_twice(&bed.api, 0));
    let status: Value = bed.status(KEM, "kem");
    let gone = versions(&status).iter().filter(|version| version.ends_with("Destroyed")).count();
    assert!(gone > 5, "{:?}", versions(&status));
    assert!(bed.all_heard().contains("Recreated"));
}
