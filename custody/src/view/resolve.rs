//! What is found of what an object asks for.

use std::{collections::BTreeSet, sync::Arc};

use trellis_api::crypto::{MessageKind, Standing, condition};

use super::{Access, Named, View};
use crate::{
    access::{Target, grants, wanted},
    id::Id,
    index::{Dependency, Name},
    kept::Kept,
    sources::{Ask, Found, Item, Obstacle, Source},
};

/// What was looked up for an object, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Found(Vec<Found>),
    Missing(Obstacle),
    /// A watch that was begun for it has not said anything yet.
    NotYet,
}

impl View {
    /// Everything that the answers to these depend on.
    pub fn dependencies(&self, id: &Id, asks: &[Ask]) -> BTreeSet<Dependency> {
        let mut all = BTreeSet::new();
        for ask in asks {
            if let Ask::Mesh { .. } = ask {
                all.insert(Dependency::Mesh);
                continue;
            }
            let namespace = ask.namespace(&id.namespace);
            if namespace != &*id.namespace {
                all.insert(Dependency::Grants(namespace.to_owned()));
            }
            match ask {
                Ask::Object { kinds, to, .. } => {
                    let objects = kinds.iter().map(|kind| Id::new(id.group, *kind, namespace, &to.name));
                    all.extend(objects.map(Dependency::Object));
                }
                Ask::Mesh { .. } => {}
                Ask::Item { kind, name, .. } => {
                    let (kind, namespace, name) = (*kind, namespace.to_owned(), name.clone());
                    all.insert(Dependency::Named(Name { kind, namespace, name }));
                }
            }
        }
        all
    }

    /// The answers, or the first reason why one cannot be had.
    pub fn resolve(&self, id: &Id, asks: &[Ask]) -> Looked {
        let mut found = Vec::new();
        for ask in asks {
            let one = match ask {
                Ask::Object { .. } => self.find_object(id, ask).map(|source| Found::Object(Box::new(source))),
                Ask::Mesh { field } => match &self.mesh {
                    Some(anchors) => Ok(Found::Mesh(Box::new(anchors.clone()))),
                    None => Err(Obstacle::NotReady { field, what: "the CA of the mesh".to_owned() }),
                },
                Ask::Item { .. } => match self.find_item(id, ask) {
                    Ok(None) => return Looked::NotYet,
                    Ok(Some(item)) => Ok(Found::Item(item)),
                    Err(obstacle) => Err(obstacle),
                },
            };
            match one {
                Ok(one) => found.push(one),
                Err(obstacle) => return Looked::Missing(obstacle),
            }
        }
        Looked::Found(found)
    }

    fn find_object(&self, id: &Id, ask: &Ask) -> Result<Source, Obstacle> {
        let Ask::Object { field, kinds, to } = ask else { return Err(self.impossible()) };
        let field = *field;
        let namespace = ask.namespace(&id.namespace);
        let named = kinds.iter().map(|kind| Id::new(id.group, *kind, namespace, &to.name));
        let mut there = Vec::new();
        let (mut refused, mut absent) = (None, None);
        for one in named {
            // Whether it is there is nothing that another namespace is told without a grant.
            if let Err(obstacle) = self.permitted(id, field, &Target::object(&one), &one.to_string()) {
                refused = Some(obstacle);
            } else if let Some(object) = self.objects.get(&one) {
                there.push(object);
            } else {
                absent.get_or_insert(Obstacle::NotFound { field, what: one.to_string() });
            }
        }
        let object = match there.as_slice() {
            [] => return Err(absent.or(refused).unwrap_or_else(|| self.impossible())),
            [object] => object,
            _ => return Err(Obstacle::Ambiguous { field, name: to.name.clone() }),
        };
        let what = object.id.to_string();
        if self.leads(&object.id, id) {
            return Err(Obstacle::Circle { field, what });
        }
        match self.access(namespace) {
            Access::Open => {}
            Access::Unknown => return Err(Obstacle::NotReady { field, what }),
            Access::Closed => return Err(Obstacle::NoAccess { namespace: namespace.to_owned(), said: None }),
        }
        let (archives, live): (Vec<&Arc<Kept>>, Vec<&Arc<Kept>>) =
            self.kept(&object.uid).iter().filter(|kept| kept.is_sound()).partition(|kept| kept.archive);
        let standing: Standing = serde_json::from_str(&object.status).unwrap_or_default();
        // Where there are two, one is on its way to another name, and both are the same.
        let Some(active) = live.into_iter().max_by_key(|kept| kept.version()) else {
            let lost = standing.condition(condition::LOST).is_some_and(|lost| lost.status == "True");
            let gone = Obstacle::SourceLost { field, what: what.clone() };
            return Err(if lost { gone } else { Obstacle::NotReady { field, what } });
        };
        let mut archives: Vec<Arc<Kept>> =
            archives.into_iter().filter(|kept| kept.version() != active.version()).cloned().collect();
        archives.sort_by_key(|kept| std::cmp::Reverse(kept.version()));
        Ok(Source {
            id: object.id.clone(),
            uid: object.uid.clone(),
            spec: object.spec(),
            active: active.clone(),
            archives,
        })
    }

