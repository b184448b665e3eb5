//! What discovery keeps of a Service: the addresses it answers on, and its ports.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;
use kube::api::ObjectMeta;
use trellis_api::{
    annotations::{OPAQUE_PORTS, Ports},
    names::IDENTITY,
    proto::discovery::Protocol,
};
use trellis_pki::spiffe::SpiffeId;

use crate::{destination::Destination, name::Name, protocol};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Addresses that are the Service's alone; none where it is headless.
    pub cluster: Box<[IpAddr]>,
    /// Addresses outside the cluster that lead to it: external IPs and those of a load balancer. They may
    /// be a node's, too.
    pub external: Box<[IpAddr]>,
    /// What a load balancer gave it: addresses and names, as they are written.
    pub ingress: Box<[Box<str>]>,
    pub ports: Box<[Port]>,
    /// The family of addresses that is meant where nobody connected to one.
    pub family: Family,
    /// Endpoints count whether they are ready or not.
    pub publish_not_ready: bool,
    /// Who is at those of its endpoints that are no pods of this cluster.
    pub elsewhere: Elsewhere,
    /// Seconds since 1970; the older of two Services that claim one address has it.
    pub created: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
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
    pub protocol: Protocol,
}

impl Service {
    /// Nothing, where the Service stands for a name in DNS.
    pub fn of(service: &k8s::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let cluster = addresses(spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter()));
        let ingress = || {
            let balancers = service.status.iter().flat_map(|status| &status.load_balancer);
            balancers.flat_map(|balancer| balancer.ingress.iter().flatten())
        };
        let external =
            addresses(spec.external_ips.iter().flatten().chain(ingress().filter_map(|one| one.ip.as_ref())));
        let family = match (cluster.first(), spec.ip_families.iter().flatten().next()) {
            (Some(IpAddr::V6(_)), _) => Family::V6,
            (None, Some(first)) if first == "IPv6" => Family::V6,
            _ => Family::V4,
        };
        let opaque = opaque(&service.metadata);
        Some(Self {
            cluster,
            external,
            ingress: ingress()
                .filter_map(|one| one.ip.as_deref().or(one.hostname.as_deref()).map(Into::into))
                .collect(),
            ports: spec.ports.iter().flatten().filter_map(|port| Port::of(port, &opaque)).collect(),
            family,
            elsewhere: Elsewhere::of(service),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second()),
        })
    }

    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    pub fn has_port(&self, number: u16) -> bool {
        self.port(number).is_some()
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
    fn of(port: &k8s::ServicePort, opaque: &Ports) -> Option<Self> {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
        let name = port.name.as_deref().unwrap_or_default();
        let protocol = match opaque.contains(number) {
            true => Protocol::Opaque,
            false => protocol::of(port.app_protocol.as_deref(), name, number),
        };
        tcp.then(|| Self { number, name: name.into(), protocol })
    }
}

impl Family {
    pub fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Ports that the object's annotation declares opaque; none where it cannot be read.
pub fn opaque(meta: &ObjectMeta) -> Ports {
    ports(meta, OPAQUE_PORTS, "no port is opaque by it")
}

/// Ports in an annotation. What is malformed has no effect, and is said.
pub fn ports(meta: &ObjectMeta, annotation: &'static str, effect: &str) -> Ports {
    let Some(text) = meta.annotations.as_ref().and_then(|all| all.get(annotation)) else {
        return Ports::default();
    };
    text.parse().unwrap_or_else(|error| {
        tracing::warn!(object = %Name::of(meta), annotation, value = text, %error,
            "{effect}: write ports and ranges with commas between them, as in `80,9000-9010`");
        Ports::default()
    })
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
