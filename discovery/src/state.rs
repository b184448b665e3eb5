//! The index: objects in, answers out. A change costs what it changes (the endpoints of one Service, the
//! routes of another), says which subjects may be answered differently now, and recomputes nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use kube::{Resource, api::ObjectMeta, core::object::HasStatus};
use serde::Serialize;
use trellis_api::source::Change;

use crate::{
    answer::Answer,
    change::puts,
    destination::Destination,
    event::Event,
    gateway::{
        World,
        gateways::{Class, Gateways},
        grant::{Grant, Grants},
        namespace::{self, Namespaces},
        policies::{Policies, Policy},
        route::{AnyRoute, Key, Kind, To},
        routing::{Parents, Routing},
        serving::{Gateway, ListenerSet, Serving},
        status::{Object, board::Board},
        vault::{Drawer, Vault},
    },
    index::Index,
    name::Name,
    node,
    pod::{Pod, Sidecar},
    service::Service,
    slice::Slice,
    subject::{Backend, Subject},
};

mod endpoints;
mod statuses;

/// Subjects whose answers may have changed.
#[derive(Debug, Default)]
pub struct Touched {
    pub addresses: HashSet<IpAddr>,
    /// Services, whatever the port.
    pub services: HashSet<Name>,
    pub gateways: HashSet<Name>,
}

#[derive(Debug, Default)]
pub struct State {
    services: HashMap<Name, Service>,
    slices: HashMap<Name, Slice>,
    pods: HashMap<Name, Pod>,
    /// Services by the addresses that lead to them.
    fronts: Index<IpAddr>,
    /// Slices by the Service they belong to.
    backs: Index<Name>,
    /// Slices by the addresses in them.
    holders: Index<IpAddr>,
    /// Pods by address, without those that use their node's.
    owners: Index<IpAddr>,
    /// The zones of nodes.
    zones: HashMap<Arc<str>, Arc<str>>,
    /// Pods by the node that they run on.
    residents: Index<Arc<str>>,
    routing: Routing,
    policies: Policies,
    gateways: Gateways,
    namespaces: Namespaces,
    grants: Grants,
    vault: Vault,
    wanted: Arc<BTreeSet<Drawer>>,
    stale: Stale,
    board: Board,
    /// Why what belongs to a gateway could not be made.
    obstacles: HashMap<Name, String>,
}

/// What has to be worked out anew, once all changes that came together are there.
#[derive(Debug, Default)]
struct Stale {
    /// Services whose routes may be others.
    routes: BTreeSet<Name>,
    /// Services that may be spoken to in another way.
    policies: BTreeSet<Name>,
    gateways: BTreeSet<Name>,
    /// Gateways of which no more than their status may be another.
    statuses: BTreeSet<Name>,
    classes: BTreeSet<Arc<str>>,
}

