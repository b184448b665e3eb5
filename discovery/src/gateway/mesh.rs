//! Routes whose parent is a Service: which of them hold on one of its ports, and for whom. A route beside
//! the Service holds for everybody; one of another namespace holds for clients of its own namespace, and
//! for those it is used instead of the Service's.

use std::{collections::BTreeMap, sync::Arc};

use trellis_api::proto::discovery::{self as proto, http_route};

use super::route::{Key, Kind, Route, Rules, To};
use crate::{name::Name, service::Port};

/// The routes that hold on one port of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    everybody: Option<proto::Routes>,
    /// By the namespace of the client.
    instead: BTreeMap<Arc<str>, proto::Routes>,
}

/// A route with its references judged.
pub struct Resolved<'a> {
    pub key: &'a Key,
    pub route: &'a Route,
    pub rules: Rules,
}

impl Held {
    /// Nothing where no route holds. `routes` are in the order in which they win.
    pub fn of(service: &Name, port: &Port, routes: &[Resolved<'_>]) -> Option<Self> {
        let mut held = Self::default();
        for one in routes {
            let meant = |to: &To| matches!(to, To::Service(name) if name == service);
            let mut parents = one.route.parents.iter().filter(|parent| meant(&parent.to));
            if !parents.any(|parent| parent.means(port.number, &port.name)) {
                continue;
            }
            let namespace = &one.key.name.namespace;
            let routes = match *namespace == service.namespace {
                true => held.everybody.get_or_insert_default(),
                false => held.instead.entry(namespace.clone()).or_default(),
            };
            // What hostnames would mean in a mesh is not defined, so they mean nothing; but without the
            // names that a client asks for by SNI a TLSRoute would be another kind of route.
            let hostnames = match one.key.kind {
                Kind::Tls => one.route.hostnames.to_vec(),
                Kind::Http | Kind::Grpc | Kind::Tcp => Vec::new(),
            };
            push(routes, one.key, one.rules.clone(), hostnames);
        }
        (held != Self::default()).then_some(held)
    }

    pub fn for_namespace(&self, namespace: Option<&str>) -> Option<&proto::Routes> {
        namespace.and_then(|namespace| self.instead.get(namespace)).or(self.everybody.as_ref())
    }
}

/// Adds a route to the others.
pub fn push(routes: &mut proto::Routes, key: &Key, rules: Rules, hostnames: Vec<String>) {
    let (namespace, name) = (key.name.namespace.to_string(), key.name.name.to_string());
    match rules {
        Rules::Http(rules) => {
            let kind = match key.kind {
                Kind::Grpc => http_route::Kind::GrpcRoute,
                Kind::Http | Kind::Tcp | Kind::Tls => http_route::Kind::HttpRoute,
            };
            routes.http.push(proto::HttpRoute { kind: kind.into(), namespace, name, hostnames, rules });
        }
        Rules::Bytes(backends) => {
            let to = if key.kind == Kind::Tls { &mut routes.tls } else { &mut routes.tcp };
            to.push(proto::ByteRoute { namespace, name, hostnames, backends });
        }
    }
}
