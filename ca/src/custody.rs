//! The cryptographic resources, as this replica keeps them while it leads: who does it is a room of its own,
//! and says its Events through the CA's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::watch;
use trellis_custody::{Custody, Group, Herald, Metrics, Tone};
use trellis_election::Role;
use trellis_pki::clock::Clock;
use trellis_telemetry::Registry;

use crate::events::{self, About, Events};

const ACTION: &str = "Keep";

struct Said(Events);

impl Herald for Said {
    fn say(&self, about: &ObjectReference, tone: Tone, reason: &'static str, note: &str) {
        let tone = match tone {
            Tone::Normal => events::Tone::Normal,
            Tone::Warning => events::Tone::Warning,
        };
        self.0.say(&About::reference(about.clone()), tone, reason, ACTION, note);
    }
}

pub fn custody(
    client: Client,
    namespace: &str,
    groups: Vec<Group>,
    events: Events,
    clock: Arc<dyn Clock>,
    roles: watch::Receiver<Role>,
    registry: &Registry,
) -> Custody {
    Custody {
        client,
        namespace: namespace.to_owned(),
        groups,
        clock,
        herald: Arc::new(Said(events)),
        metrics: Metrics::new(registry),
        roles,
    }
}
