//! What happens to keys and secrets, kept on record by whoever runs this room, where nobody changes it unseen:
//! always by fingerprint, never a byte of them. It is told from one status to the next, before that is written,
//! so that whoever dies in between tells it again, and nothing that a status shows was never told.

use std::sync::Arc;

use trellis_api::crypto::{Standing, Version, VersionState};

use crate::{kept::Kept, object::Object};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Made,
    /// Somebody else made it, and it is taken over.
    Adopted,
    /// Made in the place of another.
    Rotated,
    /// In use or kept again, after it was not.
    Restored,
    /// The same, under the cluster's new key for fingerprints.
    Marked,
    /// Out of use, and kept.
    Retired,
    /// By the end of its grace.
    Destroyed,
    /// Gone, and nobody asked for it.
    Lost,
    /// Its object was deleted, and it is with that.
    Deleted,
}

/// One thing that happened to one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed<'a> {
    pub act: Act,
    pub group: &'static str,
    pub kind: &'static str,
    pub namespace: &'a str,
    pub object: &'a str,
    pub uid: &'a str,
    /// The Secret that it is in.
    pub secret: Option<&'a str>,
    /// Signatures have none.
    pub version: Option<u32>,
    pub algorithm: Option<&'a str>,
    /// In full; nothing of what was lost before anybody counted.
    pub fingerprint: Option<&'a str>,
}

/// Keeps what happens on record.
pub trait Ledger: Send + Sync {
    /// Whether there is room for what is done next; where there is none, it is not done.
    fn room(&self) -> Result<(), Unrecorded>;

    fn record(&self, deed: &Deed<'_>) -> Result<(), Unrecorded>;
}

/// Why something is not on record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unrecorded(pub String);

impl Act {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Adopted => "adopted",
            Self::Rotated => "rotated",
            Self::Restored => "restored",
            Self::Marked => "marked",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
            Self::Lost => "lost",
            Self::Deleted => "deleted",
        }
    }
}

/// What happened between two statuses.
pub(crate) fn told(
    ledger: &dyn Ledger,
    object: &Object,
    (before, after): (&Standing, &Standing),
    kept: &[Arc<Kept>],
) -> Result<(), Unrecorded> {
    let in_use = before.versions.iter().any(|version| version.state == VersionState::Active);
    for version in &after.versions {
        let was = before.versions.iter().find(|was| was.version == version.version);
        let there = kept.iter().filter(|kept| Some(&kept.facts.fingerprint) == version.fingerprint.as_ref());
        let there = there.max_by_key(|kept| kept.archive == (version.state == VersionState::Retired));
        let adopted = there.is_some_and(|kept| kept.facts.adopted.is_some());
        if let Some(act) = act(was, version, adopted, in_use) {
            ledger.record(&Deed {
                secret: there.map(|kept| kept.name.as_str()),
                version: Some(version.version),
                algorithm: version.algorithm.as_deref(),
                fingerprint: version.fingerprint.as_deref(),
                ..deed(act, object)
            })?;
        }
    }
    // What has no versions is known by its fingerprint alone.
    if after.versions.is_empty()
        && after.full_fingerprint.is_some()
        && after.full_fingerprint != before.full_fingerprint
    {
        let there = kept.iter().find(|kept| Some(&kept.facts.fingerprint) == after.full_fingerprint.as_ref());
        let act = match before.full_fingerprint {
            _ if there.is_some_and(|kept| kept.facts.adopted.is_some()) => Act::Adopted,
            None => Act::Made,
            Some(_) => Act::Rotated,
        };
        ledger.record(&Deed {
            secret: there.map(|kept| kept.name.as_str()),
            algorithm: after.algorithm.as_deref(),
            fingerprint: after.full_fingerprint.as_deref(),
            ..deed(act, object)
        })?;
    }
    Ok(())
}

/// That an object is gone, and all that it kept with it.
pub(crate) fn deleted(ledger: &dyn Ledger, object: &Object, kept: &[Arc<Kept>]) -> Result<(), Unrecorded> {
    kept.iter().filter(|kept| kept.is_sound()).try_for_each(|kept| {
        ledger.record(&Deed {
            secret: Some(&kept.name),
            version: Some(kept.version()),
            algorithm: kept.facts.algorithm.as_deref(),
            fingerprint: Some(&kept.facts.fingerprint),
            ..deed(Act::Deleted, object)
        })
    })
}

fn act(was: Option<&Version>, is: &Version, adopted: bool, in_use: bool) -> Option<Act> {
    use VersionState::{Active, Destroyed, Lost, Retired};
    let same = was.is_some_and(|was| was.fingerprint == is.fingerprint);
    Some(match (was.map(|was| was.state), is.state) {
        (None, Active | Retired) if adopted => Act::Adopted,
        (None, Active | Retired) if in_use => Act::Rotated,
        (None, Active | Retired) => Act::Made,
        (Some(Retired | Lost | Destroyed), Active) | (Some(Lost | Destroyed), Retired) => Act::Restored,
        (Some(Active), Active) | (Some(Retired), Retired) if !same => Act::Marked,
        // It was gone and came back before anybody could tell.
        (Some(Active), Active) if was.is_some_and(|was| was.since != is.since) => Act::Restored,
        (Some(Active), Active) | (Some(Retired), Retired) => return None,
        (Some(Active), Retired) => Act::Retired,
        (Some(Destroyed), Destroyed) | (Some(Lost), Lost) => return None,
        (_, Destroyed) => Act::Destroyed,
        (_, Lost) => Act::Lost,
    })
}

fn deed(act: Act, object: &Object) -> Deed<'_> {
    Deed {
        act,
        group: object.id.group.as_str(),
        kind: object.id.kind.as_str(),
        namespace: &object.id.namespace,
        object: &object.id.name,
        uid: &object.uid,
        secret: None,
        version: None,
        algorithm: None,
        fingerprint: None,
    }
}
