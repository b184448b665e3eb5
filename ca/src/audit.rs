//! The CA's audit trail: every certificate issued or refused and every change of trust, as one record
//! each, chained and signed so that what is done to it later is found (see [`trellis_pki::audit`]).
//!
//! Nothing is issued that cannot be recorded: while no sink takes records, they wait in a bounded queue,
//! and when that is full, requests are refused.

mod sink;
mod writer;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use trellis_telemetry::{Counter, Family, Registry};

pub use self::{sink::SinkSpec, writer::Trail};

/// The health condition that holds while records are written.
pub const CONDITION: &str = "audit";

/// Records that wait to be chained.
const QUEUE: usize = 4_096;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Issued,
    Refused,
    /// A step of a rotation, or another change of trust.
    Trust,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::Trust => "trust",
        }
    }
}

/// Records what happens. Clones record into the same trail.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    lost: Family<Counter>,
}

struct Entry {
    event: Event,
    fields: Map<String, Value>,
}

/// The queue is full: what was to be recorded must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail cannot be written and {QUEUE} records wait already; see the CA's log")]
pub struct Full;

impl Audit {
    fn new(registry: &Registry) -> (Self, mpsc::Receiver<Entry>) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let lost = registry
            .counter("trellis_ca_audit_lost_total", "Records that found the audit trail's queue full.");
        (Self { queue, lost }, entries)
    }

    /// `fields` is an object; its empty members are left out.
    pub fn record(&self, event: Event, fields: Value) -> Result<(), Full> {
        let mut fields = match fields {
            Value::Object(fields) => fields,
            other => Map::from_iter([("detail".to_owned(), other)]),
        };
        fields.retain(|_, value| !value.is_null());
        self.queue.try_send(Entry { event, fields }).map_err(|_| {
            self.lost.with(&[("event", event.as_str())]).inc();
            Full
        })
    }
}
