//! An identity that hears of trust: what it takes, what it does not, when it renews, and what it says of
//! itself. Days pass in an instant: all time is tokio's, and it is paused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use support::{DOMAIN, FakeCa, HOUR, TokioClock, id, root};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use trellis_api::proto::ca::{Holding, Trusted};
use trellis_channel::identity::{BundleFile, Heard, Lifecycle, Resting, TrustSource};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::published,
    clock::Clock,
    credential::Denied,
    issue::Issuer,
    policy::{Ladder, Policy},
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

struct Workload {
    ca: Arc<FakeCa>,
    tls: Arc<MeshTls>,
    clock: Arc<TokioClock>,
    told: watch::Sender<Heard>,
    holding: watch::Receiver<Holding>,
    began: Instant,
    _stop: watch::Sender<bool>,
}

impl Workload {
    async fn start(bundle: Option<&std::path::Path>, jitter: f64, pinned: bool) -> Self {
        let clock = TokioClock::new();
        let ca = FakeCa::new(clock.clone());
        ca.revision.store(5, Ordering::SeqCst);
        if let Some(path) = bundle {
            fs::write(path, published(&ca.bundle(), 5)).unwrap();
        }
        let policy = Policy { signatures: Ladder::Prefer, ..Policy::default() };
        let tls = Arc::new(MeshTls::new(policy, DOMAIN, clock.clone()));
        let (told, heard) = watch::channel(None);
        let lifecycle = Lifecycle {
            name: "test/web".to_owned(),
            trust_domain: DOMAIN.to_owned(),
            algorithm: Algorithm::MlDsa65,
            pinned,
            dual: None,
            issue: ca.clone(),
            bundle: bundle.map(|path| BundleFile::new(path.to_owned(), DOMAIN.to_owned())),
            tls: tls.clone(),
            clock: clock.clone(),
            health: Health::new(&[]),
            jitter,
            trust: TrustSource::Told(heard),
            resting: Resting::default(),
        };
        let task = lifecycle.start(&Registry::new()).await.unwrap();
        let holding = task.holding();
        let (stop, shutdown) = watch::channel(false);
        let began = Instant::now();
        tokio::spawn(task.run(shutdown));
        Self { ca, tls, clock, told, holding, began, _stop: stop }
    }

    /// The CA says what it does by now.
    async fn tell(&self, spread_seconds: u32) {
        self.tell_this(Trusted { spread_seconds, ..self.ca.trusted() }).await;
    }

    async fn tell_this(&self, trusted: Trusted) {
        self.told.send_replace(Some(Arc::new(trusted)));
        // Let it be heard, without letting time pass that matters.
        sleep(Duration::from_millis(1)).await;
    }

    /// A new anchor joins, and issues if it is to.
    fn another_anchor(&self, issues: bool) -> Arc<Issuer> {
        let new = root(self.clock.now());
        let mut issuer = self.ca.issuer.lock();
        if issues {
            self.ca.also.lock().push(issuer.anchor().der.clone());
            *issuer = new.clone();
        } else {
            self.ca.also.lock().push(new.anchor().der.clone());
        }
        self.ca.revision.fetch_add(1, Ordering::SeqCst);
        new
    }

    async fn at(&self, since: Duration) {
        sleep_until(self.began + since).await;
    }

    fn anchor(&self) -> String {
        self.tls.anchor().unwrap().to_string()
    }
}

