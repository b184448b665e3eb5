//! What is counted.

use std::time::UNIX_EPOCH;

use tokio::time::Instant;
use trellis_api::crypto::Kind;
use trellis_telemetry::{Counter, Family, Gauge, Histogram, Registry};

use crate::{
    queue::Outcome,
    tally::{Standing, Tally},
};

const BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Clone)]
pub struct Metrics {
    turns: Family<Counter>,
    duration: Family<Histogram>,
    waiting: Gauge,
    objects: Family<Gauge>,
    renewal: Gauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let renewal = registry
            .gauge(
                "trellis_crypto_certificate_renewal_timestamp_seconds",
                "When the first of all QuantumCertificates is due for renewal; infinite where none is.",
            )
            .with(&[]);
        renewal.set(f64::INFINITY);
        Self {
            turns: registry.counter(
                "trellis_custody_turns_total",
                "Looks at cryptographic objects, by kind and outcome (rest, changed, busy).",
            ),
            duration: registry.histogram(
                "trellis_custody_turn_seconds",
                "How long a look at a cryptographic object takes, with all that is done about it, by kind.",
                &BUCKETS,
            ),
            waiting: registry
                .gauge("trellis_custody_waiting", "Cryptographic objects that wait to be looked at.")
                .with(&[]),
            objects: registry.gauge(
                "trellis_crypto_objects",
                "Cryptographic objects, by kind and status (Pending, Success, Failed, Valid, Invalid, Lost), as the leader sees them.",
            ),
            renewal,
        }
    }

    pub(crate) fn waiting(&self, count: usize) {
        self.waiting.set(count as f64);
    }

    pub(crate) fn standing(&self, tally: &Tally) {
        for (kind, standing) in
            Kind::ALL.into_iter().flat_map(|kind| Standing::ALL.map(|standing| (kind, standing)))
        {
            let count = tally.count(kind, standing) as f64;
            self.objects.with(&[("kind", kind.as_str()), ("status", standing.as_str())]).set(count);
        }
        let first = tally.first_renewal().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        self.renewal.set(first.map_or(f64::INFINITY, |since| since.as_secs_f64()));
    }

    pub(crate) fn began(&self) -> Began {
        Began { metrics: self.clone(), at: Instant::now() }
    }
}

/// A look that is under way.
pub(crate) struct Began {
    metrics: Metrics,
    at: Instant,
}

impl Began {
    pub fn ended(self, kind: Kind, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Rest(_) => "rest",
            Outcome::Changed => "changed",
            Outcome::Busy(_) => "busy",
        };
        self.metrics.turns.with(&[("kind", kind.as_str()), ("outcome", outcome)]).inc();
        self.metrics.duration.with(&[("kind", kind.as_str())]).observe_duration(self.at.elapsed());
    }
}
