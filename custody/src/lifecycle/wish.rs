//! What is wished of an object's Secrets, and what its status remembers of them.

use std::time::{Duration, SystemTime};

use trellis_api::crypto::{Version, VersionState};

use crate::{
    craft::ADOPTED,
    kept::{Facts, Kept},
};

/// Versions that are kept at the same time beside the one in use; with so many, no other is made.
pub(crate) const MAX_ARCHIVES: usize = 64;

/// Where a content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// From randomness: what is lost is lost.
    Fresh,
    /// From other objects: of the same comes the same.
    Derived,
    /// From other objects, and of the same comes another that is as good: nothing of it is kept.
    Replaced,
}

/// Why a content is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    New,
    /// It was lost, and is made of the same again.
    Restored,
    /// It was lost, and the spec allows another.
    Recreated,
    /// What it is made of, or its algorithm, is another.
    Changed,
    /// Somebody asked for it.
    Asked,
    /// It is old enough.
    Aged,
}

/// Whether the wished name is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    No,
    Foreign,
}

/// What is wished.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    /// Of the Secret.
    pub name: &'a str,
    /// A version that is to be in use, if not the newest.
    pub version: Option<u32>,
    /// The value of the annotation that asks for a new version.
    pub rotate: Option<&'a str>,
    pub every: Option<Duration>,
    pub renew_before: Option<Duration>,
    pub grace: Option<Duration>,
    /// Whether another is made of what is lost.
    pub recreate: bool,
    pub class: Class,
    pub form: Option<&'a str>,
    /// What the content is made of; nothing while a part of that is not to be had.
    pub recipe: Option<&'a str>,
}

/// What the status remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The version that was in use.
    pub version: Option<u32>,
    /// Whether it says that there was one, even if not which.
    pub was_made: bool,
    pub versions: Vec<Version>,
}

impl Wish<'_> {
    /// Why a new version is due, if it is. While an old one is wished back, none is.
    pub fn due(&self, current: &Facts, now: SystemTime) -> Option<Why> {
        let recipe = self.recipe.filter(|_| self.version.is_none())?;
        let asked = self.rotate.is_some() && self.rotate != current.rotated.as_deref();
        if recipe != current.made_of && current.made_of != ADOPTED {
            Some(Why::Changed)
        } else if asked && self.class != Class::Derived {
            Some(Why::Asked)
        } else if self.next(current).is_some_and(|next| next <= now) {
            Some(Why::Aged)
        } else {
            None
        }
    }

    /// When one is due by its age.
    pub fn next(&self, current: &Facts) -> Option<SystemTime> {
        if self.class != Class::Fresh || self.version.is_some() {
            return None;
        }
        let aged = self.every.and_then(|every| current.since?.checked_add(every));
        let ending = self.renew_before.and_then(|before| renewal(current, before));
        aged.into_iter().chain(ending).min()
    }
}

impl Wish<'_> {
    /// When to look again though nothing changes. What is due and is not made waits for what it is made of, which
    /// says when it comes.
    pub fn wake(&self, current: &Facts, now: SystemTime) -> Option<SystemTime> {
        self.next(current).into_iter().chain(current.until).filter(|at| *at > now).min()
    }
}

/// When a content that ends is replaced: so long before its end, and not in the first third of what was left of
/// its life when it came, however short its issuer cut that.
pub(crate) fn renewal(facts: &Facts, before: Duration) -> Option<SystemTime> {
    const SHARE: u32 = 3;
    let (until, since) = (facts.until?, facts.since?);
    let left = until.duration_since(since).unwrap_or_default();
    let wished = until.checked_sub(before)?;
    Some(wished.max(since.checked_add(left / SHARE)?))
}

impl Record {
    pub fn newest(&self) -> Option<u32> {
        self.versions.iter().map(|version| version.version).chain(self.version).max()
    }

    /// Whether a Secret is what the status knows under its version: another one under the same number was put
    /// there by somebody who had not seen that it was made already.
    pub fn allows(&self, kept: &Kept) -> bool {
        let known = self.versions.iter().find(|version| version.version == kept.version());
        let known =
            known.filter(|version| matches!(version.state, VersionState::Active | VersionState::Retired));
        known.and_then(|version| version.fingerprint.as_deref()).is_none_or(|known| kept.known_as(known))
    }

    /// Versions that are shown as kept, and are not among these.
    pub fn missing<'a>(&self, kept: impl Iterator<Item = &'a Kept>) -> Vec<u32> {
        let there: Vec<u32> = kept.filter(|kept| kept.archive).map(Kept::version).collect();
        let shown = self.versions.iter().filter(|version| version.state == VersionState::Retired);
        shown.map(|version| version.version).filter(|version| !there.contains(version)).collect()
    }

    pub fn shows_retired(&self, archive: &Kept) -> bool {
        self.versions.iter().any(|version| {
            version.version == archive.version()
                && version.state == VersionState::Retired
                && version.fingerprint.as_deref() == Some(archive.facts.fingerprint.as_str())
        })
    }
}
