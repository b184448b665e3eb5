//! Issuing keys in tokens, from the first root to the last rotation.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;
use trellis_pki::{
    algorithm::Algorithm,
    leaf::Leaf,
    policy::{Ladder, Policy},
};

use super::{
    reason, settled_on,
    support::{Asker, Ca, World},
    tokens::{Kind, PIN, Shared, SoftToken},
    until, wish,
};

pub fn args(world: &World, token: &SoftToken, keys: &str, more: &[&str]) -> Vec<String> {
    let mut args = world.args();
    args.extend(token.args(keys));
    args.extend(more.iter().map(|flag| (*flag).to_owned()));
    args
}

pub fn issuing(algorithm: &str, generation: u32) -> Value {
    json!({ "algorithm": algorithm, "generation": generation })
}

fn state(world: &World) -> String {
    fs::read_to_string(world.path("root/trust-domain.json")).unwrap()
}

/// Keys that are kept with the state.
pub fn kept(world: &World) -> usize {
    let kept: Value = serde_json::from_str(&state(world)).unwrap();
    kept.as_object().unwrap().keys().filter(|name| name.ends_with(".key")).count()
}

/// Some tokens know ECDSA only.
fn asker(world: &World, ca: &Ca) -> Asker {
    Asker::with(world, ca, Policy { signatures: Ladder::Prefer, ..Policy::default() })
}

async fn leaf(world: &World, ca: &Ca) -> Leaf {
    let issued = asker(world, ca).ask_with(&world.token()).await.unwrap();
    Leaf::parse(&issued.leaf).unwrap()
}

#[tokio::test]
async fn every_ml_dsa_level_issues_from_a_token_and_its_key_is_destroyed_there_at_the_end() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::Kryoptic);
    let args = args(&world, &token, "token", &["--root-algorithm=ml-dsa-44"]);
    let ca = Ca::with_env(&args, &[token.env()]).await;
    assert_eq!(leaf(&world, &ca).await.issuer_algorithm, Algorithm::MlDsa44);
    assert_eq!(kept(&world), 0, "no key is kept with the state");
    let mut before = token.keys();
    assert_eq!(before.len(), 1);
    for (algorithm, parsed) in [("ml-dsa-65", Algorithm::MlDsa65), ("ml-dsa-87", Algorithm::MlDsa87)] {
        world.trust_domain(wish(issuing(algorithm, 1), json!({})));
        let status = until(&ca, algorithm, |status| {
            super::phase(status) == "Settled" && status["anchors"][0]["algorithm"] == algorithm
        })
        .await;
        assert_eq!(leaf(&world, &ca).await.issuer_algorithm, parsed);
        let listed = wait_for_keys(&token, 1).await;
        let now = &listed[0];
        assert_ne!(now.id, before[0].id, "the old key was destroyed");
        assert_eq!(now.label, format!("trellis cluster.local {algorithm}.1"));
        assert_eq!(now.usage, "sign");
        assert_eq!(now.access, "sensitive, always sensitive, never extractable, local");
        assert_eq!(status["anchors"][0]["key"], format!("pkcs11:token=mesh;id={}", now.id));
        before = listed;
    }
    // It is found again by a CA that starts anew, and its PIN is nowhere.
    assert!(ca.metrics().await.contains("trellis_ca_token_up 1"));
    let log = ca.whole_log();
    assert!(!log.contains(PIN) && !state(&world).contains(PIN), "the PIN is where it should not be");
    ca.kill().await;
    let ca = Ca::with_env(&args, &[token.env()]).await;
    assert_eq!(leaf(&world, &ca).await.issuer_algorithm, Algorithm::MlDsa87);
}

#[tokio::test]
async fn a_mesh_moves_into_a_token_and_out_of_it_by_ordinary_rotations() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::SoftHsm);
    let first = ["--root-algorithm=ecdsa-p256", "--signatures=prefer"];
    let ca = Ca::with_env(&args(&world, &token, "root", &first), &[token.env()]).await;
    assert_eq!((kept(&world), token.keys().len()), (1, 0));
    assert!(ca.stop().await.success());

    let ca = Ca::with_env(&args(&world, &token, "token", &first), &[token.env()]).await;
    // A member that exists and never answers holds the rotation where both keys live.
    world.working_pod("silent", "orders", json!({}));
    world.trust_domain(wish(issuing("ecdsa-p256", 2), json!({})));
    until(&ca, "both are there", |status| super::phase(status) == "Distributing").await;
    assert_eq!((kept(&world), token.keys().len()), (1, 1));
    assert_eq!(token.keys()[0].usage, "sign");
    world.remove_pod("silent");
    until(&ca, "in the token", settled_on(2)).await;
    assert_eq!(leaf(&world, &ca).await.issuer_algorithm, Algorithm::EcdsaP256);
    assert_eq!((kept(&world), token.keys().len()), (0, 1));
    assert!(ca.stop().await.success());

    let ca = Ca::with_env(&args(&world, &token, "root", &first), &[token.env()]).await;
    world.trust_domain(wish(issuing("ecdsa-p256", 3), json!({})));
    until(&ca, "out of the token", settled_on(3)).await;
    wait_for_keys(&token, 0).await;
    assert_eq!(kept(&world), 1);
    assert!(ca.stop().await.success());
    // From here on no token is needed.
    let mut without = world.args();
    without.extend(first.map(str::to_owned));
    let ca = Ca::with(&without).await;
    leaf(&world, &ca).await;
}

