//! What became of a route at one of its parents.

use std::collections::HashMap;

use super::Condition;
use crate::{
    gateway::{
        listener::Problem,
        reference::resolve,
        route::{Parent, Route},
        serving::{Invalid, invalid},
    },
    name::Name,
    service::Service,
};

pub fn conditions(
    accepted: &Result<(), Problem>,
    partial: Option<&Problem>,
    resolved: &Result<(), Problem>,
) -> Vec<Condition> {
    let mut conditions = vec![
        Condition::of("Accepted", "Accepted", accepted),
        Condition::of("ResolvedRefs", "ResolvedRefs", resolved),
    ];
    conditions.extend(partial.map(|problem| Condition {
        message: format!("every request that one of its rules is for fails: {}", problem.message),
        ..Condition::holds("PartiallyInvalid", problem.reason)
    }));
    conditions
}

/// Of a route in a mesh, at a Service.
pub fn at_service(
    route: &Route,
    parent: &Parent,
    name: &Name,
    services: &HashMap<Name, Service>,
) -> Vec<Condition> {
    let (rules, worst) = resolve(&route.rules, &route.references, |one| one.judge(services, |_| true));
    let resolved = worst.map_or(Ok(()), |worst| Err(Problem::new(worst.reason.as_str(), worst.message)));
    let no_parent = |what: String| Err(Problem::new("NoMatchingParent", what));
    let accepted = match services.get(name) {
        None => no_parent(format!("there is no Service {name} whose traffic could be routed")),
        Some(service) if !service.ports.iter().any(|port| parent.means(port.number, &port.name)) => {
            no_parent(format!("Service {name} has no such TCP port"))
        }
        Some(_) => Ok(()),
    };
    let (accepted, partial) = match invalid(&rules) {
        Invalid::None => (accepted, None),
        Invalid::Some(why) => (accepted, Some(Problem::new("UnsupportedValue", why))),
        Invalid::All(why) => (accepted.and(Err(Problem::new("UnsupportedValue", why))), None),
    };
    conditions(&accepted, partial.as_ref().filter(|_| accepted.is_ok()), &resolved)
}
