//! What discovery says about a subject, read so that what cannot be understood is never reached by
//! accident: an endpoint without a readable identity gets no connection at all.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::Rng;
use tokio::time::Instant;
use tracing::warn;
use trellis_api::proto::discovery as wire;
use trellis_pki::spiffe::SpiffeId;

use super::{ApplicationTls, Backend};
use crate::{
    balance::{self, Candidate, Fitness},
    budget::Budget,
    gateway::Serving,
    route::Routes,
};

/// What discovery says about a subject.
#[derive(Debug)]
pub enum Answer {
    Service(Service),
    Workload(Endpoint),
    /// What this proxy itself serves.
    Gateway(Serving),
    /// What connections of this proxy must be.
    Policy(wire::Policy),
    /// Outside of what the mesh knows.
    Unknown,
}

/// A port of a Service.
#[derive(Debug)]
pub struct Service {
    pub backend: Backend,
    /// The same, as metrics name it.
    pub label: Arc<str>,
    pub protocol: wire::Protocol,
    pub endpoints: Vec<Endpoint>,
    /// How many of them, from the first on, are for our own zone; none where zones are of no account.
    pub near: usize,
    /// How many of its requests may be repeated.
    pub budget: Arc<Budget>,
    /// Present where routes say where requests go.
    pub routes: Option<Arc<Routes>>,
    /// Present where its applications want TLS of their own.
    pub tls: Option<Arc<ApplicationTls>>,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// `namespace/serviceaccount`: who runs there, as far as discovery knows.
    pub workload: String,
    /// Who that is to metrics: the identity that must be proven, or a name that nothing proves.
    pub peer: Arc<str>,
    pub reach: Reach,
    pub zone: Box<str>,
    pub fitness: Arc<Fitness>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    Tunnel { identity: SpiffeId, address: SocketAddr },
    Plaintext { reason: &'static str },
}

impl Answer {
    /// Endpoints that stay keep what is known of them.
    pub fn read(
        answer: wire::resolve_response::Answer,
        before: Option<&Self>,
        zone: Option<&str>,
        now: Instant,
    ) -> Self {
        use wire::resolve_response::Answer as Wire;
        match answer {
            Wire::Service(service) => Self::Service(Service::read(service, before, zone, now)),
            Wire::Workload(workload) => {
                match workload.endpoint.and_then(|one| Endpoint::read(one, before, now)) {
                    Some(endpoint) => Self::Workload(endpoint),
                    // A pod that cannot be understood is not a stranger: it gets no connection at all.
                    None => Self::Service(Service::none(now)),
                }
            }
            Wire::Serving(gateway) => {
                let before = match before {
                    Some(Self::Gateway(before)) => Some(before),
                    _ => None,
                };
                Self::Gateway(Serving::read(&gateway, before))
            }
            Wire::Policy(policy) => Self::Policy(policy),
            Wire::Unknown(_) => Self::Unknown,
        }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Service(service) => &service.endpoints,
            Self::Workload(endpoint) => std::slice::from_ref(endpoint),
            Self::Gateway(_) | Self::Policy(_) | Self::Unknown => &[],
        }
    }

    /// Who takes the next request or connection. Those of our own zone go first, for as long as one of them
    /// is fit.
    pub fn pick(&self, tried: &[usize], now: Instant, random: &mut impl Rng) -> Option<usize> {
        balance::pick(self.among(tried, now), tried, now, random)
    }

    /// How likely each endpoint is to be picked, as things are.
    pub fn shares(&self, now: Instant) -> Vec<f64> {
        let mut shares = balance::shares(self.among(&[], now), now);
        shares.resize(self.endpoints().len(), 0.0);
        shares
    }

    fn among(&self, tried: &[usize], now: Instant) -> &[Endpoint] {
        let endpoints = self.endpoints();
        let near = match self {
            Self::Service(service) => endpoints.get(..service.near).unwrap_or_default(),
            Self::Workload(_) | Self::Gateway(_) | Self::Policy(_) | Self::Unknown => &[],
        };
        let fit = |(index, one): (usize, &Endpoint)| !tried.contains(&index) && !one.fitness.is_ejected(now);
        if near.iter().enumerate().any(fit) { near } else { endpoints }
    }

