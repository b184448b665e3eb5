//! Which route holds for a request, what it says to do, and with whom. All of it is decided here without a
//! socket, a clock or a random source of its own; whoever forwards asks in this order:
//!
//! 1. [`Target::of`] puts what a request is for into its one form, or refuses it with 400.
//! 2. [`Routes::find`] names the rule: 404 where there is none, 500 where it is invalid.
//! 3. [`Filters`] of the rule answer, redirect or change, and [`Rule::choose`] names the backend.
//!
//! Of several matches that hold, one goes first as Gateway API says: by the most precise hostname, then by
//! the path, then by a method, then by more headers, by more query parameters, and then as the routes come,
//! which is the oldest first. Of paths an exact one goes before a prefix, and a longer prefix before a
//! shorter one. A regular expression, for which Gateway API has no rule, comes after every prefix but `/`:
//! that one says nothing about the path, and what does goes first. Where no match of the most precise
//! hostname holds, those of the next are asked: hostnames give precedence, and take nothing away.
//!
//! What cannot be understood fails closed, and only what depends on it: see [`condition`] for matches. A
//! rule with a filter, retry or reason of discovery's that stands in the way answers 500 to all that it
//! holds for; a backend with one, to its share. [`Routes::describe`] says so of each.

use std::{collections::HashMap, fmt, sync::Arc};

use http::{HeaderMap, Method};
use trellis_api::proto::discovery as wire;

pub mod bytes;
pub mod condition;
pub mod describe;
pub mod filter;
pub mod host;
pub mod pattern;
pub mod rule;
pub mod target;

pub use self::{
    bytes::ByteRoute,
    describe::Summary,
    filter::Filters,
    rule::{Choice, Rule},
    target::{Slashes, Target},
};
use self::{
    condition::{Conditions, Path},
    host::{Hosts, Wanted},
    pattern::Pattern,
    rule::Identity,
};

/// Why a part of a route cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Box<str>);

/// All routes of one port of a Service, or of one listener.
#[derive(Debug, Default)]
pub struct Routes {
    http: Hosts<Scope>,
    tcp: Option<Arc<ByteRoute>>,
    tls: Hosts<Option<Arc<ByteRoute>>>,
    summary: Summary,
}

/// What is there for one hostname, in order of precedence.
#[derive(Debug, Default)]
struct Scope {
    exact: HashMap<Box<str>, Candidates>,
    prefixes: HashMap<Box<str>, Candidates>,
    /// Of `prefixes`, the longest first.
    lengths: Vec<usize>,
    regexes: Candidates,
    /// Those that say nothing about the path.
    any: Candidates,
}

type Candidates = Vec<Arc<Candidate>>;

/// One match of a rule.
#[derive(Debug)]
struct Candidate {
    conditions: Conditions,
    pattern: Option<Pattern>,
    unknown: Option<Invalid>,
    rule: Arc<Rule>,
}

/// What the routes say about a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Rule(Matched<'a>),
    /// No route is for this host.
    NoHost,
    /// No rule for this host holds.
    NoMatch,
}

#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    pub rule: &'a Arc<Rule>,
    /// How much of the path the match's prefix took, without the slash at its end.
    pub prefix: usize,
    /// Why the request is answered with 500.
    pub invalid: Option<&'a Invalid>,
}

impl Routes {
    /// Never fails: what is wrong with a part is kept with that part.
    pub fn compile(wire: &wire::Routes) -> Self {
        let mut routes = Self::default();
        for route in &wire.http {
            routes.add(route);
        }
        for scope in routes.http.values_mut() {
            scope.sort();
        }
        for wire in &wire.tcp {
            let route = Arc::new(ByteRoute::read("TCPRoute", wire));
            routes.summary.add_bytes(&route, wire, Vec::new());
            routes.tcp.get_or_insert(route);
        }
        for wire in &wire.tls {
            let route = Arc::new(ByteRoute::read("TLSRoute", wire));
            let hostnames = hostnames(&wire.hostnames);
            routes.summary.add_bytes(&route, wire, describe::hostnames(&wire.hostnames, &hostnames));
            for wanted in hostnames.into_iter().flatten() {
                routes.tls.entry(wanted).get_or_insert_with(|| route.clone());
            }
        }
        routes
    }

    fn add(&mut self, wire: &wire::HttpRoute) {
        use wire::http_route::Kind;
        let (kind, unknown) = match Kind::try_from(wire.kind) {
            Ok(Kind::HttpRoute) => ("HTTPRoute", None),
            Ok(Kind::GrpcRoute) => ("GRPCRoute", None),
            Err(_) => {
                let why =
                    format_args!("this proxy does not know routes of kind {}; a newer one may", wire.kind);
                ("unknown", Some(Invalid::new(why)))
            }
        };
        let identity = Arc::new(Identity::new(kind, &wire.namespace, &wire.name));
        let every = [wire::HttpMatch::default()];
        let mut rules = Vec::with_capacity(wire.rules.len());
        let hostnames = hostnames(&wire.hostnames);
        for wire in &wire.rules {
            let rule = Arc::new(Rule::read(identity.clone(), unknown.as_ref(), wire));
            let matches = if wire.matches.is_empty() { &every[..] } else { &wire.matches };
            let mut trouble = Vec::new();
            for wire in matches {
                match condition::read(wire) {
                    Ok(read) => {
                        trouble.push(read.unknown.clone());
                        self.insert(read, &rule, &hostnames);
                    }
                    Err(never) => trouble.push(Some(never)),
                }
            }
            rules.push(describe::rule(&rule, wire, matches, &trouble));
        }
        self.summary.add_http(&identity, describe::hostnames(&wire.hostnames, &hostnames), rules);
    }

