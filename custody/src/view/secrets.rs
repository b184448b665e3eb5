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
    pub fn secrets_listed(&mut self, namespace: &str, secrets: Vec<Kept>) {
        self.opened(namespace, Access::Open);
        let there: BTreeSet<&str> = secrets.iter().map(|kept| kept.name.as_str()).collect();
        let gone: Vec<String> = self
            .holders
            .keys()
            .filter(|(of, name)| of == namespace && !there.contains(name.as_str()))
            .map(|(_, name)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.secret_gone(namespace, name, None));
        secrets.into_iter().for_each(|kept| self.secret_seen(kept));
    }

    pub fn secret_seen(&mut self, kept: Kept) {
        if !self.later(&kept) {
            return;
        }
        let place = (kept.namespace.clone(), kept.name.clone());
        if self.holders.get(&place).is_some_and(|holder| *holder != kept.owner) {
            self.secret_gone(&place.0, &place.1, None);
        }
        let owner = kept.owner.clone();
        let all = self.kept.entry(owner.clone()).or_default();
        match all.iter_mut().find(|known| known.name == kept.name) {
            Some(known) if **known == kept => return,
            Some(known) => *known = Arc::new(kept),
            None => all.push(Arc::new(kept)),
        }
        self.holders.insert(place, owner.clone());
        self.concerns_owner(&owner);
    }

    /// `uid` is that of the Secret that went, where it is known: another may have its name by now.
    pub fn secret_gone(&mut self, namespace: &str, name: &str, uid: Option<&str>) {
        let place = (namespace.to_owned(), name.to_owned());
        let Some(owner) = self.holders.get(&place).cloned() else { return };
        let Some(all) = self.kept.get_mut(&owner) else { return };
        let before = all.len();
        all.retain(|kept| kept.name != name || uid.is_some_and(|uid| uid != kept.uid));
        if all.len() == before {
            return;
        }
        if all.is_empty() {
            self.kept.remove(&owner);
        }
        self.holders.remove(&place);
        self.concerns_owner(&owner);
    }

    /// The controller may not look at Secrets of a namespace.
    pub fn closed(&mut self, namespace: &str) {
        self.opened(namespace, Access::Closed);
        let places: Vec<_> = self.holders.keys().filter(|(of, _)| of == namespace).cloned().collect();
        for place in places {
            if let Some(owner) = self.holders.remove(&place) {
                self.kept.remove(&owner);
            }
        }
    }

    /// A namespace that nobody looks at any more.
    pub fn left(&mut self, namespace: &str) {
        self.closed(namespace);
        self.access.remove(namespace);
    }

    pub fn named_seen(&mut self, name: &Name, seen: Named) {
        let dependants: Vec<Id> = self.index.dependants(&Dependency::Named(name.clone())).cloned().collect();
        if dependants.is_empty() || self.named.get(name) == Some(&seen) {
            return;
        }
        self.named.insert(name.clone(), seen);
        self.news.concerned.extend(dependants);
    }

    /// What belongs to an object.
    pub fn kept(&self, uid: &str) -> &[Arc<Kept>] {
        self.kept.get(uid).map(Vec::as_slice).unwrap_or_default()
    }

    /// The object that a uid is of, and those that are made from it.
    fn concerns_owner(&mut self, uid: &str) {
        if let Some(id) = self.by_uid.get(uid).cloned() {
            self.concerns(id);
        }
    }

    fn opened(&mut self, namespace: &str, access: Access) {
        if self.access.insert(namespace.to_owned(), access) == Some(access) {
            return;
        }
        let there: Vec<Id> = self.objects.keys().filter(|id| *id.namespace == *namespace).cloned().collect();
        there.into_iter().for_each(|id| self.concerns(id));
    }
}
