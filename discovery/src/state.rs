//! The index: Services, EndpointSlices and Pods in, answers out. A change costs what it changes (the
//! endpoints of one Service), says which addresses may answer differently now, and recomputes nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use k8s_openapi::{
    Metadata,
    api::{core::v1 as core, discovery::v1 as discovery},
};
use kube::api::ObjectMeta;
use trellis_api::source::Change;

use crate::{
    answer::{Answer, Endpoint, Who},
    destination::Destination,
    index::Index,
    name::Name,
    pod::{Pod, Sidecar},
    service::{Elsewhere, Service},
    slice::{self, Slice, Standing},
};

/// Addresses whose answers may have changed.
pub type Touched = HashSet<IpAddr>;

/// A change of one of the kinds that make up the state.
#[derive(Clone, Debug)]
pub enum Event {
    Services(Change<core::Service>),
    Slices(Change<discovery::EndpointSlice>),
    Pods(Change<core::Pod>),
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
}

/// How many objects of each kind are kept. A headless Service or a finished Pod is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub services: usize,
    pub slices: usize,
    pub pods: usize,
}

impl State {
    pub fn apply(&mut self, event: Event, touched: &mut Touched) {
        match event {
            Event::Services(change) => {
                for (name, service) in puts(change, &self.services, Service::of) {
                    self.put_service(name, service, touched);
                }
            }
            Event::Slices(change) => {
                for (name, slice) in puts(change, &self.slices, Slice::of) {
                    self.put_slice(name, slice, touched);
                }
            }
            Event::Pods(change) => {
                for (name, pod) in puts(change, &self.pods, Pod::of) {
                    self.put_pod(name, pod, touched);
                }
            }
        }
    }

    /// What the destination is. An address that a Service has for itself is the Service's; one that a pod
    /// has is the pod's, so that no external IP can take it away; what is left may be an external IP.
    pub fn lookup(&self, destination: Destination) -> Answer {
        let Destination { address, port } = destination;
        if let Some((name, service)) = self.front(destination, |service| service.cluster.contains(&address)) {
            return self.service(name, service, destination);
        }
        if let Some((name, pod)) = self.owner(address) {
            return Answer::Workload(endpoint(name, pod, address, port));
        }
        let leads_here =
            |service: &Service| service.external.contains(&address) && service.port(port).is_some();
        match self.front(destination, leads_here) {
            Some((name, service)) => self.service(name, service, destination),
            None => Answer::Unknown,
        }
    }

    pub fn counts(&self) -> Counts {
        Counts { services: self.services.len(), slices: self.slices.len(), pods: self.pods.len() }
    }

    fn put_service(&mut self, name: Name, new: Option<Service>, touched: &mut Touched) {
        let old = self.services.remove(&name);
        if old != new {
            for address in old.iter().flat_map(Service::addresses) {
                self.fronts.remove(&address, &name);
                touched.insert(address);
            }
            for address in new.iter().flat_map(Service::addresses) {
                self.fronts.insert(address, &name);
                touched.insert(address);
            }
        }
        if let Some(new) = new {
            self.services.insert(name, new);
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
            }
            for pod in new.iter().filter(|pod| pod.sidecar != Sidecar::HostNetwork) {
                for address in &pod.addresses {
                    self.owners.insert(*address, &name);
                }
            }
            for address in old.iter().chain(&new).flat_map(|pod| &pod.addresses) {
                touched.insert(*address);
                for slice in self.holders.get(address).iter().filter_map(|holder| self.slices.get(holder)) {
                    self.touch(&slice.service, touched);
                }
            }
        }
        if let Some(new) = new {
            self.pods.insert(name, new);
        }
    }

    fn touch(&self, service: &Name, touched: &mut Touched) {
        touched.extend(self.services.get(service).iter().flat_map(|service| service.addresses()));
    }

    /// Of the Services that lead from the address, the one that has the port, and of those the oldest.
    fn front(&self, at: Destination, leads: impl Fn(&Service) -> bool) -> Option<(&Name, &Service)> {
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

    fn service(&self, name: &Name, service: &Service, at: Destination) -> Answer {
        let mut best = Standing::Draining;
        let mut found = BTreeMap::new();
        if let Some(port) = service.port(at.port) {
            for slice in self.backs.get(name).iter().filter_map(|slice| self.slices.get(slice)) {
                let Some(number) = slice.port(&port.name) else { continue };
                for one in slice.endpoints.iter().filter(|one| one.address.is_ipv4() == at.address.is_ipv4())
                {
                    let standing = if service.publish_not_ready { Standing::Ready } else { one.standing };
                    if standing == Standing::Out {
                        continue;
                    }
                    let Some(endpoint) = self.behind(name, service, one, number) else { continue };
                    best = best.max(standing);
                    let seen = found.entry((one.address, number)).or_insert((standing, endpoint));
                    seen.0 = seen.0.max(standing);
                }
            }
        }
        let endpoints =
            found.into_values().filter(|(standing, _)| *standing == best).map(|(_, endpoint)| endpoint);
        Answer::Service { name: name.clone(), endpoints: endpoints.collect() }
    }

    /// Who is at an endpoint of a Service. A slice alone proves nothing: the pod it names must exist and
    /// have the address now, and an address without a name may be nobody's or belong to a pod of the
    /// Service's own namespace. All else is left out, until the pods or the slices catch up.
    fn behind(&self, service: &Name, front: &Service, one: &slice::Endpoint, port: u16) -> Option<Endpoint> {
        let owner = self.owner(one.address);
        match (&one.pod, owner) {
            (Some(named), Some((owner, pod))) => {
                let same = owner.namespace == service.namespace && owner.name == *named;
                same.then(|| endpoint(owner, pod, one.address, port))
            }
            (Some(named), None) => {
                let name = Name { namespace: service.namespace.clone(), name: named.clone() };
                let pod = self.pods.get(&name).filter(|pod| pod.addresses.contains(&one.address))?;
                Some(endpoint(&name, pod, one.address, port))
            }
            (None, Some((owner, pod))) => {
                let same = owner.namespace == service.namespace;
                same.then(|| endpoint(owner, pod, one.address, port))
            }
            (None, None) => Some(Endpoint {
                address: one.address,
                port,
                namespace: service.namespace.clone(),
                who: match &front.elsewhere {
                    Elsewhere::Unsaid => Who::Nobody,
                    Elsewhere::Workload(identity) => Who::Elsewhere(identity.clone()),
                    Elsewhere::Unreadable => Who::Unreadable,
                },
            }),
        }
    }
}

fn endpoint(name: &Name, pod: &Pod, address: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        address,
        port,
        namespace: name.namespace.clone(),
        who: Who::Pod {
            pod: name.name.clone(),
            service_account: pod.service_account.clone(),
            plaintext: pod.plaintext(port),
        },
    }
}

/// A change as the objects to put in place, where nothing means: take away.
fn puts<K, T>(
    change: Change<K>,
    known: &HashMap<Name, T>,
    keep: impl Fn(&K) -> Option<T>,
) -> Vec<(Name, Option<T>)>
where
    K: Metadata<Ty = ObjectMeta>,
{
    match change {
        Change::Applied(object) => vec![(Name::of(object.metadata()), keep(&object))],
        Change::Deleted(object) => vec![(Name::of(object.metadata()), None)],
        Change::Reset(objects) => {
            let mut all: HashMap<Name, Option<T>> = known.keys().map(|name| (name.clone(), None)).collect();
            all.extend(objects.iter().map(|object| (Name::of(object.metadata()), keep(object))));
            all.into_iter().collect()
        }
    }
}
