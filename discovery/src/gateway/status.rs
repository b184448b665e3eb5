//! What the statuses of objects shall say, and how that is written over what they say now.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};
use trellis_api::{
    gateway::{GROUP, ParentRef},
    names::GATEWAY_CONTROLLER,
    pq_policy::Workloads,
};

use super::{
    listener::Problem,
    route::{self, Key},
};
use crate::name::Name;

pub mod board;
pub mod features;
pub mod gateway;
pub mod route_status;

/// An object that has a status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    Class(Arc<str>),
    Gateway(Name),
    ListenerSet(Name),
    Route(Key),
    Policy(Name),
    PqPolicy(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What we have to say in the status of an object of this generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub generation: i64,
    pub says: Says,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    Class(Vec<Condition>),
    Gateway {
        conditions: Vec<Condition>,
        listeners: Vec<Listener>,
        addresses: Vec<Address>,
        sets: usize,
    },
    ListenerSet {
        conditions: Vec<Condition>,
        listeners: Vec<Listener>,
    },
    /// Of each parent that is ours.
    Route(Vec<(ParentRef, Vec<Condition>)>),
    /// Of each gateway that it is obeyed by, and of each Service for those who connect to that from within the
    /// mesh.
    Policy(Vec<(ParentRef, Vec<Condition>)>),
    PqPolicy {
        conditions: Vec<Condition>,
        /// Whom it means, where those are workloads.
        workloads: Option<Workloads>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    pub kinds: Vec<route::Kind>,
    pub attached: i32,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub kind: &'static str,
    pub value: String,
}

/// The most gateways and Services that a policy's status has place for.
const MAX_ANCESTORS: usize = 16;

impl Condition {
    pub fn holds(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, holds: true, reason, message: String::new() }
    }

    pub fn fails(kind: &'static str, problem: &Problem) -> Self {
        Self { kind, holds: false, reason: problem.reason, message: problem.message.clone() }
    }

    /// That it holds for this reason, or fails for the problem's.
    pub fn of(kind: &'static str, reason: &'static str, result: &Result<(), Problem>) -> Self {
        match result {
            Ok(()) => Self::holds(kind, reason),
            Err(problem) => Self::fails(kind, problem),
        }
    }
}

impl Object {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Class(_) => "GatewayClass",
            Self::Gateway(_) => "Gateway",
            Self::ListenerSet(_) => "ListenerSet",
            Self::Route(key) => key.kind.name(),
            Self::Policy(_) => "BackendTLSPolicy",
            Self::PqPolicy(_) => "PQPolicy",
        }
    }

    /// None where it is in no namespace.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Class(_) => None,
            Self::Gateway(name) | Self::ListenerSet(name) | Self::Policy(name) | Self::PqPolicy(name) => {
                Some(&name.namespace)
            }
            Self::Route(key) => Some(&key.name.namespace),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Class(name) => name,
            Self::Gateway(name) | Self::ListenerSet(name) | Self::Policy(name) | Self::PqPolicy(name) => {
                &name.name
            }
            Self::Route(key) => &key.name.name,
        }
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind(), self.name()),
            None => write!(f, "{} {}", self.kind(), self.name()),
        }
    }
}

