//! What a status says that all kinds have in common: a word, conditions, versions. Of the same state it is the
//! same, so that nothing is written where nothing changed.

mod versions;

use std::{sync::Arc, time::SystemTime};

use trellis_api::crypto::{Condition, Standing, Word, condition};
use trellis_pki::clock::rfc3339;

use crate::{
    craft::{Extra, Recipe},
    id::Id,
    kept::Kept,
    lifecycle::{Blocked, Class, Course},
    object::Object,
    sources::Obstacle,
};

/// The reason where all is as wished.
const IN_PLACE: &str = "InPlace";
/// An older version is in use, as wished.
const PINNED: &str = "Pinned";
/// What is in use has an end, and that was before now.
const EXPIRED: &str = "Expired";
/// What waits for a moment.
const MAKING: &str = "Making";
/// Objects that a message names.
const NAMED: usize = 5;

/// All that is said.
pub(crate) struct Account<'a> {
    pub object: &'a Object,
    pub before: &'a Standing,
    pub class: Class,
    pub course: &'a Course,
    pub kept: &'a [Arc<Kept>],
    pub recipe: Option<&'a Recipe>,
    pub obstacle: Option<&'a Obstacle>,
    pub extras: Vec<Extra>,
    /// Those that are made from it.
    pub dependants: &'a [Id],
    /// The wish for an older version.
    pub pinned: bool,
    pub grace: Option<std::time::Duration>,
    /// Whether there was one, even if nobody knows which.
    pub was_made: bool,
}

/// How it stands, in short.
struct Verdict {
    word: Word,
    reason: &'static str,
    message: String,
}

impl Account<'_> {
    pub fn standing(self, now: SystemTime) -> Standing {
        let verdict = self.verdict(now);
        let ready = verdict.word == Word::Success;
        let mut conditions = vec![Extra {
            type_: condition::READY,
            holds: Some(ready),
            reason: verdict.reason,
            message: verdict.message.clone(),
        }];
        conditions.extend(self.flags());
        conditions.extend(self.extras.iter().cloned());
        let active = self.course.active.as_ref();
        let versioned = self.class != Class::Replaced;
        Standing {
            status: verdict.word,
            error: (!ready).then_some(verdict.message),
            last_update_time: None,
            conditions: written(conditions, &self.before.conditions, self.object.generation, now),
            observed_generation: Some(self.object.generation),
            algorithm: active.and_then(|kept| kept.facts.algorithm.clone()),
            // What was lost is remembered by its number.
            version: active
                .map(|kept| kept.version())
                .or(self.before.version)
                .or(self.forgotten())
                .filter(|_| versioned),
            versions: if versioned { self.versions(now) } else { Vec::new() },
            full_fingerprint: active.map(|kept| kept.facts.fingerprint.clone()),
        }
    }

    fn verdict(&self, now: SystemTime) -> Verdict {
        let said = |word, reason, message| Verdict { word, reason, message };
        let absence = self.obstacle.filter(|obstacle| obstacle.is_absence());
        if let Some(obstacle) = self.obstacle.filter(|obstacle| !obstacle.is_absence()) {
            return said(Word::Failed, obstacle.reason(), obstacle.message());
        }
        match (&self.course.blocked, &self.course.active) {
            (Some(Blocked::Conflict { name }), _) => {
                said(Word::Failed, condition::SECRET_CONFLICT, self.conflict(name))
            }
            (Some(Blocked::NotAdopted { name, why }), _) => {
                let obstacle = Obstacle::NotAdopted { name: name.clone(), why: why.clone() };
                said(Word::Failed, obstacle.reason(), obstacle.message())
            }
            (Some(Blocked::Lost { version }), _) => said(Word::Failed, condition::LOST, self.lost(*version)),
            (Some(Blocked::NoVersion { version }), _) => said(
                Word::Failed,
                "VersionUnavailable",
                format!(
                    "spec.version: there is no version {version} any more: use one that status.versions shows as \
                     Active or Retired, or remove the field"
                ),
            ),
            (Some(Blocked::Full), _) => said(
                Word::Success,
                "RotationHeld",
                format!(
                    "a new version is due, and {} are kept already: shorten spec.rotation.grace",
                    crate::lifecycle::MAX_ARCHIVES
                ),
            ),
            (None, Some(active)) if active.facts.until.is_some_and(|until| until <= now) => {
                let until = active.facts.until.map(rfc3339).unwrap_or_default();
                let why = absence.map(|absence| format!(": {}", absence.message())).unwrap_or_default();
                said(Word::Failed, EXPIRED, format!("what is in use ended at {until}{why}"))
            }
            (None, Some(active)) => {
                let note = self.recipe.and_then(|recipe| recipe.note.clone());
                let pinned = format!("version {} is in use, as spec.version says", active.version());
                let plain = note.unwrap_or_default();
                if self.pinned {
                    said(Word::Success, PINNED, pinned)
                } else {
                    said(Word::Success, IN_PLACE, plain)
                }
            }
            (None, None) => match absence {
                Some(absence) => said(absence.word(), absence.reason(), absence.message()),
                None => said(Word::Pending, MAKING, String::new()),
            },
        }
    }

    /// Conditions that are there only while they hold.
    fn flags(&self) -> Option<Extra> {
        let flag = |type_, holds, reason, message| Extra { type_, holds: Some(holds), reason, message };
        if let Some(obstacle) = self.obstacle {
            return match obstacle.condition() {
                Some(type_) => Some(flag(type_, true, obstacle.reason(), obstacle.message())),
                None if obstacle.is_absence() && self.course.active.is_some() => {
                    Some(flag(condition::SOURCE_AVAILABLE, false, obstacle.reason(), obstacle.message()))
                }
                None => None,
            };
        }
        match &self.course.blocked {
            Some(Blocked::Conflict { name }) => {
                Some(flag(condition::SECRET_CONFLICT, true, "ForeignSecret", self.conflict(name)))
            }
            Some(Blocked::Lost { version }) => {
                Some(flag(condition::LOST, true, "SecretLost", self.lost(*version)))
            }
            _ => None,
        }
    }

    fn conflict(&self, name: &str) -> String {
        let Id { kind, name: object, .. } = &self.object.id;
        format!(
            "Secret {name} is not of this object and is left alone: name another one in spec.secretName, delete \
             it, or give it to this object by its annotation {}: {}/{object}",
            trellis_api::crypto::ADOPT,
            kind.as_str(),
        )
    }

    fn lost(&self, version: u32) -> String {
        let dependants = match self.dependants {
            [] => String::new(),
            all => {
                let named: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
                let more = all.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("; it is what {}{more} came from", named.join(", "))
            }
        };
        format!(
            "version {version} is gone and cannot be derived from anything that is left: restore its Secret from a \
             backup, or let another be made by spec.recreatePolicy: Recreate{dependants}"
        )
    }
}

/// Conditions as a status holds them: the time of one that stays what it is stays as well.
pub(crate) fn written(
    conditions: Vec<Extra>,
    before: &[Condition],
    generation: i64,
    now: SystemTime,
) -> Vec<Condition> {
    let all = conditions.into_iter().map(|Extra { type_, holds, reason, message }| {
        let status = match holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let known = before.iter().find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: known
                .map_or_else(|| rfc3339(now), |known| known.last_transition_time.clone()),
            observed_generation: generation,
        }
    });
    all.collect()
}
