//! A trail as the CA writes it, with sinks that fail and callers that flood.

use std::{fs, path::Path};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use trellis_custody::{Act, Deed, Ledger};
use trellis_pki::{
    algorithm::Algorithm,
    audit::{MAX_UNSIGNED, Report, Verifier},
    clock::{ManualClock, SystemClock},
};

use super::*;
use crate::audit::{CONDITION, Full, QUEUE, Recorded};

struct Running {
    audit: Audit,
    key: Arc<PrivateKey>,
    health: Health,
    registry: Registry,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn start(sinks: &[&str], collector: Option<String>) -> Running {
    start_by(Arc::new(SystemClock), sinks, collector)
}

fn start_by(clock: Arc<dyn Clock>, sinks: &[&str], collector: Option<String>) -> Running {
    let (health, registry) = (Health::new(&[CONDITION]), Registry::new());
    let key = Arc::new(PrivateKey::generate(Algorithm::MlDsa65).unwrap());
    let trail = Trail {
        replica: "ca-1".to_owned(),
        key: key.clone(),
        sinks: sinks.iter().map(|sink| sink.parse().unwrap()).collect(),
        collector,
        clock,
        health: health.clone(),
    };
    let (audit, writer) = trail.begin(&registry).unwrap();
    let (end, ends) = watch::channel(false);
    Running { audit, key, health, registry, end, task: tokio::spawn(writer.run(ends)) }
}

impl Running {
    fn record(&self, number: usize) -> Result<(), Full> {
        self.audit.record(Event::Issued, json!({ "number": number }))
    }

    async fn stop(self) -> Arc<PrivateKey> {
        self.end.send_replace(true);
        self.task.await.unwrap();
        self.key
    }

    fn counted(&self, name: &str, label: (&'static str, &str)) -> u64 {
        self.registry.counter(name, "").with(&[label]).get()
    }
}

fn verify(path: &Path, key: &PrivateKey) -> Report {
    let mut verifier = Verifier::new(vec![key.public_key().clone()], false);
    verifier.feed(&fs::read(path).unwrap());
    verifier.finish()
}

fn events(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn however_much_is_recorded_no_stretch_goes_without_a_signature() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail");
    let trail = start(&[&format!("file:{}", path.display())], None);
    (0..QUEUE).for_each(|number| trail.record(number).unwrap());
    let key = trail.stop().await;
    let found = verify(&path, &key);
    assert!(found.is_good(), "{found:?}");
    let signatures = (QUEUE as u64).div_ceil(MAX_UNSIGNED) + 1;
    assert_eq!((found.summary.signatures, found.summary.unsigned), (signatures, 0));
}

#[tokio::test]
async fn a_clock_that_jumps_back_leaves_the_chain_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail");
    let began = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let clock = Arc::new(ManualClock::new(began));
    let trail = start_by(clock.clone(), &[&format!("file:{}", path.display())], None);
    trail.record(0).unwrap();
    clock.set(began - Duration::from_secs(3_600));
    trail.record(1).unwrap();
    clock.set(began + Duration::from_secs(3_600));
    trail.record(2).unwrap();
    let key = trail.stop().await;
    let found = verify(&path, &key);
    assert!(found.is_good() && found.summary.unsigned == 0, "{found:?}");
    let issued = events(&path).into_iter().filter(|record| record["event"] == "issued");
    let written: Vec<_> = issued.map(|record| (record["number"].clone(), record["time"].clone())).collect();
    let times = ["2027-01-15T08:00:00Z", "2027-01-15T07:00:00Z", "2027-01-15T09:00:00Z"];
    let wanted: Vec<_> =
        times.iter().enumerate().map(|(number, time)| (json!(number), json!(time))).collect();
    assert_eq!(written, wanted, "each says what its clock said, in the order in which it happened");
}

#[tokio::test]
async fn with_a_full_queue_nothing_may_happen_and_what_was_lost_is_said_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/trail");
    let trail = start(&[&format!("file:{}", path.display())], None);
    let mut taken = 0;
    // The writer takes what its sink has room for, and then no more.
    while trail.record(taken).is_ok() {
        taken += 1;
        tokio::task::yield_now().await;
    }
    assert!(taken >= QUEUE && !trail.health.is_ready());
    assert_eq!(trail.record(taken), Err(Full));
    assert_eq!(trail.counted("trellis_ca_audit_lost_total", ("event", "issued")), 2);
    // The sink may be slower to fail than the queue to fill.
    while trail.counted("trellis_ca_audit_failures_total", ("sink", "file")) == 0 {
        tokio::task::yield_now().await;
    }
    fs::create_dir(path.parent().unwrap()).unwrap();
    trail.health.ready().await;
    let key = trail.stop().await;

