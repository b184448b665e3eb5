//! What a status says of versions: those that are there, and the last ones that are not.

use std::{cmp::Reverse, time::SystemTime};

use trellis_api::crypto::{Version, VersionState};
use trellis_pki::clock::rfc3339;

use super::Account;
use crate::{
    kept::{Kept, moment},
    lifecycle::{Blocked, Class},
};

/// Versions that are gone, and shown all the same.
const GONE: usize = 16;

impl Account<'_> {
    /// The newest first.
    pub(super) fn versions(&self, now: SystemTime) -> Vec<Version> {
        let active = self.course.active.as_ref();
        let mut all: Vec<Version> = Vec::new();
        all.extend(active.map(|kept| shown(kept, VersionState::Active)));
        for kept in self.kept.iter().filter(|kept| kept.archive && kept.is_sound()) {
            if !all.iter().any(|known| known.version == kept.version()) {
                all.push(shown(kept, VersionState::Retired));
            }
        }
        let gone = self
            .before
            .versions
            .iter()
            .filter(|before| !all.iter().any(|known| known.version == before.version));
        let gone: Vec<Version> = gone.map(|before| self.gone(before, now)).collect();
        all.extend(gone);
        all.extend(self.forgotten().map(lost));
        all.sort_by_key(|version| Reverse(version.version));
        let mut room = GONE;
        all.retain(|version| match version.state {
            VersionState::Active | VersionState::Retired => true,
            VersionState::Destroyed | VersionState::Lost => {
                let shown = room > 0;
                room = room.saturating_sub(1);
                shown
            }
        });
        all
    }

    /// A version that was shown and is not there any more.
    fn gone(&self, before: &Version, now: SystemTime) -> Version {
        let retired = before.retired.as_deref().and_then(moment);
        let end = retired.zip(self.grace).and_then(|(retired, grace)| retired.checked_add(grace));
        let state = match before.state {
            VersionState::Retired if end.is_some_and(|end| end <= now) => VersionState::Destroyed,
            VersionState::Retired => VersionState::Lost,
            // While it is on its way back, it is what it was.
            VersionState::Active if self.course.active.is_none() && !self.is_lost() => VersionState::Active,
            VersionState::Active => VersionState::Lost,
            state => state,
        };
        let now = (state == VersionState::Destroyed && before.destroyed.is_none()).then(|| rfc3339(now));
        Version { state, destroyed: before.destroyed.clone().or(now), ..before.clone() }
    }

    /// The number of what there was before anybody counted. Once it is written down, nothing is ever made in its
    /// place as if there had been none.
    pub(super) fn forgotten(&self) -> Option<u32> {
        let known = self.course.active.is_some() || !self.before.versions.is_empty();
        (self.was_made && !known && self.class == Class::Fresh).then(|| self.before.version.unwrap_or(1))
    }

    fn is_lost(&self) -> bool {
        matches!(self.course.blocked, Some(Blocked::Lost { .. } | Blocked::NotAdopted { .. }))
    }
}

fn lost(version: u32) -> Version {
    Version {
        version,
        state: VersionState::Lost,
        algorithm: None,
        fingerprint: None,
        since: None,
        retired: None,
        destroyed: None,
    }
}

fn shown(kept: &Kept, state: VersionState) -> Version {
    let facts = &kept.facts;
    Version {
        version: facts.version,
        state,
        algorithm: facts.algorithm.clone(),
        fingerprint: Some(facts.fingerprint.clone()),
        since: facts.since.map(rfc3339),
        retired: facts.retired.filter(|_| state == VersionState::Retired).map(rfc3339),
        destroyed: None,
    }
}