    /// Whether the mesh does not know it.
    pub fn is_outside(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Whether it depends on requests where they go.
    pub fn has_http_routes(&self) -> bool {
        matches!(self, Self::Service(Service { routes: Some(routes), .. }) if routes.has_http())
    }

    /// Whether it depends on the name in a client's greeting where its connection goes.
    pub fn has_tls_routes(&self) -> bool {
        matches!(self, Self::Service(Service { routes: Some(routes), .. }) if routes.has_tls())
    }

    /// The TLS that its applications want to be spoken to in.
    pub fn tls(&self) -> Option<&Arc<ApplicationTls>> {
        match self {
            Self::Service(service) => service.tls.as_ref(),
            Self::Workload(_) | Self::Gateway(_) | Self::Policy(_) | Self::Unknown => None,
        }
    }

    /// What is said there, as far as anybody tells.
    pub fn protocol(&self) -> wire::Protocol {
        match self {
            Self::Service(service) => service.protocol,
            Self::Workload(_) | Self::Gateway(_) | Self::Policy(_) | Self::Unknown => wire::Protocol::Detect,
        }
    }
}

impl Service {
    fn read(mut service: wire::Service, before: Option<&Answer>, zone: Option<&str>, now: Instant) -> Self {
        let near = nearest_first(&mut service.endpoints, zone);
        let far = service.endpoints.split_off(near);
        let read = |some: Vec<wire::Endpoint>| -> Vec<Endpoint> {
            some.into_iter().filter_map(|one| Endpoint::read(one, before, now)).collect()
        };
        let mut endpoints = read(service.endpoints);
        let near = endpoints.len();
        endpoints.extend(read(far));
        // A protocol of a later version is one that this one does not read.
        let protocol = wire::Protocol::try_from(service.protocol).unwrap_or(wire::Protocol::Opaque);
        let port = u16::try_from(service.port).unwrap_or_default();
        let backend = Backend { namespace: service.namespace.into(), name: service.name.into(), port };
        let routes = service.routes.as_ref().map(|routes| Arc::new(Routes::compile(routes)));
        if routes.as_ref().is_some_and(|routes| !routes.describe().is_valid()) {
            warn!(service = %backend, "parts of its routes cannot be obeyed, and fail: /routes of the admin port names them");
        }
        let known = match before {
            Some(Answer::Service(before)) => Some(before),
            _ => None,
        };
        let budget = known.map_or_else(|| Arc::new(Budget::new(now)), |known| known.budget.clone());
        let tls = service.tls.as_ref();
        let tls = tls.map(|tls| ApplicationTls::read(tls, known.and_then(|known| known.tls.as_ref())));
        Self { label: backend.to_string().into(), backend, protocol, budget, routes, tls, endpoints, near }
    }

    fn none(now: Instant) -> Self {
        Self {
            backend: Backend { namespace: "".into(), name: "".into(), port: 0 },
            label: Arc::default(),
            protocol: wire::Protocol::Opaque,
            endpoints: Vec::new(),
            near: 0,
            budget: Arc::new(Budget::new(now)),
            routes: None,
            tls: None,
        }
    }
}

/// Puts the endpoints that are for `zone` before the others, and says how many they are. As Kubernetes has
/// it, zones are of no account where an endpoint does not say for which it is, or where none is for ours.
fn nearest_first(endpoints: &mut [wire::Endpoint], zone: Option<&str>) -> usize {
    let Some(zone) = zone.filter(|zone| !zone.is_empty()) else { return 0 };
    if endpoints.iter().any(|one| one.for_zones.is_empty()) {
        return 0;
    }
    let far = |one: &wire::Endpoint| !one.for_zones.iter().any(|for_zone| for_zone == zone);
    endpoints.sort_by_key(far);
    endpoints.partition_point(|one| !far(one))
}

impl Endpoint {
    /// `None` for what this version cannot reach safely: no address, no reach, or a malformed identity.
    fn read(endpoint: wire::Endpoint, before: Option<&Answer>, now: Instant) -> Option<Self> {
        use wire::endpoint::Reach as Wire;
        let ip: IpAddr = endpoint.address.parse().ok()?;
        let address = SocketAddr::new(ip, u16::try_from(endpoint.port).ok()?);
        let reach = match endpoint.reach? {
            Wire::Tunnel(tunnel) => Reach::Tunnel {
                identity: tunnel.identity.parse().ok()?,
                address: SocketAddr::new(ip, u16::try_from(tunnel.port).ok()?),
            },
            Wire::Plaintext(plaintext) => Reach::Plaintext { reason: reason(plaintext.reason()) },
        };
        let fitness = before
            .into_iter()
            .flat_map(Answer::endpoints)
            .find(|known| known.address == address && known.reach == reach)
            .map_or_else(|| Arc::new(Fitness::new(now)), |known| known.fitness.clone());
        let workload = format!("{}/{}", endpoint.namespace, endpoint.service_account);
        let peer = match &reach {
            Reach::Tunnel { identity, .. } => identity.to_string(),
            Reach::Plaintext { .. } => format!("unverified:{workload}"),
        };
        Some(Self { address, workload, peer: peer.into(), reach, zone: endpoint.zone.into(), fitness })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, workload, reach, fitness, .. } = self;
        let open = fitness.open();
        match reach {
            Reach::Tunnel { identity, address: tunnel } => {
                write!(f, "{address} {identity} through {tunnel}, {open} open")
            }
            Reach::Plaintext { reason } => {
                write!(f, "{address} {workload} in plaintext ({reason}), {open} open")
            }
        }
    }
}

impl Candidate for Endpoint {
    fn fitness(&self) -> &Fitness {
        &self.fitness
    }
}

fn reason(reason: wire::plaintext::Reason) -> &'static str {
    use wire::plaintext::Reason;
    match reason {
        Reason::NotInjected => "not_injected",
        Reason::HostNetwork => "host_network",
        Reason::PortSkipped => "port_skipped",
        Reason::NoPod => "no_pod",
        Reason::Unspecified => "unspecified",
    }
}
