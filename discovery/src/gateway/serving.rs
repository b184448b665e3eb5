//! One gateway as a whole: what it serves, and what became of everything that wants to be part of it.

use std::{collections::BTreeSet, sync::Arc};

use trellis_api::{
    annotations::Plaintext,
    gateway::{GatewaySpec, Listener},
    injection::gateway_annotations,
    pq_policy::Ladder,
    proto::discovery::{self as proto, listener::Kind, listener_tls::KeyExchange},
};

use super::{
    World,
    attachment::{attach, is},
    frontend::certificate,
    grant::From,
    listener::{Entry, Judged, Owner, Problem, judge},
    mesh::push,
    namespace::means,
    reference::resolve,
    route::{self, Key, Route, Rules, To},
};
use crate::name::Name;

/// What discovery keeps of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub created: i64,
    pub generation: i64,
    pub uid: String,
    pub spec: GatewaySpec,
}

/// What it keeps of a ListenerSet.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSet {
    pub created: i64,
    pub generation: i64,
    pub gateway: Name,
    pub listeners: Vec<Listener>,
}

/// A gateway, worked out.
#[derive(Clone, Debug, PartialEq)]
pub struct Serving {
    pub answer: proto::Gateway,
    pub accepted: Result<(), Problem>,
    pub listeners: Vec<ListenerVerdict>,
    pub sets: Vec<(Name, SetVerdict)>,
    /// By route and parent.
    pub routes: Vec<RouteVerdict>,
    /// That clients without a certificate that verifies are let in somewhere.
    pub insecure_fallback: bool,
    /// Whether it can prove itself to applications, where it was to.
    pub proves: Option<Result<(), Problem>>,
    /// Services that its routes lead to, and that it speaks to itself: where TLS goes through, clients do.
    pub backends: BTreeSet<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerVerdict {
    pub name: String,
    pub port: u16,
    pub kinds: Vec<route::Kind>,
    pub accepted: Result<(), Problem>,
    pub conflicted: Option<Problem>,
    pub resolved: Result<(), Problem>,
    pub serves: bool,
    pub attached: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetVerdict {
    pub accepted: Result<(), Problem>,
    pub listeners: Vec<ListenerVerdict>,
}

/// What became of a route at one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteVerdict {
    pub key: Key,
    /// Its place among the route's parents.
    pub parent: usize,
    pub accepted: Result<(), Problem>,
    /// That some of its rules fail every request.
    pub partial: Option<Problem>,
    pub resolved: Result<(), Problem>,
}

struct Candidate<'a> {
    key: &'a Key,
    route: &'a Route,
    rules: Rules,
    resolved: Result<(), Problem>,
}

