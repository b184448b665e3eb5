//! Tunnels that are open, for a person to read.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use trellis_api::{access::Posture, diag};
use trellis_pki::clock::rfc3339;

use crate::{
    account,
    ledger::{Direction, Row},
};

/// Tunnels that are shown.
const SHOWN: usize = 2_000;

#[derive(Default)]
pub struct Roster {
    numbers: AtomicU64,
    open: Mutex<BTreeMap<u64, Tunnel>>,
}

/// One tunnel.
pub struct Tunnel {
    pub direction: Direction,
    pub address: SocketAddr,
    pub row: Arc<Row>,
    pub since: SystemTime,
    pub expires: SystemTime,
    /// How many streams are on it.
    pub streams: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Keeps a tunnel on the roster.
pub struct Enrolled {
    roster: Arc<Roster>,
    number: u64,
}

impl Roster {
    pub fn enrol(self: &Arc<Self>, tunnel: Tunnel) -> Enrolled {
        let number = self.numbers.fetch_add(1, Relaxed);
        self.open.lock().insert(number, tunnel);
        Enrolled { roster: self.clone(), number }
    }

    /// The oldest first.
    pub fn describe(&self) -> Vec<diag::Tunnel> {
        self.open.lock().values().take(SHOWN).map(Tunnel::describe).collect()
    }
}

impl Tunnel {
    fn describe(&self) -> diag::Tunnel {
        let terms = &self.row.terms;
        let peer = match self.direction {
            Direction::Inbound => &terms.source,
            Direction::Outbound => &terms.destination,
        };
        diag::Tunnel {
            direction: account::as_said(self.direction),
            peer: peer.clone(),
            address: self.address.to_string(),
            since: rfc3339(self.since),
            expires: rfc3339(self.expires),
            streams: (self.streams)(),
            posture: Posture::of(terms),
        }
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.roster.open.lock().remove(&self.number);
    }
}
