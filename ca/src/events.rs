//! Kubernetes Events for what the CA does, on the object that it is about, so that `kubectl describe` tells
//! of it. They are a courtesy: what is said too often, or cannot be written, is counted and let go; the log
//! and the audit trail have it all the same. Without a Kubernetes API there are none.

mod custody;
mod trust;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use trellis_api::{
    names::CA,
    trust::{TRUST_DOMAIN, TrustDomain},
};
use trellis_pki::clock::Clock;
use trellis_telemetry::{
    Counter, Family, Registry,
    shutdown::{Shutdown, requested},
};

pub use self::{custody::Told, trust::TrustEvents};
use crate::limit::Limit;

/// Events that wait to be written.
const QUEUE: usize = 256;
/// Of one object.
const PER_OBJECT: (u32, Duration) = (10, Duration::from_secs(30));
/// Of all together.
const IN_ALL: (u32, Duration) = (50, Duration::from_secs(1));
/// What was said is remembered for so long, and said again only as a count.
const SERIES: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 512;
/// The API server takes no longer note.
const NOTE: usize = 1_000;
/// An object without a namespace has its events here.
const DEFAULT: &str = "default";

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About(ObjectReference);

impl About {
    pub fn object(object: &DynamicObject) -> Self {
        let (meta, types) = (object.meta(), object.types.clone().unwrap_or_default());
        Self(ObjectReference {
            api_version: Some(types.api_version),
            kind: Some(types.kind),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        })
    }

    pub fn pod(namespace: &str, name: &str, uid: &str) -> Self {
        Self(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        })
    }

    /// Its uid is looked up when the first event is written.
    fn trust_domain(namespace: &str) -> Self {
        Self(ObjectReference {
            api_version: Some(TrustDomain::api_version(&()).into_owned()),
            kind: Some(TrustDomain::kind(&()).into_owned()),
            name: Some(TRUST_DOMAIN.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Normal,
    Warning,
}

/// One event, as it is said.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    about: About,
    tone: Tone,
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// Says events. Clones say into the same queue.
#[derive(Clone)]
pub struct Events {
    queue: Option<mpsc::Sender<Said>>,
    limits: Arc<Mutex<(Limit<()>, Limit<String>)>>,
    lost: Family<Counter>,
}

impl Events {
    /// And who writes them, which must be run.
    pub fn new(client: Client, pod: &str, clock: Arc<dyn Clock>, registry: &Registry) -> (Self, Writer) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let events = Self::into(Some(queue), registry);
        let written = registry.counter("trellis_ca_events_total", "Kubernetes Events written, by reason.");
        let lost = events.lost.clone();
        let pod = pod.to_owned();
        (events, Writer { client, pod, clock, waiting, said: VecDeque::new(), written, lost })
    }

    /// For where there is nobody to tell.
    pub fn none(registry: &Registry) -> Self {
        Self::into(None, registry)
    }

    fn into(queue: Option<mpsc::Sender<Said>>, registry: &Registry) -> Self {
        let lost = registry.counter(
            "trellis_ca_events_lost_total",
            "Kubernetes Events that were not written, by reason (rate_limited, queue_full, failed).",
        );
        let limits = (Limit::new(IN_ALL.0, IN_ALL.1), Limit::new(PER_OBJECT.0, PER_OBJECT.1));
        Self { queue, limits: Arc::new(Mutex::new(limits)), lost }
    }

    pub fn say(&self, about: &About, tone: Tone, reason: &'static str, action: &'static str, note: &str) {
        let Some(queue) = &self.queue else { return };
        let lost = |why| self.lost.with(&[("reason", why)]).inc();
        let object = format!("{:?} {:?} {:?}", about.0.kind, about.0.namespace, about.0.name);
        let now = Instant::now();
        let allowed = {
            let mut limits = self.limits.lock();
            limits.1.take(&object, now).and_then(|()| limits.0.take(&(), now))
        };
        if allowed.is_err() {
            return lost("rate_limited");
        }
        let note = note.chars().take(NOTE).collect();
        if queue.try_send(Said { about: about.clone(), tone, reason, action, note }).is_err() {
            lost("queue_full");
        }
    }
}

/// Writes what is said, one after the other.
pub struct Writer {
    client: Client,
    pod: String,
    clock: Arc<dyn Clock>,
    waiting: mpsc::Receiver<Said>,
    said: VecDeque<Known>,
    written: Family<Counter>,
    lost: Family<Counter>,
}

struct Known {
    said: Said,
    event: String,
    namespace: String,
    count: i32,
    last: Instant,
}

impl Writer {
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            let said = tokio::select! {
                () = &mut stop => return,
                said = self.waiting.recv() => said,
            };
            let Some(said) = said else { return };
            let reason = said.reason;
            match self.write(said).await {
                Ok(()) => self.written.with(&[("reason", reason)]).inc(),
                Err(error) => {
                    tracing::warn!(%error, reason, "cannot write a Kubernetes Event");
                    self.lost.with(&[("reason", "failed")]).inc();
                }
            }
        }
    }

    async fn write(&mut self, mut said: Said) -> Result<(), kube::Error> {
        let now = Instant::now();
        self.said.retain(|known| now.saturating_duration_since(known.last) < SERIES);
        let time = MicroTime(Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH));
        if let Some(known) = self.said.iter_mut().find(|known| known.said == said) {
            known.count += 1;
            known.last = now;
            let series = EventSeries { count: known.count, last_observed_time: time };
            let patch = serde_json::json!({ "series": series });
            let api = Api::<Event>::namespaced(self.client.clone(), &known.namespace);
            let patched = api.patch(&known.event, &PatchParams::default(), &Patch::Merge(&patch)).await;
            return patched.map(|_| ());
        }
        let known = said.clone();
        if said.about.0.uid.is_none() {
            said.about.0.uid = self.uid(&said.about).await?;
        }
        let reference = said.about.0;
        let namespace = reference.namespace.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let object = reference.name.clone().unwrap_or_default();
        let name = format!("{object}.{:x}", time.0.as_nanosecond().unsigned_abs() + self.said.len() as u128);
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            action: Some(said.action.to_owned()),
            reason: Some(said.reason.to_owned()),
            note: Some(said.note),
            type_: Some(if said.tone == Tone::Normal { "Normal" } else { "Warning" }.to_owned()),
            event_time: Some(time),
            regarding: Some(reference),
            reporting_controller: Some(format!("trellis.dev/{CA}")),
            reporting_instance: Some(self.pod.clone()),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        if self.said.len() >= REMEMBERED {
            self.said.pop_front();
        }
        self.said.push_back(Known { said: known, event: name, namespace, count: 1, last: now });
        Ok(())
    }

    /// Who describes an object is shown the events of its uid.
    async fn uid(&self, about: &About) -> Result<Option<String>, kube::Error> {
        let namespace = about.0.namespace.as_deref().unwrap_or(DEFAULT);
        let api = Api::<TrustDomain>::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(TRUST_DOMAIN).await?.and_then(|object| object.metadata.uid))
    }
}

#[cfg(test)]
mod tests;
