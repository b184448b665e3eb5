//! Who is behind a Service.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use trellis_api::proto::discovery::Protocol;

use super::State;
use crate::{
    answer::{self, Answer, Endpoint, Who},
    destination::Destination,
    gateway::mesh::Held,
    name::Name,
    pod::Pod,
    service::{Elsewhere, Family, Service},
    slice::{self, Standing},
};

/// Endpoints of one port, and whether a pod behind it says that its bytes are nobody's to read.
#[derive(Default)]
struct Behind {
    endpoints: Box<[Endpoint]>,
    opaque: bool,
}

impl State {
    /// The Service as one who connected to its address sees it.
    pub(super) fn front(&self, name: &Name, service: &Service, at: Destination) -> Answer {
        let behind = self.behind(name, service, at.port, Some(Family::of(&at.address)));
        let routes = self.routing.held(name, at.port).cloned();
        self.answer(name, service, at.port, behind, routes)
    }

    /// The Service as one whom a route sends there sees it: by its name, so any family of addresses will
    /// do, and with its own at first.
    pub(super) fn backend(&self, name: &Name, service: &Service, port: u16) -> Answer {
        let mut behind = self.behind(name, service, port, Some(service.family));
        if behind.endpoints.is_empty() {
            behind = self.behind(name, service, port, None);
        }
        self.answer(name, service, port, behind, None)
    }

    fn answer(
        &self,
        name: &Name,
        service: &Service,
        port: u16,
        behind: Behind,
        routes: Option<Arc<Held>>,
    ) -> Answer {
        let said = service.port(port).map_or(Protocol::Detect, |port| port.protocol);
        Answer::Service(answer::Service {
            name: name.clone(),
            port,
            protocol: if behind.opaque { Protocol::Opaque } else { said },
            endpoints: behind.endpoints,
            routes,
            tls: self.policies.held(name, port).cloned(),
        })
    }

    /// A pod as an endpoint.
    pub(super) fn endpoint(&self, name: &Name, pod: &Pod, address: IpAddr, port: u16) -> Endpoint {
        Endpoint {
            address,
            port,
            namespace: name.namespace.clone(),
            who: Who::Pod {
                pod: name.name.clone(),
                service_account: pod.service_account.clone(),
                plaintext: pod.plaintext(port),
            },
            zone: pod.node.as_ref().and_then(|node| self.zones.get(node)).cloned(),
            for_zones: None,
        }
    }

    fn behind(&self, name: &Name, service: &Service, port: u16, family: Option<Family>) -> Behind {
        let Some(port) = service.port(port) else { return Behind::default() };
        let mut best = Standing::Draining;
        let mut opaque = false;
        let mut found = BTreeMap::new();
        for slice in self.backs.get(name).iter().filter_map(|slice| self.slices.get(slice)) {
            let Some(number) = slice.port(&port.name) else { continue };
            let fits =
                |one: &&slice::Endpoint| family.is_none_or(|family| Family::of(&one.address) == family);
            for one in slice.endpoints.iter().filter(fits) {
                let standing = if service.publish_not_ready { Standing::Ready } else { one.standing };
                if standing == Standing::Out {
                    continue;
                }
                let Some((endpoint, pod)) = self.at(name, service, one, number) else { continue };
                best = best.max(standing);
                opaque |= pod.is_some_and(|pod| pod.opaque.contains(number));
                let seen = found.entry((one.address, number)).or_insert((standing, endpoint));
                seen.0 = seen.0.max(standing);
            }
        }
        let endpoints =
            found.into_values().filter(|(standing, _)| *standing == best).map(|(_, endpoint)| endpoint);
        Behind { endpoints: endpoints.collect(), opaque }
    }

    /// Who is at an endpoint of a Service. A slice alone proves nothing: the pod it names must exist and
    /// have the address now, and an address without a name may be nobody's or belong to a pod of the
    /// Service's own namespace. All else is left out, until the pods or the slices catch up.
    fn at(
        &self,
        service: &Name,
        front: &Service,
        one: &slice::Endpoint,
        port: u16,
    ) -> Option<(Endpoint, Option<&Pod>)> {
        let owner = self.owner(one.address);
        let here = |name: &Name, pod| {
            let endpoint = self.endpoint(name, pod, one.address, port);
            let zone = one.zone.clone().or(endpoint.zone);
            Endpoint { zone, for_zones: one.for_zones.clone(), ..endpoint }
        };
        match (&one.pod, owner) {
            (Some(named), Some((owner, pod))) => {
                let same = owner.namespace == service.namespace && owner.name == *named;
                same.then(|| (here(owner, pod), Some(pod)))
            }
            (Some(named), None) => {
                let name = service.beside(named);
                let pod = self.pods.get(&name).filter(|pod| pod.addresses.contains(&one.address))?;
                Some((here(&name, pod), Some(pod)))
            }
            (None, Some((owner, pod))) => {
                let same = owner.namespace == service.namespace;
                same.then(|| (here(owner, pod), Some(pod)))
            }
            (None, None) => {
                let endpoint = Endpoint {
                    address: one.address,
                    port,
                    namespace: service.namespace.clone(),
                    who: match &front.elsewhere {
                        Elsewhere::Unsaid => Who::Nobody,
                        Elsewhere::Workload(identity) => Who::Elsewhere(identity.clone()),
                        Elsewhere::Unreadable => Who::Unreadable,
                    },
                    zone: one.zone.clone(),
                    for_zones: one.for_zones.clone(),
                };
                Some((endpoint, None))
            }
        }
    }
}
