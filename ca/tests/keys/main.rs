//! Issuing keys that are elsewhere, with the real things: kryoptic and SoftHSM as tokens, OpenBao as the CA
//! above, Go, OpenSSL and pyca/cryptography as judges. `ci/keys` sets them up and says where they are.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "shared with the other tests of this service")]
#[path = "../folder/support.rs"]
mod support;

mod backup;
mod cluster;
mod companion;
mod judges;
mod openbao;
mod token;
mod tokens;

use serde_json::{Value, json};

use support::until;

/// What a test needs that is not part of this tree.
fn needed(name: &str) -> String {
    #[allow(clippy::disallowed_methods, reason = "a test is told by its caller where things are")]
    let found = std::env::var(name);
    found.unwrap_or_else(|_| panic!("{name} is not set; run these tests by ci/test keys"))
}

fn wish(issuing: Value, more: Value) -> Value {
    let mut spec = json!({ "issuing": issuing });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn phase(status: &Value) -> &str {
    status["phase"].as_str().unwrap_or_default()
}

fn reason(status: &Value) -> &str {
    status["conditions"][0]["reason"].as_str().unwrap_or_default()
}

fn settled_on(generation: u32) -> impl Fn(&Value) -> bool {
    move |status| phase(status) == "Settled" && status["anchors"][0]["generation"] == generation
}
