//! Secrets of a view: ours by the object that they belong to, others' by the name that objects refer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Access, View};
use crate::{
    id::Id,
    index::{Dependency, Name},
    kept::Kept,
};

/// What is seen at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Nothing,
    /// The mark of each of its items.
    Items(BTreeMap<String, String>),
    /// It may not be looked at.
    Closed,
}

impl View {
    /// All of ours in a namespace.
    pub fn secrets_listed(&mut self, namespace: &str, secrets: Vec<Kept>) -> BTreeSet<Id> {
        let mut concerned = self.opened(namespace, Access::Open);
        let there: BTreeSet<&str> = secrets.iter().map(|kept| kept.name.as_str()).collect();
        let gone: Vec<String> = self
            .holders
            .keys()
            .filter(|(of, name)| of == namespace && !there.contains(name.as_str()))
            .map(|(_, name)| name.clone())
            .collect();
        for name in gone {
            concerned.extend(self.secret_gone(namespace, &name, None));
        }
        for kept in secrets {
            concerned.extend(self.secret_seen(kept));
        }
        concerned
    }

    pub fn secret_seen(&mut self, kept: Kept) -> BTreeSet<Id> {
        if !self.later(&kept) {
            return BTreeSet::new();
        }
        let place = (kept.namespace.clone(), kept.name.clone());
        let mut concerned = BTreeSet::new();
        if self.holders.get(&place).is_some_and(|holder| *holder != kept.owner) {
            concerned.extend(self.secret_gone(&kept.namespace.clone(), &kept.name.clone(), None));
        }
        let owner = kept.owner.clone();
        let all = self.kept.entry(owner.clone()).or_default();
        let known = all.iter_mut().find(|known| known.name == kept.name);
        match known {
            Some(known) if **known == kept => return concerned,
            Some(known) => *known = Arc::new(kept),
            None => all.push(Arc::new(kept)),
        }
        self.holders.insert(place, owner.clone());
        concerned.extend(self.owners(&owner));
        concerned
    }

    /// `uid` is that of the Secret that went, where it is known: another may have its name by now.
    pub fn secret_gone(&mut self, namespace: &str, name: &str, uid: Option<&str>) -> BTreeSet<Id> {
        let place = (namespace.to_owned(), name.to_owned());
        let Some(owner) = self.holders.get(&place).cloned() else { return BTreeSet::new() };
        let Some(all) = self.kept.get_mut(&owner) else { return BTreeSet::new() };
        let before = all.len();
        all.retain(|kept| kept.name != name || uid.is_some_and(|uid| uid != kept.uid));
        if all.len() == before {
            return BTreeSet::new();
        }
        if all.is_empty() {
            self.kept.remove(&owner);
        }
        self.holders.remove(&place);
        self.owners(&owner)
    }

    /// The controller may not look at Secrets of a namespace.
    pub fn closed(&mut self, namespace: &str) -> BTreeSet<Id> {
        let concerned = self.opened(namespace, Access::Closed);
        let places: Vec<_> = self.holders.keys().filter(|(of, _)| of == namespace).cloned().collect();
        for place in places {
            if let Some(owner) = self.holders.remove(&place) {
                self.kept.remove(&owner);
            }
        }
        concerned
    }

    /// A namespace that nobody looks at any more.
    pub fn left(&mut self, namespace: &str) {
        self.closed(namespace);
        self.access.remove(namespace);
    }

    pub fn named_seen(&mut self, name: &Name, seen: Named) -> BTreeSet<Id> {
        let dependants: BTreeSet<Id> = self.dependants(&Dependency::Named(name.clone())).collect();
        if dependants.is_empty() || self.named.get(name) == Some(&seen) {
            return BTreeSet::new();
        }
        self.named.insert(name.clone(), seen);
        dependants
    }

    /// What belongs to an object.
    pub fn kept(&self, uid: &str) -> &[Arc<Kept>] {
        self.kept.get(uid).map(Vec::as_slice).unwrap_or_default()
    }

    /// The object that a uid is of, and those that are made from it.
    fn owners(&self, uid: &str) -> BTreeSet<Id> {
        self.by_uid.get(uid).map(|id| self.with_dependants(id.clone())).unwrap_or_default()
    }

    fn opened(&mut self, namespace: &str, access: Access) -> BTreeSet<Id> {
        if self.access.insert(namespace.to_owned(), access) == Some(access) {
            return BTreeSet::new();
        }
        let there: Vec<Id> = self.objects.keys().filter(|id| *id.namespace == *namespace).cloned().collect();
        there.into_iter().flat_map(|id| self.with_dependants(id)).collect()
    }
}
