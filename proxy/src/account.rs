//! Single requests and connections, told to whoever wants to hear of each: the access log and taps. While
//! nobody does, none of it is put together.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use trellis_api::{
    access::{Direction, Entry, Kind, Posture},
    evidence::Connections,
};
use trellis_pki::clock::{Clock, rfc3339};

use crate::ledger::{self, Row};

mod log;
mod request;
mod taps;

pub use self::{
    log::Log,
    request::{Account, Counted, posture},
    taps::{TapError, Taps, Wants},
};

/// What of a text that a peer chose is kept.
const LONGEST: usize = 1_024;

/// Whoever hears of single requests and connections.
pub struct Audience {
    /// `namespace/pod`.
    workload: String,
    pub clock: Arc<dyn Clock>,
    log: Option<Log>,
    pub taps: Arc<Taps>,
}

impl Audience {
    pub fn new(workload: String, clock: Arc<dyn Clock>, log: Option<Log>) -> Self {
        Self { workload, clock, log, taps: Arc::default() }
    }

    /// Whether anybody does.
    pub fn listens(&self) -> bool {
        self.log.is_some() || self.taps.any()
    }

    pub fn tell(&self, entry: Entry) {
        let entry = Arc::new(entry);
        if let Some(log) = &self.log {
            log.offer(&entry);
        }
        self.taps.offer(&entry);
    }

    /// What was said so far is written before the process ends.
    pub async fn finish(&self) {
        if let Some(log) = &self.log {
            log.finish().await;
        }
    }

    /// A connection of bytes that begins; nothing where nobody listens.
    pub fn connection(self: &Arc<Self>, direction: ledger::Direction, row: &Row) -> Option<Box<Carried>> {
        if !self.listens() {
            return None;
        }
        let mut carried = self.begin(self.entry(Kind::Connection, as_said(direction), self.clock.now()));
        carried.of(row);
        Some(carried)
    }

    /// The same of one who proves nothing, of whom it is not yet known who it is.
    pub fn plaintext(self: &Arc<Self>, client: SocketAddr, target: SocketAddr) -> Option<Box<Carried>> {
        if !self.listens() {
            return None;
        }
        let mut carried = self.begin(self.entry(Kind::Connection, Direction::Inbound, self.clock.now()));
        carried.at(client);
        carried.to(target);
        Some(carried)
    }

    fn begin(self: &Arc<Self>, entry: Entry) -> Box<Carried> {
        Box::new(Carried {
            audience: self.clone(),
            entry: Some(entry),
            began: Instant::now(),
            moved: Arc::default(),
        })
    }

    /// A connection that carried no byte.
    pub fn refused(&self, direction: ledger::Direction, terms: &Connections) {
        if !self.listens() {
            return;
        }
        let entry = self.entry(Kind::Connection, as_said(direction), self.clock.now());
        self.tell(Entry {
            source: terms.source.clone(),
            destination: terms.destination.clone(),
            reason: terms.reason.clone(),
            ..entry
        });
    }

    fn entry(&self, kind: Kind, direction: Direction, began: SystemTime) -> Entry {
        Entry {
            time: milliseconds(began),
            kind,
            direction,
            workload: self.workload.clone(),
            source: String::new(),
            client: None,
            destination: String::new(),
            address: None,
            service: None,
            route: None,
            method: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            reason: None,
            bytes_sent: 0,
            bytes_received: 0,
            duration_ms: 0.0,
            retries: 0,
            trace: None,
            posture: None,
            client_posture: None,
        }
    }
}

/// A connection of bytes, until it ends. It is told of with its drop.
pub struct Carried {
    audience: Arc<Audience>,
    entry: Option<Entry>,
    began: Instant,
    pub moved: Arc<Moved>,
}

/// Bytes that went by, from the source to the destination and back.
#[derive(Default)]
pub struct Moved {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Moved {
    pub fn add(&self, sent: bool, bytes: usize) {
        let count = if sent { &self.sent } else { &self.received };
        count.fetch_add(bytes as u64, Relaxed);
    }
}

impl Carried {
    /// What it has in common with others.
    pub fn of(&mut self, row: &Row) {
        if let Some(entry) = &mut self.entry {
            entry.source.clone_from(&row.terms.source);
            entry.destination.clone_from(&row.terms.destination);
            entry.posture = Some(Posture::of(&row.terms));
        }
    }

    pub fn to(&mut self, address: SocketAddr) {
        if let Some(entry) = &mut self.entry {
            entry.address = Some(address.to_string());
        }
    }

    /// Where the client is, who is no gateway's.
    pub fn at(&mut self, client: SocketAddr) {
        if let Some(entry) = &mut self.entry {
            entry.client = Some(client.to_string());
        }
    }

    /// A gateway's client, and what its own connection negotiated.
    pub fn from(&mut self, client: SocketAddr, row: &Row) {
        self.at(client);
        if let Some(entry) = &mut self.entry {
            entry.direction = Direction::Inbound;
            entry.source.clone_from(&row.terms.source);
            entry.client_posture = Some(Posture::of(&row.terms));
        }
    }

    /// It did not end in good order.
    pub fn broke(&mut self, reason: &str) {
        if let Some(entry) = &mut self.entry {
            entry.reason = Some(reason.to_owned());
        }
    }

    /// It is told of elsewhere.
    pub fn withdraw(&mut self) {
        self.entry = None;
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        self.audience.tell(Entry {
            bytes_sent: self.moved.sent.load(Relaxed),
            bytes_received: self.moved.received.load(Relaxed),
            duration_ms: in_milliseconds(self.began.elapsed()),
            ..entry
        });
    }
}

pub fn as_said(direction: ledger::Direction) -> Direction {
    match direction {
        ledger::Direction::Inbound => Direction::Inbound,
        ledger::Direction::Outbound => Direction::Outbound,
    }
}

/// To the microsecond.
fn in_milliseconds(length: Duration) -> f64 {
    length.as_micros() as f64 / 1_000.0
}

fn milliseconds(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let whole = rfc3339(at);
    match whole.strip_suffix('Z') {
        Some(seconds) => format!("{seconds}.{:03}Z", since.subsec_millis()),
        None => whole,
    }
}

/// What a peer said, as far as it is kept: what was cut ends in three dots.
fn kept(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_milliseconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_042);
        assert_eq!(milliseconds(at), "2026-01-01T00:00:00.042Z");
        assert_eq!(in_milliseconds(Duration::from_nanos(1_234_567)), 1.234);
    }

    #[test]
    fn what_a_peer_says_is_kept_up_to_a_length() {
        assert_eq!(kept("/a"), "/a");
        let long = "\u{1f600}".repeat(LONGEST + 1);
        assert_eq!(kept(&long).chars().count(), LONGEST + 3);
        assert!(kept(&long).ends_with("..."));
    }
}