impl Serving {
    /// `sets` are all ListenerSets that name this gateway, `routes` all routes that name it or one of them.
    pub fn of(
        name: &Name,
        gateway: &Gateway,
        sets: &[(&Name, &ListenerSet)],
        routes: &[(&Key, &Route)],
        world: &World<'_>,
    ) -> Self {
        let (allowed, refused): (Vec<_>, Vec<_>) =
            sets.iter().partition(|(set, _)| takes(&gateway.spec, name, set, world));
        let own =
            gateway.spec.listeners.iter().map(|listener| Entry { owner: Owner::Gateway(name), listener });
        let more = allowed.iter().flat_map(|(name, set)| {
            set.listeners.iter().map(|listener| Entry { owner: Owner::ListenerSet(name), listener })
        });
        let entries: Vec<_> = own.chain(more).collect();
        let judged = judge(&entries, &gateway.spec, name, world);
        let candidates: Vec<_> = routes.iter().map(|(key, route)| candidate(key, route, world)).collect();
        let mut places: Vec<Place<'_>> = judged.iter().map(|_| Place::default()).collect();
        let mut verdicts = Vec::new();
        for one in &candidates {
            for (at, parent) in one.route.parents.iter().enumerate() {
                let accepted = if judged.iter().any(|judged| is(parent, judged.entry.owner)) {
                    attach(one.key, one.route, parent, &judged, world)
                } else if refused
                    .iter()
                    .any(|(set, _)| matches!(&parent.to, To::ListenerSet(name) if name == *set))
                {
                    let message = "the gateway does not allow this ListenerSet";
                    Err(Problem::new("NotAllowedByListeners", message))
                } else {
                    continue;
                };
                let accepted = accepted.and_then(|attached| match invalid(&one.rules) {
                    Invalid::All(why) => Err(Problem::new("UnsupportedValue", why)),
                    Invalid::None | Invalid::Some(_) => Ok(attached),
                });
                let partial = match invalid(&one.rules) {
                    Invalid::Some(why) if accepted.is_ok() => Some(Problem::new("UnsupportedValue", why)),
                    _ => None,
                };
                let accepted = accepted.map(|attached| {
                    for (place, hostnames) in attached {
                        if let Some(place) = places.get_mut(place) {
                            place.add(one, hostnames);
                        }
                    }
                });
                verdicts.push(RouteVerdict {
                    key: one.key.clone(),
                    parent: at,
                    accepted,
                    partial,
                    resolved: one.resolved.clone(),
                });
            }
        }
        verdicts.sort_by(|one, other| (&one.key, one.parent).cmp(&(&other.key, other.parent)));
        let ends = judged.iter().zip(&places).filter(|(judged, _)| judged.kind != Some(Kind::Passthrough));
        let attached: BTreeSet<&Key> = ends.flat_map(|(_, place)| &place.routes).copied().collect();
        let backends = candidates.iter().filter(|one| attached.contains(one.key));
        let backends =
            backends.flat_map(|one| one.route.references.iter().map(|one| one.to.clone())).collect();
        let accepted = accepted(&gateway.spec);
        let proof = proof(name, &gateway.spec, world);
        let answer = match &accepted {
            Ok(()) => answer(name, &judged, &places, world, proof.as_ref()),
            // What its author asked for cannot be done, so nothing else is.
            Err(_) => proto::Gateway::default(),
        };
        let verdict = |(judged, place): (&Judged<'_>, &Place<'_>)| ListenerVerdict {
            name: judged.entry.listener.name.clone(),
            port: judged.entry.port(),
            kinds: judged.kinds.clone(),
            accepted: judged.accepted.clone(),
            conflicted: judged.conflicted.clone(),
            resolved: judged.resolved.clone(),
            serves: judged.serves(),
            attached: i32::try_from(place.routes.len()).unwrap_or(i32::MAX),
        };
        let of = |owner: Owner<'_>| -> Vec<_> {
            judged
                .iter()
                .zip(&places)
                .filter(|(judged, _)| judged.entry.owner == owner)
                .map(verdict)
                .collect()
        };
        let allowed = allowed.iter().map(|(name, _)| {
            let listeners = of(Owner::ListenerSet(name));
            let good =
                listeners.iter().any(|one| one.accepted.is_ok() && (one.serves || one.resolved.is_ok()));
            let none = || Problem::new("ListenersNotValid", "none of its listeners is valid");
            ((*name).clone(), SetVerdict { accepted: good.then_some(()).ok_or_else(none), listeners })
        });
        let refused = refused.iter().map(|(name, _)| {
            let message = "the gateway's allowedListeners do not mean this namespace";
            let accepted = Err(Problem::new("NotAllowed", message));
            ((*name).clone(), SetVerdict { accepted, listeners: Vec::new() })
        });
        Self {
            answer,
            accepted,
            listeners: of(Owner::Gateway(name)),
            sets: allowed.chain(refused).collect(),
            routes: verdicts,
            insecure_fallback: judged.iter().any(|one| one.insecure_fallback),
            proves: proof.map(|proof| proof.map(drop)),
            backends,
        }
    }
}

impl Serving {
    /// What became of a route at the parent in this place.
    pub fn verdict(&self, key: &Key, parent: usize) -> Option<&RouteVerdict> {
        let found = self.routes.binary_search_by(|one| (&one.key, one.parent).cmp(&(key, parent)));
        found.ok().and_then(|at| self.routes.get(at))
    }
}

/// What is attached to one listener.
#[derive(Default)]
struct Place<'a> {
    routes: Vec<&'a Key>,
    answer: proto::Routes,
}

impl<'a> Place<'a> {
    /// Once, though two of the route's parents may mean the same listener.
    fn add(&mut self, one: &Candidate<'a>, hostnames: Vec<String>) {
        if !self.routes.contains(&one.key) {
            self.routes.push(one.key);
            push(&mut self.answer, one.key, one.rules.clone(), hostnames);
        }
    }
}

fn takes(spec: &GatewaySpec, gateway: &Name, set: &Name, world: &World<'_>) -> bool {
    let allowed = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let from = allowed.and_then(|allowed| allowed.from.as_deref()).unwrap_or("None");
    let selector = allowed.and_then(|allowed| allowed.selector.as_ref());
    means(from, selector, &gateway.namespace, &set.namespace, world.namespaces)
}

fn candidate<'a>(key: &'a Key, route: &'a Route, world: &World<'_>) -> Candidate<'a> {
    let from = From { kind: key.kind.name(), namespace: &key.name.namespace };
    let permitted = |one: &super::reference::Reference| world.grants.permit(from, &one.kind, &one.to);
    let (rules, worst) = resolve(&route.rules, &route.references, |one| one.judge(world.services, permitted));
    let resolved = worst.map_or(Ok(()), |worst| Err(Problem::new(worst.reason.as_str(), worst.message)));
    Candidate { key, route, rules, resolved }
}

/// Which rules of a route cannot be obeyed, and why the first cannot.
pub enum Invalid {
    None,
    Some(String),
    All(String),
}

