//! The census of this replica, shared by the streams that fill it and those who read it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;
use trellis_api::proto::ca::Holding;

use super::census::{Census, Origin};

/// Clones are the same census.
#[derive(Clone, Default)]
pub struct Members(Arc<Inner>);

#[derive(Default)]
struct Inner {
    census: Mutex<Census>,
    changed: watch::Sender<()>,
    streams: AtomicU64,
}

/// One stream into the census. What it told is forgotten when it ends.
pub struct Stream {
    members: Members,
    origin: Origin,
}

impl Members {
    pub fn member(&self) -> Stream {
        Stream { members: self.clone(), origin: Origin::Member(self.next()) }
    }

    pub fn replica(&self) -> Stream {
        Stream { members: self.clone(), origin: Origin::Replica(self.next()) }
    }

    /// Counts this process in, for as long as it lives.
    pub async fn count_self(self, mut holding: watch::Receiver<Holding>) {
        let stream = self.member();
        holding.mark_changed();
        while holding.changed().await.is_ok() {
            let held = holding.borrow_and_update().clone();
            stream.holds(held);
        }
    }

    pub async fn count_alive(self, mut alive: watch::Receiver<Option<BTreeSet<String>>>) {
        alive.mark_changed();
        while alive.changed().await.is_ok() {
            let pods = alive.borrow_and_update().clone();
            if let Some(pods) = pods {
                self.alive(&pods);
            }
        }
    }

    /// The whole set of pods that the world shows to be alive.
    pub fn alive(&self, pods: &BTreeSet<String>) {
        self.change(|census| census.alive(pods));
    }

    pub fn read<T>(&self, look: impl FnOnce(&Census) -> T) -> T {
        look(&self.0.census.lock())
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Census)) {
        change(&mut self.0.census.lock());
        self.0.changed.send_replace(());
    }

    fn next(&self) -> u64 {
        self.0.streams.fetch_add(1, Relaxed)
    }
}

impl Stream {
    pub fn holds(&self, holding: Holding) {
        self.members.change(|census| census.holds(self.origin, holding));
    }

    pub fn left(&self, pod: &str) {
        self.members.change(|census| census.left(self.origin, pod));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.members.change(|census| census.lost(self.origin));
    }
}
