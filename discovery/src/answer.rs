//! What a proxy is told about a destination, and how that looks on the wire.

use std::{net::IpAddr, sync::Arc};

use trellis_api::{names, proto::discovery as proto};
use trellis_pki::spiffe::SpiffeId;

use crate::{destination::Destination, name::Name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A Service, and what takes its traffic; nothing, where nothing is ready or it has no such port.
    Service {
        name: Name,
        endpoints: Box<[Endpoint]>,
    },
    Workload(Endpoint),
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub namespace: Arc<str>,
    pub who: Who,
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

impl Answer {
    pub fn to_proto(&self, destination: Destination, trust_domain: &str) -> proto::ResolveResponse {
        use proto::resolve_response::Answer as Wire;
        let answer = match self {
            Self::Service { name, endpoints } => Wire::Service(proto::Service {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                endpoints: endpoints.iter().map(|one| one.to_proto(trust_domain)).collect(),
                ..Default::default()
            }),
            Self::Workload(endpoint) => {
                Wire::Workload(proto::Workload { endpoint: Some(endpoint.to_proto(trust_domain)) })
            }
            Self::Unknown => Wire::Unknown(proto::Unknown {}),
        };
        proto::ResolveResponse {
            subject: Some(proto::resolve_response::Subject::Destination(destination.into())),
            answer: Some(answer),
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
            ..Default::default()
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
