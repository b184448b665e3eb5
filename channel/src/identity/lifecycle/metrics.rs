//! What an identity counts.

use std::time::UNIX_EPOCH;

use trellis_pki::leaf::Leaf;
use trellis_telemetry::{Counter, Family, Gauge, Registry};

pub(super) struct Metrics {
    expiry: Gauge,
    renewals: Family<Counter>,
}

impl Metrics {
    /// Of the process itself.
    pub fn new(registry: &Registry) -> Self {
        Self {
            expiry: registry
                .gauge(
                    "trellis_identity_expiry_timestamp_seconds",
                    "When the certificate in use ends, in seconds since 1970.",
                )
                .with(&[]),
            renewals: registry.counter(
                "trellis_identity_renewals_total",
                "Certificates asked for, by result and by the reason of a failure.",
            ),
        }
    }

    /// Of an identity that is handed out.
    pub fn handed(registry: &Registry) -> Self {
        Self {
            expiry: registry
                .gauge(
                    "trellis_workload_api_leaf_expiry_timestamp_seconds",
                    "When the application's certificate ends, in seconds since 1970; 0 while nobody asks for one.",
                )
                .with(&[]),
            renewals: registry.counter(
                "trellis_workload_api_renewals_total",
                "Certificates asked for on behalf of the application, by result and by the reason of a failure.",
            ),
        }
    }

    pub fn issued(&self, leaf: &Leaf) {
        self.expiry.set(leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        self.renewals.with(&[("result", "ok"), ("reason", "")]).inc();
    }

    pub fn failed(&self, reason: &str) {
        self.renewals.with(&[("result", "failed"), ("reason", reason)]).inc();
    }

    /// There is no certificate any more.
    pub fn ended(&self) {
        self.expiry.set(0.0);
    }
}
