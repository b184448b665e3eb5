//! Every GatewayClass, Gateway and ListenerSet, and what the gateways that are ours serve.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use trellis_api::{
    gateway::{GatewayClass, SecretRef},
    names,
};

use super::{
    World, frontend,
    route::{Key, Route, To},
    routing::Routing,
    serving::{Gateway, ListenerSet, Serving},
    vault::{Drawer, Kind},
};
use crate::{index::Index, name::Name};

#[derive(Debug, Default)]
pub struct Gateways {
    /// Classes whose controller is discovery.
    classes: HashMap<Arc<str>, Class>,
    gateways: HashMap<Name, Gateway>,
    sets: HashMap<Name, ListenerSet>,
    /// ListenerSets by their gateway.
    extensions: Index<Name>,
    /// Gateways by the name of their Service.
    workloads: HashMap<Name, Name>,
    serving: HashMap<Name, Arc<Serving>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub generation: i64,
    /// That it refers to parameters.
    pub parameters: bool,
}

impl Class {
    /// Nothing, where its controller is somebody else.
    pub fn of(class: &GatewayClass) -> Option<Self> {
        let ours = class.spec.controller_name == names::GATEWAY_CONTROLLER;
        ours.then(|| Self {
            generation: class.metadata.generation.unwrap_or_default(),
            parameters: class.spec.parameters_ref.is_some(),
        })
    }
}

impl Gateways {
    pub fn classes(&self) -> &HashMap<Arc<str>, Class> {
        &self.classes
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.gateways.keys()
    }

    pub fn set_names(&self) -> impl Iterator<Item = &Name> {
        self.sets.keys()
    }

    pub fn get(&self, name: &Name) -> Option<&Gateway> {
        self.gateways.get(name)
    }

    pub fn set(&self, name: &Name) -> Option<&ListenerSet> {
        self.sets.get(name)
    }

    /// What a gateway serves; nothing where there is none, or it is somebody else's.
    pub fn serving(&self, name: &Name) -> Option<&Arc<Serving>> {
        self.serving.get(name)
    }

    /// ListenerSets that name a gateway.
    pub fn extensions(&self, gateway: &Name) -> &[Name] {
        self.extensions.get(gateway)
    }

    /// The gateways that are ours.
    pub fn served(&self) -> impl Iterator<Item = (&Name, &Arc<Serving>)> {
        self.serving.iter()
    }

    /// The gateway whose Service this is.
    pub fn behind(&self, service: &Name) -> Option<&Name> {
        self.workloads.get(service)
    }

    pub fn put_class(&mut self, name: Arc<str>, new: Option<Class>, stale: &mut BTreeSet<Name>) {
        let gateways = self.gateways.iter().filter(|(_, one)| one.spec.gateway_class_name == *name);
        let concerned: Vec<_> = gateways.map(|(name, _)| name.clone()).collect();
        let old = match new {
            Some(class) => self.classes.insert(name, class),
            None => self.classes.remove(&name),
        };
        if old != new {
            stale.extend(concerned);
        }
    }

    pub fn put_gateway(&mut self, name: &Name, new: Option<Gateway>, stale: &mut BTreeSet<Name>) {
        if self.gateways.get(name) == new.as_ref() {
            return;
        }
        stale.insert(name.clone());
        let workload = name.beside(&names::gateway_workload(&name.name));
        match new {
            Some(new) => {
                self.workloads.insert(workload, name.clone());
                self.gateways.insert(name.clone(), new);
            }
            None => {
                self.workloads.remove(&workload);
                self.gateways.remove(name);
            }
        }
    }

    pub fn put_set(&mut self, name: &Name, new: Option<ListenerSet>, stale: &mut BTreeSet<Name>) {
        let old = self.sets.remove(name);
        if old != new {
            if let Some(old) = &old {
                self.extensions.remove(&old.gateway, name);
                stale.insert(old.gateway.clone());
            }
            if let Some(new) = &new {
                self.extensions.insert(new.gateway.clone(), name);
                stale.insert(new.gateway.clone());
            }
        }
        if let Some(new) = new {
            self.sets.insert(name.clone(), new);
        }
    }

