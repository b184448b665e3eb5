//! What discovery keeps of an EndpointSlice: which addresses and ports are behind one Service, and
//! whether they take traffic. Who they are is the pods' to say.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::discovery::v1 as k8s;

use crate::{destination::Destination, name::Name};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to, always of the slice's own namespace.
    pub service: Name,
    pub ports: Box<[Port]>,
    pub endpoints: Box<[Endpoint]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Box<str>,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    /// The pod that the slice says is there.
    pub pod: Option<Arc<str>>,
    pub standing: Standing,
    pub zone: Option<Arc<str>>,
    /// Zones whose clients shall prefer it.
    pub for_zones: Option<Arc<[Box<str>]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Takes no traffic.
    Out,
    /// Still serves while it ends: the last resort.
    Draining,
    Ready,
}

impl Slice {
    /// Nothing, where the slice belongs to no Service or holds no IP addresses.
    pub fn of(slice: &k8s::EndpointSlice) -> Option<Self> {
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
        let name = Name::of(&slice.metadata);
        Some(Self {
            service: name.beside(service),
            ports: slice.ports.iter().flatten().filter_map(Port::of).collect(),
            endpoints: slice.endpoints.iter().filter_map(|one| Endpoint::of(one, &name)).collect(),
        })
    }

    /// The number of the port that the Service calls `name`.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| &*port.name == name).map(|port| port.number)
    }
}

impl Port {
    /// A slice port without a number means any port, which is nobody's to guess.
    fn of(port: &k8s::EndpointPort) -> Option<Self> {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
        tcp.then(|| Self { name: port.name.as_deref().unwrap_or_default().into(), number })
    }
}

impl Endpoint {
    /// The addresses of one endpoint are fungible, so the first stands for it.
    fn of(endpoint: &k8s::Endpoint, slice: &Name) -> Option<Self> {
        let address = endpoint.addresses.first()?.parse::<IpAddr>().ok()?;
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        if let Some(elsewhere) = target.and_then(|target| target.namespace.as_deref())
            && elsewhere != &*slice.namespace
        {
            tracing::warn!(slice = %slice, namespace = elsewhere,
                "endpoint left out: its targetRef.namespace is not the slice's own");
            return None;
        }
        Some(Self {
            address: Destination::new(address, 0).address,
            pod: target.and_then(|target| target.name.as_deref()).map(Into::into),
            standing: Standing::of(endpoint.conditions.as_ref()),
            zone: endpoint.zone.as_deref().map(Into::into),
            for_zones: endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref()).and_then(|zones| {
                (!zones.is_empty()).then(|| zones.iter().map(|zone| zone.name.as_str().into()).collect())
            }),
        })
    }
}

impl Standing {
    /// What is not said counts as ready, as Kubernetes has it.
    fn of(conditions: Option<&k8s::EndpointConditions>) -> Self {
        let ready = conditions.and_then(|all| all.ready).unwrap_or(true);
        let serving = conditions.and_then(|all| all.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|all| all.terminating).unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Self::Ready,
            (false, true) => Self::Draining,
            (false, false) => Self::Out,
        }
    }
}
