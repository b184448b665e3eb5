//! The life of what an object keeps: told what is wished, what is there and what the status remembers, it names
//! one step, or says what stands in the way. Each step is one write over what was read, or one create, so that
//! whoever dies between two of them, or does them at the same time as somebody else, leaves a state to go on
//! from: never two keys for one version, and none lost.

mod wish;

use std::{sync::Arc, time::SystemTime};

pub(crate) use self::wish::{Class, MAX_ARCHIVES, Record, Taken, Why, Wish, renewal};
use crate::{
    craft::ADOPTED,
    kept::{Kept, State},
};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a content as this version, in the place of a Secret that is there, or anew. `next` is its version if
    /// it proves to be another than the one that had that number.
    Make {
        version: u32,
        next: u32,
        over: Option<Arc<Kept>>,
        why: Why,
    },
    /// Put a version that is kept back into use.
    Restore {
        from: Arc<Kept>,
        over: Option<Arc<Kept>>,
    },
    /// The same under the wished name.
    Copy {
        from: Arc<Kept>,
    },
    /// Keep a version in a Secret of its own, before another takes its place.
    Archive {
        of: Arc<Kept>,
    },
    /// Say since when an archive is out of use, or that it is in use again.
    Retire {
        archive: Arc<Kept>,
    },
    Unretire {
        archive: Arc<Kept>,
    },
    /// End of its grace.
    Destroy {
        archive: Arc<Kept>,
    },
    /// Take away a Secret whose content is elsewhere.
    Remove {
        old: Arc<Kept>,
    },
    /// Look into a Secret that does not say what it is, or is damaged: it is mended, taken over, or hopeless.
    Read {
        kept: Arc<Kept>,
    },
    /// Write the same in the wished form, and with what it is made of, if that was not known.
    Rewrite {
        kept: Arc<Kept>,
    },
}

/// Why not everything is as wished, though no step would make it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The wished name is somebody else's.
    Conflict { name: String },
    /// What stands there was not written here, and is not what the object keeps.
    NotAdopted { name: String, why: Arc<str> },
    /// What was in use is gone.
    Lost { version: u32 },
    /// The version that is wished back is not there.
    NoVersion { version: u32 },
    /// So many versions are kept that no other is made.
    Full,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    pub step: Option<Step>,
    pub blocked: Option<Blocked>,
    /// What is in use now.
    pub active: Option<Arc<Kept>>,
    /// When to look again though nothing changes.
    pub wake: Option<SystemTime>,
}

impl Course {
    fn step(step: Step, active: Option<&Arc<Kept>>) -> Self {
        Self { step: Some(step), active: active.cloned(), ..Self::default() }
    }

    fn blocked(blocked: Blocked, active: Option<&Arc<Kept>>) -> Self {
        Self { blocked: Some(blocked), active: active.cloned(), ..Self::default() }
    }
}

/// What there is of an object's Secrets.
struct There<'a> {
    current: Option<&'a Arc<Kept>>,
    /// Under names that were wished before.
    others: Vec<&'a Arc<Kept>>,
    archives: Vec<&'a Arc<Kept>>,
}

impl<'a> There<'a> {
    fn of(wish: &Wish<'_>, kept: &'a [Arc<Kept>], record: &Record) -> Self {
        let (mut archives, live): (Vec<_>, Vec<_>) = kept.iter().partition(|kept| kept.archive);
        archives.retain(|kept| record.allows(kept));
        let (current, mut others) = live.into_iter().partition::<Vec<_>, _>(|kept| kept.name == wish.name);
        others.retain(|kept| !matches!(kept.state, State::Unfit(_)));
        Self { current: current.first().copied(), others, archives }
    }

    fn archive(&self, version: u32) -> Option<&'a Arc<Kept>> {
        self.archives.iter().find(|kept| kept.is_sound() && kept.version() == version).copied()
    }

    fn archived(&self, kept: &Kept) -> bool {
        self.archive(kept.version()).is_some_and(|archive| archive.same_as(kept))
    }

    fn newest(&self, record: &Record) -> u32 {
        let all =
            self.current.into_iter().chain(self.others.iter().copied()).chain(self.archives.iter().copied());
        all.map(|kept| kept.version()).chain(record.newest()).max().unwrap_or_default()
    }
}

/// The next step.
pub(crate) fn course(
    wish: &Wish<'_>,
    taken: Taken,
    kept: &[Arc<Kept>],
    record: &Record,
    now: SystemTime,
) -> Course {
    let there = There::of(wish, kept, record);
    // What cannot be judged is looked into first: everything else is decided by what is in it.
    let unread =
        kept.iter().find(|kept| matches!(kept.state, State::Unread | State::OtherMark | State::Damaged));
    if let Some(kept) = unread {
        return Course::step(Step::Read { kept: kept.clone() }, there.current.filter(|kept| kept.is_sound()));
    }
    let current = there.current.filter(|kept| kept.is_sound() && record.allows(kept));
    match current {
        Some(current) => kept_well(wish, &there, current, record, now),
        None => {
            let own = kept.iter().any(|kept| kept.archive && kept.name == wish.name);
            missing(wish, if own { Taken::Foreign } else { taken }, &there, record)
        }
    }
}

