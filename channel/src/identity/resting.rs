//! What connections rest on: the anchors that each end was believed by. An anchor that is trusted no
//! more is not gone before the last connection that rests on it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use trellis_pki::{bundle::Bundle, foreign::Foreign, posture::Posture};

/// All connections of one process, by anchor. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Resting(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: Mutex<HashMap<Arc<str>, u32>>,
    ended: watch::Sender<()>,
}

/// One connection, for as long as it is open.
pub struct Rests {
    resting: Resting,
    anchors: [Option<Arc<str>>; 2],
}

impl Resting {
    pub fn enter(&self, posture: &Posture) -> Rests {
        let peer = posture.credential.as_ref().map(|peer| peer.anchor.clone());
        let own = posture.own_anchor.clone().filter(|own| Some(own) != peer.as_ref());
        let anchors = [peer, own];
        let mut counts = self.0.counts.lock();
        for anchor in anchors.iter().flatten() {
            *counts.entry(anchor.clone()).or_default() += 1;
        }
        Rests { resting: self.clone(), anchors }
    }

    /// Connections that rest on an anchor which is neither in `bundle` nor in one of another trust domain.
    pub(super) fn fallen(&self, bundle: Option<&Bundle>, foreign: &Foreign) -> u32 {
        let counts = self.0.counts.lock();
        let held = |anchor: &str| bundle.is_some_and(|bundle| bundle.holds(anchor)) || foreign.holds(anchor);
        let fallen = counts.iter().filter(|(anchor, _)| !held(anchor));
        fallen.map(|(_, count)| count).sum()
    }

    /// Changes whenever a connection has ended.
    pub(super) fn ends(&self) -> watch::Receiver<()> {
        self.0.ended.subscribe()
    }
}

impl Drop for Rests {
    fn drop(&mut self) {
        let mut counts = self.resting.0.counts.lock();
        for anchor in self.anchors.iter().flatten() {
            if let Some(count) = counts.get_mut(anchor) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(anchor);
                }
            }
        }
        drop(counts);
        self.resting.0.ended.send_replace(());
    }
}
