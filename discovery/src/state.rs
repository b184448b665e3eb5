//! The index: objects in, answers out. A change costs what it changes (the endpoints of one Service, the
//! routes of another), says which subjects may be answered differently now, and recomputes nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    answer::Answer,
    change::puts,
    destination::Destination,
    event::Event,
    gateway::{
        gateways::Gateways,
        grant::Grants,
        namespace::Namespaces,
        policies::Policies,
        routing::Routing,
        serving::Serving,
        status::board::Board,
        vault::{Drawer, Vault},
    },
    index::Index,
    name::Name,
    node,
    pod::{Pod, Sidecar},
    policing::{Policing, members::Member},
    service::Service,
    slice::Slice,
    subject::{Backend, Subject},
};

mod endpoints;
mod gateway_api;
mod policed;
mod statuses;

/// Subjects whose answers may have changed.
#[derive(Debug, Default)]
pub struct Touched {
    pub addresses: HashSet<IpAddr>,
    /// Services, whatever the port.
    pub services: HashSet<Name>,
    pub gateways: HashSet<Name>,
    /// Pods whose connections may have to be something else.
    pub pods: HashSet<Name>,
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
    policing: Policing,
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
    /// Of a mesh whose own namespace this is.
    pub fn of(system: &str) -> Self {
        Self { policing: Policing::new(system), ..Self::default() }
    }

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
                let members = puts(change.clone(), self.policing.pods(), Name::of, Member::of);
                for (name, member) in members {
                    self.put_member(name, member, touched);
                }
                for (name, pod) in puts(change, self.pods.keys(), Name::of, Pod::of) {
                    self.put_pod(name, pod, touched);
                }
            }
            Event::Nodes(change) => {
                for (node, zone) in puts(change, self.zones.keys(), node::name, node::zone) {
                    self.put_zone(node, zone, touched);
                }
            }
            Event::PqPolicies(change) => self.apply_policies(change, touched),
            other => self.apply_gateway_api(other),
        }
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
            Subject::Pod(name) => self.policy_of(name),
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
        let policies = [("PQPolicy", self.policing.count())];
        own.into_iter().chain(self.routing.counts()).chain(gateways).chain(policies).collect()
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
