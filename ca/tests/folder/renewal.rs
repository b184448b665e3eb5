//! An anchor near its end gives way to a fresh key without being asked, and goes back where that is not
//! wanted. The anchor is old because the CA that made it lived years ago, by its own clock.

use serde_json::{Value, json};
use trellis_pki::{algorithm::Algorithm, policy::Ladder};

use crate::{
    rotation::{Workload, phase, wish},
    support::{Ca, World, until},
};

/// A world whose anchor has a year left of ten.
async fn aged() -> World {
    let world = World::new();
    let first = Ca::with_env(&world.args(), &at_another_time("-3300d")).await;
    until(&first, "an anchor", |status| status["anchors"].as_array().is_some_and(|all| all.len() == 1)).await;
    first.stop().await;
    world
}

/// What makes a process believe that it is another time.
fn at_another_time(offset: &str) -> [(&'static str, String); 3] {
    let library = std::fs::read_dir("/usr/lib").unwrap().find_map(|folder| {
        let library = folder.ok()?.path().join("faketime/libfaketime.so.1");
        library.exists().then(|| library.display().to_string())
    });
    let library = library.expect("libfaketime is not there; apt-get install faketime, or ci/test setup");
    [
        ("LD_PRELOAD", library),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

fn generation(status: &Value) -> u64 {
    status["issuingKind"]["generation"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn an_anchor_near_its_end_gives_way_by_itself_and_the_old_wish_stands() {
    let world = aged().await;
    let never = json!({ "renewal": { "atEnd": false } });
    world.trust_domain(wish("ml-dsa-65", 1, never));
    let ca = Ca::with(&world.args()).await;
    let workload = Workload::start(&world, &ca, Algorithm::MlDsa65, Ladder::Require).await;
    let before = workload.tls.current().unwrap();
    let status = until(&ca, "both are members", |status| status["members"] == 2).await;
    assert_eq!((phase(&status), generation(&status)), ("Settled", 1), "it was told not to");
    assert_eq!(status["anchors"][0].get("renews"), None);

    world.trust_domain(wish("ml-dsa-65", 1, json!({})));
    let status = until(&ca, "renewed", |status| phase(status) == "Settled" && generation(status) == 2).await;
    assert_eq!(status["conditions"][0]["reason"], "AsWished");
    assert!(status["anchors"][0]["renews"].as_str().unwrap() > "2035", "{status}");
    let after = workload.tls.current().unwrap();
    assert_ne!(after.serial, before.serial);
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 1, "the old anchor is gone");

    // By hand it goes on from there.
    world.trust_domain(wish("ml-dsa-65", 3, json!({})));
    until(&ca, "the next one", |status| phase(status) == "Settled" && generation(status) == 3).await;
}

#[tokio::test]
async fn a_renewal_that_is_declined_is_taken_back() {
    let world = aged().await;
    // Who never answers holds the rotation where it is.
    world.working_pod("silent", "orders", json!({}));
    let ca = Ca::with(&world.args()).await;
    let status =
        until(&ca, "a renewal", |status| status["rotation"]["renewal"]["kind"]["generation"] == 2).await;
    assert_eq!(status["renewed"][0]["of"], "Issuing");
    let declined = json!({ "renewal": { "declined": { "of": "Issuing", "generation": 2 } } });
    world.trust_domain(wish("ml-dsa-65", 1, declined));
    until(&ca, "rolling back", |status| status["rotation"]["rollingBack"] == true).await;
    world.remove_pod("silent");
    until(&ca, "back", |status| phase(status) == "Settled" && generation(status) == 1).await;
}

#[tokio::test]
async fn the_end_of_every_anchor_is_among_the_metrics() {
    let world = World::new();
    world.trust_domain(wish("ml-dsa-65", 1, json!({ "companion": { "algorithm": "ecdsa-p256" } })));
    let ca = Ca::with(&world.args()).await;
    let status = until(&ca, "a companion", |status| {
        phase(status) == "Settled" && status["anchors"].as_array().is_some_and(|anchors| anchors.len() == 2)
    })
    .await;
    let metrics = ca.metrics().await;
    for (anchor, role) in status["anchors"].as_array().unwrap().iter().zip(["issuing", "companion"]) {
        let short = &anchor["fingerprint"].as_str().unwrap()[..12];
        let line = metrics.lines().find(|line| {
            line.starts_with("trellis_ca_anchor_expiry_timestamp_seconds{") && line.contains(short)
        });
        let line = line.unwrap_or_else(|| panic!("nothing of {short} in\n{metrics}"));
        assert!(line.contains(&format!("role=\"{role}\"")), "{line}");
    }
}
