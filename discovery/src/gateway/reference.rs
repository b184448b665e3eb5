//! What routes refer to, and whether it is there.

use std::{collections::HashMap, sync::Arc};

use trellis_api::proto::discovery as proto;

use super::route::Rules;
use crate::{name::Name, service::Service};

/// A reference to a backend, as a route has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub group: Box<str>,
    pub kind: Box<str>,
    pub to: Name,
    pub port: Option<u16>,
}

/// Why a reference leads nowhere. Of several that are wrong in one route, its status names the first by
/// this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unresolved {
    pub reason: Reason,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    InvalidKind,
    RefNotPermitted,
    BackendNotFound,
}

/// Collects the references of one route, in the order in which [`resolve`] comes by them.
#[derive(Debug)]
pub struct References {
    namespace: Arc<str>,
    pub found: Vec<Reference>,
}

impl References {
    pub fn of(route: &Name) -> Self {
        Self { namespace: route.namespace.clone(), found: Vec::new() }
    }

    pub fn add(
        &mut self,
        group: Option<&str>,
        kind: Option<&str>,
        namespace: Option<&str>,
        name: &str,
        port: Option<i32>,
    ) -> proto::Backend {
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let namespace = namespace.map_or_else(|| self.namespace.clone(), Into::into);
        let to = Name { namespace, name: name.into() };
        let backend = proto::Backend {
            namespace: to.namespace.to_string(),
            name: to.name.to_string(),
            port: port.unwrap_or_default().into(),
        };
        let (group, kind) = (group.unwrap_or_default().into(), kind.unwrap_or("Service").into());
        self.found.push(Reference { group, kind, to, port });
        backend
    }
}

impl Reference {
    pub fn is_to_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }

    /// Whether there is such a port of such a Service, as far as that may be known.
    pub fn judge(
        &self,
        services: &HashMap<Name, Service>,
        permitted: impl Fn(&Self) -> bool,
    ) -> Result<(), Unresolved> {
        let because = |reason, message| Err(Unresolved { reason, message });
        if !self.is_to_service() {
            let (group, kind) = (&self.group, &self.kind);
            return because(
                Reason::InvalidKind,
                format!(
                    "backendRef {}: kind {kind:?} of group {group:?} is none that traffic can go to; use a Service",
                    self.to
                ),
            );
        }
        // Said before anything else: without a grant nobody learns what is there.
        if !permitted(self) {
            return because(
                Reason::RefNotPermitted,
                format!(
                    "backendRef {}: no ReferenceGrant of namespace {} allows it",
                    self.to, self.to.namespace
                ),
            );
        }
        let Some(service) = services.get(&self.to) else {
            return because(Reason::BackendNotFound, format!("backendRef {}: no such Service", self.to));
        };
        match self.port {
            None => because(
                Reason::BackendNotFound,
                format!("backendRef {}: names no port, which a Service needs", self.to),
            ),
            Some(port) if !service.has_port(port) => {
                because(Reason::BackendNotFound, format!("backendRef {}: has no TCP port {port}", self.to))
            }
            Some(_) => Ok(()),
        }
    }
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::BackendNotFound => "BackendNotFound",
        }
    }
}

/// The rules with every reference judged: what leads nowhere says why. And the worst that was found.
pub fn resolve(
    rules: &Rules,
    references: &[Reference],
    judge: impl Fn(&Reference) -> Result<(), Unresolved>,
) -> (Rules, Option<Unresolved>) {
    let mut rules = rules.clone();
    let mut verdicts = references.iter().map(judge);
    let mut worst: Option<Unresolved> = None;
    let mut say = |invalid: &mut String| {
        let Some(Err(unresolved)) = verdicts.next() else { return };
        if invalid.is_empty() {
            *invalid = unresolved.message.clone();
        }
        worst = Some(worst.take().map_or_else(|| unresolved.clone(), |worst| worst.min(unresolved.clone())));
    };
    match &mut rules {
        Rules::Http(rules) => {
            for rule in rules {
                mirrors(&mut rule.filters, &mut say);
                for backend in &mut rule.backends {
                    say(&mut backend.invalid);
                    mirrors(&mut backend.filters, &mut say);
                }
            }
        }
        Rules::Bytes(backends) => backends.iter_mut().for_each(|backend| say(&mut backend.invalid)),
    }
    (rules, worst)
}

fn mirrors(filters: &mut [proto::Filter], say: &mut impl FnMut(&mut String)) {
    for filter in filters {
        if let Some(proto::filter::Filter::Mirror(mirror)) = &mut filter.filter {
            say(&mut mirror.invalid);
        }
    }
}
