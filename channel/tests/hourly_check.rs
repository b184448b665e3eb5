//! The hourly look at the certificate, seen in the log. Alone in its process: which log records are
//! enabled is decided once for a whole process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use support::{Answer, DAY, DOMAIN, FakeCa, HOUR, TokioClock};
use tokio::{sync::watch, time::sleep};
use tracing::field::{Field, Visit};
use trellis_channel::identity::{Lifecycle, Resting, TrustSource};
use trellis_pki::{algorithm::Algorithm, policy::Policy, tls::MeshTls};
use trellis_telemetry::{Registry, health::Health};

#[tokio::test(start_paused = true)]
async fn expiry_is_logged_every_hour_while_the_ca_is_gone() {
    let checks = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(CountChecks(checks.clone()));
    let clock = TokioClock::new();
    let ca = FakeCa::new(clock.clone());
    let lifecycle = Lifecycle {
        name: "test/web".to_owned(),
        trust_domain: DOMAIN.to_owned(),
        algorithm: Algorithm::MlDsa65,
        pinned: false,
        dual: None,
        trust: TrustSource::Told(watch::channel(None).1),
        resting: Resting::default(),
        issue: ca.clone(),
        bundle: None,
        tls: Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone())),
        clock,
        health: Health::new(&[]),
        jitter: 0.0,
    };
    let task = lifecycle.start(&Registry::new()).await.unwrap();
    let (_stop, shutdown) = watch::channel(false);
    tokio::spawn(task.run(shutdown));
    *ca.otherwise.lock() = Answer::Unreachable;
    // One look at the beginning, then one an hour, also after the certificate has ended.
    for hour in 0..30 {
        sleep(if hour == 0 { HOUR / 2 } else { HOUR }).await;
        assert_eq!(checks.load(Ordering::SeqCst), hour + 1);
    }
    assert!(30 * HOUR - HOUR / 2 > DAY + Duration::from_secs(60));
}

/// Counts log records with the hourly check's field.
struct CountChecks(Arc<AtomicUsize>);

impl tracing::Subscriber for CountChecks {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut found = IsCheck { check: false, expiry: false };
        event.record(&mut found);
        if found.check && found.expiry {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

struct IsCheck {
    check: bool,
    expiry: bool,
}

impl Visit for IsCheck {
    fn record_f64(&mut self, field: &Field, _: f64) {
        self.expiry |= field.name() == "expires_in_hours";
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.check |= field.name() == "message" && format!("{value:?}") == "checked the certificate";
    }
}