impl State {
    pub fn apply(&mut self, event: Event, touched: &mut Touched) {
        match event {
            Event::Services(change) => {
                for (name, service) in puts(change, self.services.keys(), Name::of, Service::of) {
                    self.put_service(name, service, touched);
                }
            }
            Event::Slices(change) => {
                for (name, slice) in puts(change, self.slices.keys(), Name::of, Slice::of) {
                    self.put_slice(name, slice, touched);
                }
            }
            Event::Pods(change) => {
                for (name, pod) in puts(change, self.pods.keys(), Name::of, Pod::of) {
                    self.put_pod(name, pod, touched);
                }
            }
            Event::Nodes(change) => {
                for (node, zone) in puts(change, self.zones.keys(), node::name, node::zone) {
                    self.put_zone(node, zone, touched);
                }
            }
            Event::HttpRoutes(change) => self.routes(change, Kind::Http),
            Event::GrpcRoutes(change) => self.routes(change, Kind::Grpc),
            Event::TcpRoutes(change) => self.routes(change, Kind::Tcp),
            Event::TlsRoutes(change) => self.routes(change, Kind::Tls),
            Event::Namespaces(change) => {
                for (name, labels) in puts(change, self.namespaces.keys(), namespace::name, namespace::labels)
                {
                    if self.namespaces.get(&name) != labels.as_ref() {
                        // Any of them may select by labels.
                        self.stale.gateways.extend(self.gateways.names().cloned());
                    }
                    match labels {
                        Some(labels) => drop(self.namespaces.insert(name, labels)),
                        None => drop(self.namespaces.remove(&name)),
                    }
                }
            }
            Event::Grants(change) => {
                for (name, grant) in puts(change, self.grants.names(), Name::of, |one| Some(Grant::of(one))) {
                    if self.grants.put(&name, grant) {
                        self.stale.gateways.extend(self.gateways.names().cloned());
                    }
                }
            }
            Event::Classes(change) => {
                let object = |one: &_| Object::Class(namespace::name(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Class(_)));
                for (name, class) in puts(change, self.gateways.classes().keys(), namespace::name, Class::of)
                {
                    self.stale.classes.insert(name.clone());
                    self.gateways.put_class(name, class, &mut self.stale.gateways);
                }
            }
            Event::Gateways(change) => {
                let object = |one: &_| Object::Gateway(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Gateway(_)));
                for (name, gateway) in
                    puts(change, self.gateways.names(), Name::of, |one| Some(Gateway::of(one)))
                {
                    self.gateways.put_gateway(&name, gateway, &mut self.stale.gateways);
                }
            }
            Event::ListenerSets(change) => {
                let object = |one: &_| Object::ListenerSet(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::ListenerSet(_)));
                for (name, set) in puts(change, self.gateways.set_names(), Name::of, ListenerSet::of) {
                    self.gateways.put_set(&name, set, &mut self.stale.gateways);
                }
            }
            Event::Policies(change) => {
                let object = |one: &_| Object::Policy(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Policy(_)));
                for (name, policy) in
                    puts(change, self.policies.names(), Name::of, |one| Some(Policy::of(one)))
                {
                    self.policies.put(&name, policy, &mut self.stale.policies);
                }
            }
            Event::Secrets(namespace, sight) => {
                if self.vault.see_secrets(&namespace, sight) {
                    self.stale.gateways.extend(self.gateways.names().cloned());
                }
            }
            Event::ConfigMaps(namespace, sight) => {
                if self.vault.see_config_maps(&namespace, sight) {
                    self.stale.gateways.extend(self.gateways.names().cloned());
                    self.stale.policies.extend(self.policies.targets_in(&namespace).cloned());
                }
            }
        }
    }

    /// Works out anew what the changes so far have made stale. Tells whether statuses or gateways may be
    /// others.
    pub fn settle(&mut self, touched: &mut Touched) -> bool {
        let stale = std::mem::take(&mut self.stale);
        let mut reported = self.begin_report(&stale);
        for service in &stale.routes {
            if self.routing.renew(service, &self.services) {
                self.touch(service, touched);
            }
        }
        if !stale.policies.is_empty() || !stale.gateways.is_empty() {
            let mut wanted = self.gateways.wanted();
            wanted.extend(self.policies.wanted());
            if wanted != *self.wanted {
                self.vault.want(&wanted);
                self.wanted = Arc::new(wanted);
            }
        }
        for service in &stale.policies {
            if self.policies.renew(service, &self.services, &self.vault) {
                self.touch(service, touched);
            }
        }
        for gateway in &stale.gateways {
            let world = World {
                services: &self.services,
                namespaces: &self.namespaces,
                grants: &self.grants,
                vault: &self.vault,
            };
            if self.gateways.renew(gateway, &self.routing, &world) {
                touched.gateways.insert(gateway.clone());
            }
        }
        let own = touched.services.iter().filter_map(|service| self.gateways.behind(service));
        reported.gateways.extend(own.cloned());
        self.report(&stale, reported);
        !stale.gateways.is_empty() || self.board.is_due()
    }

    /// What a gateway that is ours serves.
    pub fn serving(&self, gateway: &Name) -> Option<&Arc<Serving>> {
        self.gateways.serving(gateway)
    }

    /// Secrets and ConfigMaps that something refers to, by kind and namespace.
    pub fn wanted(&self) -> &Arc<BTreeSet<Drawer>> {
        &self.wanted
    }

    /// Whether some of those have not been seen yet.
    pub fn pending(&self) -> bool {
        self.vault.pending()
    }

    pub fn lookup(&self, subject: &Subject) -> Answer {
        match subject {
            Subject::Destination(destination) => self.destination(*destination),
            Subject::Backend(Backend { service, port }) => match self.services.get_key_value(service) {
                Some((name, service)) => self.backend(name, service, *port),
                None => Answer::Unknown,
            },
            Subject::Gateway(name) => match self.gateways.serving(name) {
                Some(serving) => Answer::Gateway(name.clone(), serving.clone()),
                None => Answer::Unknown,
            },
        }
    }

    /// How many objects of each kind are kept. A Service of another name or a finished Pod is not.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let own = [
            ("Service", self.services.len()),
            ("EndpointSlice", self.slices.len()),
            ("Pod", self.pods.len()),
        ];
        let gateways = [("Gateway", self.gateways.names().count())];
        own.into_iter().chain(self.routing.counts()).chain(gateways).collect()
    }

    /// What the destination is. An address that a Service has for itself is the Service's; one that a pod
    /// has is the pod's, so that no external IP can take it away; what is left may be an external IP.
    fn destination(&self, destination: Destination) -> Answer {
        let Destination { address, port } = destination;
        if let Some((name, service)) =
            self.leading_from(destination, |service| service.cluster.contains(&address))
        {
            return self.front(name, service, destination);
        }
        if let Some((name, pod)) = self.owner(address) {
            return Answer::Workload(self.endpoint(name, pod, address, port));
        }
        let leads_here =
            |service: &Service| service.external.contains(&address) && service.port(port).is_some();
        match self.leading_from(destination, leads_here) {
            Some((name, service)) => self.front(name, service, destination),
            None => Answer::Unknown,
        }
    }

    fn routes<K: AnyRoute + HasStatus<Status: Serialize>>(&mut self, change: Change<K>, kind: Kind) {
        let object = |one: &K| Object::Route(Key { kind, name: Name::of(one.meta()) });
        let is: fn(&Object) -> bool = match kind {
            Kind::Http => |one| matches!(one, Object::Route(key) if key.kind == Kind::Http),
            Kind::Grpc => |one| matches!(one, Object::Route(key) if key.kind == Kind::Grpc),
            Kind::Tcp => |one| matches!(one, Object::Route(key) if key.kind == Kind::Tcp),
            Kind::Tls => |one| matches!(one, Object::Route(key) if key.kind == Kind::Tls),
        };
        self.board.see(&change, object, is);
        let parents = self.routing.apply(change);
        self.mark(parents);
    }

    fn put_service(&mut self, name: Name, new: Option<Service>, touched: &mut Touched) {
        let old = self.services.remove(&name);
        if old != new {
            for address in old.iter().flat_map(Service::addresses) {
                self.fronts.remove(&address, &name);
                touched.addresses.insert(address);
            }
            for address in new.iter().flat_map(Service::addresses) {
                self.fronts.insert(address, &name);
                touched.addresses.insert(address);
            }
            touched.services.insert(name.clone());
            let same_ports = old.as_ref().map(|old| &old.ports) == new.as_ref().map(|new| &new.ports);
            if let Some(new) = new {
                self.services.insert(name.clone(), new);
            }
            if !same_ports {
                self.mark(self.routing.dependents(&name));
                if !self.policies.targeting(&name).is_empty() {
                    self.stale.policies.insert(name.clone());
                }
            }
        } else if let Some(old) = old {
            self.services.insert(name, old);
        }
    }

    fn put_slice(&mut self, name: Name, new: Option<Slice>, touched: &mut Touched) {
        let old = self.slices.remove(&name);
        if old != new {
            if let Some(old) = &old {
                self.backs.remove(&old.service, &name);
                for one in &old.endpoints {
                    self.holders.remove(&one.address, &name);
                }
                self.touch(&old.service, touched);
            }
            if let Some(new) = &new {
                self.backs.insert(new.service.clone(), &name);
                for one in &new.endpoints {
                    self.holders.insert(one.address, &name);
                }
                self.touch(&new.service, touched);
            }
        }
        if let Some(new) = new {
            self.slices.insert(name, new);
        }
    }

    fn put_pod(&mut self, name: Name, new: Option<Pod>, touched: &mut Touched) {
        let old = self.pods.remove(&name);
        if old != new {
            for pod in old.iter() {
                for address in &pod.addresses {
                    self.owners.remove(address, &name);
                }
                if let Some(node) = &pod.node {
                    self.residents.remove(node, &name);
                }
            }
            for node in new.iter().filter_map(|pod| pod.node.as_ref()) {
                self.residents.insert(node.clone(), &name);
            }
            for pod in new.iter().filter(|pod| pod.sidecar != Sidecar::HostNetwork) {
                for address in &pod.addresses {
                    self.owners.insert(*address, &name);
                }
            }
            for pod in old.iter().chain(&new) {
                self.touch_pod(pod, touched);
            }
        }
        if let Some(new) = new {
            self.pods.insert(name, new);
        }
    }

    fn put_zone(&mut self, node: Arc<str>, zone: Option<Arc<str>>, touched: &mut Touched) {
        if self.zones.get(&node) == zone.as_ref() {
            return;
        }
        match zone {
            Some(zone) => self.zones.insert(node.clone(), zone),
            None => self.zones.remove(&node),
        };
        for pod in self.residents.get(&node).iter().filter_map(|name| self.pods.get(name)) {
            self.touch_pod(pod, touched);
        }
    }

    /// Notes that the routes of these may be others.
    fn mark(&mut self, parents: Parents) {
        for parent in parents {
            match parent {
                To::Service(service) => drop(self.stale.routes.insert(service)),
                parent => self.stale.gateways.extend(self.gateways.of_parent(&parent).cloned()),
            }
        }
    }

    fn touch_pod(&self, pod: &Pod, touched: &mut Touched) {
        for address in &pod.addresses {
            touched.addresses.insert(*address);
            for slice in self.holders.get(address).iter().filter_map(|holder| self.slices.get(holder)) {
                self.touch(&slice.service, touched);
            }
        }
    }

    fn touch(&self, service: &Name, touched: &mut Touched) {
        touched.services.insert(service.clone());
        touched.addresses.extend(self.services.get(service).iter().flat_map(|service| service.addresses()));
    }

    /// Of the Services that lead from the address, the one that has the port, and of those the oldest.
    fn leading_from(&self, at: Destination, leads: impl Fn(&Service) -> bool) -> Option<(&Name, &Service)> {
        let names = self.fronts.get(&at.address).iter();
        names
            .filter_map(|name| Some((name, self.services.get(name).filter(|service| leads(service))?)))
            .min_by_key(|(name, service)| (service.port(at.port).is_none(), service.created, *name))
    }

    /// The pod that has the address: one that stays rather than one that leaves, then the youngest, since
    /// an address is only given out again when its last owner is over.
    fn owner(&self, address: IpAddr) -> Option<(&Name, &Pod)> {
        let names = self.owners.get(&address).iter();
        names
            .filter_map(|name| Some((name, self.pods.get(name)?)))
            .min_by_key(|(name, pod)| (pod.leaving, Reverse(pod.created), *name))
    }
}

fn meta<K: Resource>(object: &K) -> &ObjectMeta {
    object.meta()
}
