//! The life of an identity from bootstrap to the last renewal, against a CA that can be told to fail.
//! Days pass in an instant: all time is tokio's, and it is paused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{collections::VecDeque, fs, path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use support::{Answer, DAY, DOMAIN, FakeCa, HOUR, TokioClock, counter, root};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use trellis_channel::identity::{
    BootstrapError, BundleFile, Lifecycle, Resting, RotateError, Rotator, TrustSource,
};
use trellis_pki::{algorithm::Algorithm, bundle::Bundle, clock::Clock, policy::Policy, tls::MeshTls};
use trellis_telemetry::{Registry, health::Health};

struct Workload {
    ca: Arc<FakeCa>,
    tls: Arc<MeshTls>,
    health: Health,
    registry: Registry,
    rotator: Rotator,
    began: Instant,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn lifecycle(ca: &Arc<FakeCa>, clock: Arc<TokioClock>, bundle: Option<&Path>, jitter: f64) -> Lifecycle {
    Lifecycle {
        name: "test/web".to_owned(),
        trust_domain: DOMAIN.to_owned(),
        algorithm: Algorithm::MlDsa65,
        pinned: false,
        dual: None,
        trust: TrustSource::Told(watch::channel(None).1),
        resting: Resting::default(),
        issue: ca.clone(),
        bundle: bundle.map(|path| BundleFile::new(path.to_owned(), DOMAIN.to_owned())),
        tls: Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone())),
        clock,
        health: Health::new(&[]),
        jitter,
    }
}

impl Workload {
    async fn start(bundle: Option<&Path>, jitter: f64) -> Self {
        let clock = TokioClock::new();
        let ca = FakeCa::new(clock.clone());
        if let Some(path) = bundle {
            fs::write(path, ca.bundle().to_pem()).unwrap();
        }
        let lifecycle = lifecycle(&ca, clock, bundle, jitter);
        let (tls, health, registry) = (lifecycle.tls.clone(), lifecycle.health.clone(), Registry::new());
        let task = lifecycle.start(&registry).await.unwrap();
        let rotator = task.rotator();
        let (stop, shutdown) = watch::channel(false);
        let began = Instant::now();
        let task = tokio::spawn(task.run(shutdown));
        Self { ca, tls, health, registry, rotator, began, stop, task }
    }

    fn serial(&self) -> String {
        self.tls.current().unwrap().serial.clone()
    }