    let found = verify(&path, &key);
    assert!(found.is_good(), "{found:?}");
    let written = events(&path);
    assert_eq!(written.iter().filter(|record| record["event"] == "issued").count(), taken);
    let lost: Vec<&Value> = written.iter().filter(|record| record["event"] == "lost").collect();
    assert_eq!((lost.len(), &lost[0]["count"]), (1, &json!(2)));
}

#[tokio::test]
async fn whoever_is_refused_over_and_over_fills_neither_queue_nor_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail");
    let trail = start(&[&format!("file:{}", path.display())], None);
    for _ in 0..10 * QUEUE {
        let fields = json!({ "reason": "rate_limited", "source": "10.0.0.1" });
        trail.audit.record_repeated(Event::Refused, "10.0.0.1", fields).unwrap();
    }
    trail.record(1).unwrap();
    let key = trail.stop().await;
    assert!(verify(&path, &key).is_good());
    let written = events(&path);
    let counts: u64 = written.iter().filter_map(|record| record["repeated"].as_u64()).sum();
    let refused = written.iter().filter(|record| record["event"] == "refused").count() as u64;
    assert!(refused < 20 && counts + refused >= 10 * QUEUE as u64, "{refused} {counts}");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up_unless_it_is_all_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail");
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());

    let beside = start(&[&format!("file:{}", path.display()), "otlp"], Some(endpoint.clone()));
    beside.health.ready().await;
    let mut number = 0;
    while beside.counted("trellis_ca_audit_dropped_total", ("sink", "otlp")) == 0 {
        number += usize::from(beside.record(number).is_ok());
        tokio::task::yield_now().await;
    }
    assert!(beside.health.is_ready());
    beside.task.abort();

    let alone = start(&["otlp"], Some(endpoint));
    while alone.record(0).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!alone.health.is_ready());
    assert_eq!(alone.counted("trellis_ca_audit_dropped_total", ("sink", "otlp")), 0);
    alone.task.abort();
}

#[tokio::test]
async fn what_happens_to_keys_is_recorded_and_nothing_happens_without_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trail");
    let trail = start(&[&format!("file:{}", path.display())], None);
    let ledger = Recorded(trail.audit.clone());
    let deed = Deed {
        act: Act::Destroyed,
        group: "crypto.trellis.dev",
        kind: "QuantumKEMKeyPair",
        namespace: "shop",
        object: "kem",
        uid: "1",
        secret: None,
        version: Some(3),
        algorithm: Some("ML-KEM-768"),
        fingerprint: Some("384b0f22"),
    };
    ledger.room().unwrap();
    ledger.record(&deed).unwrap();
    // The one who writes has no turn in between.
    while ledger.room().is_ok() {
        ledger.record(&deed).unwrap();
    }
    assert_eq!(ledger.record(&deed).unwrap_err().to_string(), Full.to_string());
    let key = trail.stop().await;
    let found = verify(&path, &key);
    assert!(found.is_good(), "{found:?}");
    let all = events(&path);
    let mut record = all.iter().find(|event| event["event"] == "custody").unwrap().clone();
    for chained in ["audit", "chain", "seq", "time", "previous"] {
        assert!(!record.as_object_mut().unwrap().remove(chained).unwrap().is_null(), "{chained}");
    }
    let wanted = json!({
        "event": "custody", "act": "destroyed", "group": "crypto.trellis.dev", "kind": "QuantumKEMKeyPair",
        "namespace": "shop", "object": "kem", "uid": "1", "version": 3, "algorithm": "ML-KEM-768",
        "fingerprint": "384b0f22",
    });
    assert_eq!(record, wanted);
    assert_eq!(all.iter().filter(|event| event["event"] == "custody").count(), QUEUE);
    assert!(all.iter().any(|event| event["event"] == "lost"), "what found no room is counted");
}
