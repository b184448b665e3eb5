//! Statuses as they are and as they shall be, and which of them differ.

use std::collections::{BTreeSet, HashMap};

use kube::{Resource, core::object::HasStatus};
use serde::Serialize;
use serde_json::Value;
use trellis_api::source::Change;

use super::{Object, Status};

#[derive(Debug, Default)]
pub struct Board {
    shown: HashMap<Object, Shown>,
    wanted: HashMap<Object, Status>,
    /// Those of which the one or the other is new.
    due: BTreeSet<Object>,
}

#[derive(Debug)]
struct Shown {
    version: String,
    status: Value,
}

/// A status to be written over the version of the object that was seen last.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub object: Object,
    pub version: String,
    pub status: Value,
}

impl Board {
    /// Takes in what objects of a kind show. `is` says which kind an object on the board is of.
    pub fn see<K>(&mut self, change: &Change<K>, object: impl Fn(&K) -> Object, is: fn(&Object) -> bool)
    where
        K: Resource<DynamicType = ()> + HasStatus,
        K::Status: Serialize,
    {
        match change {
            Change::Applied(one) => self.show(object(one), &**one),
            Change::Deleted(one) => self.gone(&object(one)),
            Change::Reset(all) => {
                let kept: BTreeSet<_> = all.iter().map(|one| object(one)).collect();
                let gone: Vec<_> =
                    self.shown.keys().filter(|one| is(one) && !kept.contains(one)).cloned().collect();
                gone.iter().for_each(|one| self.gone(one));
                all.iter().for_each(|one| self.show(object(one), &**one));
            }
        }
    }

    /// Nothing where the object has no status of ours.
    pub fn want(&mut self, object: Object, status: Option<Status>) {
        let same = self.wanted.get(&object) == status.as_ref();
        match status {
            Some(status) => drop(self.wanted.insert(object.clone(), status)),
            None => drop(self.wanted.remove(&object)),
        }
        if !same {
            self.due.insert(object);
        }
    }

    /// What has to be written of that which is due. `now` in RFC 3339.
    pub fn take(&mut self, now: &str) -> Vec<Due> {
        let due = std::mem::take(&mut self.due);
        due.into_iter().filter_map(|object| self.difference(object, now)).collect()
    }

    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// That one could not be written, or may have to be.
    pub fn put_back(&mut self, object: Object) {
        self.due.insert(object);
    }

    /// Everything may be different from what was seen of it.
    pub fn suspect_all(&mut self) {
        self.due.extend(self.wanted.keys().cloned());
    }

    /// What every status shall be, for a person to read.
    pub fn wanted(&self, now: &str) -> Vec<(String, Value)> {
        let all = self.wanted.iter().map(|(object, status)| {
            let shown = self.shown.get(object).map_or(&Value::Null, |shown| &shown.status);
            (object.to_string(), status.over(shown, now))
        });
        all.collect()
    }

    fn difference(&self, object: Object, now: &str) -> Option<Due> {
        let shown = self.shown.get(&object)?;
        let status = self.wanted.get(&object)?.over(&shown.status, now);
        // One that has never been written and would hold nothing is as good as written.
        let empty = shown.status.is_null()
            && status
                .as_object()
                .is_some_and(|all| all.values().all(|one| one.as_array().is_some_and(Vec::is_empty)));
        (status != shown.status && !empty).then(|| Due { object, version: shown.version.clone(), status })
    }

    fn show<K>(&mut self, object: Object, one: &K)
    where
        K: Resource<DynamicType = ()> + HasStatus,
        K::Status: Serialize,
    {
        let version = one.meta().resource_version.clone().unwrap_or_default();
        let status =
            one.status().map_or(Value::Null, |status| serde_json::to_value(status).unwrap_or_default());
        self.shown.insert(object.clone(), Shown { version, status });
        if self.wanted.contains_key(&object) {
            self.due.insert(object);
        }
    }

    fn gone(&mut self, object: &Object) {
        self.shown.remove(object);
        self.wanted.remove(object);
        self.due.remove(object);
    }
}