    /// Lets time pass until so long after the start.
    async fn at(&self, since: Duration) {
        sleep_until(self.began + since).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_in_its_window_and_not_before() {
    for (jitter, due) in [(0.0, 20 * HOUR), (0.5, 21 * HOUR), (0.999, 22 * HOUR)] {
        let workload = Workload::start(None, jitter).await;
        let first = workload.serial();
        workload.at(due - Duration::from_secs(120)).await;
        assert_eq!((workload.ca.asked(), workload.serial()), (1, first.clone()), "jitter {jitter}");
        workload.at(due + Duration::from_secs(120)).await;
        assert_eq!(workload.ca.asked(), 2, "jitter {jitter}");
        assert_ne!(workload.serial(), first);
        workload.at(20 * DAY).await;
        assert!((20..=25).contains(&workload.ca.asked()), "one a day: {}", workload.ca.asked());
        assert!(workload.health.is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_at_once_cost_one_certificate() {
    let workload = Workload::start(None, 0.0).await;
    let first = workload.serial();
    let rotated = join_all((0..100).map(|_| workload.rotator.rotate_now())).await;
    assert_eq!(workload.ca.asked(), 2);
    for rotated in rotated {
        let rotated = rotated.unwrap();
        assert_eq!(rotated.serial_before.as_ref(), Some(&first));
        assert_eq!(rotated.serial_after, workload.serial());
        assert_eq!(rotated.algorithm_after, "ML-DSA-65");
    }
    workload.rotator.rotate_now().await.unwrap();
    assert_eq!(workload.ca.asked(), 3, "who asks later gets another one");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_certificate_and_is_tried_again() {
    let workload = Workload::start(None, 0.0).await;
    let first = workload.serial();
    *workload.ca.script.lock() = VecDeque::from([Answer::Unreachable, Answer::OtherKey]);
    workload.at(20 * HOUR + Duration::from_millis(500)).await;
    assert_eq!((workload.ca.asked(), workload.serial()), (2, first.clone()));
    assert!(workload.health.is_ready(), "the certificate in use is still good");
    workload.at(20 * HOUR + Duration::from_secs(30)).await;
    assert_eq!(workload.ca.asked(), 4);
    assert_ne!(workload.serial(), first);
    let renewals = "trellis_identity_renewals_total";
    assert_eq!(counter(&workload.registry, renewals, &[("reason", "ca_unreachable")]), 1);
    assert_eq!(counter(&workload.registry, renewals, &[("reason", "bad_answer")]), 1);
    assert_eq!(counter(&workload.registry, renewals, &[("result", "ok")]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_workload_whose_certificate_ended_is_not_ready_until_the_ca_is_back() {
    let workload = Workload::start(None, 0.0).await;
    *workload.ca.otherwise.lock() = Answer::Unreachable;
    workload.at(23 * HOUR + HOUR / 2).await;
    assert!(workload.health.is_ready(), "three hours of failures change nothing");
    workload.at(DAY + Duration::from_secs(1)).await;
    assert_eq!(workload.health.unmet(), [("identity", "the certificate has expired".to_owned())]);
    *workload.ca.otherwise.lock() = Answer::Leaf;
    workload.at(DAY + Duration::from_secs(6 * 60)).await;
    assert!(workload.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_fails_says_why_and_changes_nothing() {
    let workload = Workload::start(None, 0.0).await;
    let first = workload.serial();
    workload.ca.script.lock().push_back(Answer::Unreachable);
    let Err(RotateError::Failed(reason)) = workload.rotator.rotate_now().await else {
        panic!("it succeeded")
    };
    assert!(reason.contains("connection refused"), "{reason}");
    assert_eq!(workload.serial(), first);
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_the_task_nobody_waits_in_vain() {
    let workload = Workload::start(None, 0.0).await;
    workload.stop.send_replace(true);
    workload.task.await.unwrap();
    assert_eq!(workload.rotator.rotate_now().await, Err(RotateError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn startup_gives_up_after_five_attempts() {
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    *ca.otherwise.lock() = Answer::Unreachable;
    let began = Instant::now();
    let result = lifecycle(&ca, clock, None, 0.5).start(&Registry::new()).await;
    let Err(BootstrapError::GaveUp { attempts: 5, last }) = result else { panic!("it did not give up") };
    assert!(last.to_string().contains("ca:15012"), "{last}");
    assert_eq!(ca.asked(), 5);
    assert!((Duration::from_secs(5)..Duration::from_secs(60)).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn startup_survives_a_ca_that_comes_late() {
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    *ca.script.lock() = VecDeque::from([Answer::Unreachable; 4]);
    let lifecycle = lifecycle(&ca, clock, None, 0.5);
    let (tls, health) = (lifecycle.tls.clone(), lifecycle.health.clone());
    assert!(lifecycle.start(&Registry::new()).await.is_ok());
    assert!(tls.current().is_some() && health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_another_algorithm_or_key_is_never_used() {
    for answer in [Answer::EcdsaLeaf, Answer::OtherKey] {
        let clock = TokioClock::new();
        let ca = FakeCa::new(clock.clone());
        *ca.otherwise.lock() = answer;
        let lifecycle = lifecycle(&ca, clock, None, 0.0);
        let (tls, health) = (lifecycle.tls.clone(), lifecycle.health.clone());
        assert!(lifecycle.start(&Registry::new()).await.is_err(), "{answer:?}");
        assert!(tls.current().is_none() && !health.is_ready(), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bundle_file_is_awaited_and_its_absence_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.pem");
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    let Err(error) = lifecycle(&ca, clock.clone(), Some(&path), 0.0).start(&Registry::new()).await else {
        panic!("it started without a bundle")
    };
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(ca.asked(), 0, "nobody is asked before it is known whom to trust");

    let (late, pem) = (path.clone(), ca.bundle().to_pem());
    tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        fs::write(late, pem).unwrap();
    });
    assert!(lifecycle(&ca, clock, Some(&path), 0.0).start(&Registry::new()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_bundle_is_followed_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.pem");
    let workload = Workload::start(Some(&path), 0.0).await;
    let old = workload.ca.issuer.lock().clone();
    let (second, now) = (root(TokioClock::new().now()), Duration::from_secs(150));
    let both = Bundle::new(DOMAIN, vec![old.anchor().clone(), second.anchor().clone()]).unwrap();

    fs::write(&path, both.to_pem()).unwrap();
    workload.at(now).await;
    assert_eq!(workload.tls.bundle().unwrap().fingerprint(), both.fingerprint());
    assert_eq!(workload.ca.asked(), 1, "the certificate is still good");

    fs::write(&path, "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    workload.at(2 * now).await;
    assert_eq!(workload.tls.bundle().unwrap().fingerprint(), both.fingerprint());
    fs::remove_file(&path).unwrap();
    workload.at(3 * now).await;
    assert_eq!(workload.tls.bundle().unwrap().fingerprint(), both.fingerprint());
    assert!(workload.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_whose_anchor_is_gone_is_replaced_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.pem");
    let workload = Workload::start(Some(&path), 0.0).await;
    let first = workload.serial();
    *workload.ca.issuer.lock() = root(TokioClock::new().now());
    let bundle = workload.ca.bundle();
    fs::write(&path, bundle.to_pem()).unwrap();
    workload.at(Duration::from_secs(150)).await;
    assert_ne!(workload.serial(), first);
    assert_eq!(workload.tls.bundle().unwrap().fingerprint(), bundle.fingerprint());
    assert_eq!(workload.ca.asked(), 2, "once");
}
