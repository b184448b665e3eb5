//! Events that say why a pod was not meshed. They are written beside the admissions, never in their
//! way; the same thing is said once in a while only, since a controller whose pod is refused tries
//! again and again.

use std::{collections::HashMap, time::Duration};

use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use trellis_api::names;

use crate::{metrics::Metrics, review::shorten, verdict::Announcement};

/// Announcements that wait to be written.
const WAITING: usize = 256;
/// How long something that was said needs not be said again.
const SILENCE: Duration = Duration::from_secs(300);
/// Things said that are remembered.
const REMEMBERED: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
/// The API takes no longer note.
const LONGEST_NOTE: usize = 1024;

/// Where announcements are handed in.
#[derive(Clone)]
pub struct Announcer {
    queue: mpsc::Sender<Announcement>,
    metrics: Metrics,
}

/// Writes what was handed in: to the API, or to the log where there is none.
pub struct Publisher {
    queue: mpsc::Receiver<Announcement>,
    recorder: Option<Recorder>,
    said: Said,
}

/// What was said lately.
#[derive(Default)]
struct Said(HashMap<[String; 5], Instant>);

pub fn channel(client: Option<Client>, metrics: Metrics) -> (Announcer, Publisher) {
    let (sender, receiver) = mpsc::channel(WAITING);
    // All replicas speak with one voice; the series of an Event is counted by its writer all the same.
    let reporter = Reporter { controller: names::INJECTOR.to_owned(), instance: None };
    let recorder = client.map(|client| Recorder::new(client, reporter));
    let publisher = Publisher { queue: receiver, recorder, said: Said::default() };
    (Announcer { queue: sender, metrics }, publisher)
}

impl Announcer {
    pub fn announce(&self, announcement: Announcement) {
        if self.queue.try_send(announcement).is_err() {
            self.metrics.event_dropped();
        }
    }
}

impl Publisher {
    /// Ends when all who could announce something are gone.
    pub async fn run(mut self) {
        while let Some(announcement) = self.queue.recv().await {
            if self.said.is_new(&announcement, Instant::now()) {
                self.publish(announcement).await;
            }
        }
    }

    async fn publish(&self, announcement: Announcement) {
        let Announcement { regarding, reason, note } = announcement;
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let (namespace, kind, name) = (of(&regarding.namespace), of(&regarding.kind), of(&regarding.name));
        tracing::warn!(%namespace, %kind, %name, reason, "{note}");
        let Some(recorder) = &self.recorder else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(shorten(&note, LONGEST_NOTE)),
            action: "Inject".to_owned(),
            secondary: None,
        };
        match timeout(PATIENCE, recorder.publish(&event, &regarding)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot write an Event"),
            Err(_) => tracing::warn!("writing an Event took too long"),
        }
    }
}

impl Said {
    fn is_new(&mut self, announcement: &Announcement, now: Instant) -> bool {
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let Announcement { regarding, reason, note } = announcement;
        let key = [
            of(&regarding.namespace),
            of(&regarding.kind),
            of(&regarding.name),
            (*reason).to_owned(),
            note.clone(),
        ];
        if self.0.get(&key).is_some_and(|at| now.duration_since(*at) < SILENCE) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, at| now.duration_since(*at) < SILENCE);
        }
        // Full of what is recent still: better to repeat something than to grow.
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use trellis_telemetry::Registry;

    use super::*;

    fn announcement(name: &str) -> Announcement {
        let regarding = ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
        Announcement { regarding, reason: "NotInjected", note: "because".to_owned() }
    }

    #[test]
    fn the_same_thing_is_said_once_in_a_while() {
        let (mut said, start) = (Said::default(), Instant::now());
        assert!(said.is_new(&announcement("a"), start));
        assert!(!said.is_new(&announcement("a"), start + SILENCE / 2));
        assert!(said.is_new(&announcement("b"), start));
        assert!(said.is_new(&announcement("a"), start + SILENCE));
        assert!(!said.is_new(&announcement("a"), start + SILENCE * 3 / 2));
    }

    #[test]
    fn the_memory_of_what_was_said_is_bounded() {
        let (mut said, now) = (Said::default(), Instant::now());
        for index in 0..3 * REMEMBERED {
            assert!(said.is_new(&announcement(&index.to_string()), now));
            assert!(said.0.len() <= REMEMBERED);
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let registry = Registry::new();
        let (announcer, publisher) = channel(None, Metrics::new(&registry));
        for _ in 0..WAITING + 3 {
            announcer.announce(announcement("a"));
        }
        assert!(registry.prometheus().contains("trellis_injector_events_dropped_total 3"));
        drop(publisher);
    }
}
