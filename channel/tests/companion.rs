//! The second certificate of a dual identity over days: when it comes, when it is renewed, and when it goes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use support::{DOMAIN, FakeCa, HOUR, TokioClock, counter, root_of};
use tokio::{sync::watch, time::sleep};
use trellis_api::proto::ca::Holding;
use trellis_channel::identity::{CONDITION, Heard, Lifecycle, Resting, TrustSource};
use trellis_pki::{
    algorithm::Algorithm,
    clock::Clock,
    policy::{Ladder, Policy},
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

const RENEWALS: &str = "trellis_identity_companion_renewals_total";

struct Workload {
    ca: Arc<FakeCa>,
    tls: Arc<MeshTls>,
    clock: Arc<TokioClock>,
    health: Health,
    registry: Registry,
    told: watch::Sender<Heard>,
    holding: watch::Receiver<Holding>,
    _stop: watch::Sender<bool>,
}

impl Workload {
    async fn start(dual: Option<bool>, signatures: Ladder, prepare: impl Fn(&FakeCa)) -> Self {
        let clock = TokioClock::new();
        let ca = FakeCa::new(clock.clone());
        ca.revision.store(5, Ordering::SeqCst);
        prepare(&ca);
        let policy = Policy { signatures, ..Policy::default() };
        let tls = Arc::new(MeshTls::new(policy, DOMAIN, clock.clone()));
        let (told, heard) = watch::channel(None);
        let (health, registry) = (Health::new(&[CONDITION]), Registry::new());
        let lifecycle = Lifecycle {
            name: "test/web".to_owned(),
            trust_domain: DOMAIN.to_owned(),
            algorithm: Algorithm::MlDsa65,
            pinned: false,
            dual,
            issue: ca.clone(),
            bundle: None,
            tls: tls.clone(),
            clock: clock.clone(),
            health: health.clone(),
            jitter: 0.5,
            trust: TrustSource::Told(heard),
            resting: Resting::default(),
        };
        let task = lifecycle.start(&registry).await.unwrap();
        let holding = task.holding();
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(task.run(shutdown));
        sleep(Duration::from_millis(100)).await;
        Self { ca, tls, clock, health, registry, told, holding, _stop: stop }
    }

    /// The companion that issues changes, and all are told.
    async fn tell(&self, companion: Option<Algorithm>, spread_seconds: u32) {
        let now = self.clock.now();
        *self.ca.companion.lock() = companion.map(|algorithm| root_of(algorithm, now));
        self.ca.revision.fetch_add(1, Ordering::SeqCst);
        let mut trusted = self.ca.trusted();
        trusted.spread_seconds = spread_seconds;
        // As while an anchor takes the place of another: what was trusted still is.
        if companion.is_some() {
            let before = self.tls.bundle().unwrap();
            let gone = before.anchors().iter().filter(|anchor| !trusted.anchors.contains(&anchor.der));
            let gone: Vec<_> = gone.map(|anchor| anchor.der.clone()).collect();
            trusted.anchors.extend(gone);
        }
        self.told.send_replace(Some(Arc::new(trusted)));
        sleep(Duration::from_millis(1)).await;
    }

    fn serial(&self) -> Option<String> {
        self.tls.companion().map(|leaf| leaf.serial.clone())
    }
}

fn with_companion(ca: &FakeCa) {
    *ca.companion.lock() = Some(root_of(Algorithm::EcdsaP256, support::epoch()));
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_in_a_rhythm_of_its_own_and_swapped() {
    let workload = Workload::start(Some(true), Ladder::Prefer, with_companion).await;
    let first = workload.serial().unwrap();
    let held = workload.holding.borrow().clone();
    assert_eq!(held.companion_anchor, *workload.tls.companion_anchor().unwrap());
    assert_ne!(held.companion_anchor, held.leaf_anchor);
    assert!(held.companion_not_after > 0);
    sleep(20 * HOUR).await;
    assert_eq!(workload.serial().unwrap(), first);
    sleep(3 * HOUR).await;
    let second = workload.serial().unwrap();
    assert_ne!(second, first);
    sleep(48 * HOUR).await;
    assert_ne!(workload.serial().unwrap(), second);
    assert!(workload.tls.companion().unwrap().is_valid_at(workload.clock.now()));
    let asked = workload.ca.companions_asked.load(Ordering::SeqCst);
    assert_eq!(asked, 4, "once, and every 21 hours");
    assert_eq!(counter(&workload.registry, RENEWALS, &[("result", "ok")]), 4);
}

#[tokio::test(start_paused = true)]
async fn without_it_the_workload_lives_on_and_asks_until_it_comes() {
    let workload = Workload::start(Some(true), Ladder::Prefer, |ca| {
        with_companion(ca);
        ca.companions_failing.store(12, Ordering::SeqCst);
    })
    .await;
    assert!(workload.health.is_ready(), "{:?}", workload.tls.companion());
    sleep(HOUR).await;
    assert!(workload.tls.companion().is_some());
    assert_eq!(counter(&workload.registry, RENEWALS, &[("reason", "ca_unreachable")]), 12);
    assert_eq!(workload.ca.asked(), 1, "and its own certificate was not asked for again");
}

#[tokio::test(start_paused = true)]
async fn the_workloads_word_goes_before_the_meshs_and_policy_before_both() {
    for (choice, mesh, signatures, expected) in [
        (None, false, Ladder::Prefer, false),
        (None, true, Ladder::Prefer, true),
        (Some(false), true, Ladder::Prefer, false),
        (Some(true), false, Ladder::Prefer, true),
        (Some(true), true, Ladder::Require, false),
    ] {
        let workload = Workload::start(choice, signatures, |ca| {
            with_companion(ca);
            ca.dual.store(mesh, Ordering::SeqCst);
        })
        .await;
        assert_eq!(workload.tls.companion().is_some(), expected, "{choice:?} {mesh} {signatures}");
        let asked = workload.ca.companions_asked.load(Ordering::SeqCst);
        assert_eq!(asked > 0, expected, "what is not wanted is not asked for either");
    }
}

#[tokio::test(start_paused = true)]
async fn it_follows_what_policy_comes_to_allow() {
    let workload = Workload::start(Some(true), Ladder::Require, with_companion).await;
    let policy = |signatures| Policy { signatures, ..Policy::default() };
    let under = async |inbound, outbound| {
        workload.tls.serve_under(&[policy(inbound), policy(outbound)]);
        sleep(Duration::from_secs(61)).await;
        (workload.tls.companion().is_some(), workload.holding.borrow().refuses_classical)
    };
    assert_eq!(under(Ladder::Require, Ladder::Require).await, (false, true));
    assert_eq!(under(Ladder::Prefer, Ladder::Require).await, (true, true));
    assert_eq!(under(Ladder::Prefer, Ladder::Prefer).await, (true, false));
    assert_eq!(under(Ladder::Require, Ladder::Require).await, (false, true));
}

#[tokio::test(start_paused = true)]
async fn it_follows_the_companion_anchor_and_goes_with_it() {
    let workload = Workload::start(None, Ladder::Prefer, |ca| ca.dual.store(true, Ordering::SeqCst)).await;
    assert_eq!(workload.serial(), None, "the mesh has no companion yet");
    workload.tell(Some(Algorithm::EcdsaP256), 0).await;
    sleep(Duration::from_secs(1)).await;
    let first = workload.serial().unwrap();

    workload.tell(Some(Algorithm::EcdsaP256), 100).await;
    assert_eq!(workload.serial().as_ref(), Some(&first), "until it is this workload's turn");
    sleep(Duration::from_secs(101)).await;
    assert_ne!(workload.serial().unwrap(), first);
    let anchor = workload.ca.companion.lock().as_ref().unwrap().anchor().fingerprint().clone();
    assert_eq!(workload.holding.borrow().companion_anchor, *anchor);

    let own = workload.tls.current().unwrap().serial.clone();
    workload.tell(None, 100).await;
    assert_eq!(workload.serial(), None, "at once");
    assert_eq!(workload.holding.borrow().companion_anchor, "");
    assert_eq!(workload.tls.current().unwrap().serial, own);
    sleep(30 * HOUR).await;
    assert_eq!(workload.serial(), None);
}
