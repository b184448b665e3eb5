//! Listeners of Gateways and ListenerSets: what each is, whether it may be, and what routes it takes.

use std::{collections::BTreeMap, sync::Arc};

use trellis_api::{
    gateway::{GROUP, GatewaySpec, Listener},
    names,
    proto::discovery::{self as proto, listener::Kind},
};

use super::{
    World,
    frontend::{self, Tls},
    grant,
    namespace::means,
    route,
};
use crate::name::Name;

/// A listener, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub owner: Owner<'a>,
    pub listener: &'a Listener,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    Gateway(&'a Name),
    ListenerSet(&'a Name),
}

/// Why something does not hold: the reason of a condition, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

/// A listener, judged.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    pub entry: Entry<'a>,
    /// None where its protocol is not known.
    pub kind: Option<Kind>,
    /// Kinds of routes that it takes.
    pub kinds: Vec<route::Kind>,
    pub accepted: Result<(), Problem>,
    pub conflicted: Option<Problem>,
    pub resolved: Result<(), Problem>,
    pub tls: Option<proto::ListenerTls>,
    /// That clients without a certificate that verifies are let in.
    pub insecure_fallback: bool,
}

impl Problem {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Owner<'_> {
    pub fn name(&self) -> &Name {
        match self {
            Self::Gateway(name) | Self::ListenerSet(name) => name,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "Gateway",
            Self::ListenerSet(_) => "ListenerSet",
        }
    }

    pub fn namespace(&self) -> &Arc<str> {
        &self.name().namespace
    }

    fn refers(&self) -> grant::From<'_> {
        grant::From { kind: self.kind(), namespace: self.namespace() }
    }
}

impl Entry<'_> {
    pub fn port(&self) -> u16 {
        u16::try_from(self.listener.port).unwrap_or_default()
    }

    pub fn hostname(&self) -> &str {
        self.listener.hostname.as_deref().unwrap_or_default()
    }

    /// Whether routes of a namespace may be attached to it.
    pub fn takes_from(&self, namespace: &str, world: &World<'_>) -> bool {
        let allowed = self.listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let from = allowed.and_then(|allowed| allowed.from.as_deref()).unwrap_or("Same");
        let selector = allowed.and_then(|allowed| allowed.selector.as_ref());
        means(from, selector, self.owner.namespace(), namespace, world.namespaces)
    }
}

impl Judged<'_> {
    /// Whether it is given to the gateway. A listener with one certificate of several that cannot be had is;
    /// one with none is not.
    pub fn serves(&self) -> bool {
        let tls = match self.kind {
            Some(Kind::Https | Kind::Tls) => {
                self.tls.as_ref().is_some_and(|tls| !tls.certificates.is_empty())
            }
            _ => true,
        };
        self.accepted.is_ok() && self.conflicted.is_none() && tls && !self.kinds.is_empty()
    }
}

/// Judges the listeners of one gateway. Of several that cannot be together, the first is.
pub fn judge<'a>(
    entries: &[Entry<'a>],
    spec: &GatewaySpec,
    gateway: &Name,
    world: &World<'_>,
) -> Vec<Judged<'a>> {
    let mut taken = Taken::default();
    let judged = entries.iter().map(|entry| one(*entry, spec, gateway, world));
    judged
        .map(|mut judged| {
            if judged.accepted.is_ok()
                && let Some(kind) = judged.kind
                && let Err(problem) = taken.take(&judged.entry, kind)
            {
                match problem.reason {
                    "PortUnavailable" => {}
                    _ => judged.conflicted = Some(problem.clone()),
                }
                judged.accepted = Err(problem);
            }
            judged
        })
        .collect()
}