    /// Nothing where nobody has looked there yet.
    fn find_item(&self, id: &Id, ask: &Ask) -> Result<Option<Item>, Obstacle> {
        let Ask::Item { field, kind, name, item, .. } = ask else { return Err(self.impossible()) };
        let (field, namespace) = (*field, ask.namespace(&id.namespace).to_owned());
        let what = format!("{} {namespace}/{name}", kind.as_str());
        let target = Target { group: "", kind: kind.as_str(), namespace: &namespace, name };
        self.permitted(id, field, &target, &what)?;
        let at = Name { kind: *kind, namespace: namespace.clone(), name: name.clone() };
        if let Some(maker) = self.maker(&at).filter(|maker| self.leads(maker, id)) {
            return Err(Obstacle::Circle { field, what: format!("{what}, which {maker} makes,") });
        }
        let items = match self.named.get(&at) {
            None => return Ok(None),
            Some(Named::Nothing) => return Err(Obstacle::NotFound { field, what }),
            Some(Named::Closed) => return Err(Obstacle::NoAccess { namespace, said: None }),
            Some(Named::Items(items)) => items,
        };
        let Some(mark) = items.get(item) else {
            let what = format!("item {item:?} of {what}");
            return Err(Obstacle::NotFound { field, what });
        };
        let (kind, name, item, mark) = (*kind, name.clone(), item.clone(), mark.clone());
        Ok(Some(Item { kind, namespace, name, item, mark }))
    }

    fn leads(&self, from: &Id, to: &Id) -> bool {
        self.index.leads(from, to, |name| self.maker(name))
    }

    /// The object that a Secret is of, or will be of once it is made.
    fn maker(&self, name: &Name) -> Option<&Id> {
        if name.kind != MessageKind::Secret {
            return None;
        }
        let place = (name.namespace.clone(), name.name.clone());
        let holder = self.holders.get(&place).and_then(|uid| self.by_uid.get(uid));
        holder.or_else(|| self.wished.get(&place))
    }

    fn permitted(&self, id: &Id, field: &'static str, to: &Target<'_>, what: &str) -> Result<(), Obstacle> {
        let from = (id.group, id.kind, &*id.namespace);
        let all = self.grants.get(to.namespace).map(Vec::as_slice).unwrap_or_default();
        if to.namespace == &*id.namespace || all.iter().any(|grant| grants(grant, from, to)) {
            return Ok(());
        }
        Err(Obstacle::NotPermitted { field, what: what.to_owned(), grant: wanted(from, to) })
    }

    fn impossible(&self) -> Obstacle {
        Obstacle::Refused { why: "a reference of a kind that it cannot have".to_owned() }
    }
}

impl Ask {
    /// The namespace that is meant.
    fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        match self {
            Self::Object { to, .. } => to.namespace(own),
            Self::Mesh { .. } => own,
            Self::Item { namespace, .. } => {
                namespace.as_deref().filter(|other| !other.is_empty()).unwrap_or(own)
            }
        }
    }
}
