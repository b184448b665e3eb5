use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trellis_crypto::{PrivateKey, hex};

use super::*;

fn json(desk: &Desk, file: &str) -> Value {
    let all: Value = serde_json::from_str(&desk.run(&format!("crypto inspect --json {file}"))).unwrap();
    let all = all.as_array().unwrap().clone();
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

#[test]
fn every_kind_of_thing_is_told() {
    let desk = Desk::with_keys(&["ML-DSA-65", "X25519MLKEM768"]);
    desk.run("trust backup-key --out x-wing");
    desk.put("plain", b"x");
    desk.run("crypto encrypt plain --to X25519MLKEM768.pub --to x-wing.pub --out sealed --purpose notes");
    desk.run("crypto sign plain --key ML-DSA-65");
    desk.run("crypto sign plain --key ML-DSA-65 --raw --out raw");
    let public = json(&desk, "X25519MLKEM768.pub");
    assert_eq!((&public["type"], &public["algorithm"]), (&"public key".into(), &"X25519MLKEM768".into()));
    let private = json(&desk, "X25519MLKEM768");
    assert_eq!((&private["type"], &private["form"]), (&"private key".into(), &"seed".into()));
    assert_eq!(private["fingerprint"], public["fingerprint"]);
    assert_eq!(json(&desk, "x-wing")["algorithm"], "X-Wing");
    assert_eq!(json(&desk, "x-wing.pub")["fingerprint"], json(&desk, "x-wing")["fingerprint"]);
    let sealed = json(&desk, "sealed");
    assert_eq!((&sealed["type"], &sealed["purpose"]), (&"sealed file".into(), &"notes".into()));
    assert_eq!(
        sealed["recipient"],
        serde_json::json!([public["fingerprint"], json(&desk, "x-wing")["fingerprint"]])
    );
    let signature = json(&desk, "plain.sig");
    assert_eq!((&signature["type"], &signature["for"]), (&"signature document".into(), &"a file".into()));
    assert!(signature["subject"].as_str().unwrap().starts_with("plain@sha512:"));
    assert_eq!(json(&desk, "raw")["could be"], "signature of ML-DSA-65");
    let error = desk.refused("crypto inspect plain");
    assert!(error.contains("nothing that is known"), "{error}");
    desk.put("kyber", desk.text("X25519MLKEM768.pub").replace("PUBLIC KEY", "Kyber768 PUBLIC KEY"));
    assert!(json(&desk, "kyber")["problem"].as_str().unwrap().contains("not compatible"));
}

#[test]
fn certificates_are_told_with_their_keys_and_names() {
    use std::time::{Duration, SystemTime};
    use trellis_pki::{issue::Issuer, key::PrivateKey};
    let desk = Desk::new();
    let algorithm = trellis_pki::algorithm::Algorithm::MlDsa65;
    let key = PrivateKey::generate(algorithm).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let day = Duration::from_secs(86_400);
    let root = Issuer::new_root("cluster.local", key, now, day).unwrap();
    let webhook = trellis_pki::serving::serving_certificate(&["a.example".to_owned()], now, day).unwrap();
    let both = trellis_pki::x509_pem("CERTIFICATE", &root.anchor().der) + &webhook.certificate_pem;
    desk.put("certificates", &both);
    let all: Value = serde_json::from_str(&desk.run("crypto inspect --json certificates")).unwrap();
    assert_eq!((&all[0]["type"], &all[0]["key"]), (&"certificate".into(), &"ML-DSA-65".into()));
    assert_eq!(
        (&all[0]["signed with"], &all[0]["issues certificates"]),
        (&"ML-DSA-65".into(), &"yes".into())
    );
    assert_eq!(all[0]["not after"], "2027-01-16T07:45:00Z");
    assert!(all[1]["key"].as_str().unwrap().starts_with("elliptic curve, which a quantum computer breaks"));
    assert_eq!((&all[1]["name"], &all[1]["issues certificates"]), (&"DNS a.example".into(), &"no".into()));
}

#[test]
fn nothing_private_is_shown() {
    for algorithm in ["ML-KEM-768", "X25519MLKEM768", "ML-DSA-65", "SLH-DSA-SHA2-128f"] {
        let desk = Desk::with_keys(&[algorithm]);
        desk.run(&format!("crypto keygen --algorithm {algorithm} --encoding qubesec --out old"));
        desk.run(&format!("crypto keygen --algorithm {algorithm} --encoding der --out binary"));
        for file in [algorithm, "old", "binary"] {
            let key = PrivateKey::read(&desk.get(file), None).unwrap();
            let said = ["", " --json", " --public"]
                .map(|option| desk.run(&format!("crypto inspect {file}{option}")));
            let said = said.concat().replace('\n', "");
            let bytes = key.expanded().unwrap();
            let secrets = [key.seed().map_or(&[][..], |seed| seed.as_bytes()), &bytes.as_bytes()[..48]];
            for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
                // Of what is public too, SLH-DSA's public seed, these have nothing.
                let part = &secret[..24];
                for text in [hex::encode(part), STANDARD.encode(part)] {
                    assert!(!said.contains(&text), "{algorithm}: {text} in {said}");
                }
            }
        }
    }
}
