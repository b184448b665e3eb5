//! The CA's audit trail: every certificate issued or refused, every change of trust and everything that happens
//! to a key of the cryptographic resources, as one record each, chained and signed so that what is done to it
//! later is found (see [`trellis_pki::audit`]).
//!
//! Nothing is issued that cannot be recorded: while a sink takes no records, they wait in a bounded queue,
//! and when that is full, requests are refused, and no key is made or destroyed. What found no place in it is
//! counted in a record of its own as soon as there is room.

mod custody;
mod place;
mod quiet;
mod sink;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::Instant};
use trellis_pki::clock::Clock;
use trellis_telemetry::{Counter, Family, Registry};

use self::quiet::Quiet;

pub use self::{custody::Recorded, sink::SinkSpec, writer::Trail};

/// The health condition that holds while records are written.
pub const CONDITION: &str = "audit";

/// Records that wait to be chained.
const QUEUE: usize = 4_096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Issued,
    Refused,
    /// A step of a rotation, a denial, or another change of trust.
    Trust,
    /// Something happened to a key or a secret of the cryptographic resources.
    Custody,
    /// Records found no place.
    Lost,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::Trust => "trust",
            Self::Custody => "custody",
            Self::Lost => "lost",
        }
    }
}

/// Records what happens. Clones record into the same trail.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    lost: Family<Counter>,
}

/// What those who record and the one who writes both know.
#[derive(Default)]
struct Shared {
    quiet: Mutex<Quiet>,
    /// Records that found no place, and are in no record of their own yet.
    lost: AtomicU64,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    event: Event,
    fields: Map<String, Value>,
    time: SystemTime,
}

/// The queue is full: what was to be recorded must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail cannot be written and {QUEUE} records wait already; see the CA's log")]
pub struct Full;

impl Audit {
    fn new(clock: Arc<dyn Clock>, registry: &Registry) -> (Self, mpsc::Receiver<Entry>, Arc<Shared>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let lost = registry
            .counter("trellis_ca_audit_lost_total", "Records that found the audit trail's queue full.");
        let shared = Arc::new(Shared::default());
        (Self { queue, shared: shared.clone(), clock, lost }, entries, shared)
    }

    /// One whose records nobody writes.
    #[cfg(test)]
    pub fn unwritten(clock: Arc<dyn Clock>, registry: &Registry) -> Self {
        let (audit, entries, _) = Self::new(clock, registry);
        std::mem::forget(entries);
        audit
    }

    /// Whether there is room for a record of what is done next.
    pub fn room(&self) -> Result<(), Full> {
        if self.queue.capacity() == 0 { Err(Full) } else { Ok(()) }
    }

    /// `fields` is an object; its empty members are left out.
    pub fn record(&self, event: Event, fields: Value) -> Result<(), Full> {
        self.put(self.entry(event, fields))
    }

    /// For what somebody can cause at any rate: the first of its kind is recorded, and what follows within
    /// ten seconds is counted in one record. So nobody fills a disk, or the queue, by being refused.
    pub fn record_repeated(&self, event: Event, kind: &str, fields: Value) -> Result<(), Full> {
        let entry = self.entry(event, fields);
        let entries = self.shared.quiet.lock().admit(kind, entry, Instant::now());
        entries.into_iter().try_for_each(|entry| self.put(entry))
    }

    fn entry(&self, event: Event, fields: Value) -> Entry {
        let mut fields = match fields {
            Value::Object(fields) => fields,
            other => Map::from_iter([("detail".to_owned(), other)]),
        };
        fields.retain(|_, value| !value.is_null());
        Entry { event, fields, time: self.clock.now() }
    }

    fn put(&self, entry: Entry) -> Result<(), Full> {
        let event = entry.event;
        self.queue.try_send(entry).map_err(|_| {
            self.lost.with(&[("event", event.as_str())]).inc();
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            Full
        })
    }
}
