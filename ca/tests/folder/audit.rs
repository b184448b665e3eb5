//! What the CA does is in its audit trail, and what is done to the trail is found.

use std::fs;

use serde_json::{Value, json};
use tonic::Code;
use trellis_pki::audit::{Report, Verifier, public_keys};

use crate::support::{Asker, Ca, World};

fn args(world: &World, trail: &str) -> Vec<String> {
    let sink = format!("--audit=file:{}", world.path(trail).display());
    world.args().into_iter().chain([sink]).collect()
}

fn verify(text: &str, key: &str, partial: bool) -> Report {
    let mut verifier = Verifier::new(public_keys(key).unwrap(), partial);
    verifier.feed(text.as_bytes());
    verifier.finish()
}

fn wrong(text: &str, key: &str) -> Vec<&'static str> {
    verify(text, key, false).faults.iter().map(|fault| fault.what.as_str()).collect()
}

fn events(text: &str) -> Vec<String> {
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.map(|record| record["event"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_issued_refused_and_changed_is_recorded_chained_and_signed() {
    let world = World::new();
    let ca = Ca::with(&args(&world, "trail")).await;
    let key = ca.audit_key().await;
    let asker = Asker::new(&world, &ca);
    let leaf = asker.ask_with(&world.token()).await.unwrap();
    let (code, _) = asker.ask_with("no.token.atall").await.unwrap_err();
    assert_eq!(code, Code::Unauthenticated);
    world.trust_domain(json!({
        "issuing": { "algorithm": "ml-dsa-65", "generation": 1 }, "denied": [{ "what": "serial=0aff" }],
    }));
    ca.logged("trust moved on", "step", "Adopt").await;
    assert!(ca.stop().await.success());

    let text = fs::read_to_string(world.path("trail")).unwrap();
    assert_eq!(events(&text), ["started", "signed", "issued", "refused", "trust", "signed"]);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[2]["identity"], leaf.identity);
    assert_eq!((&records[2]["pod"], &records[2]["namespace"]), (&json!("orders-1"), &json!("shop")));
    assert_eq!(records[3]["reason"], "malformed_token");
    assert_eq!(records[4]["denied"], json!(["serial=0aff"]));
    assert!(!text.contains("no.token.atall") && !text.contains(&world.token()), "a token is in the trail");
    let found = verify(&text, &key, false);
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.summary.records, found.summary.signatures, found.summary.unsigned), (6, 2, 0));
    assert_eq!(wrong(&text.replace("orders-1", "orders-2"), &key), ["changed"]);
    let without_refusal: String = text.split_inclusive('\n').filter(|l| !l.contains("refused")).collect();
    assert_eq!(wrong(&without_refusal, &key), ["removed"]);

    // The next run goes on behind this one, with the same key, and misses it if it is cut out.
    let ca = Ca::with(&args(&world, "trail")).await;
    assert_eq!(ca.audit_key().await, key);
    assert!(ca.stop().await.success());
    let both = fs::read_to_string(world.path("trail")).unwrap();
    assert!(both.starts_with(&text));
    let found = verify(&both, &key, false);
    assert!(found.is_good() && found.chains.len() == 2, "{found:?}");
    let second = both.strip_prefix(&text).unwrap();
    assert_eq!(wrong(second, &key), ["run_removed"]);
}

#[tokio::test]
async fn a_trail_that_cannot_be_written_is_said_and_nothing_is_lost_of_it() {
    let world = World::new();
    let mut ca = Ca::without_waiting(&args(&world, "missing/trail")).await;
    ca.said("condition not met", "condition", "audit").await;
    ca.said("condition met", "condition", "publish").await;
    let asker = Asker::new(&world, &ca);
    asker.ask_with(&world.token()).await.unwrap();
    fs::create_dir(world.path("missing")).unwrap();
    ca.said("condition met", "condition", "audit").await;
    assert!(ca.metrics().await.contains("trellis_ca_audit_failures_total{sink=\"file\"}"));
    let key = ca.audit_key().await;
    assert!(ca.stop().await.success());
    let text = fs::read_to_string(world.path("missing/trail")).unwrap();
    assert_eq!(events(&text), ["started", "signed", "issued", "signed"]);
    assert!(verify(&text, &key, false).is_good());
}

/// As log rotation does: the file is moved away, and the CA told by SIGHUP.
#[tokio::test]
async fn a_trail_goes_on_in_a_new_file_when_the_old_one_was_moved_away() {
    let world = World::new();
    let ca = Ca::with(&args(&world, "trail")).await;
    let key = ca.audit_key().await;
    let asker = Asker::new(&world, &ca);
    asker.ask_with(&world.token()).await.unwrap();
    let written = || fs::read_to_string(world.path("trail")).is_ok_and(|text| text.contains("issued"));
    until(written).await;
    fs::rename(world.path("trail"), world.path("trail.1")).unwrap();
    ca.signal("-HUP").await;
    until(|| world.path("trail").exists()).await;
    asker.ask_with(&world.token()).await.unwrap();
    assert!(ca.stop().await.success());

    let read = |name: &str| fs::read_to_string(world.path(name)).unwrap();
    let (old, new) = (read("trail.1"), read("trail"));
    assert_eq!((events(&old).len(), events(&new)), (3, vec!["issued".to_owned(), "signed".to_owned()]));
    assert!(verify(&(old + &new), &key, false).is_good());
    assert_eq!(wrong(&new, &key), ["removed"]);
    assert!(verify(&new, &key, true).is_good());
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it never came to it");
}
