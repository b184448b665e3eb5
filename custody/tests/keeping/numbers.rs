//! What is shown to whoever watches all objects together.

use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use trellis_custody::{Custody, Metrics};
use trellis_election::Role;
use trellis_telemetry::Registry;

use crate::bed::Bed;

const RANDOM: &str = "QuantumRandomNumber";

#[tokio::test(start_paused = true)]
async fn the_leader_counts_how_objects_stand_and_when_a_certificate_is_due() {
    let (bed, registry) = (Bed::idle(), Registry::new());
    let (role, roles) = watch::channel(Role::Leader { term: 1 });
    let custody = Custody { metrics: Metrics::new(&registry), roles, ..bed.custody(bed.api.client()) };
    let running = tokio::spawn(async move {
        let (_stop, shutdown) = watch::channel(false);
        custody.run(shutdown).await;
    });
    let shows = |line: &str| registry.prometheus().lines().any(|shown| shown == line);
    let count = |kind: &str, status: &str, count: u32| {
        shows(&format!("trellis_crypto_objects{{kind=\"{kind}\",status=\"{status}\"}} {count}"))
    };
    let due = "trellis_crypto_certificate_renewal_timestamp_seconds";
    assert!(shows(&format!("{due} +Inf")), "{}", registry.prometheus());
    bed.create(RANDOM, "one", json!({}));
    bed.create(RANDOM, "other", json!({}));
    bed.create("QuantumCertificate", "web", json!({ "domain": "shop.example", "days": 30 }));
    bed.success(RANDOM, "one").await;
    bed.success(RANDOM, "other").await;
    bed.success("QuantumCertificate", "web").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(count(RANDOM, "Success", 2) && count(RANDOM, "Lost", 0), "{}", registry.prometheus());
    // A third of its life before its end.
    let renewal = bed.status("QuantumCertificate", "web")["renewalTime"].clone();
    assert!(renewal.is_string() && !shows(&format!("{due} +Inf")), "{}", registry.prometheus());

    bed.delete_secret("one");
    bed.reason(RANDOM, "one", "Lost").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(count(RANDOM, "Success", 1) && count(RANDOM, "Lost", 1), "{}", registry.prometheus());
    // Who does not lead any more says nothing of them.
    role.send_replace(Role::Follower { leader: None });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(count(RANDOM, "Success", 0) && count(RANDOM, "Lost", 0), "{}", registry.prometheus());
    assert!(shows(&format!("{due} +Inf")), "{}", registry.prometheus());
    running.abort();
}
