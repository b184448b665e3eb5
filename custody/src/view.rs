//! What is known of the cluster: objects, their Secrets without what is in them, what objects refer to by
//! name, grants, and which namespaces are open. Told of changes, it says whom they concern.

mod resolve;
mod secrets;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use trellis_api::{
    crypto::{Kind, MessageKind},
    gateway::ReferenceGrant,
};

pub(crate) use self::{resolve::Looked, secrets::Named};
use crate::{
    id::{Group, Id},
    index::{Dependency, Difference, Index, Name},
    issuer::Anchors,
    kept::Kept,
    kinds::trade,
    object::{Object, is_older},
    sources::CIRCLE,
    tally::Tally,
};

/// What may be done in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody has looked yet.
    Unknown,
    Open,
    Closed,
}

#[derive(Default)]
pub(crate) struct View {
    objects: HashMap<Id, Object>,
    by_uid: HashMap<String, Id>,
    /// Kinds that were listed: before all are, nobody can say what is not there.
    listed: HashSet<(Group, Kind)>,
    /// How many objects a namespace has.
    namespaces: HashMap<String, usize>,
    access: HashMap<String, Access>,
    /// By the uid of their object.
    kept: HashMap<String, Vec<Arc<Kept>>>,
    /// Whose a Secret is, by namespace and name.
    holders: HashMap<(String, String), String>,
    /// Who wishes a Secret of a namespace and name, whether it is there or not.
    wished: HashMap<(String, String), Id>,
    named: HashMap<Name, Named>,
    grants: HashMap<String, Vec<ReferenceGrant>>,
    granted: bool,
    mesh: Option<Anchors>,
    index: Index,
    news: News,
    tally: Tally,
    /// Whether the tally is another than when it was looked at last.
    counted: bool,
}

/// What has come of changes, for whoever acts on it.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Those whom a change concerns.
    pub concerned: BTreeSet<Id>,
    /// What has to be watched from now on, or not any more, in this order.
    pub differences: Vec<Difference>,
}

impl View {
    /// What has come of everything that it was told since it was asked last.
    pub fn news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// How all objects stand, if that has changed since it was asked last.
    pub fn tally(&mut self) -> Option<&Tally> {
        std::mem::take(&mut self.counted).then_some(&self.tally)
    }

    /// Says which ones are gone that were known.
    pub fn objects_listed(&mut self, group: Group, kind: Kind, objects: Vec<Object>) -> Vec<Object> {
        let there: HashSet<Id> = objects.iter().map(|object| object.id.clone()).collect();
        let gone: Vec<Id> = self
            .objects
            .keys()
            .filter(|id| id.group == group && id.kind == kind && !there.contains(id))
            .cloned()
            .collect();
        let gone = gone.iter().filter_map(|id| self.object_gone(id)).collect();
        objects.into_iter().for_each(|object| self.object_seen(object));
        self.listed.insert((group, kind));
        gone
    }

    pub fn object_seen(&mut self, object: Object) {
        let id = object.id.clone();
        let before = self.objects.get(&id);
        if before.is_some_and(|before| object.is_older_than(before) || *before == object) {
            return;
        }
        if before.is_none_or(|before| before.shown != object.shown) {
            if let Some(before) = before {
                self.tally.remove(id.kind, before.shown);
            }
            self.tally.add(id.kind, object.shown);
            self.counted = true;
        }
        if before.is_none_or(|before| before.uid != object.uid) {
            if let Some(before) = before {
                // It was deleted and made again in between.
                self.by_uid.remove(&before.uid);
            } else {
                *self.namespaces.entry(id.namespace.to_string()).or_default() += 1;
            }
            self.by_uid.insert(object.uid.clone(), id.clone());
        }
        if let Some(before) = self.objects.get(&id) {
            self.unwish(&wish(before), &id);
        }
        self.wished.extend(wish(&object).map(|place| (place, id.clone())));
        self.objects.insert(id.clone(), object);
        self.concerns(id);
    }

