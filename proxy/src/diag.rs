//! What this proxy knows, and why it chooses what it chooses, for a person to read.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use trellis_api::diag::{API_VERSION, Anchor, Destination, Diag, Endpoint, Kind};
use trellis_pki::{bundle::Bundle, clock::rfc3339, spiffe::SpiffeId, tls::MeshTls};

use crate::{
    admin::leaves,
    directory::{Answer, Directory, Reach, Subject},
    policy::Demands,
    roster::Roster,
};

mod explain;

/// Destinations that are shown.
const SHOWN: usize = 2_000;

/// Where all of it is known.
pub struct Knowledge {
    pub own: SpiffeId,
    pub workload: String,
    pub tls: Arc<MeshTls>,
    pub directory: Directory,
    pub roster: Arc<Roster>,
    pub demands: Demands,
    /// What the operator decided.
    pub settings: BTreeMap<String, String>,
}

impl Knowledge {
    pub fn describe(&self) -> Diag {
        let [leaf, companion] = leaves(&self.tls);
        let now = Instant::now();
        let mut destinations: Vec<Destination> = self
            .directory
            .known()
            .into_iter()
            // What is demanded is shown by itself.
            .filter(|(subject, _)| !matches!(subject, Subject::Pod(_)))
            .take(SHOWN)
            .map(|(subject, answer)| destination(&subject, answer.as_deref(), now))
            .collect();
        destinations.sort_by(|a, b| a.subject.cmp(&b.subject));
        Diag {
            api_version: API_VERSION.to_owned(),
            workload: self.workload.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.own.to_string(),
            leaf,
            companion,
            trust: self.trust(),
            policy: self.demands.describe(),
            settings: self.settings.clone(),
            tunnels: self.roster.describe(),
            destinations,
        }
    }

    fn trust(&self) -> Vec<Anchor> {
        let of = |bundle: &Bundle| -> Vec<Anchor> {
            let anchor = |anchor: &trellis_pki::bundle::Anchor| Anchor {
                trust_domain: bundle.trust_domain().to_owned(),
                subject: anchor.subject.clone(),
                algorithm: anchor.algorithm.name().to_owned(),
                fingerprint: anchor.fingerprint().to_string(),
                not_after: rfc3339(anchor.not_after),
            };
            bundle.anchors().iter().map(anchor).collect()
        };
        let own = self.tls.bundle().map(|bundle| of(&bundle)).unwrap_or_default();
        own.into_iter().chain(self.tls.foreign().bundles().flat_map(of)).collect()
    }
}

fn destination(subject: &Subject, answer: Option<&Answer>, now: Instant) -> Destination {
    let (kind, service, protocol) = match answer {
        None | Some(Answer::Policy(_)) => (Kind::Unanswered, None, None),
        Some(Answer::Unknown) => (Kind::Outside, None, None),
        Some(Answer::Gateway(_)) => (Kind::Gateway, None, None),
        Some(Answer::Workload(_)) => (Kind::Workload, None, None),
        Some(Answer::Service(service)) => {
            (Kind::Service, Some(service.backend.to_string()), Some(service.protocol))
        }
    };
    let routes = match answer {
        Some(Answer::Service(service)) => {
            service.routes.iter().flat_map(|routes| routes.describe().names()).collect()
        }
        Some(Answer::Gateway(serving)) => {
            serving.listeners().flat_map(|listener| listener.routes.describe().names()).collect()
        }
        Some(Answer::Workload(_) | Answer::Policy(_) | Answer::Unknown) | None => Vec::new(),
    };
    Destination {
        subject: subject.to_string(),
        kind,
        service,
        protocol: protocol.map(|protocol| protocol.as_str_name().to_ascii_lowercase()),
        endpoints: answer.map(|answer| endpoints(answer, now)).unwrap_or_default(),
        routes,
    }
}

fn endpoints(answer: &Answer, now: Instant) -> Vec<Endpoint> {
    let shares = answer.shares(now);
    let one = |(endpoint, share): (&crate::directory::Endpoint, f64)| Endpoint {
        address: endpoint.address.to_string(),
        peer: endpoint.peer.to_string(),
        plaintext: match &endpoint.reach {
            Reach::Tunnel { .. } => None,
            Reach::Plaintext { reason } => Some((*reason).to_owned()),
        },
        zone: endpoint.zone.to_string(),
        in_flight: endpoint.fitness.open(),
        latency_ms: endpoint.fitness.latency(now).map(|took| round(took * 1_000.0)),
        failures: endpoint.fitness.failures(),
        ejected_ms: endpoint.fitness.ejected_for(now).map(|left| left.as_millis() as u64),
        share: round(share),
    };
    answer.endpoints().iter().zip(shares).map(one).collect()
}

fn round(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}
