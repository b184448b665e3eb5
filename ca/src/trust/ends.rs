//! When everything ends that belief rests on: our anchors, those above them, and those of other trust
//! domains. What comes and goes with a rotation comes and goes here.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use trellis_pki::{bundle::Anchor, lives};
use trellis_telemetry::{Family, Gauge, Registry};

use super::authority::Current;

/// Of a fingerprint, as `trellis trust status` shows it.
const DIGITS: usize = 12;

pub struct Ends {
    begins: Family<Gauge>,
    ends: Family<Gauge>,
    first: Gauge,
    /// The revision that is shown: members change far more often than anchors.
    shown: AtomicU64,
}

/// One certificate.
struct Found {
    trust_domain: String,
    anchor: String,
    algorithm: &'static str,
    role: &'static str,
    life: (SystemTime, SystemTime),
}

impl Ends {
    pub fn new(registry: &Registry) -> Self {
        Self {
            begins: registry.gauge(
                "trellis_ca_anchor_begin_timestamp_seconds",
                "When an anchor, or what stands above one, began, in seconds since 1970.",
            ),
            ends: registry.gauge(
                "trellis_ca_anchor_expiry_timestamp_seconds",
                "When an anchor, or what stands above one, ends, in seconds since 1970.",
            ),
            first: registry
                .gauge(
                    "trellis_ca_root_expiry_timestamp_seconds",
                    "When the first of the anchors that issue ends, in seconds since 1970.",
                )
                .with(&[]),
            // Revisions begin at one.
            shown: AtomicU64::new(0),
        }
    }

    pub fn reflect(&self, current: &Current) {
        let revision = current.state().revision;
        if self.shown.swap(revision, Relaxed) == revision {
            return;
        }
        let found = found(current);
        let issues = found.iter().filter(|one| ["issuing", "companion"].contains(&one.role));
        self.first.set(issues.map(|one| seconds(one.life.1)).fold(f64::INFINITY, f64::min));
        self.begins.replace(found.iter().map(|one| (one.labels(), seconds(one.life.0))));
        self.ends.replace(found.iter().map(|one| (one.labels(), seconds(one.life.1))));
    }
}

impl Found {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("trust_domain", &self.trust_domain),
            ("anchor", &self.anchor),
            ("algorithm", self.algorithm),
            ("role", self.role),
        ]
    }
}

fn found(current: &Current) -> Vec<Found> {
    let own = current.bundle.trust_domain();
    let state = current.state();
    let mut found = Vec::new();
    for anchor in current.bundle.anchors() {
        let is = |name: Option<&String>| name.is_some_and(|name| **name == **anchor.fingerprint());
        let role = match () {
            () if is(Some(&state.issuing)) => "issuing",
            () if is(state.companion.as_ref()) => "companion",
            () => "trusted",
        };
        found.push(of(own, anchor, role));
        let parents = state.anchor(anchor.fingerprint()).map(|anchor| anchor.parents.as_bytes());
        for (height, life) in lives(parents.unwrap_or_default()).into_iter().enumerate() {
            let anchor = format!("{}+{}", short(anchor), height + 1);
            found.push(Found { trust_domain: own.to_owned(), anchor, algorithm: "", role: "parent", life });
        }
    }
    let foreign = current.foreign.bundles().flat_map(|bundle| {
        bundle.anchors().iter().map(|anchor| of(bundle.trust_domain(), anchor, "federated"))
    });
    found.extend(foreign);
    found
}

fn of(trust_domain: &str, anchor: &Anchor, role: &'static str) -> Found {
    Found {
        trust_domain: trust_domain.to_owned(),
        anchor: short(anchor).to_owned(),
        algorithm: anchor.algorithm.name(),
        role,
        life: (anchor.not_before, anchor.not_after),
    }
}

fn short(anchor: &Anchor) -> &str {
    anchor.fingerprint().get(..DIGITS).unwrap_or(anchor.fingerprint())
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
