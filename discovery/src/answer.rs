//! What a proxy is told about a subject, and how that looks on the wire.

use std::{net::IpAddr, sync::Arc};

use trellis_api::{
    names,
    proto::discovery::{self as proto, Protocol},
};
use trellis_pki::spiffe::SpiffeId;

use crate::{
    gateway::{mesh::Held, serving::Serving},
    name::Name,
    subject::Subject,
    viewer::Viewer,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Service(Service),
    Workload(Endpoint),
    /// For the gateway itself; to anybody else there is none.
    Gateway(Name, Arc<Serving>),
    /// For pods of this ServiceAccount; to anybody else there is none.
    Policy(Name, Arc<proto::Policy>),
    Unknown,
}

/// A Service, and what takes its traffic; nothing, where nothing is ready or it has no such port.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: Name,
    pub port: u16,
    pub protocol: Protocol,
    pub endpoints: Box<[Endpoint]>,
    /// Routes of this port, and whom they hold for.
    pub routes: Option<Arc<Held>>,
    /// How the application is spoken to, where it wants TLS.
    pub tls: Option<Arc<proto::BackendTls>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub namespace: Arc<str>,
    pub who: Who,
    pub zone: Option<Arc<str>>,
    /// Zones whose clients shall prefer it.
    pub for_zones: Option<Arc<[Box<str>]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Pod {
        pod: Arc<str>,
        service_account: Arc<str>,
        plaintext: Option<Reason>,
    },
    /// An address of a Service that no pod has.
    Nobody,
    /// A workload of another trust domain, as the Service says.
    Elsewhere(SpiffeId),
    /// The Service says who it is in words that cannot be read.
    Unreadable,
}

/// Why traffic to an endpoint goes without a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotInjected,
    HostNetwork,
    PortSkipped,
}

/// Whom the difference between two answers concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    Nobody,
    Everybody,
    /// Those to whom the two say different things.
    Some,
}

impl Answer {
    pub fn concerns(&self, before: &Self) -> Concerns {
        match (self, before) {
            (Self::Service(now), Self::Service(before)) => now.concerns(before),
            (Self::Gateway(_, now), Self::Gateway(_, before)) if now.answer == before.answer => {
                Concerns::Nobody
            }
            (Self::Gateway(..), _) | (_, Self::Gateway(..)) => Concerns::Some,
            _ if self == before => Concerns::Nobody,
            _ => Concerns::Everybody,
        }
    }

    /// Whether the two say the same to this one, where they differ only for some.
    pub fn says_the_same(&self, before: &Self, viewer: &Viewer) -> bool {
        match (self, before) {
            (Self::Service(now), Self::Service(before)) => now.routes(viewer) == before.routes(viewer),
            (Self::Gateway(name, _), _) | (_, Self::Gateway(name, _)) => !is_it(name, viewer),
            _ => self == before,
        }
    }

    pub fn to_proto(&self, subject: &Subject, viewer: &Viewer) -> proto::ResolveResponse {
        use proto::resolve_response::Answer as Wire;
        let trust_domain = viewer.trust_domain();
        let answer = match self {
            Self::Service(service) => Wire::Service(proto::Service {
                namespace: service.name.namespace.to_string(),
                name: service.name.name.to_string(),
                endpoints: service.endpoints.iter().map(|one| one.to_proto(trust_domain)).collect(),
                port: service.port.into(),
                protocol: service.protocol.into(),
                routes: service.routes(viewer).cloned(),
                tls: service.tls.as_deref().cloned(),
            }),
            Self::Workload(endpoint) => {
                Wire::Workload(proto::Workload { endpoint: Some(endpoint.to_proto(trust_domain)) })
            }
            Self::Gateway(name, serving) if is_it(name, viewer) => Wire::Serving(serving.answer.clone()),
            Self::Policy(account, policy) if viewer.runs_as(&account.namespace, &account.name) => {
                Wire::Policy(policy.as_ref().clone())
            }
            Self::Gateway(..) | Self::Policy(..) | Self::Unknown => Wire::Unknown(proto::Unknown {}),
        };
        proto::ResolveResponse { subject: Some(subject.to_proto()), answer: Some(answer) }
    }
}

/// A gateway's answer holds keys: only its own pods may have it.
fn is_it(gateway: &Name, viewer: &Viewer) -> bool {
    viewer.runs_as(&gateway.namespace, &names::gateway_workload(&gateway.name))
}

impl Service {
    fn routes(&self, viewer: &Viewer) -> Option<&proto::Routes> {
        self.routes.as_deref().and_then(|held| held.for_namespace(viewer.namespace()))
    }

    fn concerns(&self, before: &Self) -> Concerns {
        let same = self.name == before.name
            && self.port == before.port
            && self.protocol == before.protocol
            && self.endpoints == before.endpoints
            && self.tls == before.tls;
        match same {
            false => Concerns::Everybody,
            true if self.routes == before.routes => Concerns::Nobody,
            true => Concerns::Some,
        }
    }
}

impl Endpoint {
    fn to_proto(&self, trust_domain: &str) -> proto::Endpoint {
        let (pod, service_account) = match &self.who {
            Who::Pod { pod, service_account, .. } => (pod.to_string(), service_account.to_string()),
            Who::Nobody | Who::Elsewhere(_) | Who::Unreadable => Default::default(),
        };
        proto::Endpoint {
            address: self.address.to_string(),
            port: self.port.into(),
            namespace: self.namespace.to_string(),
            pod,
            service_account,
            reach: self.reach(trust_domain),
            zone: self.zone.as_deref().unwrap_or_default().to_owned(),
            for_zones: self
                .for_zones
                .iter()
                .flat_map(|zones| zones.iter().map(|zone| zone.to_string()))
                .collect(),
        }
    }

    /// Somebody without a readable identity cannot be reached at all: no reach is sent, and a proxy that
    /// finds none fails the connection.
    fn reach(&self, trust_domain: &str) -> Option<proto::endpoint::Reach> {
        use proto::{endpoint::Reach, plaintext::Reason as Wire};
        let plaintext = |reason: Wire| Some(Reach::Plaintext(proto::Plaintext { reason: reason.into() }));
        match &self.who {
            Who::Nobody => plaintext(Wire::NoPod),
            Who::Elsewhere(identity) => Some(Reach::Tunnel(proto::Tunnel {
                identity: identity.to_string(),
                port: names::TUNNEL_PORT.into(),
            })),
            Who::Unreadable => None,
            Who::Pod { plaintext: Some(Reason::NotInjected), .. } => plaintext(Wire::NotInjected),
            Who::Pod { plaintext: Some(Reason::HostNetwork), .. } => plaintext(Wire::HostNetwork),
            Who::Pod { plaintext: Some(Reason::PortSkipped), .. } => plaintext(Wire::PortSkipped),
            Who::Pod { pod, service_account, plaintext: None } => {
                match SpiffeId::new(trust_domain, &self.namespace, service_account) {
                    Ok(identity) => Some(Reach::Tunnel(proto::Tunnel {
                        identity: identity.to_string(),
                        port: names::TUNNEL_PORT.into(),
                    })),
                    Err(error) => {
                        tracing::warn!(namespace = %self.namespace, %pod, %error,
                            "pod cannot be reached: its names make no identity");
                        None
                    }
                }
            }
        }
    }
}