pub fn invalid(rules: &Rules) -> Invalid {
    let Rules::Http(rules) = rules else { return Invalid::None };
    let invalid: Vec<_> = rules.iter().filter(|rule| !rule.invalid.is_empty()).collect();
    match invalid.first() {
        None => Invalid::None,
        Some(first) if invalid.len() == rules.len() => Invalid::All(first.invalid.clone()),
        Some(first) => Invalid::Some(first.invalid.clone()),
    }
}

/// What a Gateway asks for that is beside its listeners.
fn accepted(spec: &GatewaySpec) -> Result<(), Problem> {
    let infrastructure = spec.infrastructure.as_ref();
    if let Some(parameters) = infrastructure.and_then(|infrastructure| infrastructure.parameters_ref.as_ref())
    {
        let (group, kind) = (&parameters.group, &parameters.kind);
        return Err(Problem::new(
            "InvalidParameters",
            format!(
                "infrastructure.parametersRef: kind {kind} of group {group} is none that Trellis has; remove it"
            ),
        ));
    }
    let annotations = infrastructure.and_then(|infrastructure| infrastructure.annotations.as_ref());
    if let Some(Err(why)) = annotations.map(gateway_annotations) {
        return Err(Problem::new("InvalidParameters", format!("infrastructure.annotations: {why}")));
    }
    let mut addresses = spec.addresses.iter().flatten();
    if let Some(address) = addresses.find(|one| one.r#type.as_deref().unwrap_or("IPAddress") != "IPAddress") {
        let kind = address.r#type.as_deref().unwrap_or_default();
        let message = format!("addresses: type {kind} cannot be had; use IPAddress");
        return Err(Problem::new("UnsupportedAddress", message));
    }
    Ok(())
}

/// What a gateway proves itself with to applications that are spoken to in TLS, where it is to.
fn proof(
    gateway: &Name,
    spec: &GatewaySpec,
    world: &World<'_>,
) -> Option<Result<proto::Certificate, Problem>> {
    let reference = spec.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()?;
    let from = From { kind: "Gateway", namespace: &gateway.namespace };
    let field = "tls.backend.clientCertificateRef";
    Some(certificate(reference, from, world, field, "InvalidClientCertificateRef"))
}

fn answer(
    gateway: &Name,
    judged: &[Judged<'_>],
    places: &[Place<'_>],
    world: &World<'_>,
    proof: Option<&Result<proto::Certificate, Problem>>,
) -> proto::Gateway {
    let served = judged.iter().zip(places).filter(|(judged, _)| judged.serves());
    let listeners = served.map(|(judged, place)| {
        let name = match judged.entry.owner {
            Owner::Gateway(_) => judged.entry.listener.name.clone(),
            Owner::ListenerSet(set) => format!("{set}/{}", judged.entry.listener.name),
        };
        let (key_exchange, plaintext) = world.policing.of_listener(gateway, &name);
        let mut tls = judged.tls.clone();
        // A policy wins over what the listener says itself.
        if let (Some(tls), Some(ladder)) = (&mut tls, key_exchange) {
            tls.key_exchange = match ladder {
                Ladder::Classical => KeyExchange::Classical,
                Ladder::Prefer => KeyExchange::Prefer,
                Ladder::Require => KeyExchange::Require,
            }
            .into();
        }
        proto::Listener {
            name,
            port: judged.entry.port().into(),
            kind: judged.kind.unwrap_or(Kind::Unspecified).into(),
            hostname: judged.entry.hostname().to_ascii_lowercase(),
            tls,
            routes: Some(place.answer.clone()),
            plaintext_denied: plaintext == Some(Plaintext::Strict),
        }
    });
    proto::Gateway {
        listeners: listeners.collect(),
        client_certificate: proof.and_then(|proof| proof.as_ref().ok()).cloned(),
        client_certificate_invalid: proof
            .and_then(|proof| proof.as_ref().err())
            .map_or_else(String::new, |problem| problem.message.clone()),
    }
}

impl Gateway {
    pub fn of(gateway: &trellis_api::gateway::Gateway) -> Self {
        Self {
            created: route::created(&gateway.metadata),
            generation: gateway.metadata.generation.unwrap_or_default(),
            uid: gateway.metadata.uid.clone().unwrap_or_default(),
            spec: gateway.spec.clone(),
        }
    }
}

impl ListenerSet {
    /// Nothing, where its parent is no Gateway.
    pub fn of(set: &trellis_api::gateway::ListenerSet) -> Option<Self> {
        use trellis_api::gateway::GROUP;
        let parent = &set.spec.parent_ref;
        let (group, kind) =
            (parent.group.as_deref().unwrap_or(GROUP), parent.kind.as_deref().unwrap_or("Gateway"));
        let name = Name::of(&set.metadata);
        let namespace: Arc<str> =
            parent.namespace.as_deref().map_or_else(|| name.namespace.clone(), Into::into);
        (group == GROUP && kind == "Gateway").then(|| Self {
            created: route::created(&set.metadata),
            generation: set.metadata.generation.unwrap_or_default(),
            gateway: Name { namespace, name: parent.name.as_str().into() },
            listeners: set.spec.listeners.clone(),
        })
    }
}