/// There is nothing under the wished name, or nothing of use.
fn missing(wish: &Wish<'_>, taken: Taken, there: &There<'_>, record: &Record) -> Course {
    let sound = there.others.iter().filter(|kept| kept.is_sound() && record.allows(kept)).copied();
    let elsewhere = sound.max_by_key(|kept| kept.version());
    if taken == Taken::Foreign {
        return Course::blocked(Blocked::Conflict { name: wish.name.to_owned() }, elsewhere);
    }
    let over = there.current.cloned();
    if let Some(State::Unfit(why)) = over.as_ref().map(|over| &over.state) {
        let (name, why) = (wish.name.to_owned(), why.clone());
        return Course::blocked(Blocked::NotAdopted { name, why }, elsewhere);
    }
    if let Some(from) = elsewhere {
        let step = match over {
            // What is broken under the wished name gives way to what is whole.
            Some(over) => Step::Restore { from: from.clone(), over: Some(over) },
            None => Step::Copy { from: from.clone() },
        };
        return Course::step(step, elsewhere);
    }
    let known = record.version.or(over.as_ref().map(|kept| kept.version()).filter(|version| *version > 0));
    if let Some(from) = wish.version.or(known).and_then(|version| there.archive(version)) {
        return Course::step(Step::Restore { from: from.clone(), over }, None);
    }
    let newest = there.newest(record);
    let never = over.is_none() && newest == 0 && !record.was_made;
    let make = |version, why| match wish.recipe {
        Some(_) => Course::step(Step::Make { version, next: newest + 1, over: over.clone(), why }, None),
        None => Course::default(),
    };
    match wish.class {
        _ if never => make(1, Why::New),
        // Of the same it is made again, and is the same version then.
        Class::Derived | Class::Replaced => make(known.unwrap_or(newest + 1), Why::Restored),
        Class::Fresh if wish.recreate => make(newest + 1, Why::Recreated),
        // Of what another controller made nobody knows a number: it is the first.
        Class::Fresh => Course::blocked(Blocked::Lost { version: known.unwrap_or(newest).max(1) }, None),
    }
}

/// What is under the wished name is whole.
fn kept_well(
    wish: &Wish<'_>,
    there: &There<'_>,
    current: &Arc<Kept>,
    record: &Record,
    now: SystemTime,
) -> Course {
    let step = |step| Course::step(step, Some(current));
    if let Some(other) = there.others.iter().find(|kept| record.allows(kept)) {
        // What is hopeless and elsewhere has nothing that is not here.
        let superfluous = !other.is_sound() || other.same_as(current) || there.archived(other);
        let other = Arc::clone(other);
        return step(if superfluous { Step::Remove { old: other } } else { Step::Archive { of: other } });
    }
    let newest = there.archives.iter().filter(|kept| kept.is_sound()).map(|kept| kept.version()).max();
    let wished = wish.version.or(newest.filter(|newest| *newest > current.version()));
    if let Some(version) = wished.filter(|version| *version != current.version()) {
        let Some(from) = there.archive(version) else {
            return Course::blocked(Blocked::NoVersion { version }, Some(current));
        };
        if !there.archived(current) {
            return step(Step::Archive { of: current.clone() });
        }
        return step(Step::Restore { from: from.clone(), over: Some(current.clone()) });
    }
    let mut course = Course { active: Some(current.clone()), ..Course::default() };
    if let Some(why) = wish.due(&current.facts, now) {
        let version = there.newest(record) + 1;
        let over = Some(current.clone());
        if wish.class == Class::Replaced || there.archived(current) {
            return step(Step::Make { version, next: version, over, why });
        }
        if there.archives.len() < MAX_ARCHIVES {
            return step(Step::Archive { of: current.clone() });
        }
        course.blocked = Some(Blocked::Full);
    } else if wish.recipe.is_some() && current.facts.made_of == ADOPTED
        || wish.form.is_some_and(|form| form != current.facts.form)
    {
        return step(Step::Rewrite { kept: current.clone() });
    }
    tidy(wish, there, current, record, now, course)
}

/// What is kept of former versions.
fn tidy(
    wish: &Wish<'_>,
    there: &There<'_>,
    current: &Arc<Kept>,
    record: &Record,
    now: SystemTime,
    mut course: Course,
) -> Course {
    course.wake = wish.wake(&current.facts, now);
    for archive in there.archives.iter().filter(|kept| kept.is_sound()) {
        let in_use = archive.version() == current.version();
        match archive.facts.retired {
            None if !in_use => {
                course.step = Some(Step::Retire { archive: Arc::clone(archive) });
                return course;
            }
            Some(_) if in_use => {
                course.step = Some(Step::Unretire { archive: Arc::clone(archive) });
                return course;
            }
            Some(retired) => {
                let Some(end) = wish.grace.and_then(|grace| retired.checked_add(grace)) else { continue };
                if end > now {
                    course.wake = course.wake.map_or(Some(end), |wake| Some(wake.min(end)));
                } else if record.shows_retired(archive) {
                    course.step = Some(Step::Destroy { archive: Arc::clone(archive) });
                    return course;
                }
                // Otherwise the status is written first, so that it says what was destroyed.
            }
            None => {}
        }
    }
    course
}

#[cfg(test)]
mod tests;
