//! What a proxy asks about: an address, a port of a Service, a gateway, or its own pod.

use thiserror::Error;
use trellis_api::proto::discovery::{self as proto, resolve_response};

use crate::{
    destination::{Destination, InvalidDestination},
    name::Name,
};

/// The longest name that Kubernetes gives to anything.
const MAX_NAME: usize = 253;

/// Ordered so that everything about one address, or about one Service, lies together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Destination(Destination),
    Backend(Backend),
    Gateway(Name),
    /// A pod, about what its connections must be.
    Pod(Name),
}

/// A port of a Service, as routes name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub service: Name,
    pub port: u16,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidSubject {
    #[error(transparent)]
    Destination(#[from] InvalidDestination),
    #[error("backend.port: {0} is not a port of a Service; send 1 to 65535")]
    Port(u32),
    #[error("{field}: {value:?} names nothing; send between 1 and {MAX_NAME} characters")]
    Name { field: &'static str, value: String },
}

impl Subject {
    pub fn to_proto(&self) -> resolve_response::Subject {
        match self {
            Self::Destination(destination) => resolve_response::Subject::Destination((*destination).into()),
            Self::Backend(Backend { service, port }) => resolve_response::Subject::Backend(proto::Backend {
                namespace: service.namespace.to_string(),
                name: service.name.to_string(),
                port: (*port).into(),
            }),
            Self::Gateway(name) => resolve_response::Subject::Gateway(proto::GatewayName {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
            }),
            Self::Pod(name) => resolve_response::Subject::Pod(proto::PodName {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
            }),
        }
    }
}

impl From<Destination> for Subject {
    fn from(destination: Destination) -> Self {
        Self::Destination(destination)
    }
}

impl TryFrom<&proto::Destination> for Subject {
    type Error = InvalidSubject;

    fn try_from(asked: &proto::Destination) -> Result<Self, InvalidSubject> {
        Ok(Self::Destination(asked.try_into()?))
    }
}

impl TryFrom<&proto::Backend> for Subject {
    type Error = InvalidSubject;

    fn try_from(asked: &proto::Backend) -> Result<Self, InvalidSubject> {
        let service = name("backend.namespace", &asked.namespace, "backend.name", &asked.name)?;
        match u16::try_from(asked.port) {
            Ok(port) if port != 0 => Ok(Self::Backend(Backend { service, port })),
            _ => Err(InvalidSubject::Port(asked.port)),
        }
    }
}

impl TryFrom<&proto::GatewayName> for Subject {
    type Error = InvalidSubject;

    fn try_from(asked: &proto::GatewayName) -> Result<Self, InvalidSubject> {
        name("gateway.namespace", &asked.namespace, "gateway.name", &asked.name).map(Self::Gateway)
    }
}

impl TryFrom<&proto::PodName> for Subject {
    type Error = InvalidSubject;

    fn try_from(asked: &proto::PodName) -> Result<Self, InvalidSubject> {
        name("pod.namespace", &asked.namespace, "pod.name", &asked.name).map(Self::Pod)
    }
}

fn name(
    namespace_field: &'static str,
    namespace: &str,
    name_field: &'static str,
    name: &str,
) -> Result<Name, InvalidSubject> {
    for (field, value) in [(namespace_field, namespace), (name_field, name)] {
        if value.is_empty() || value.len() > MAX_NAME {
            // The peer is authenticated, not trusted with the size of our messages.
            return Err(InvalidSubject::Name { field, value: value.chars().take(64).collect() });
        }
    }
    Ok(Name::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_backend_or_gateway_is_named() {
        let backend = |namespace: &str, name: &str, port| {
            let asked = proto::Backend { namespace: namespace.into(), name: name.into(), port };
            Subject::try_from(&asked).unwrap_err().to_string()
        };
        assert!(backend("", "web", 80).starts_with("backend.namespace: \"\" names nothing"));
        assert!(backend("shop", &"a".repeat(300), 80).starts_with("backend.name: \"aaaa"));
        assert!(backend("shop", "web", 0).starts_with("backend.port: 0 is not a port"));
        assert!(backend("shop", "web", 65536).starts_with("backend.port: 65536 is not a port"));
        let asked = proto::GatewayName { namespace: "shop".into(), name: String::new() };
        assert!(Subject::try_from(&asked).unwrap_err().to_string().starts_with("gateway.name: \"\""));
    }
}
