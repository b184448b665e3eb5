//! What discovery keeps of a route of any kind: whom it wants to be attached to, and its rules as proxies
//! read them, with references that are still to be judged.

use std::fmt;

use kube::api::ObjectMeta;
use trellis_api::{
    gateway::{self, GrpcRoute, HttpRoute, ParentRef, TcpRoute, TlsRoute},
    proto::discovery as proto,
    source::Watched,
};

use super::{
    grpc, http,
    reference::{Reference, References},
};
use crate::name::Name;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Http,
    Grpc,
    Tcp,
    Tls,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub name: Name,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Seconds since 1970; the older of two routes wins.
    pub created: i64,
    pub generation: i64,
    pub parents: Box<[Parent]>,
    pub hostnames: Box<[String]>,
    pub rules: Rules,
    /// In the order of the rules.
    pub references: Box<[Reference]>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Rules {
    Http(Vec<proto::HttpRule>),
    Bytes(Vec<proto::WeightedBackend>),
}

/// Whom a route wants to be attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    pub to: To,
    /// The reference as it is written, by which the status names it.
    pub given: ParentRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum To {
    Service(Name),
    Gateway(Name),
    ListenerSet(Name),
    /// A kind that is somebody else's.
    Other,
}

/// A kind of route.
pub trait AnyRoute: Watched {
    const KIND: Kind;

    fn parents(&self) -> &[ParentRef];

    fn hostnames(&self) -> &[String];

    fn rules(&self, references: &mut References) -> Rules;

    fn route(&self) -> Route {
        let meta = self.meta();
        let name = Name::of(meta);
        let mut references = References::of(&name);
        let rules = self.rules(&mut references);
        Route {
            created: created(meta),
            generation: meta.generation.unwrap_or_default(),
            parents: self.parents().iter().map(|parent| Parent::of(parent, &name)).collect(),
            hostnames: self.hostnames().into(),
            rules,
            references: references.found.into(),
        }
    }
}

pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second())
}

impl Parent {
    fn of(given: &ParentRef, route: &Name) -> Self {
        let group = given.group.as_deref().unwrap_or(gateway::GROUP);
        let namespace = given.namespace.as_deref().unwrap_or(&route.namespace);
        let name = Name::new(namespace, &given.name);
        let to = match (group, given.kind.as_deref().unwrap_or("Gateway")) {
            ("", "Service") => To::Service(name),
            (gateway::GROUP, "Gateway") => To::Gateway(name),
            (gateway::GROUP, "ListenerSet") => To::ListenerSet(name),
            _ => To::Other,
        };
        Self { to, given: given.clone() }
    }

    /// Whether this port is meant, by its number and by its name, as far as one is given.
    pub fn means(&self, number: u16, name: &str) -> bool {
        self.given.port.is_none_or(|port| port == i32::from(number))
            && self.given.section_name.as_deref().is_none_or(|section| section == name)
    }
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Tcp, Self::Tls];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tcp => "TCPRoute",
            Self::Tls => "TLSRoute",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

impl AnyRoute for HttpRoute {
    const KIND: Kind = Kind::Http;

    fn parents(&self) -> &[ParentRef] {
        self.spec.parent_refs.as_deref().unwrap_or_default()
    }

    fn hostnames(&self) -> &[String] {
        self.spec.hostnames.as_deref().unwrap_or_default()
    }

    fn rules(&self, references: &mut References) -> Rules {
        Rules::Http(http::rules(self.spec.rules.as_ref(), references))
    }
}

impl AnyRoute for GrpcRoute {
    const KIND: Kind = Kind::Grpc;

    fn parents(&self) -> &[ParentRef] {
        self.spec.parent_refs.as_deref().unwrap_or_default()
    }

    fn hostnames(&self) -> &[String] {
        self.spec.hostnames.as_deref().unwrap_or_default()
    }

    fn rules(&self, references: &mut References) -> Rules {
        Rules::Http(grpc::rules(self.spec.rules.as_ref(), references))
    }
}

impl AnyRoute for TcpRoute {
    const KIND: Kind = Kind::Tcp;

    fn parents(&self) -> &[ParentRef] {
        self.spec.parent_refs.as_deref().unwrap_or_default()
    }

    fn hostnames(&self) -> &[String] {
        &[]
    }

    fn rules(&self, references: &mut References) -> Rules {
        bytes(&self.spec.rules, references)
    }
}

impl AnyRoute for TlsRoute {
    const KIND: Kind = Kind::Tls;

    fn parents(&self) -> &[ParentRef] {
        self.spec.parent_refs.as_deref().unwrap_or_default()
    }

    fn hostnames(&self) -> &[String] {
        &self.spec.hostnames
    }

    fn rules(&self, references: &mut References) -> Rules {
        bytes(&self.spec.rules, references)
    }
}

/// There is exactly one rule, by the definition of the kind.
fn bytes(rules: &[gateway::ByteRule], references: &mut References) -> Rules {
    let rule = rules.first().map(|rule| &rule.backend_refs);
    Rules::Bytes(http::backends(rule, "rules[0]", references))
}
