//! Secrets and ConfigMaps that objects refer to by name, and when each is to be read. Those of a kind and namespace
//! are watched together, by their metadata alone, so that nothing of what nobody refers to comes here; one whose
//! version is another than what was read is read by itself. It is told the time, what the watches tell and what
//! was read, and knows no API.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use tokio::time::Instant;
use trellis_api::crypto::MessageKind;

use crate::{
    index::Name,
    queue::{Outcome, Queue},
    trouble::Trouble,
    view::Named,
    watch::Seen,
};

/// Names that are read at the same time, wherever they are.
pub(crate) const READS: usize = 8;

/// Where names are watched together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub kind: MessageKind,
    pub namespace: String,
}

impl Place {
    pub fn of(name: &Name) -> Self {
        Self { kind: name.kind, namespace: name.namespace.clone() }
    }

    fn name(&self, name: &str) -> Name {
        Name { kind: self.kind, namespace: self.namespace.clone(), name: name.to_owned() }
    }
}

/// A name that is to be read, and which reading that is: an answer to another one is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub name: Name,
    number: u64,
}

/// What was read at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub version: String,
    /// Of each item.
    pub marks: BTreeMap<String, String>,
}

/// Nothing where there is nothing.
pub(crate) type Answer = Result<Option<Read>, Trouble>;

#[derive(Default)]
pub(crate) struct Names {
    places: HashMap<Place, Watched>,
    queue: Queue<Name>,
    /// Readings that were begun, and how many of them have no answer yet, whoever still waits for it.
    begun: u64,
    open: usize,
    /// What was found, for whoever asks next.
    found: Vec<(Name, Named)>,
}

/// Names of one place.
#[derive(Default)]
struct Watched {
    listing: Listing,
    names: HashMap<String, Known>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Listing {
    /// It is under way, and will tell what is there.
    #[default]
    Coming,
    /// Everything that happens since is told.
    Done,
    /// It may not be looked at.
    Closed,
}

#[derive(Default)]
struct Known {
    /// As it was read last.
    at: At,
    /// What was told since the reading began that is under way.
    told: Option<At>,
    /// The number of that.
    reading: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Unread,
    Nothing,
    Version(String),
    /// It may not be read.
    Closed,
}

impl Names {
    /// Somebody refers to it. Says whether its place has to be watched from now on.
    pub fn begin(&mut self, name: Name) -> Option<Place> {
        let place = Place::of(&name);
        let (watched, new) = match self.places.entry(place.clone()) {
            Entry::Occupied(there) => (there.into_mut(), None),
            Entry::Vacant(free) => (free.insert(Watched::default()), Some(place)),
        };
        let Entry::Vacant(free) = watched.names.entry(name.name.clone()) else { return None };
        let known = free.insert(Known::default());
        match watched.listing {
            Listing::Coming => {}
            Listing::Done => self.queue.add(name),
            Listing::Closed => {
                known.at = At::Closed;
                self.found.push((name, Named::Closed));
            }
        }
        new
    }

    /// Nobody refers to it any more. Says whether its place is watched for nobody now.
    pub fn end(&mut self, name: &Name) -> Option<Place> {
        let place = Place::of(name);
        let watched = self.places.get_mut(&place)?;
        watched.names.remove(&name.name);
        let empty = watched.names.is_empty();
        self.queue.remove(name);
        if !empty {
            return None;
        }
        self.places.remove(&place);
        Some(place)
    }

    /// What a watch has told of a place: names and versions, also of what nobody refers to.
    pub fn told(&mut self, place: &Place, seen: Seen<(String, String)>) {
        let Some(watched) = self.places.get_mut(place) else { return };
        match seen {
            Seen::All(all) => {
                watched.listing = Listing::Done;
                let mut all: HashMap<String, String> = all.into_iter().collect();
                let wanted: Vec<String> = watched.names.keys().cloned().collect();
                for name in wanted {
                    let at = all.remove(&name).map_or(At::Nothing, At::Version);
                    self.is(place, &name, at);
                }
            }
            Seen::Applied((name, version)) => self.is(place, &name, At::Version(version)),
            Seen::Gone((name, _)) => self.is(place, &name, At::Nothing),
            Seen::Closed | Seen::Unknown => {
                watched.listing = Listing::Closed;
                for (name, known) in &mut watched.names {
                    *known = Known { at: At::Closed, ..Known::default() };
                    let name = place.name(name);
                    self.queue.remove(&name);
                    self.found.push((name, Named::Closed));
                }
            }
        }
    }

    /// A watch may be behind what was read: what it tells is only a reason to read again.
    fn is(&mut self, place: &Place, name: &str, at: At) {
        let Some(known) = self.places.get_mut(place).and_then(|watched| watched.names.get_mut(name)) else {
            return;
        };
        let name = place.name(name);
        if known.reading.is_some() {
            known.told = Some(at);
        } else if at == At::Nothing && matches!(known.at, At::Unread | At::Closed) {
            known.at = at;
            self.queue.remove(&name);
            self.found.push((name, Named::Nothing));
        } else if at != known.at {
            self.queue.add(name);
        }
    }

    /// The next one to be read, which is open until it is [`Self::answered`].
    pub fn take(&mut self, now: Instant) -> Option<Reading> {
        if self.open == READS {
            return None;
        }
        let name = self.queue.take(now)?;
        let known = self.places.get_mut(&Place::of(&name))?.names.get_mut(&name.name)?;
        self.begun += 1;
        self.open += 1;
        known.reading = Some(self.begun);
        known.told = None;
        Some(Reading { name, number: self.begun })
    }

    /// `jitter` is between 0 and 1.
    pub fn answered(&mut self, reading: Reading, answer: Answer, now: Instant, jitter: f64) {
        self.open -= 1;
        let Reading { name, number } = reading;
        let watched = self.places.get_mut(&Place::of(&name));
        let Some(known) = watched
            .and_then(|watched| watched.names.get_mut(&name.name))
            .filter(|known| known.reading == Some(number))
        else {
            return;
        };
        known.reading = None;
        let told = known.told.take();
        let found = match answer {
            Ok(read) => {
                self.queue.done(&name, Outcome::Rest(None), now, jitter);
                let (at, found) = match read {
                    Some(read) => (At::Version(read.version), Named::Items(read.marks)),
                    None => (At::Nothing, Named::Nothing),
                };
                if told.is_some_and(|told| told != at) {
                    self.queue.add(name.clone());
                }
                known.at = at;
                found
            }
            Err(Trouble::Forbidden(_)) => {
                self.queue.done(&name, Outcome::Busy(None), now, jitter);
                known.at = At::Closed;
                Named::Closed
            }
            Err(trouble) => {
                let asked = if let Trouble::Busy { asked, .. } = trouble { asked } else { None };
                return self.queue.done(&name, Outcome::Busy(asked), now, jitter);
            }
        };
        self.found.push((name, found));
    }

    /// Rights of a namespace have changed: what could not be read is read again.
    pub fn nudge(&mut self, namespace: &str) {
        for (place, watched) in &self.places {
            if place.namespace != namespace || watched.listing != Listing::Done {
                continue;
            }
            let closed = watched.names.iter().filter(|(_, known)| known.at == At::Closed);
            closed.for_each(|(name, _)| self.queue.hurry(place.name(name)));
        }
    }

    /// When to [`Self::take`] again, though nothing is told or answered.
    pub fn next(&self) -> Option<Instant> {
        self.queue.next().filter(|_| self.open < READS)
    }

    /// What was found since this was asked last.
    pub fn found(&mut self) -> Vec<(Name, Named)> {
        std::mem::take(&mut self.found)
    }
}