    fn insert(&mut self, read: condition::Read, rule: &Arc<Rule>, hostnames: &[Result<Wanted, Invalid>]) {
        let condition::Read { path, conditions, unknown } = read;
        let (place, pattern) = match path {
            Path::Exact(path) => (Place::Exact(path), None),
            Path::Prefix(prefix) if prefix.is_empty() => (Place::Any, None),
            Path::Prefix(prefix) => (Place::Prefix(prefix), None),
            Path::Regex(pattern) => (Place::Regex, Some(pattern)),
            Path::Unknown => (Place::Regex, None),
        };
        let candidate = Arc::new(Candidate { conditions, pattern, unknown, rule: rule.clone() });
        for wanted in hostnames.iter().flatten() {
            let scope = self.http.entry(wanted.clone());
            let candidates = match &place {
                Place::Exact(path) => scope.exact.entry(path.as_str().into()).or_default(),
                Place::Prefix(prefix) => scope.prefixes.entry(prefix.as_str().into()).or_default(),
                Place::Regex => &mut scope.regexes,
                Place::Any => &mut scope.any,
            };
            candidates.push(candidate.clone());
        }
    }

    /// The rule for a request, whose headers are as they came.
    pub fn find(&self, target: &Target, method: &Method, headers: &HeaderMap) -> Found<'_> {
        let mut host = false;
        for scope in self.http.of(target.host()) {
            host = true;
            if let Some(matched) = scope.find(target, method, headers) {
                return Found::Rule(matched);
            }
        }
        if host { Found::NoMatch } else { Found::NoHost }
    }

    /// Whether any route is about HTTP.
    pub fn has_http(&self) -> bool {
        !self.http.is_empty()
    }

    /// Whether any route is about bytes.
    pub fn has_bytes(&self) -> bool {
        self.tcp.is_some() || self.has_tls()
    }

    pub fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// The route for bytes: the first, since there is nothing to tell them apart by.
    pub fn tcp(&self) -> Option<&Arc<ByteRoute>> {
        self.tcp.as_ref()
    }

    /// The route for TLS to `name`, as the client's greeting has it.
    pub fn tls(&self, name: Option<&str>) -> Option<&Arc<ByteRoute>> {
        // Who names nobody gets what is there for everybody, and who names nonsense gets nothing.
        let host = match name {
            None => std::borrow::Cow::Borrowed(""),
            Some(name) => match host::split(name) {
                Ok((host, None)) => host,
                _ => return None,
            },
        };
        self.tls.of(&host).flatten().next()
    }

    pub fn describe(&self) -> &Summary {
        &self.summary
    }
}

enum Place {
    Exact(String),
    Prefix(String),
    Regex,
    Any,
}

/// Those of a route; where none can be understood, it is for nobody.
fn hostnames(wire: &[String]) -> Vec<Result<Wanted, Invalid>> {
    if wire.is_empty() {
        return vec![Ok(Wanted::Any)];
    }
    let read = |name: &String| match name.is_empty() {
        true => Err(Invalid::new(format_args!("an empty hostname: no request can be for it"))),
        false => Wanted::read(name),
    };
    wire.iter().map(read).collect()
}

// === impl Scope ===

impl Scope {
    fn find<'a>(&'a self, target: &Target, method: &Method, headers: &HeaderMap) -> Option<Matched<'a>> {
        let path = target.path();
        let first = |candidates: &'a Candidates, prefix: usize| {
            let holds = |candidate: &&Arc<Candidate>| {
                candidate.pattern.as_ref().is_none_or(|pattern| pattern.holds(path))
                    && candidate.conditions.hold(target, method, headers)
            };
            candidates.iter().find(holds).map(|candidate| candidate.matched(prefix))
        };
        let by_prefix = |length: &usize| {
            let (prefix, rest) = path.split_at_checked(*length)?;
            if !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            first(self.prefixes.get(prefix)?, *length)
        };
        self.exact
            .get(path)
            .and_then(|candidates| first(candidates, 0))
            .or_else(|| self.lengths.iter().find_map(by_prefix))
            .or_else(|| first(&self.regexes, 0))
            .or_else(|| first(&self.any, 0))
    }

    /// Stable: what ties stays in the order of the routes.
    fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(self.prefixes.values_mut());
        for list in lists.chain([&mut self.regexes, &mut self.any]) {
            list.sort_by_key(|candidate| candidate.conditions.rank());
        }
        self.lengths = self.prefixes.keys().map(|prefix| prefix.len()).collect();
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }
}

impl Candidate {
    fn matched(&self, prefix: usize) -> Matched<'_> {
        Matched { rule: &self.rule, prefix, invalid: self.unknown.as_ref().or(self.rule.invalid.as_ref()) }
    }
}

// === impl Invalid ===

impl Invalid {
    fn new(why: fmt::Arguments<'_>) -> Self {
        Self(why.to_string().into())
    }

    /// What discovery says, if anything.
    fn said(why: &str) -> Option<Self> {
        (!why.is_empty()).then(|| Self(why.into()))
    }

    /// The same, with the part that it is about.
    fn of(self, part: fmt::Arguments<'_>) -> Self {
        Self::new(format_args!("{part}: {}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests;
