//! When an anchor gives way to a fresh key of its kind without being asked: at the age that the operator
//! chose, and near its end, since nobody is believed any more when it has ended.

use std::time::Duration;

use trellis_api::trust::{Issuing, Part, Renewal, Renewed, TrustDomainSpec};
use trellis_pki::{bundle::Anchor, clock::unix_seconds};

use super::{state::TrustState, step::Step};

const DAY: u64 = 24 * 60 * 60;
/// The part of its life in which an anchor is near its end.
const LAST: u64 = 10;
/// Lives of a leaf that a rotation may take before the anchor ends.
const LEAVES: u64 = 2;

/// From when to when an anchor is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub begin: u64,
    pub end: u64,
}

impl Life {
    pub fn of(anchor: &Anchor) -> Self {
        let seconds = |at| u64::try_from(unix_seconds(at)).unwrap_or_default();
        Self { begin: seconds(anchor.not_before), end: seconds(anchor.not_after) }
    }

    /// When an anchor with this life gives way, if it does. `leaf` is how long certificates live.
    pub fn renews(self, renewal: &Renewal, leaf: Duration) -> Option<u64> {
        let life = self.end.saturating_sub(self.begin);
        // A short life has to leave something on either side.
        let last = (life / LAST).max(LEAVES * leaf.as_secs()).min(life / 2);
        let near = renewal.at_end.then(|| self.end - last);
        let old = renewal.every_days.map(|days| self.begin.saturating_add(u64::from(days) * DAY));
        [near, old].into_iter().flatten().min()
    }
}

/// The renewal that is due, of `wished` with those before. One at a time, and never beside another change.
pub fn due(
    wished: &TrustDomainSpec,
    state: &TrustState,
    life: impl Fn(Part) -> Option<Life>,
    leaf: Duration,
    now: u64,
) -> Option<Step> {
    if wished.paused || state.rotation.is_some() || state.pending.is_some() {
        return None;
    }
    let kind = |of| state.issuing(of).map(|anchor| anchor.kind);
    [Part::Issuing, Part::Companion].into_iter().find_map(|of| {
        let Issuing { generation, .. } = kind(of)?;
        let next = Issuing { generation: generation.checked_add(1)?, ..kind(of)? };
        let due = life(of)?.renews(&wished.renewal, leaf)? <= now;
        (due && !wished.renewal.declines(of, next.generation))
            .then_some(Step::Renew(Renewed { of, kind: next }))
    })
}