    pub fn object_gone(&mut self, id: &Id) -> Option<Object> {
        let object = self.objects.remove(id)?;
        self.unwish(&wish(&object), id);
        self.by_uid.remove(&object.uid);
        self.tally.remove(id.kind, object.shown);
        self.counted = true;
        if let Some(count) = self.namespaces.get_mut(&*id.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&*id.namespace);
            }
        }
        self.concerns(id.clone());
        Some(object)
    }

    fn unwish(&mut self, place: &Option<(String, String)>, id: &Id) {
        if let Some(place) = place
            && self.wished.get(place) == Some(id)
        {
            self.wished.remove(place);
        }
    }

    pub fn grants_listed(&mut self, grants: Vec<ReferenceGrant>) {
        for namespace in std::mem::take(&mut self.grants).into_keys() {
            self.news.concerned.extend(self.index.dependants(&Dependency::Grants(namespace)).cloned());
        }
        self.granted = true;
        grants.into_iter().for_each(|grant| self.grant_seen(grant));
    }

    pub fn grant_seen(&mut self, grant: ReferenceGrant) {
        self.grant_gone(&grant);
        let namespace = grant.metadata.namespace.clone().unwrap_or_default();
        self.grants.entry(namespace).or_default().push(grant);
    }

    pub fn grant_gone(&mut self, grant: &ReferenceGrant) {
        let namespace = grant.metadata.namespace.clone().unwrap_or_default();
        if let Some(all) = self.grants.get_mut(&namespace) {
            all.retain(|known| known.metadata.name != grant.metadata.name);
        }
        self.news.concerned.extend(self.index.dependants(&Dependency::Grants(namespace)).cloned());
    }

    /// What the CA of the mesh issues from now.
    pub fn mesh_seen(&mut self, anchors: Anchors) {
        if self.mesh.as_ref() != Some(&anchors) {
            self.mesh = Some(anchors);
            self.news.concerned.extend(self.index.dependants(&Dependency::Mesh).cloned());
        }
    }

    /// Whether everything was listed that decisions rest on.
    pub fn is_complete(&self, groups: &[Group]) -> bool {
        let all =
            groups.iter().all(|group| Kind::ALL.iter().all(|kind| self.listed.contains(&(*group, *kind))));
        all && self.granted
    }

    pub fn object(&self, id: &Id) -> Option<&Object> {
        self.objects.get(id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Id> {
        self.objects.keys()
    }

    /// Namespaces with objects.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    pub fn access(&self, namespace: &str) -> Access {
        self.access.get(namespace).copied().unwrap_or(Access::Unknown)
    }

    pub fn depend(&mut self, id: &Id, on: BTreeSet<Dependency>) {
        let loses = self.index.loses(id, &on);
        let difference = self.index.set(id, on);
        if loses {
            self.opens(id);
        }
        for name in &difference.end {
            self.named.remove(name);
        }
        if difference != Difference::default() {
            self.news.differences.push(difference);
        }
    }

    /// An object that depends on less than before may have been what closed a circle. Whoever was in it is told, since
    /// nothing else of what they depend on has to change with it.
    fn opens(&mut self, id: &Id) {
        let makes = |id: &Id| {
            let Some(object) = self.objects.get(id) else { return Vec::new() };
            let kept = self.kept(&object.uid).iter().map(|kept| kept.name.clone());
            let names = kept.chain(wish(object).map(|(_, name)| name));
            let namespace = id.namespace.to_string();
            names.map(|name| Name { kind: MessageKind::Secret, namespace: namespace.clone(), name }).collect()
        };
        let made = self.index.made_from(id, makes);
        let in_circles = made
            .into_iter()
            .filter(|one| self.objects.get(one).is_some_and(|one| one.status.contains(CIRCLE)));
        self.news.concerned.extend(in_circles);
    }

    /// Names that an object is made to depend on beyond what it asks for.
    pub fn names_of(&self, id: &Id) -> Vec<Dependency> {
        self.index.names_of(id)
    }

    /// Objects that are made from one.
    pub fn made_from(&self, id: &Id) -> Vec<Id> {
        self.index.dependants(&Dependency::Object(id.clone())).cloned().collect()
    }

    /// A change of an object, or of what it keeps, concerns it and those that are made from it.
    fn concerns(&mut self, id: Id) {
        self.news.concerned.extend(self.index.dependants(&Dependency::Object(id.clone())).cloned());
        self.news.concerned.insert(id);
    }

    /// Whether nothing later is known of a Secret.
    fn later(&self, kept: &Kept) -> bool {
        let known = self.kept.get(&kept.owner).into_iter().flatten().find(|known| known.name == kept.name);
        known.is_none_or(|known| {
            known.uid != kept.uid || !is_older(&kept.resource_version, &known.resource_version)
        })
    }
}

/// The namespace and name of the Secret that an object wishes.
fn wish(object: &Object) -> Option<(String, String)> {
    let name = trade(object.id.kind)?.secret(object)?;
    Some((object.id.namespace.to_string(), name))
}
