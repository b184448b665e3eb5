//! What the routes say, and what of it cannot be obeyed, for a person to read.

use serde::Serialize;
use trellis_api::proto::discovery as wire;

use super::{
    ByteRoute, Invalid, condition,
    filter::{self, Filters},
    host::Wanted,
    rule::{self, Backends, Identity, Rule},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    pub kind: &'static str,
    /// `namespace/name`.
    pub route: String,
    /// None: every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Part>,
    pub rules: Vec<Described>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Described {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Part>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Part>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Part>,
    /// Why every request that it holds for is answered with 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    pub what: String,
    /// Why it cannot be obeyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

impl Summary {
    pub(super) fn add_http(&mut self, identity: &Identity, hostnames: Vec<Part>, rules: Vec<Described>) {
        let route = identity.label.to_string();
        self.routes.push(Route { kind: identity.kind, route, hostnames, rules });
    }

    pub(super) fn add_bytes(&mut self, route: &ByteRoute, wire: &wire::ByteRoute, hostnames: Vec<Part>) {
        let backends = backends(&wire.backends, &route.backends);
        self.add_http(&route.route, hostnames, vec![Described { backends, ..Described::default() }]);
    }

    /// Of which kind each route is, and its name.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.routes.iter().map(|route| format!("{} {}", route.kind, route.route))
    }

    /// Whether all of it is obeyed.
    pub fn is_valid(&self) -> bool {
        let valid = |parts: &[Part]| parts.iter().all(|part| part.invalid.is_none());
        self.routes.iter().all(|route| {
            valid(&route.hostnames)
                && route.rules.iter().all(|rule| {
                    rule.invalid.is_none()
                        && valid(&rule.matches)
                        && valid(&rule.filters)
                        && valid(&rule.backends)
                })
        })
    }
}

pub(super) fn hostnames(names: &[String], read: &[Result<Wanted, Invalid>]) -> Vec<Part> {
    names.iter().zip(read).map(|(name, read)| Part::new(name.clone(), read.as_ref().err())).collect()
}

/// `trouble` is what is wrong with each of the matches.
pub(super) fn rule(
    rule: &Rule,
    wire: &wire::HttpRule,
    matches: &[wire::HttpMatch],
    trouble: &[Option<Invalid>],
) -> Described {
    Described {
        name: rule.name.clone(),
        matches: matches
            .iter()
            .zip(trouble)
            .map(|(wire, why)| Part::new(condition::describe(wire), why.as_ref()))
            .collect(),
        filters: filters(&wire.filters, &rule.filters),
        backends: backends(&wire.backends, &rule.backends),
        invalid: rule.invalid.as_ref().map(ToString::to_string),
    }
}

fn filters(wire: &[wire::Filter], read: &Filters) -> Vec<Part> {
    let mut mirrors = read.mirrors.iter();
    let part = |wire: &wire::Filter| {
        let kind = filter::kind(wire);
        let trouble = (kind == "mirror").then(|| mirrors.next()).flatten().and_then(|one| one.invalid());
        Part::new(kind.to_owned(), trouble)
    };
    wire.iter().map(part).collect()
}

fn backends(wire: &[wire::WeightedBackend], read: &Backends) -> Vec<Part> {
    let part = |(wire, read): (&wire::WeightedBackend, &rule::Weighted)| {
        let to = wire.backend.clone().unwrap_or_default();
        let what = format!("{}/{}:{}, weight {}", to.namespace, to.name, to.port, wire.weight);
        Part::new(what, read.backend.as_ref().err())
    };
    wire.iter().zip(read.iter()).map(part).collect()
}

impl Part {
    fn new(what: String, invalid: Option<&Invalid>) -> Self {
        Self { what, invalid: invalid.map(ToString::to_string) }
    }
}
