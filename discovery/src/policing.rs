//! PQPolicies: what connections of each pod must be, as all policies that mean it say together, and what
//! becomes of each policy.
//!
//! | What | Where |
//! |---|---|
//! | one policy, as it is kept | [`policy`] |
//! | which of several policies counts | [`precedence`] |
//! | pods by what policies ask of them | [`members`] |
//! | conditions and counts for the status | [`report`] |

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use trellis_api::{
    annotations::Plaintext,
    names,
    pq_policy::{Direction, Ladder},
    proto::discovery::{self as proto, demand::Level},
};

use self::{
    members::{Member, Members},
    policy::Policy,
    precedence::{Found, Place, Rank},
};
use crate::name::Name;

pub mod members;
pub mod policy;
pub mod precedence;
mod report;

#[derive(Debug)]
pub struct Policing {
    /// The namespace whose policies mean the whole mesh.
    system: Arc<str>,
    policies: BTreeMap<Name, Policy>,
    members: Members,
    /// Policies or pods have changed since statuses were worked out.
    unreported: bool,
}

impl Default for Policing {
    fn default() -> Self {
        Self::new(names::SYSTEM_NAMESPACE)
    }
}

impl Policing {
    pub fn new(system: &str) -> Self {
        let (policies, members) = (BTreeMap::new(), Members::default());
        Self { system: system.into(), policies, members, unreported: false }
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.policies.keys()
    }

    /// Every pod that is not over.
    pub fn pods(&self) -> impl Iterator<Item = &Name> {
        self.members.names()
    }

    /// Gateways have come or gone.
    pub fn suspect(&mut self) {
        self.unreported |= !self.policies.is_empty();
    }

    pub fn count(&self) -> usize {
        self.policies.len()
    }

    /// Takes in a policy, or that it is gone. Tells whose connections may have to be something else.
    pub fn put(&mut self, name: &Name, new: Option<Policy>) -> Option<Concerned> {
        if self.policies.get(name) == new.as_ref() {
            return None;
        }
        self.unreported = true;
        let old = match new.clone() {
            Some(new) => self.policies.insert(name.clone(), new),
            None => self.policies.remove(name),
        };
        let both = old.iter().chain(&new);
        let gateways = both.flat_map(Policy::gateways).map(|gateway| name.beside(gateway)).collect();
        let namespace = (name.namespace != self.system).then(|| name.namespace.clone());
        Some(Concerned { namespace, gateways })
    }

    /// Takes in a pod, or that it is gone. Tells whether something else may be asked of it.
    pub fn put_pod(&mut self, name: &Name, new: Option<Member>) -> bool {
        let changed = self.members.put(name, new);
        self.unreported |= changed && !self.policies.is_empty();
        changed
    }

    /// What connections of a pod must be; nothing where there is no such pod.
    pub fn of_pod(&self, pod: &Name) -> Option<(Name, proto::Policy)> {
        let member = self.members.get(pod)?;
        let account = pod.beside(&member.account);
        let demands = |side| {
            let place = Place::Workload { account: &account, labels: &member.labels };
            self.demands(&place, side)
        };
        let policy = proto::Policy {
            inbound: Some(demands(Direction::Inbound)),
            outbound: Some(demands(Direction::Outbound)),
        };
        Some((account, policy))
    }

    /// What clients of a gateway's listener must be, as far as a policy names the one or the other. What
    /// holds in the mesh does not hold for the world.
    pub fn of_listener(&self, gateway: &Name, listener: &str) -> (Option<Ladder>, Option<Plaintext>) {
        let place = Place::Listener { gateway, listener };
        let candidates = || self.candidates(&place);
        let key_exchange = precedence::key_exchange(candidates(), Direction::Inbound);
        let plaintext = precedence::plaintext(candidates(), Direction::Inbound);
        (key_exchange.map(|found| found.value), plaintext.map(|found| found.value))
    }

    fn demands(&self, place: &Place<'_>, side: Direction) -> proto::Demands {
        let candidates = || self.candidates(place);
        let plaintext = |one| match one {
            Plaintext::Permissive => Level::Permissive,
            Plaintext::Strict => Level::Strict,
        };
        proto::Demands {
            key_exchange: precedence::key_exchange(candidates(), side).map(|found| demand(found, level)),
            signatures: precedence::signatures(candidates(), side).map(|found| demand(found, level)),
            plaintext: precedence::plaintext(candidates(), side).map(|found| demand(found, plaintext)),
        }
    }

    /// The policies that mean this, and how narrowly.
    fn candidates<'a>(&'a self, place: &'a Place<'a>) -> impl Iterator<Item = (Rank, &'a Name, &'a Policy)> {
        let namespace = place.namespace();
        let own = self.of_namespace(namespace).filter(move |_| *namespace != *self.system);
        let all = own.chain(self.of_namespace(&self.system));
        all.filter_map(move |(name, policy)| Some((place.rank(name, policy, &self.system)?, name, policy)))
    }

    fn of_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = (&'a Name, &'a Policy)> + use<'a> {
        let namespace: Arc<str> = namespace.into();
        let first = Name { namespace: namespace.clone(), name: "".into() };
        self.policies.range(first..).take_while(move |(name, _)| name.namespace == namespace)
    }

    fn by_namespace(&self, namespace: &str) -> HashMap<Name, &Policy> {
        self.of_namespace(namespace).map(|(name, policy)| (name.clone(), policy)).collect()
    }
}

/// Whom a changed policy may concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concerned {
    /// Pods of this namespace; of all, where there is none.
    pub namespace: Option<Arc<str>>,
    pub gateways: Vec<Name>,
}

fn demand<T>(found: Found<'_, T>, level: impl Fn(T) -> Level) -> proto::Demand {
    proto::Demand { level: level(found.value).into(), source: found.policy.to_string() }
}

fn level(ladder: Ladder) -> Level {
    match ladder {
        Ladder::Classical => Level::Classical,
        Ladder::Prefer => Level::Prefer,
        Ladder::Require => Level::Require,
    }
}
