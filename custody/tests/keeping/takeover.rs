//! What QubeSec's controller left behind is taken over as it is, or left as it is.

use std::time::Duration;

use serde_json::{Value, json};
use trellis_crypto::{Fingerprint, KemAlgorithm, PrivateKey, SignatureAlgorithm, kem, signature};
use trellis_fake_api::Fate;

use crate::{
    bed::{annotation, bytes, reason, rotate, secret_path, set, versions},
    left::{
        CERTIFICATE, Contents, DAY, DECAPSULATE, DERIVED, ENCAPSULATE, Items, KEM, KEPT, RANDOM, SIGN,
        SIGNATURE, VERIFY, VERSIONED, certificate, certificate_of, contents, left, pair, secret, secret_of,
        short, unchanged,
    },
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn everything_is_taken_over_as_it_is_and_then_rests() {
    let contents = contents();
    let mut bed = left(&contents);
    bed.lead(bed.api.client());
    for (kind, name, secret) in KEPT {
        let taken = |status: &Value| reason(status) == "InPlace" && status["status"] == "Success";
        bed.until(kind, name, &format!("{kind} is taken over"), taken).await;
        assert_eq!(bed.heard(&format!("{kind}/{name}")), ["Adopted"]);
        assert_eq!(bed.recorded.of(name).len(), 1);
        assert!(bed.recorded.of(name)[0].starts_with("adopted"), "{:?}", bed.recorded.of(name));
        let (object, secret) = (bed.object(kind, name), bed.secret(secret));
        let meta = &secret["metadata"];
        assert_eq!(meta["labels"]["crypto.trellis.dev/kind"], kind);
        assert_eq!(meta["labels"]["crypto.trellis.dev/owner"], object["metadata"]["uid"]);
        assert_eq!(annotation(&secret, "crypto.trellis.dev/secret-version"), "1");
        assert_eq!(secret["type"], "Opaque");
        let owners = meta["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.len(), 1, "{owners:?}");
        assert_eq!(
            (&owners[0]["apiVersion"], &owners[0]["uid"], &owners[0]["controller"]),
            (&json!("qubesec.io/v1"), &object["metadata"]["uid"], &json!(true))
        );
    }
    for (kind, name) in VERSIONED {
        let status = bed.status(kind, name);
        assert_eq!(
            (versions(&status), &status["version"]),
            (vec!["1 Active".to_owned()], &json!(1)),
            "{kind}"
        );
    }
    for (kind, name, algorithm) in [
        (KEM, "kem", "ML-KEM-1024"),
        (ENCAPSULATE, "enc", "ML-KEM-1024"),
        (DECAPSULATE, "dec", "ML-KEM-1024"),
        (SIGNATURE, "pair", "ML-DSA-87"),
        (SIGN, "sign", "ML-DSA-87"),
        (CERTIFICATE, "web", "ML-DSA-87"),
    ] {
        assert_eq!(bed.status(kind, name)["algorithm"], algorithm, "{kind}");
    }
    let checked = |status: &Value| status["status"] == "Valid" && !status["conditions"].is_null();
    bed.until(VERIFY, "verify", "it is verified again", checked).await;
    unchanged(&bed, &contents);
    // What the names of today stand for stands beside it.
    assert_eq!(bytes(&bed.secret("number"), "random"), contents["number"]["quantumrandomnumber"]);
    assert_eq!(bytes(&bed.secret("signed"), "sig"), contents["signed"]["signature"]);
    assert_eq!(bytes(&bed.secret("web"), "ca.crt"), contents["web"]["tls.crt"]);
    let raw = PrivateKey::read(&bytes(&bed.secret("kem"), "private-key"), None).unwrap();
    assert_eq!(bytes(&bed.secret("kem"), "private_key"), raw.expanded().unwrap().as_bytes());
    assert_eq!(bed.status(DERIVED, "key")["kdfProfile"], "Plain");
    assert_eq!(bed.status(DECAPSULATE, "dec")["fingerprint"], bed.status(ENCAPSULATE, "enc")["fingerprint"]);
    bed.rests(DAY).await;
    // Somebody else who begins finds nothing to do.
    let before = bed.api.writes();
    bed.kill();
    bed.lead(bed.api.client());
    bed.rests(DAY).await;
    assert_eq!(bed.api.writes(), before);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_derived_of_it_comes_back_the_same() {
    let contents = contents();
    let mut bed = left(&contents);
    bed.lead(bed.api.client());
    for (kind, name, _) in KEPT {
        bed.reason(kind, name, "InPlace").await;
    }
    for secret in ["dec-shared-secret", "key-derived-key", "signed"] {
        bed.delete_secret(secret);
        bed.secret_until(secret, "it is back", |secret| !secret["data"].is_null()).await;
    }
    for (name, item) in [("dec-shared-secret", "shared-secret"), ("key-derived-key", "derived-key")] {
        assert!(bytes(&bed.secret(name), item) == contents[name][item], "{name} is another");
    }
    // A new one stands where spec.signatureKey says.
    bed.secret_until("signed", "it stands there", |secret| !bytes(secret, "sig").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn it_rotates_later_in_the_form_that_it_has() {
    let contents = contents();
    let mut bed = left(&contents);
    bed.lead(bed.api.client());
    for (kind, name, _) in KEPT {
        bed.reason(kind, name, "InPlace").await;
    }
    for (kind, name) in [(KEM, "kem"), (SIGNATURE, "pair"), (RANDOM, "number"), (CERTIFICATE, "web")] {
        bed.edit(kind, name, |object| rotate(object, "1"));
    }
    for (kind, name) in VERSIONED {
        let status = bed.until(kind, name, "it rotates", |status| status["version"] == 2).await;
        assert_eq!(versions(&status), ["2 Active", "1 Retired"]);
    }
    for (name, items) in &contents {
        if *name == "signed" {
            continue;
        }
        let archive = bed.secret(&format!("{name}-v1"));
        for (item, before) in items {
            assert!(bytes(&archive, item) == *before, "{item} of version 1 of {name} is another");
        }
        assert!(items.iter().any(|(item, before)| bytes(&bed.secret(name), item) != *before));
    }
    for (name, label) in [("kem", "ML-KEM-1024 SECRET KEY"), ("pair", "ML-DSA-87 SECRET KEY")] {
        let text = String::from_utf8(bytes(&bed.secret(name), "private-key")).unwrap();
        assert!(text.contains(label), "who reads the one reads the other: {label}");
    }
    // And the same again, once it is wished in another form.
    bed.edit(KEM, "kem", |object| set(object, "/spec/keyFormat", json!("standard")));
    let standard = |secret: &Value| bytes(secret, "private-key").starts_with(b"-----BEGIN PRIVATE KEY-----");
    bed.secret_until("kem", "it is written in the other form", standard).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_is_said_to_be_lost() {
    let mut contents = contents();
    for secret in ["number", "kem", "enc-shared-secret", "pair", "web"] {
        contents.remove(secret);
    }
    let mut bed = left(&contents);
    // A status that cannot be read still tells that there was something.
    bed.edit(RANDOM, "number", |object| set(object, "/status/bytes", json!("many")));
    bed.lead(bed.api.client());
    for (kind, name) in
        [(RANDOM, "number"), (KEM, "kem"), (ENCAPSULATE, "enc"), (SIGNATURE, "pair"), (CERTIFICATE, "web")]
    {
        let status = bed.reason(kind, name, "Lost").await;
        assert_eq!(status["status"], "Failed", "{kind}");
    }
    bed.rests(DAY).await;
    for secret in ["number", "kem", "enc-shared-secret", "pair", "web"] {
        assert!(!bed.has_secret(secret), "{secret} was made anew");
    }
    unchanged(&bed, &contents);
    // A backup of QubeSec's Secret brings it back.
    let again = self::contents();
    secret(&bed, RANDOM, "number", "number", &again["number"]);
    bed.reason(RANDOM, "number", "InPlace").await;
    unchanged(&bed, &[("number", again["number"].clone())].into());
}

/// A Secret, what is wrong with it, and what is said of that.
type Spoilt = (&'static str, fn(&mut Contents), &'static str);

#[tokio::test(start_paused = true)]
async fn what_does_not_belong_together_is_left_as_it_is_and_says_why() {
    fn other_pair(algorithm: &str) -> Vec<(&'static str, Vec<u8>)> {
        match algorithm.parse::<trellis_pki::certify::KeyKind>() {
            Ok(_) => {
                let key = signature::PrivateKey::generate(SignatureAlgorithm::MlDsa44).unwrap();
                pair(algorithm, key.public_key().raw(), key.expanded().unwrap().as_bytes())
            }
            Err(_) => {
                let algorithm = match algorithm {
                    "ML-KEM-768" => KemAlgorithm::MlKem768,
                    _ => KemAlgorithm::MlKem1024,
                };
                let key = kem::PrivateKey::generate(algorithm).unwrap();
                pair(algorithm.name(), key.public_key().raw(), key.expanded().as_bytes())
            }
        }
    }
    fn with(contents: &mut Contents, secret: &'static str, item: &'static str, bytes: Vec<u8>) {
        contents.get_mut(secret).unwrap().insert(item, bytes);
    }
    let spoilt: Vec<Spoilt> = vec![
        ("number", |all| with(all, "number", "quantumrandomnumber", vec![1; 63]), "spec.bytes says 64"),
        ("number", |all| with(all, "number", "random", vec![1; 64]), "different numbers"),
        ("number", |all| drop(all.insert("number", Items::new())), "has no item quantumrandomnumber"),
        (
            "kem",
            |all| drop(all.insert("kem", other_pair("ML-KEM-768").into_iter().collect())),
            "ML-KEM-768, and one of ML-KEM-1024 is wanted",
        ),
        (
            "kem",
            |all| {
                let (item, bytes) = other_pair("ML-KEM-1024").swap_remove(0);
                with(all, "kem", item, bytes);
            },
            "public-key is not the public half",
        ),
        (
            "kem",
            |all| {
                for item in ["public-key", "private-key"] {
                    let text = String::from_utf8(all["kem"][item].clone()).unwrap();
                    with(all, "kem", item, text.replace("ML-KEM-1024", "Kyber1024").into_bytes());
                }
            },
            "of a draft from before ML-KEM-1024",
        ),
        ("kem", |all| drop(all.get_mut("kem").unwrap().remove("private-key")), "no item private-key"),
        (
            "pair",
            |all| drop(all.insert("pair", other_pair("ML-DSA-44").into_iter().collect())),
            "ML-DSA-44, and one of ML-DSA-87 is wanted",
        ),
        (
            "enc-shared-secret",
            |all| with(all, "enc-shared-secret", "shared-secret", vec![7; 32]),
            "ciphertext does not hold its item shared-secret",
        ),
        (
            "enc-shared-secret",
            |all| with(all, "enc-shared-secret", "ciphertext", vec![7; 1088]),
            "a ciphertext of 1568 bytes, not of 1088",
        ),
        (
            "dec-shared-secret",
            |all| with(all, "dec-shared-secret", "shared-secret", vec![7; 32]),
            "not what the ciphertext holds",
        ),
        (
            "key-derived-key",
            |all| with(all, "key-derived-key", "derived-key", vec![7; 32]),
            "not what spec.keyType, salt, info",
        ),
        (
            "key-derived-key",
            |all| with(all, "key-derived-key", "key-type", b"ChaCha20".to_vec()),
            "key-type is not AES-256",
        ),
        ("signed", |all| with(all, "signed", "signature", vec![7; 4627]), "was not made by the key"),
        (
            "web",
            |all| drop(all.insert("web", certificate_of("ECDSA-P256"))),
            "its key is one of ECDSA-P256, and spec.algorithm says ML-DSA-87",
        ),
        (
            "web",
            |all| {
                let other = certificate("ML-DSA-87", 1_800_000_000, 365).swap_remove(1);
                with(all, "web", other.0, other.1);
            },
            "is not for the key in tls.key",
        ),
        ("web", |all| with(all, "web", "tls.crt", b"-".to_vec()), "is no certificate in PEM"),
    ];
    for (name, spoil, why) in spoilt {
        let whole = contents();
        let mut contents = whole.clone();
        spoil(&mut contents);
        let mut bed = left(&contents);
        let before = bed.secret(name);
        let (kind, object, _) = *KEPT.iter().find(|(.., secret)| *secret == name).unwrap();
        bed.lead(bed.api.client());
        let status = bed.reason(kind, object, "NotAdopted").await;
        assert_eq!(status["status"], "Failed");
        let error = status["error"].as_str().unwrap();
        assert!(error.contains(why) && error.contains("is left as it is"), "{why}: {error}");
        assert_eq!(bed.heard(&format!("{kind}/{object}")), ["NotAdopted"]);
        bed.rests(DAY).await;
        // Nor does anything that its author may wish of it.
        bed.edit(kind, object, |object| rotate(object, "1"));
        if matches!(kind, RANDOM | KEM | ENCAPSULATE | SIGNATURE | CERTIFICATE) {
            bed.edit(kind, object, |object| set(object, "/spec/recreatePolicy", json!("Recreate")));
        }
        tokio::time::sleep(HOUR).await;
        assert_eq!(bed.secret(name), before, "{why}");
        // Put right, it is taken over.
        bed.delete_secret(name);
        secret(&bed, kind, object, name, &whole[name]);
        let taken = |status: &Value| reason(status) == "InPlace";
        bed.until(kind, object, &format!("after {why}"), taken).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_another_object_owns_is_its_own() {
    let contents = contents();
    let mut bed = left(&contents);
    for (kind, owner, name) in KEPT {
        bed.delete_secret(name);
        // The name is that of the object, and the uid of one that was before it.
        secret_of(&bed, kind, owner, &json!("11111111-0000-4000-8000-000000000000"), name, &contents[name]);
    }
    let before: Vec<Value> = KEPT.iter().map(|(.., name)| bed.secret(name)).collect();
    bed.lead(bed.api.client());
    // Those that are made of others wait for them.
    for (kind, name) in [(RANDOM, "number"), (KEM, "kem"), (SIGNATURE, "pair"), (CERTIFICATE, "web")] {
        assert_eq!(bed.reason(kind, name, "SecretConflict").await["status"], "Failed", "{kind}");
    }
    bed.rests(DAY).await;
    let after: Vec<Value> = KEPT.iter().map(|(.., name)| bed.secret(name)).collect();
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_taken_over_as_it_is_and_renewed_by_the_rule() {
    // Ended a month ago, and ends in thirty days, of which it is left the first ten.
    for (age, renewed_within) in [(395, HOUR), (335, DAY * 2)] {
        let mut contents = contents();
        let items = certificate("ML-DSA-87", 1_800_000_000 - age * 86_400, 365);
        contents.insert("web", items.into_iter().collect());
        let mut bed = left(&contents);
        bed.lead(bed.api.client());
        let taken = |secret: &Value| annotation(secret, "crypto.trellis.dev/secret-version") == "1";
        if age < 365 {
            bed.reason(CERTIFICATE, "web", "InPlace").await;
            unchanged(&bed, &contents);
            assert!(taken(&bed.secret("web")));
            bed.rests(DAY * 9).await;
        }
        tokio::time::sleep(renewed_within).await;
        let status = bed.until(CERTIFICATE, "web", "it is renewed", |status| status["version"] == 2).await;
        assert_eq!(bed.heard("QuantumCertificate/web")[..2], ["Adopted", "Rotated"], "{status}");
        let history = bed.api.history("/api/v1/namespaces/shop/secrets/web-v1", 0);
        let archive = history.iter().find_map(|(.., secret)| secret.clone()).unwrap();
        for (item, before) in &contents["web"] {
            assert!(bytes(&archive, item) == *before, "{item} of the one before is another");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_another_name_by_now_is_found_where_its_status_says() {
    let contents = contents();
    let mut bed = left(&contents);
    bed.edit(KEM, "kem", |object| set(object, "/spec/secretName", json!("elsewhere")));
    bed.lead(bed.api.client());
    bed.secret_until("elsewhere", "it moves", |secret| !secret["data"].is_null()).await;
    for (item, before) in &contents["kem"] {
        assert!(bytes(&bed.secret("elsewhere"), item) == *before, "{item}");
    }
    let status = bed.reason(KEM, "kem", "InPlace").await;
    assert_eq!(versions(&status), ["1 Active"]);
    bed.no_secret("kem").await;
    assert_eq!(bed.heard("QuantumKEMKeyPair/kem"), ["Adopted", "Moved"]);
}

#[tokio::test(start_paused = true)]
async fn what_it_was_made_of_is_looked_at_when_it_comes() {
    for same in [true, false] {
        let contents = contents();
        let mut bed = left(&contents);
        let (pair, at) = (bed.object(KEM, "kem"), bed.path("shop", KEM, "kem"));
        let kept = bed.secret("kem");
        assert!(bed.api.remove(&at));
        bed.delete_secret("kem");
        bed.lead(bed.api.client());
        let taken = |status: &Value| status["status"] == "Success" && status["version"] == 1;
        bed.until(ENCAPSULATE, "enc", "it is taken over without its key", taken).await;
        bed.rests(HOUR).await;
        unchanged(&bed, &[("enc-shared-secret", contents["enc-shared-secret"].clone())].into());
        if same {
            bed.api.put(&at, pair);
            bed.api.put(&secret_path("shop", "kem"), kept);
            let known = |status: &Value| status["publicKeyFingerprint"].is_string();
            bed.until(ENCAPSULATE, "enc", "its key is known", known).await;
            bed.reason(DECAPSULATE, "dec", "InPlace").await;
        } else {
            bed.create(KEM, "kem", json!({ "algorithm": "ML-KEM-1024" }));
            let status = bed.reason(ENCAPSULATE, "enc", "NotAdopted").await;
            assert!(status["error"].as_str().unwrap().contains("does not hold"), "{status}");
        }
        bed.rests(HOUR).await;
        unchanged(&bed, &[("enc-shared-secret", contents["enc-shared-secret"].clone())].into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_may_not_change_is_only_marked() {
    let contents = contents();
    let mut bed = left(&contents);
    let at = secret_path("shop", "number");
    bed.api.edit(&at, |secret| secret["immutable"] = json!(true));
    let before = bed.secret("number");
    bed.lead(bed.api.client());
    bed.reason(RANDOM, "number", "InPlace").await;
    assert_eq!(bed.secret("number")["data"], before["data"]);
    bed.rests(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_over_it_changes_nothing_of_it() {
    let contents = contents();
    let mut bed = left(&contents);
    for left in 1..60 {
        for after in [false, true] {
            let count = std::sync::atomic::AtomicI64::new(left);
            let client = bed.api.client_judged(Box::new(move |asked| {
                if asked.watches() || asked.query.contains("limit=") {
                    return Fate::Pass;
                }
                match count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) {
                    0 if after => Fate::Lose,
                    1.. => Fate::Pass,
                    _ => Fate::Vanish,
                }
            }));
            bed.lead(client);
            tokio::time::sleep(Duration::from_secs(30)).await;
            bed.kill();
            unchanged(&bed, &contents);
        }
    }
    bed.lead(bed.api.client());
    for (kind, name, _) in KEPT {
        bed.reason(kind, name, "InPlace").await;
    }
    unchanged(&bed, &contents);
    bed.rests(DAY).await;
    assert_eq!(bed.all_heard(), ["Adopted"].into());
}

#[tokio::test(start_paused = true)]
async fn of_another_namespace_it_is_taken_over_by_a_grant_alone() {
    let contents = contents();
    let mut bed = left(&contents);
    // QubeSec lets anybody read anything.
    let uid = json!("22222222-0000-4000-8000-000000000000");
    let object = json!({
        "apiVersion": "qubesec.io/v1", "kind": ENCAPSULATE,
        "metadata": { "name": "enc", "namespace": "far", "uid": uid },
        "spec": { "publicKeyRef": { "name": "kem", "namespace": "shop" }, "algorithm": "ML-KEM-1024" },
        "status": { "status": "Success",
            "sharedSecretReference": { "name": "enc-shared-secret", "namespace": "far" } },
    });
    bed.api.create(&bed.path("far", ENCAPSULATE, "enc"), object);
    let mut kept = bed.secret("enc-shared-secret");
    kept["metadata"]["namespace"] = json!("far");
    kept["metadata"]["ownerReferences"][0]["uid"] = uid;
    let at = secret_path("far", "enc-shared-secret");
    bed.api.create(&at, kept);
    let before = bed.api.get(&at);
    bed.lead(bed.api.client());
    let refused = |status: &Value| reason(status) == "RefNotPermitted";
    let status = bed.until_in("far", ENCAPSULATE, "enc", "it is refused", refused).await;
    assert_eq!(status["sharedSecretReference"]["name"], "enc-shared-secret", "where it is stays said");
    bed.rests(HOUR).await;
    assert_eq!(bed.api.get(&at), before);
    bed.api.put(
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/referencegrants/g",
        json!({ "kind": "ReferenceGrant", "metadata": { "name": "g", "namespace": "shop" }, "spec": {
            "from": [{ "group": "qubesec.io", "kind": ENCAPSULATE, "namespace": "far" }],
            "to": [{ "group": "qubesec.io", "kind": KEM }] } }),
    );
    let taken = |status: &Value| reason(status) == "InPlace";
    bed.until_in("far", ENCAPSULATE, "enc", "it is taken over", taken).await;
    assert_eq!(bed.api.get(&at).unwrap()["data"], before.unwrap()["data"]);
}

#[tokio::test(start_paused = true)]
async fn statuses_and_secrets_show_nothing_that_gives_a_secret_away() {
    let contents = contents();
    let mut bed = left(&contents);
    bed.lead(bed.api.client());
    for (kind, name, _) in KEPT {
        bed.reason(kind, name, "InPlace").await;
    }
    // QubeSec's fingerprints of secrets can be tried; they give way to marks under the cluster's key.
    let shared = short(&contents["enc-shared-secret"]["shared-secret"]);
    for (kind, name) in [(ENCAPSULATE, "enc"), (DECAPSULATE, "dec"), (DERIVED, "key")] {
        let status = bed.status(kind, name).to_string();
        assert!(!status.contains(&shared), "{status}");
        let derived = Fingerprint::of_public(&contents["key-derived-key"]["derived-key"]).to_string();
        assert!(!status.contains(&derived), "{status}");
    }
}
