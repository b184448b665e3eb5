//! An identity that speaks for another one of the same pod, and one whose certificates are handed out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::Arc, time::Duration};

use support::{DOMAIN, FakeCa, TokioClock, bundle};
use tokio::{sync::watch, time::timeout};
use trellis_api::proto::ca::Holding;
use trellis_channel::identity::{Heard, Lifecycle, Resting, TrustSource};
use trellis_pki::{
    algorithm::Algorithm, clock::Clock, identity::Identity, key::PrivateKey, policy::Policy, tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

fn lifecycle(ca: &Arc<FakeCa>, clock: &Arc<TokioClock>, heard: watch::Receiver<Heard>) -> Lifecycle {
    Lifecycle {
        name: "test/web".to_owned(),
        trust_domain: DOMAIN.to_owned(),
        algorithm: Algorithm::MlDsa65,
        pinned: false,
        dual: None,
        issue: ca.clone(),
        bundle: None,
        tls: Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone())),
        clock: clock.clone(),
        health: Health::new(&[]),
        jitter: 0.5,
        trust: TrustSource::Told(heard),
        resting: Resting::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_ca_is_told_of_the_older_one_for_as_long_as_there_is_one() {
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    let (_tell, heard) = watch::channel(None);
    let mut task = lifecycle(&ca, &clock, heard).start(&Registry::new()).await.unwrap();
    let mut holding = task.holding();
    let own = holding.borrow_and_update().clone();
    let (beside, besides) = watch::channel(None);
    task.speak_for(besides);
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(task.run(stopped));
    let mut told = async || {
        timeout(Duration::from_secs(1), holding.changed()).await.unwrap().unwrap();
        holding.borrow_and_update().clone()
    };

    beside.send_replace(Some(Holding { leaf_anchor: "old".to_owned(), leaf_not_after: 7, ..own.clone() }));
    let both = told().await;
    assert_eq!((both.pod.as_str(), both.leaf_anchor.as_str(), both.leaf_not_after), ("test/web", "old", 7));
    beside.send_replace(Some(own.clone()));
    assert_eq!(told().await, own);
    beside.send_replace(Some(Holding { leaf_anchor: "old".to_owned(), ..own.clone() }));
    assert_eq!(told().await.leaf_anchor, "old");
    beside.send_replace(None);
    assert_eq!(told().await, own);
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_out_is_a_key_with_its_certificate_and_counted_apart() {
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    let (_tell, heard) = watch::channel(None);
    let (handout, handed) = watch::channel(None);
    let registry = Registry::new();
    let task = lifecycle(&ca, &clock, heard).hand_out(handout, &registry).await.unwrap();
    let first = handed.borrow().clone().unwrap();
    let fits = |handed: &trellis_channel::identity::Handed| {
        let key = PrivateKey::from_pkcs8(&handed.key).unwrap();
        let bundle = bundle(&ca.issuer.lock());
        Identity::new(key, handed.certificate.clone(), &bundle, Algorithm::MlDsa65, clock.now()).unwrap();
    };
    fits(&first);
    let rotator = task.rotator();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(task.run(stopped));
    rotator.rotate_now().await.unwrap();
    let second = handed.borrow().clone().unwrap();
    fits(&second);
    assert_ne!(*first.key, *second.key);
    let text = registry.prometheus();
    assert!(text.contains("trellis_workload_api_renewals_total{reason=\"\",result=\"ok\"} 2"), "{text}");
    assert!(!text.contains("trellis_identity_"), "the proxy's own are another matter: {text}");
    stop.send_replace(true);
    running.await.unwrap();
    assert!(registry.prometheus().contains("trellis_workload_api_leaf_expiry_timestamp_seconds 0"));
}