fn fingerprint(issuer: &Issuer) -> String {
    issuer.anchor().fingerprint().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_followed_step_by_step_and_each_step_is_told() {
    let workload = Workload::start(None, 0.5, false).await;
    let old = workload.anchor();
    assert_eq!(workload.holding.borrow().pod, "test/web");
    assert_eq!(workload.holding.borrow().leaf_anchor, old);

    let new = workload.another_anchor(false);
    workload.tell(600).await;
    assert!(workload.tls.bundle().unwrap().holds(&fingerprint(&new)));
    let held = workload.holding.borrow().clone();
    assert_eq!((held.revision, held.anchors.len(), held.leaf_anchor.as_str()), (6, 2, old.as_str()));
    workload.at(HOUR).await;
    assert_eq!(workload.ca.asked(), 1, "another anchor alone is no reason to renew");

    workload.ca.also.lock().clear();
    workload.another_anchor(true);
    let issuing = workload.ca.trusted().issuing;
    workload.tell(600).await;
    workload.at(HOUR + Duration::from_secs(299)).await;
    assert_eq!(workload.ca.asked(), 1, "its place in the spread is the middle");
    workload.at(HOUR + Duration::from_secs(302)).await;
    assert_eq!((workload.ca.asked(), workload.anchor()), (2, issuing.clone()));
    assert_eq!(workload.holding.borrow().leaf_anchor, issuing);

    workload.ca.also.lock().clear();
    workload.ca.revision.fetch_add(1, Ordering::SeqCst);
    workload.tell(600).await;
    assert!(!workload.tls.bundle().unwrap().holds(&old));
    assert_eq!(workload.holding.borrow().anchors, [issuing]);
    workload.at(12 * HOUR).await;
    assert_eq!(workload.ca.asked(), 2, "and then there is peace");
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_what_is_known_is_not_taken_from_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.pem");
    let workload = Workload::start(Some(&path), 0.0, false).await;
    let before = workload.ca.trusted();
    let new = workload.another_anchor(false);
    workload.tell(0).await;
    let trusts_both = || workload.tls.bundle().unwrap().holds(&fingerprint(&new));
    assert!(trusts_both());

    workload.tell_this(before).await;
    assert!(trusts_both(), "a replica that is behind");
    // The kubelet may bring a bundle from before, or one that somebody only touched.
    fs::write(&path, published(&workload.tls.bundle().unwrap(), 6)).unwrap();
    workload.at(Duration::from_secs(150)).await;
    let old = workload.ca.issuer.lock().clone();
    fs::write(&path, published(&support::bundle(&old), 5)).unwrap();
    workload.at(Duration::from_secs(300)).await;
    assert!(trusts_both(), "a file from before");

    // A CA that is behind answers a renewal: its certificate is not taken, and asked for again.
    let serial = workload.tls.current().unwrap().serial.clone();
    workload.ca.revision.store(4, Ordering::SeqCst);
    workload.at(20 * HOUR + Duration::from_secs(30)).await;
    assert_eq!(workload.tls.current().unwrap().serial, serial);
    assert!(trusts_both());
    workload.ca.revision.store(6, Ordering::SeqCst);
    workload.at(21 * HOUR).await;
    assert_ne!(workload.tls.current().unwrap().serial, serial);
}

#[tokio::test(start_paused = true)]
async fn the_meshs_algorithm_of_leaves_is_followed_unless_the_workload_chose_its_own() {
    for (pinned, expected) in [(false, Algorithm::MlDsa87), (true, Algorithm::MlDsa65)] {
        let workload = Workload::start(None, 0.0, pinned).await;
        workload.ca.revision.fetch_add(1, Ordering::SeqCst);
        let trusted = Trusted { leaf_algorithm: "ml-dsa-87".to_owned(), ..workload.ca.trusted() };
        workload.tell_this(trusted).await;
        workload.at(Duration::from_secs(60)).await;
        assert_eq!(workload.tls.current().unwrap().algorithm, expected, "pinned: {pinned}");
    }
}

#[tokio::test(start_paused = true)]
async fn denials_are_taken_and_lifted_and_nonsense_changes_nothing() {
    let workload = Workload::start(None, 0.0, false).await;
    let denied = Denied::Identity(id("bad"));
    let tell = async |revision: u64, denied: &[&str]| {
        workload.ca.revision.store(revision, Ordering::SeqCst);
        let denied = denied.iter().map(ToString::to_string).collect();
        workload.tell_this(Trusted { denied, ..workload.ca.trusted() }).await;
    };
    tell(6, &[&denied.to_string()]).await;
    assert!(workload.tls.denials().contains(&denied));
    tell(7, &["nonsense"]).await;
    assert!(workload.tls.denials().contains(&denied), "what cannot be read lets nobody in");
    assert_eq!(workload.holding.borrow().revision, 6, "and is not said to be applied");
    tell(8, &[]).await;
    assert!(workload.tls.denials().is_empty());
    assert_eq!(workload.holding.borrow().revision, 8);
}
