//! Which of several policies counts. The narrower one does, field by field; of two that are as narrow, the
//! older: what somebody adds later does not take away what holds. What no policy says is left to how the
//! proxy was started: by its pod's annotations, and by the mesh's values.

use std::cmp::Reverse;

use trellis_api::{
    annotations::Plaintext,
    names,
    pq_policy::{Direction, Ladder, Scope},
};

use super::policy::Policy;
use crate::{
    gateway::namespace::{Labels, selects},
    name::Name,
};

/// How narrowly a policy means something, the narrowest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rank {
    Mesh,
    Namespace,
    /// Or a gateway, which is one.
    Workload,
    Listener,
}

/// Whose connections they are.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    Workload { account: &'a Name, labels: &'a Labels },
    Listener { gateway: &'a Name, listener: &'a str },
}

/// What counts, and by which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a, T> {
    pub value: T,
    pub policy: &'a Name,
}

impl Place<'_> {
    pub fn namespace(&self) -> &str {
        match self {
            Self::Workload { account, .. } => &account.namespace,
            Self::Listener { gateway, .. } => &gateway.namespace,
        }
    }

    /// How narrowly the policy means this, if it does. Those of the namespace `system` are the mesh's.
    pub fn rank(&self, name: &Name, policy: &Policy, system: &str) -> Option<Rank> {
        let of_mesh = *name.namespace == *system;
        if !of_mesh && *name.namespace != *self.namespace() {
            return None;
        }
        match (self, &policy.terms.scope) {
            (Self::Workload { .. }, Scope::All) if of_mesh => Some(Rank::Mesh),
            (Self::Workload { .. }, Scope::All) => Some(Rank::Namespace),
            (Self::Workload { labels, .. }, Scope::Workloads(selector)) => {
                selects(selector, labels).then_some(Rank::Workload)
            }
            // A gateway's own pods are its workload towards the mesh.
            (Self::Workload { account, .. }, Scope::Gateways(targets)) => {
                let is = |gateway: &str| *account.name == *names::gateway_workload(gateway);
                let mut whole = targets.iter().filter(|target| target.listener.is_none());
                (account.namespace == name.namespace && whole.any(|target| is(&target.gateway)))
                    .then_some(Rank::Workload)
            }
            (Self::Listener { gateway, listener }, Scope::Gateways(targets)) => {
                if gateway.namespace != name.namespace {
                    return None;
                }
                let of_gateway = targets.iter().filter(|target| *target.gateway == *gateway.name);
                let ranks = of_gateway.filter_map(|target| match target.listener.as_deref() {
                    None => Some(Rank::Workload),
                    Some(one) if one == *listener => Some(Rank::Listener),
                    Some(_) => None,
                });
                ranks.max()
            }
            (Self::Listener { .. }, Scope::All | Scope::Workloads(_)) => None,
        }
    }
}

type Candidate<'a> = (Rank, &'a Name, &'a Policy);

pub fn key_exchange<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    side: Direction,
) -> Option<Found<'a, Ladder>> {
    winner(candidates, |policy| policy.terms.key_exchange.filter(|_| policy.terms.direction.covers(side)))
}

pub fn signatures<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    side: Direction,
) -> Option<Found<'a, Ladder>> {
    winner(candidates, |policy| policy.terms.signatures.filter(|_| policy.terms.direction.covers(side)))
}

pub fn plaintext<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    side: Direction,
) -> Option<Found<'a, Plaintext>> {
    winner(candidates, |policy| policy.terms.plaintext(side))
}

fn winner<'a, T>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    field: impl Fn(&Policy) -> Option<T>,
) -> Option<Found<'a, T>> {
    let said = candidates.filter_map(|(rank, name, policy)| Some((rank, name, policy, field(policy)?)));
    let first = said.max_by_key(|(rank, name, policy, _)| (*rank, Reverse((policy.created, *name))));
    first.map(|(_, policy, _, value)| Found { value, policy })
}
