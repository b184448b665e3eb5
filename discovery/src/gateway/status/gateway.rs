//! Statuses of GatewayClasses, Gateways and ListenerSets.

use trellis_api::gateway::{GROUP, ParentRef};

use super::{Address, Condition, Listener, Says, Status};
use crate::{
    gateway::{
        listener::Problem,
        serving::{Gateway, ListenerSet, ListenerVerdict, Serving, SetVerdict},
    },
    name::Name,
};

/// What there is of a gateway in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infrastructure {
    /// Addresses that lead to it.
    pub addresses: Vec<Address>,
    /// That a pod of it takes connections.
    pub ready: bool,
    /// Why it could not be made.
    pub problem: Option<String>,
}

/// `parameters`: that the class refers to some.
pub fn class(generation: i64, parameters: bool) -> Status {
    let accepted = match parameters {
        false => Ok(()),
        true => Err(Problem::new(
            "InvalidParameters",
            "parametersRef: Trellis has no parameters of a class; remove it",
        )),
    };
    let conditions = vec![Condition::of("Accepted", "Accepted", &accepted)];
    Status { generation, says: Says::Class(conditions) }
}

pub fn gateway(gateway: &Gateway, serving: &Serving, infrastructure: &Infrastructure) -> Status {
    let sets = serving.sets.iter().filter(|(_, set)| set.accepted.is_ok());
    let all = || serving.listeners.iter().chain(serving.sets.iter().flat_map(|(_, set)| &set.listeners));
    let accepted = serving.accepted.clone().and_then(|()| match all().any(|one| one.accepted.is_ok()) {
        true => Ok(()),
        false => Err(Problem::new("ListenersNotValid", "none of its listeners is valid")),
    });
    let reason = match serving.listeners.iter().all(|one| one.accepted.is_ok()) {
        true => "Accepted",
        false => "ListenersNotValid",
    };
    let programmed = programmed(gateway, &accepted, all().any(|one| one.serves), infrastructure);
    let mut conditions = vec![
        Condition::of("Accepted", reason, &accepted),
        Condition::of("Programmed", "Programmed", &programmed),
    ];
    if let Some(proves) = &serving.proves {
        conditions.push(Condition::of("ResolvedRefs", "ResolvedRefs", proves));
    }
    if serving.insecure_fallback {
        conditions.push(Condition {
            message: "clients without a certificate that verifies are let in, as tls.frontend says".into(),
            ..Condition::holds("InsecureFrontendValidationMode", "ConfigurationChanged")
        });
    }
    let listeners = serving.listeners.iter().map(|one| listener(one, &programmed)).collect();
    // Who asks for addresses is shown those, and not what its Service has in other families.
    let shown = |one: &&Address| asked(gateway).next().is_none() || asked(gateway).any(|it| it == one.value);
    let addresses = infrastructure.addresses.iter().filter(shown).cloned().collect();
    let says = Says::Gateway { conditions, listeners, addresses, sets: sets.count() };
    Status { generation: gateway.generation, says }
}

pub fn listener_set(
    set: &ListenerSet,
    verdict: &SetVerdict,
    gateway: &Gateway,
    serving: &Serving,
    infrastructure: &Infrastructure,
) -> Status {
    let parent = serving.accepted.clone();
    let accepted = parent
        .map_err(|problem| {
            Problem::new("ParentNotAccepted", format!("the gateway is not accepted: {}", problem.message))
        })
        .and(verdict.accepted.clone());
    let serves = verdict.listeners.iter().any(|one| one.serves);
    let programmed = match &accepted {
        Err(problem) => Err(problem.clone()),
        Ok(()) => programmed(gateway, &accepted, serves, infrastructure),
    };
    let reason = match verdict.listeners.iter().all(|one| one.accepted.is_ok()) {
        true => "Accepted",
        false => "ListenersNotValid",
    };
    let conditions = vec![
        Condition::of("Accepted", reason, &accepted),
        Condition::of("Programmed", "Programmed", &programmed),
    ];
    let listeners = verdict.listeners.iter().map(|one| listener(one, &programmed)).collect();
    Status { generation: set.generation, says: Says::ListenerSet { conditions, listeners } }
}

/// The Service of a gateway has been given all addresses that were asked for.
fn programmed(
    gateway: &Gateway,
    accepted: &Result<(), Problem>,
    serves: bool,
    infrastructure: &Infrastructure,
) -> Result<(), Problem> {
    if let Err(problem) = accepted {
        return Err(Problem::new("Invalid", problem.message.clone()));
    }
    if !serves {
        return Err(Problem::new("Invalid", "none of its listeners can be served"));
    }
    if let Some(problem) = &infrastructure.problem {
        return Err(Problem::new("NoResources", problem.clone()));
    }
    let mut missing =
        asked(gateway).filter(|asked| !infrastructure.addresses.iter().any(|one| one.value == *asked));
    if let Some(missing) = missing.next() {
        let message = format!("addresses: {missing} was not assigned to its Service");
        return Err(Problem::new("AddressNotUsable", message));
    }
    if infrastructure.addresses.is_empty() {
        return Err(Problem::new(
            "AddressNotAssigned",
            "its Service of type LoadBalancer has no address yet",
        ));
    }
    match infrastructure.ready {
        true => Ok(()),
        false => Err(Problem::new("NoResources", "none of its pods is ready yet")),
    }
}

/// The addresses that a gateway asks for by their values.
fn asked(gateway: &Gateway) -> impl Iterator<Item = &str> {
    gateway.spec.addresses.iter().flatten().filter_map(|one| one.value.as_deref())
}

fn listener(one: &ListenerVerdict, gateway: &Result<(), Problem>) -> Listener {
    let programmed = match (one.serves, &one.conflicted) {
        (_, Some(conflict)) => Err(conflict.clone()),
        (false, None) => {
            let why = one.accepted.as_ref().err().or(one.resolved.as_ref().err());
            let message =
                why.map_or_else(|| "it takes no kind of route".to_owned(), |why| why.message.clone());
            Err(Problem::new("Invalid", message))
        }
        (true, None) => gateway.clone().map_err(|why| Problem::new("Pending", why.message)),
    };
    let conflicted = match &one.conflicted {
        Some(conflict) => {
            Condition { message: conflict.message.clone(), ..Condition::holds("Conflicted", conflict.reason) }
        }
        None => Condition { holds: false, ..Condition::holds("Conflicted", "NoConflicts") },
    };
    Listener {
        name: one.name.clone(),
        kinds: one.kinds.clone(),
        attached: one.attached,
        conditions: vec![
            Condition::of("Accepted", "Accepted", &one.accepted),
            Condition::of("Programmed", "Programmed", &programmed),
            Condition::of("ResolvedRefs", "ResolvedRefs", &one.resolved),
            conflicted,
        ],
    }
}

/// The gateway as the ancestor of a policy.
pub fn ancestor(gateway: &Name) -> ParentRef {
    reference(GROUP, "Gateway", gateway)
}

/// The Service as the same, for the proxies of those who connect to it.
pub fn mesh_ancestor(service: &Name) -> ParentRef {
    reference("", "Service", service)
}

fn reference(group: &str, kind: &str, name: &Name) -> ParentRef {
    ParentRef {
        group: Some(group.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(name.namespace.to_string()),
        name: name.name.to_string(),
        ..Default::default()
    }
}
