//! What discovery keeps of a Service: the addresses it answers on, and its ports.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;
use trellis_api::names::IDENTITY;
use trellis_pki::spiffe::SpiffeId;

use crate::{destination::Destination, name::Name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Addresses that are the Service's alone.
    pub cluster: Box<[IpAddr]>,
    /// Addresses outside the cluster that lead to it: external IPs and those of a load balancer. They may
    /// be a node's, too.
    pub external: Box<[IpAddr]>,
    pub ports: Box<[Port]>,
    /// Endpoints count whether they are ready or not.
    pub publish_not_ready: bool,
    /// Who is at those of its endpoints that are no pods of this cluster.
    pub elsewhere: Elsewhere,
    /// Seconds since 1970; the older of two Services that claim one address has it.
    pub created: i64,
}

/// What the Service says of endpoints that no pod of this cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// Nothing: they are outside the mesh.
    Unsaid,
    /// They are workloads of another trust domain, and prove to be this one.
    Workload(SpiffeId),
    /// Something that is no identity: they cannot be reached.
    Unreadable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    /// What EndpointSlices call this port.
    pub name: Box<str>,
}

impl Service {
    /// Nothing, where no address of the Service can be connected to (headless, ExternalName).
    pub fn of(service: &k8s::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster = addresses(spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter()));
        if cluster.is_empty() {
            return None;
        }
        let ingress = service.status.iter().flat_map(|status| &status.load_balancer);
        let ingress = ingress.flat_map(|balancer| balancer.ingress.iter().flatten());
        let external =
            addresses(spec.external_ips.iter().flatten().chain(ingress.filter_map(|one| one.ip.as_ref())));
        Some(Self {
            cluster,
            external,
            ports: spec.ports.iter().flatten().filter_map(Port::of).collect(),
            elsewhere: Elsewhere::of(service),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second()),
        })
    }

    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Every address that leads to the Service.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster.iter().chain(&self.external).copied()
    }
}

impl Elsewhere {
    /// What cannot be read opens nothing: a connection that fails is seen, plaintext that nobody wanted is
    /// not. With a selector the endpoints are pods, whose identities are theirs to say.
    fn of(service: &k8s::Service) -> Self {
        let notes = service.metadata.annotations.as_ref();
        let Some(text) = notes.and_then(|notes| notes.get(IDENTITY)) else { return Self::Unsaid };
        let name = Name::of(&service.metadata);
        let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if selects.is_some_and(|selector| !selector.is_empty()) {
            tracing::warn!(service = %name, annotation = IDENTITY, value = text,
                "a Service with a selector leads to pods, which say themselves who they are: remove the annotation, \
                 or the selector");
        }
        match text.parse() {
            Ok(identity) => Self::Workload(identity),
            Err(error) => {
                tracing::warn!(service = %name, annotation = IDENTITY, value = text, %error,
                    "endpoints outside of this cluster are not reached: name one workload");
                Self::Unreadable
            }
        }
    }
}

impl Port {
    fn of(port: &k8s::ServicePort) -> Option<Self> {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
        tcp.then(|| Self { number, name: port.name.as_deref().unwrap_or_default().into() })
    }
}

/// What of the texts are addresses, each once. The rest is `None` (headless) or empty (not yet assigned).
pub fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Box<[IpAddr]> {
    let mut found = Vec::new();
    for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
        let address = Destination::new(address, 0).address;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found.into()
}