impl Status {
    /// The whole status, over what it is now: what others say in it stays, and a condition that does not
    /// change keeps the time since when it has been so.
    pub fn over(&self, shown: &Value, now: &str) -> Value {
        let conditions = |ours: &[Condition], shown: &Value| conditions(ours, shown, self.generation, now);
        let listeners = |ours: &[Listener]| -> Vec<Value> {
            let shown = by_name(&shown["listeners"]);
            let listener = |one: &Listener| {
                let before = shown.get(one.name.as_str()).copied().unwrap_or(&Value::Null);
                json!({
                    "name": one.name,
                    "supportedKinds": one.kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind.name()})).collect::<Vec<_>>(),
                    "attachedRoutes": one.attached,
                    "conditions": conditions(&one.conditions, &before["conditions"]),
                })
            };
            ours.iter().map(listener).collect()
        };
        match &self.says {
            Says::Class(ours) => json!({
                "conditions": conditions(ours, &shown["conditions"]),
                "supportedFeatures": features::SUPPORTED.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
            }),
            Says::Gateway { conditions: ours, listeners: of, addresses, sets } => json!({
                "conditions": conditions(ours, &shown["conditions"]),
                "listeners": listeners(of),
                "addresses": addresses.iter().map(|one| json!({"type": one.kind, "value": one.value})).collect::<Vec<_>>(),
                "attachedListenerSets": sets,
            }),
            Says::ListenerSet { conditions: ours, listeners: of } => json!({
                "conditions": conditions(ours, &shown["conditions"]),
                "listeners": listeners(of),
            }),
            Says::Route(parents) => json!({
                "parents": self.among(parents, "parentRef", &shown["parents"], usize::MAX, now),
            }),
            Says::PqPolicy { conditions: ours, workloads } => {
                let mut status = Map::new();
                status.insert("conditions".to_owned(), json!(conditions(ours, &shown["conditions"])));
                // A patch keeps what it does not name.
                if workloads.is_some() || !shown["workloads"].is_null() {
                    status.insert("workloads".to_owned(), json!(workloads));
                }
                Value::Object(status)
            }
            Says::Policy(ancestors) => json!({
                "ancestors": self.among(ancestors, "ancestorRef", &shown["ancestors"], MAX_ANCESTORS, now),
            }),
        }
    }

    /// Entries of ours among those of other controllers.
    fn among(
        &self,
        ours: &[(ParentRef, Vec<Condition>)],
        field: &str,
        shown: &Value,
        most: usize,
        now: &str,
    ) -> Vec<Value> {
        let shown = shown.as_array().map(Vec::as_slice).unwrap_or_default();
        let (own, others): (Vec<_>, Vec<_>) =
            shown.iter().partition(|entry| entry["controllerName"] == GATEWAY_CONTROLLER);
        let entry = |(reference, of): &(ParentRef, Vec<Condition>)| {
            let reference = json!(reference);
            let before = own.iter().find(|entry| entry[field] == reference);
            let before = before.map_or(&Value::Null, |entry| &entry["conditions"]);
            let mut entry = Map::new();
            entry.insert(field.to_owned(), reference);
            entry.insert("controllerName".to_owned(), json!(GATEWAY_CONTROLLER));
            entry.insert("conditions".to_owned(), json!(conditions(of, before, self.generation, now)));
            Value::Object(entry)
        };
        let others = others.into_iter().cloned();
        others.chain(ours.iter().map(entry)).take(most).collect()
    }
}

/// Ours, and of those that are there the ones of types that are nobody's of us.
fn conditions(ours: &[Condition], shown: &Value, generation: i64, now: &str) -> Vec<Value> {
    let shown = shown.as_array().map(Vec::as_slice).unwrap_or_default();
    let others = shown.iter().filter(|one| !OURS.iter().any(|kind| one["type"] == *kind));
    let condition = |ours: &Condition| {
        let status = if ours.holds { "True" } else { "False" };
        let same = shown.iter().find(|one| one["type"] == ours.kind && one["status"] == status);
        let since = same.and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": ours.kind,
            "status": status,
            "reason": ours.reason,
            "message": ours.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        })
    };
    ours.iter().map(condition).chain(others.cloned()).collect()
}

/// Types of conditions that nobody else writes into what is ours.
const OURS: [&str; 6] = [
    "Accepted",
    "Programmed",
    "ResolvedRefs",
    "Conflicted",
    "PartiallyInvalid",
    "InsecureFrontendValidationMode",
];

fn by_name(list: &Value) -> HashMap<&str, &Value> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|one| Some((one["name"].as_str()?, one))).collect()
}
