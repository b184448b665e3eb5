//! What is counted.

use tokio::time::Instant;
use trellis_api::crypto::Kind;
use trellis_telemetry::{Counter, Family, Gauge, Histogram, Registry};

use crate::queue::Outcome;

const BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];

#[derive(Clone)]
pub struct Metrics {
    turns: Family<Counter>,
    duration: Family<Histogram>,
    waiting: Gauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
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
        }
    }

    pub(crate) fn waiting(&self, count: usize) {
        self.waiting.set(count as f64);
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
