//! The documents in `vectors/`, which another implementation of SPIFFE reads in `e2e/federation`, are what
//! is written here, byte for byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::time::Duration;

use trellis_pki::jwks;

const DOMAIN: &str = "vectors.example";

#[test]
fn the_documents_that_others_judge_are_ours() {
    for (name, kinds) in [("ecdsa", "EC"), ("ml-dsa", "AKP"), ("both", "EC AKP")] {
        let path = format!("{}/tests/vectors/spiffe-bundle-{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let document = jwks::read(DOMAIN, text.as_bytes()).unwrap();
        let written = jwks::write(&document.bundle, 3, Duration::from_secs(300));
        assert_eq!(written, text.trim_end(), "{path}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found: Vec<_> =
            value["keys"].as_array().unwrap().iter().map(|key| key["kty"].as_str().unwrap()).collect();
        assert_eq!(found.join(" "), kinds);
    }
}