    /// The gateway that a parent of routes is, or is part of.
    pub fn of_parent<'a>(&'a self, parent: &'a To) -> Option<&'a Name> {
        match parent {
            To::Gateway(name) => Some(name),
            To::ListenerSet(name) => self.sets.get(name).map(|set| &set.gateway),
            To::Service(_) | To::Other => None,
        }
    }

    /// Secrets and ConfigMaps that the gateways which are ours refer to, by kind and namespace.
    pub fn wanted(&self) -> BTreeSet<Drawer> {
        let mut wanted = BTreeSet::new();
        let gateways = self.gateways.iter().filter(|(_, one)| self.is_ours(one));
        for (name, gateway) in gateways {
            let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
            let proof = backend.and_then(|backend| backend.client_certificate_ref.as_ref());
            wanted.extend(proof.and_then(|one| secret(one, &name.namespace)));
            let own = gateway.spec.listeners.iter().map(|listener| (&name.namespace, listener));
            let sets = self.extensions.get(name).iter().filter_map(|set| Some((set, self.sets.get(set)?)));
            let more = sets.flat_map(|(name, set)| set.listeners.iter().map(|one| (&name.namespace, one)));
            for (namespace, listener) in own.chain(more) {
                let references = listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
                wanted.extend(references.filter_map(|one| secret(one, namespace)));
                let port = u16::try_from(listener.port).unwrap_or_default();
                let clients = frontend::validation(&gateway.spec, port).filter(|_| listener.tls.is_some());
                let authorities = clients.iter().flat_map(|clients| &clients.ca_certificate_refs);
                let maps = authorities.filter(|one| one.group.is_empty() && one.kind == "ConfigMap");
                wanted.extend(maps.map(|one| {
                    let namespace =
                        one.namespace.as_deref().map_or_else(|| name.namespace.clone(), Into::into);
                    (Kind::ConfigMap, namespace)
                }));
            }
        }
        wanted
    }

    /// Works out a gateway anew, and says whether anything about it is different.
    pub fn renew(&mut self, name: &Name, routing: &Routing, world: &World<'_>) -> bool {
        let new = self.gateways.get(name).filter(|gateway| self.is_ours(gateway)).map(|gateway| {
            let sets = self.extensions.get(name).iter();
            let mut sets: Vec<_> = sets.filter_map(|name| self.sets.get_key_value(name)).collect();
            sets.sort_by_key(|(name, set)| (set.created, *name));
            let own = To::Gateway(name.clone());
            let parents =
                std::iter::once(own).chain(sets.iter().map(|(name, _)| To::ListenerSet((*name).clone())));
            let keys: BTreeSet<&Key> = parents.flat_map(|parent| routing.children(&parent)).collect();
            let mut routes: Vec<(&Key, &Route)> =
                keys.into_iter().filter_map(|key| Some((key, routing.get(key)?))).collect();
            routes.sort_by_key(|(key, route)| (route.created, &key.name, key.kind));
            Serving::of(name, gateway, &sets, &routes, world)
        });
        match (self.serving.get(name), new) {
            (None, None) => false,
            (Some(before), Some(new)) if **before == new => false,
            (_, Some(new)) => {
                self.serving.insert(name.clone(), Arc::new(new));
                true
            }
            (_, None) => self.serving.remove(name).is_some(),
        }
    }

    fn is_ours(&self, gateway: &Gateway) -> bool {
        let class = self.classes.get(gateway.spec.gateway_class_name.as_str());
        class.is_some_and(|class| !class.parameters)
    }
}

fn secret(reference: &SecretRef, namespace: &Arc<str>) -> Option<Drawer> {
    let is_secret = reference.group.as_deref().unwrap_or_default().is_empty()
        && reference.kind.as_deref().unwrap_or("Secret") == "Secret";
    let namespace = reference.namespace.as_deref().map_or_else(|| namespace.clone(), Into::into);
    is_secret.then_some((Kind::Secret, namespace))
}