pub async fn wait_for_keys(token: &SoftToken, count: usize) -> Vec<super::tokens::Listed> {
    for _ in 0..200 {
        let keys = token.keys();
        if keys.len() == count {
            return keys;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there never were {count} keys: {:?}", token.keys());
}

fn shared_args(world: &World, shared: &Shared<'_>) -> Vec<String> {
    let mut args = world.args();
    args.extend(shared.args("token"));
    args.extend(["--root-algorithm=ecdsa-p256", "--signatures=prefer"].map(str::to_owned));
    args
}

async fn issues_again(world: &World, ca: &Ca) {
    for attempt in 0.. {
        if asker(world, ca).ask_with(&world.token()).await.is_ok() {
            return;
        }
        assert!(attempt < 300, "it never came back: {}", ca.whole_log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_token_that_is_pulled_out_stops_issuing_and_nothing_else_until_it_is_back() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::SoftHsm);
    let mut shared = token.share();
    let mut ca = Ca::with_env(&shared_args(&world, &shared), &[shared.env()]).await;
    leaf(&world, &ca).await;
    shared.pull_out();
    let (code, message) = asker(&world, &ca).ask_with(&world.token()).await.unwrap_err();
    assert_eq!(code, Code::Unavailable, "{message}");
    assert!(message.contains("the CA cannot issue") && message.contains("token"), "{message}");
    ca.said("condition not met", "condition", "token").await;
    let metrics = ca.metrics().await;
    assert!(metrics.contains("trellis_ca_token_up 0"), "{metrics}");
    assert!(metrics.contains("trellis_ca_refused_total{reason=\"key_unavailable\"}"), "{metrics}");
    // Trust is told on.
    until(&ca, "it shows trust", |status| super::phase(status) == "Settled").await;
    shared.plug_in();
    issues_again(&world, &ca).await;
    assert!(ca.metrics().await.contains("trellis_ca_token_up 1"));
}

#[tokio::test]
async fn a_token_that_hangs_holds_up_nothing_but_issuing() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::SoftHsm);
    let shared = token.share();
    let ca = Ca::with_env(&shared_args(&world, &shared), &[shared.env()]).await;
    let lasting = asker(&world, &ca);
    lasting.ask_with(&world.token()).await.unwrap();
    shared.signal("-STOP");

    let bearer = world.token();
    let (refused, began) = (lasting.ask_with(&bearer), Instant::now());
    let others = async {
        for _ in 0..20 {
            ca.metrics().await;
            ca.trust().await;
        }
        began.elapsed()
    };
    let (refused, others) = tokio::join!(refused, others);
    assert!(others < Duration::from_secs(3), "the runtime was blocked for {others:?}");
    let (code, message) = refused.err().unwrap();
    assert_eq!(code, Code::Unavailable, "{message}");
    assert!(message.contains("did not answer within 5s"), "{message}");
    // From now on nobody waits for it.
    let began = Instant::now();
    assert!(lasting.ask_with(&world.token()).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    shared.signal("-CONT");
    issues_again(&world, &ca).await;
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_and_not_again_until_its_file_changes() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::Kryoptic);
    token.write_pin("00000000");
    let mut ca = Ca::starting(&args(&world, &token, "token", &[]), &[token.env()]).await;
    ca.said("condition not met", "condition", "token").await;
    // It is looked at each second; the token locks at the tenth wrong PIN.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let log = ca.whole_log();
    assert!(log.contains("refused the PIN of") && log.contains("until it changes"), "{log}");
    assert!(!log.contains("00000000"), "the PIN is in the log");
    token.write_pin(PIN);
    ca.said("condition met", "condition", "token").await;
    ca.said("condition met", "condition", "identity").await;
    assert_eq!(token.keys().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_said_with_its_remedy() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::SoftHsm);
    let with = |flag: &str, value: &str| {
        let mut args = args(&world, &token, "token", &["--root-algorithm=ecdsa-p256", "--signatures=prefer"]);
        let at = args.iter().position(|arg| arg.starts_with(flag)).unwrap();
        args[at] = format!("{flag}={value}");
        args
    };
    let missing = world.path("no-pin").display().to_string();
    for (args, said) in [
        (with("--token-module", "/nowhere.so"), "token-module /nowhere.so cannot be used"),
        (with("--token-label", "another"), "no token labelled \\\"another\\\" is there, only \\\"mesh\\\""),
        (with("--token-pin-file", &missing), "write the user PIN into it"),
    ] {
        let mut ca = Ca::starting(&args, &[token.env()]).await;
        ca.said("condition not met", "condition", "token").await;
        for attempt in 0.. {
            if ca.whole_log().contains(said) {
                break;
            }
            assert!(attempt < 100, "{said}: {}", ca.whole_log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ca.kill().await;
    }
    // SoftHSM of today knows no ML-DSA: the rotation says so, and nothing changes.
    let ecdsa = ["--root-algorithm=ecdsa-p256", "--signatures=prefer"];
    let ca = Ca::with_env(&args(&world, &token, "token", &ecdsa), &[token.env()]).await;
    world.trust_domain(wish(issuing("ml-dsa-65", 1), json!({})));
    let status = until(&ca, "it says so", |status| reason(status) == "KeyUnavailable").await;
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("does not know ML-DSA-65"), "{message}");
    leaf(&world, &ca).await;
    world.trust_domain(wish(issuing("ecdsa-p256", 1), json!({})));
    until(&ca, "taken back", |status| reason(status) == "AsWished").await;
    let mode = fs::metadata(world.path("root/trust-domain.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}
