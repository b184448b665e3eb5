//! The tables of Gateway API's conformance suite, and what it leaves out.

use http::{HeaderMap, HeaderName, Request};
use wire::path_match::Kind;

use super::*;

mod cors;
mod failing;
mod filters;
mod forms;
mod found;
mod weights;

// === routes ===

fn path(kind: Kind, value: &str) -> wire::HttpMatch {
    let path = wire::PathMatch { kind: kind as i32, value: value.into() };
    wire::HttpMatch { path: Some(path), ..Default::default() }
}

fn prefix(value: &str) -> wire::HttpMatch {
    path(Kind::Prefix, value)
}

fn exact(value: &str) -> wire::HttpMatch {
    path(Kind::Exact, value)
}

fn named(name: &str, value: &str) -> wire::NamedMatch {
    wire::NamedMatch { name: name.into(), value: value.into(), regex: false }
}

fn with_method(method: &str, mut wire: wire::HttpMatch) -> wire::HttpMatch {
    wire.method = method.into();
    wire
}

fn with_header(name: &str, value: &str, mut wire: wire::HttpMatch) -> wire::HttpMatch {
    wire.headers.push(named(name, value));
    wire
}

fn with_query(name: &str, value: &str, mut wire: wire::HttpMatch) -> wire::HttpMatch {
    wire.query.push(named(name, value));
    wire
}

fn any() -> wire::HttpMatch {
    wire::HttpMatch::default()
}

fn service(name: &str) -> wire::Backend {
    wire::Backend { namespace: "ns".into(), name: name.into(), port: 8080 }
}

fn weighted(name: &str, weight: u32) -> wire::WeightedBackend {
    wire::WeightedBackend { backend: Some(service(name)), weight, ..Default::default() }
}

/// A rule that leads to the Service `to`.
fn rule(to: &str, matches: Vec<wire::HttpMatch>) -> wire::HttpRule {
    wire::HttpRule { matches, backends: vec![weighted(to, 1)], ..Default::default() }
}

fn filter(filter: wire::filter::Filter) -> wire::Filter {
    wire::Filter { filter: Some(filter) }
}

fn route(name: &str, hostnames: &[&str], rules: Vec<wire::HttpRule>) -> wire::HttpRoute {
    let hostnames = hostnames.iter().map(|name| (*name).to_owned()).collect();
    wire::HttpRoute { namespace: "ns".into(), name: name.into(), hostnames, rules, ..Default::default() }
}

fn compiled(http: Vec<wire::HttpRoute>) -> Routes {
    Routes::compile(&wire::Routes { http, ..Default::default() })
}

/// A route for every host.
fn of_rules(rules: Vec<wire::HttpRule>) -> Routes {
    compiled(vec![route("route", &[], rules)])
}

/// One rule with filters, for every path.
fn of_filters(filters: Vec<wire::Filter>) -> Routes {
    of_rules(vec![wire::HttpRule { filters, ..rule("v1", vec![prefix("/")]) }])
}

// === requests ===

/// A request in one line: `[METHOD ]path`, with its host and headers.
#[derive(Clone, Debug)]
struct Asked {
    target: Target,
    method: Method,
    headers: HeaderMap,
}

fn asked(line: &str) -> Asked {
    on("example.net", line, &[])
}

fn with(line: &str, headers: &[(&str, &str)]) -> Asked {
    on("example.net", line, headers)
}

fn on(host: &str, line: &str, headers: &[(&str, &str)]) -> Asked {
    let (method, uri) = line.split_once(' ').unwrap_or(("GET", line));
    let request = Request::builder().method(method).uri(uri).header("host", host).body(()).unwrap();
    let (mut parts, ()) = request.into_parts();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        parts.headers.append(name, value.parse().unwrap());
    }
    let target = Target::of(&parts, Slashes::Data).unwrap();
    Asked { target, method: parts.method, headers: parts.headers }
}

impl Routes {
    fn of(&self, asked: &Asked) -> Found<'_> {
        self.find(&asked.target, &asked.method, &asked.headers)
    }

    fn matched(&self, asked: &Asked) -> Matched<'_> {
        match self.of(asked) {
            Found::Rule(matched) => matched,
            other => panic!("{asked:?}: {other:?}"),
        }
    }

    /// The Service that a request goes to, or the status that it is answered with.
    fn to(&self, asked: &Asked) -> String {
        let Found::Rule(matched) = self.of(asked) else { return "404".into() };
        if matched.invalid.is_some() {
            return "500".into();
        }
        match matched.rule.choose(&mut rand::rng()) {
            Choice::Backend(to, _) => to.name.to_string(),
            Choice::Invalid(_) | Choice::Nobody => "500".into(),
        }
    }
}
