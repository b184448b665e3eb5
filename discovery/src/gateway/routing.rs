//! Every route, and what holds because of them. A change costs the routes that it changes and the Services
//! that they hold for; endpoints are not looked at here, so that no pod's change comes near.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use trellis_api::source::Change;

use super::{
    mesh::{Held, Resolved},
    reference::resolve,
    route::{AnyRoute, Key, Kind, Route, To},
};
use crate::{change::puts, index::Index, name::Name, service::Service};

#[derive(Debug, Default)]
pub struct Routing {
    routes: HashMap<Key, Route>,
    /// Routes by their parents.
    children: Index<To, Key>,
    /// Routes by the Services that they lead to.
    leading: Index<Name, Key>,
    /// What holds on the ports of those Services that are parents.
    held: HashMap<Name, BTreeMap<u16, Arc<Held>>>,
    /// Routes that came, went or changed since somebody asked.
    changed: BTreeSet<Key>,
}

/// Those whose routes may be others now.
pub type Parents = BTreeSet<To>;

impl Routing {
    pub fn apply<K: AnyRoute>(&mut self, change: Change<K>) -> Parents {
        let mut parents = Parents::new();
        let known: Vec<_> = self.of_kind(K::KIND).cloned().collect();
        for (name, route) in puts(change, known.iter(), Name::of, |route: &K| Some(route.route())) {
            self.put(Key { kind: K::KIND, name }, route, &mut parents);
        }
        parents
    }

    /// Those whose routes depend on this Service: itself, and those from which a route leads to it.
    pub fn dependents(&self, service: &Name) -> Parents {
        let leading = self.leading.get(service).iter().filter_map(|key| self.routes.get(key));
        let mut parents: Parents = leading.flat_map(parents).cloned().collect();
        let own = To::Service(service.clone());
        if !self.children.get(&own).is_empty() || self.held.contains_key(service) {
            parents.insert(own);
        }
        parents
    }

    /// Routes that came, went or changed since the last time.
    pub fn take_changed(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.changed)
    }

    /// Routes that lead to a Service.
    pub fn leading(&self, service: &Name) -> &[Key] {
        self.leading.get(service)
    }

    pub fn children(&self, parent: &To) -> &[Key] {
        self.children.get(parent)
    }

    pub fn get(&self, key: &Key) -> Option<&Route> {
        self.routes.get(key)
    }

    /// Works out anew what holds for a Service, and says whether it is something else.
    pub fn renew(&mut self, name: &Name, services: &HashMap<Name, Service>) -> bool {
        let ports = match services.get(name) {
            Some(service) => self.ports(name, service, services),
            None => BTreeMap::new(),
        };
        let same = match self.held.get(name) {
            Some(before) => *before == ports,
            None => ports.is_empty(),
        };
        match (same, ports.is_empty()) {
            (true, _) => {}
            (false, true) => drop(self.held.remove(name)),
            (false, false) => drop(self.held.insert(name.clone(), ports)),
        }
        !same
    }

    /// The routes that hold on a port of a Service.
    pub fn held(&self, service: &Name, port: u16) -> Option<&Arc<Held>> {
        self.held.get(service)?.get(&port)
    }

    /// How many routes of each kind there are.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Kind::ALL.into_iter().map(|kind| (kind.name(), self.of_kind(kind).count()))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        self.routes.keys().filter(move |key| key.kind == kind).map(|key| &key.name)
    }

    fn put(&mut self, key: Key, new: Option<Route>, changed: &mut Parents) {
        let old = self.routes.remove(&key);
        if old != new {
            self.changed.insert(key.clone());
            if let Some(old) = &old {
                parents(old).for_each(|parent| self.children.remove(parent, &key));
                backends(old).for_each(|backend| self.leading.remove(backend, &key));
                changed.extend(parents(old).cloned());
            }
            if let Some(new) = &new {
                parents(new).for_each(|parent| self.children.insert(parent.clone(), &key));
                backends(new).for_each(|backend| self.leading.insert(backend.clone(), &key));
                changed.extend(parents(new).cloned());
            }
        }
        if let Some(new) = new {
            self.routes.insert(key, new);
        }
    }

    fn ports(
        &self,
        name: &Name,
        service: &Service,
        services: &HashMap<Name, Service>,
    ) -> BTreeMap<u16, Arc<Held>> {
        let children = self.children.get(&To::Service(name.clone())).iter();
        let mut routes: Vec<_> = children
            .filter_map(|key| {
                let route = self.routes.get(key)?;
                // What a namespace lets others reach does not depend on routes in a mesh, so they need no
                // grant: they say where traffic goes that could go there anyway.
                let (rules, _) =
                    resolve(&route.rules, &route.references, |one| one.judge(services, |_| true));
                Some(Resolved { key, route, rules })
            })
            .collect();
        routes.sort_by_key(|one| (one.route.created, one.key.name.clone(), one.key.kind));
        let mut ports = BTreeMap::<u16, Arc<Held>>::new();
        for port in &service.ports {
            let Some(held) = Held::of(name, port, &routes) else { continue };
            // Most often every port has the same.
            let shared = ports.values().next().filter(|first| ***first == held).cloned();
            ports.insert(port.number, shared.unwrap_or_else(|| Arc::new(held)));
        }
        ports
    }
}

/// Those that could have it as their child.
fn parents(route: &Route) -> impl Iterator<Item = &To> {
    route.parents.iter().map(|parent| &parent.to).filter(|to| **to != To::Other)
}

fn backends(route: &Route) -> impl Iterator<Item = &Name> {
    route.references.iter().filter(|one| one.is_to_service()).map(|one| &one.to)
}
