//! What was decided, on record: in the audit trail, in metrics and in the log.

use std::net::IpAddr;

use serde_json::json;
use tokio::time::Instant;
use trellis_pki::clock::rfc3339;
use trellis_telemetry::{Counter, Family, Gauge, Histogram, Registry};

use super::{Granted, Issuing, Way, Weighed};
use crate::{
    attest::Caller,
    audit::Event,
    refuse::{Reason, Refusal},
};

impl Issuing {
    pub(super) fn granted(&self, granted: &Granted, weighed: &Weighed) -> Result<(), Refusal> {
        let Granted { identity, algorithm, dns_names, leaf, issuer, .. } = granted;
        let Weighed { caller, way, companion, source, .. } = weighed;
        let signature = issuer.anchor().algorithm;
        let recorded = self.audit.record(
            Event::Issued,
            json!({
                "identity": identity.as_str(),
                "serial": leaf.serial,
                "anchor": &**issuer.anchor().fingerprint(),
                "companion": companion.then_some(true),
                "algorithm": algorithm.name(),
                "dnsNames": dns_names,
                "notBefore": rfc3339(leaf.not_before),
                "notAfter": rfc3339(leaf.not_after),
                "namespace": caller.namespace,
                "pod": caller.pod,
                "podUid": caller.pod_uid,
                "api": way.as_str(),
                "source": source,
            }),
        );
        recorded.map_err(|error| Refusal::new(Reason::Overloaded, error.to_string()))?;
        self.metrics.issued.with(&[("algorithm", algorithm.name())]).inc();
        // What a leaf is worth is decided by both: a classical key below an ML-DSA anchor falls with the key.
        let class = match algorithm.is_post_quantum() && signature.is_post_quantum() {
            true => "pq",
            false => "classical",
        };
        let by_api = [
            ("api", way.as_str()),
            ("key", algorithm.name()),
            ("signature", signature.name()),
            ("class", class),
        ];
        self.metrics.by_api.with(&by_api).inc();
        if *companion {
            self.metrics.companions.with(&[("namespace", &caller.namespace)]).inc();
        }
        tracing::info!(
            %identity,
            serial = leaf.serial,
            namespace = caller.namespace,
            pod = caller.pod,
            algorithm = algorithm.name(),
            api = way.as_str(),
            companion,
            class,
            not_after = rfc3339(leaf.not_after),
            "issued a certificate"
        );
        Ok(())
    }

    pub(super) fn refused(
        &self,
        refusal: &Refusal,
        caller: Option<&Caller>,
        way: Way,
        source: Option<IpAddr>,
    ) {
        let reason = refusal.reason.as_str();
        self.metrics.refused.with(&[("reason", reason)]).inc();
        if let Some(source) = source.filter(|_| refusal.reason.is_callers_fault()) {
            // Without a token left it is no longer listened to; that is said at its next request.
            let _ = self.per_source.lock().take(&source.to_canonical(), Instant::now());
        }
        let fields = json!({
            "reason": reason,
            "message": refusal.message,
            "namespace": caller.map(|caller| &caller.namespace),
            "serviceAccount": caller.map(|caller| &caller.service_account),
            "pod": caller.map(|caller| &caller.pod),
            "podUid": caller.map(|caller| &caller.pod_uid),
            "api": way.as_str(),
            "source": source,
        });
        // Where it finds no place, that is counted; who is refused is refused all the same.
        let _ = match refusal.reason {
            Reason::RateLimited => {
                let kind = format!("{source:?} {:?}", caller.map(|caller| &caller.pod_uid));
                self.audit.record_repeated(Event::Refused, &kind, fields)
            }
            _ => self.audit.record(Event::Refused, fields),
        };
        tracing::warn!(
            reason,
            namespace = caller.map(|caller| caller.namespace.as_str()),
            service_account = caller.map(|caller| caller.service_account.as_str()),
            pod = caller.map(|caller| caller.pod.as_str()),
            pod_uid = caller.map(|caller| caller.pod_uid.as_str()),
            api = way.as_str(),
            source = source.map(tracing::field::display),
            "refused a certificate: {}",
            refusal.message
        );
    }
}

pub(super) struct Metrics {
    issued: Family<Counter>,
    by_api: Family<Counter>,
    companions: Family<Counter>,
    refused: Family<Counter>,
    pub(super) seconds: Histogram,
    waiting: Gauge,
}

/// Counted among those that wait, for as long as it lives.
pub(super) struct Waits(Gauge);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            issued: registry
                .counter("trellis_ca_issued_total", "Certificates issued, by algorithm of the key."),
            by_api: registry.counter(
                "trellis_ca_issued_by_api_total",
                "Certificates issued, by the API that they were asked through, algorithm of the key and of the \
                 anchor's signature, and class.",
            ),
            companions: registry
                .counter(
                    "trellis_ca_companions_issued_total",
                    "Certificates issued below the companion anchor, by namespace.",
                )
                .open_labels(&["namespace"]),
            refused: registry.counter("trellis_ca_refused_total", "Requests refused, by reason."),
            seconds: registry
                .histogram(
                    "trellis_ca_issue_seconds",
                    "Time to decide about one request.",
                    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
                )
                .with(&[]),
            waiting: registry.gauge("trellis_ca_waiting", "Requests that wait for their turn.").with(&[]),
        }
    }

    pub(super) fn waits(&self) -> Waits {
        self.waiting.inc();
        Waits(self.waiting.clone())
    }
}
