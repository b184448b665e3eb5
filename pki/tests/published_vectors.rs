//! The library under test against vectors that others published; `vectors/README.md` says whose.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::collections::BTreeMap;

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, ML_KEM_768};
use serde_json::Value;
use webpki::aws_lc_rs::{ML_DSA_44, ML_DSA_65, ML_DSA_87};

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn ml_dsa_signatures_are_told_from_what_only_looks_like_them() {
    let all = vectors(include_str!("vectors/ml-dsa-verify.json"));
    let mut judged: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for one in all.as_array().unwrap() {
        let name = one["algorithm"].as_str().unwrap();
        // The verifiers that handshakes and chains are judged by.
        let verifier = match name {
            "ml-dsa-44" => ML_DSA_44,
            "ml-dsa-65" => ML_DSA_65,
            _ => ML_DSA_87,
        };
        let (key, message, signature) =
            (bytes(&one["publicKey"]), bytes(&one["message"]), bytes(&one["signature"]));
        let found = verifier.verify_signature(&key, &message, &signature).is_ok();
        let valid = one["valid"].as_bool().unwrap();
        assert_eq!(found, valid, "{name} case {}: {}", one["case"], one["why"]);
        *judged.entry((name.to_owned(), valid)).or_default() += 1;
    }
    for name in ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"] {
        assert_eq!(judged.get(&(name.to_owned(), true)), Some(&1), "{judged:?}");
        assert_eq!(judged.get(&(name.to_owned(), false)), Some(&7), "{judged:?}");
    }
}

#[test]
fn ml_kem_768_opens_what_nist_says_damaged_ciphertexts_included() {
    let all = vectors(include_str!("vectors/ml-kem-768-decapsulation.json"));
    let key = DecapsulationKey::new(&ML_KEM_768, &bytes(&all["decapsulationKey"])).unwrap();
    let cases = all["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for one in cases {
        let ciphertext = bytes(&one["ciphertext"]);
        let secret = key.decapsulate(Ciphertext::from(ciphertext.as_slice())).unwrap();
        assert_eq!(secret.as_ref(), bytes(&one["sharedSecret"]), "case {}", one["case"]);
    }
}
