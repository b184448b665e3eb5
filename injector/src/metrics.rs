//! What the injector counts.

use rustls::{NamedGroup, ServerConnection};
use trellis_telemetry::{Counter, Family, Gauge, Registry};

use crate::review::Label;

#[derive(Clone)]
pub struct Metrics {
    admissions: Family<Counter>,
    validations: Family<Counter>,
    handshakes: Family<Counter>,
    expiry: Gauge,
    events_dropped: Counter,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let expiry = registry.gauge(
            "trellis_injector_certificate_expiry_timestamp_seconds",
            "When the webhook's serving certificate ends, in seconds since 1970.",
        );
        let events_dropped = registry.counter(
            "trellis_injector_events_dropped_total",
            "Events that were not written because too many were waiting.",
        );
        Self {
            admissions: registry.counter(
                "trellis_injector_admissions_total",
                "Admission reviews by what became of the pod, and why.",
            ),
            validations: registry.counter(
                "trellis_injector_validations_total",
                "Admission reviews of other objects than pods by what became of the object, and why.",
            ),
            handshakes: registry.counter(
                "trellis_handshakes_total",
                "TLS handshakes by what they negotiated or why they were refused.",
            ),
            expiry: expiry.with(&[]),
            events_dropped: events_dropped.with(&[]),
        }
    }

    pub fn admission(&self, label: Label) {
        self.admissions.with(&[("result", label.result), ("reason", label.reason)]).inc();
    }

    pub fn validation(&self, label: Label) {
        self.validations.with(&[("result", label.result), ("reason", label.reason)]).inc();
    }

    pub fn certificate_expires(&self, seconds: u64) {
        // Whole seconds are exact in a float for the next hundred million years.
        self.expiry.set(seconds as f64);
    }

    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Read from the connection. The API server shows no certificate, and ours is ECDSA, so the best
    /// that can come of it is `hybrid`.
    pub fn handshake(&self, connection: &ServerConnection) {
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let class = if group == Some(NamedGroup::X25519MLKEM768) { "hybrid" } else { "classical" };
        let group = group.and_then(|group| group.as_str()).unwrap_or_default();
        self.count_handshake(class, group, "1.3", "ECDSA-P256", "ok", "");
    }

    pub fn handshake_refused(&self, reason: &str) {
        self.count_handshake("", "", "", "", "refused", reason);
    }

    fn count_handshake(&self, class: &str, group: &str, tls: &str, own: &str, result: &str, reason: &str) {
        self.handshakes
            .with(&[
                ("direction", "inbound"),
                ("class", class),
                ("group", group),
                ("tls", tls),
                ("local_signature", own),
                ("peer_signature", ""),
                ("peer", "unverified"),
                ("resumed", "false"),
                ("result", result),
                ("reason", reason),
            ])
            .inc();
    }
}