fn one<'a>(entry: Entry<'a>, spec: &GatewaySpec, gateway: &Name, world: &World<'_>) -> Judged<'a> {
    let listener = entry.listener;
    let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref()).unwrap_or("Terminate");
    let (kind, possible): (_, &[route::Kind]) = match (listener.protocol.as_str(), mode) {
        ("HTTP", _) => (Some(Kind::Http), &[route::Kind::Http, route::Kind::Grpc]),
        ("HTTPS", _) => (Some(Kind::Https), &[route::Kind::Http, route::Kind::Grpc]),
        ("TLS", "Passthrough") => (Some(Kind::Passthrough), &[route::Kind::Tls]),
        ("TLS", _) => (Some(Kind::Tls), &[route::Kind::Tls]),
        ("TCP", _) => (Some(Kind::Tcp), &[route::Kind::Tcp]),
        _ => (None, &[]),
    };
    let (kinds, unknown) = kinds(listener, possible);
    let mut accepted = match (kind, listener.protocol.as_str(), mode) {
        (None, protocol, _) => Err(Problem::new(
            "UnsupportedProtocol",
            format!("protocol: {protocol} is not served; use HTTP, HTTPS, TLS or TCP"),
        )),
        (_, "HTTPS" | "TLS", mode)
            if !matches!((listener.protocol.as_str(), mode), (_, "Terminate") | ("TLS", "Passthrough")) =>
        {
            Err(Problem::new(
                "UnsupportedValue",
                format!("tls.mode: {mode} is not served with protocol {}; use Terminate", listener.protocol),
            ))
        }
        _ if RESERVED.contains(&entry.port()) => Err(Problem::new(
            "PortUnavailable",
            format!("port: {} is one that the proxy itself needs; use another", entry.port()),
        )),
        _ => Ok(()),
    };
    let mut resolved = match unknown {
        None => Ok(()),
        Some(kind) => Err(Problem::new(
            "InvalidRouteKinds",
            format!("allowedRoutes.kinds: a listener of protocol {} takes no {kind}", listener.protocol),
        )),
    };
    let mut tls = None;
    let mut insecure_fallback = false;
    if matches!(kind, Some(Kind::Https | Kind::Tls)) && accepted.is_ok() {
        let found: Tls = frontend::tls(&entry, entry.owner.refers(), spec, gateway, world);
        insecure_fallback = found.tls.clients.as_ref().is_some_and(|clients| clients.optional);
        tls = Some(found.tls);
        accepted = accepted.and(found.accepted);
        resolved = resolved.and(found.resolved);
    }
    Judged { entry, kind, kinds, accepted, conflicted: None, resolved, tls, insecure_fallback }
}

/// Ports of the proxy's own.
const RESERVED: [u16; 6] = [
    names::ADMIN_PORT,
    names::OUTBOUND_PORT,
    names::INBOUND_PORT,
    names::TUNNEL_PORT,
    names::METRICS_PORT,
    names::READY_PORT,
];

/// The kinds of routes that a listener takes, and one that it says and cannot take.
fn kinds(listener: &Listener, possible: &[route::Kind]) -> (Vec<route::Kind>, Option<String>) {
    let asked = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return (possible.to_vec(), None) };
    let means = |one: route::Kind| {
        asked.iter().any(|asked| asked.group.as_deref().unwrap_or(GROUP) == GROUP && asked.kind == one.name())
    };
    let kinds: Vec<_> = possible.iter().copied().filter(|kind| means(*kind)).collect();
    let unknown = asked.iter().find(|asked| {
        asked.group.as_deref().unwrap_or(GROUP) != GROUP
            || !kinds.iter().any(|kind| kind.name() == asked.kind)
    });
    (kinds, unknown.map(|unknown| unknown.kind.clone()))
}

/// What the listeners so far have taken.
#[derive(Default)]
struct Taken {
    /// Of each port the kind of what is said there, and its hostnames.
    ports: BTreeMap<u16, (Group, Vec<String>)>,
    /// The port of the listener by the port of the pod.
    behind: BTreeMap<u16, u16>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Http,
    /// What begins with a name that can be read, so that several may share a port.
    Named,
    Bytes,
}

impl Taken {
    fn take(&mut self, entry: &Entry<'_>, kind: Kind) -> Result<(), Problem> {
        let port = entry.port();
        let group = match kind {
            Kind::Http => Group::Http,
            Kind::Https | Kind::Tls | Kind::Passthrough => Group::Named,
            Kind::Tcp | Kind::Unspecified => Group::Bytes,
        };
        let behind = names::gateway_port(port);
        if let Some(other) = self.behind.get(&behind).filter(|other| **other != port) {
            return Err(Problem::new(
                "PortUnavailable",
                format!(
                    "port: {port} and {other} would both be port {behind} of the gateway's pods; use another"
                ),
            ));
        }
        let hostname = entry.hostname().to_ascii_lowercase();
        if let Some((taken, hostnames)) = self.ports.get_mut(&port) {
            if *taken != group {
                return Err(Problem::new(
                    "ProtocolConflict",
                    format!("port: another listener has {port} for another protocol"),
                ));
            }
            if group == Group::Bytes || hostnames.contains(&hostname) {
                let what = if hostname.is_empty() { "every host".to_owned() } else { hostname };
                return Err(Problem::new(
                    "HostnameConflict",
                    format!("hostname: another listener has {what} on port {port}"),
                ));
            }
            hostnames.push(hostname);
        } else {
            self.ports.insert(port, (group, vec![hostname]));
        }
        self.behind.insert(behind, port);
        Ok(())
    }
}
