//! What the CA does is in its audit trail, and what is done to the trail is found.

use std::fs;

use serde_json::{Value, json};
use tonic::Code;
use trellis_pki::audit::{Summary, Verifier, Wrong, public_key};

use crate::support::{Asker, Ca, World};

fn args(world: &World, trail: &str) -> Vec<String> {
    let sink = format!("--audit=file:{}", world.path(trail).display());
    world.args().into_iter().chain([sink]).collect()
}

fn verify(text: &str, key: &str) -> Result<Summary, Wrong> {
    let mut verifier = Verifier::new(Some(public_key(key).unwrap()), false);
    text.lines().try_for_each(|line| verifier.line(line)).map_err(|fault| fault.what)?;
    Ok(verifier.summary())
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
    assert_eq!(events(&text), ["started", "issued", "refused", "trust", "signed"]);
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[1]["identity"], leaf.identity);
    assert_eq!((&records[1]["pod"], &records[1]["namespace"]), (&json!("orders-1"), &json!("shop")));
    assert_eq!(records[2]["reason"], "malformed_token");
    assert_eq!(records[3]["denied"], json!(["serial=0aff"]));
    assert!(!text.contains("no.token.atall") && !text.contains(&world.token()), "a token is in the trail");
    let found = verify(&text, &key).unwrap();
    assert_eq!((found.records, found.signatures, found.unsigned), (5, 1, 0));
    assert_eq!(verify(&text.replace("orders-1", "orders-2"), &key), Err(Wrong::Changed));

    // The next run goes on behind this one, with the same key, and misses it if it is cut out.
    let ca = Ca::with(&args(&world, "trail")).await;
    assert_eq!(ca.audit_key().await, key);
    assert!(ca.stop().await.success());
    let both = fs::read_to_string(world.path("trail")).unwrap();
    assert!(both.starts_with(&text));
    assert_eq!(verify(&both, &key).unwrap().chains, 2);
    let second = both.strip_prefix(&text).unwrap();
    assert_eq!(verify(second, &key), Err(Wrong::RunRemoved));
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
    assert_eq!(events(&text), ["started", "issued", "signed"]);
    verify(&text, &key).unwrap();
}
