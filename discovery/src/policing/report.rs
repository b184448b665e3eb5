//! What the status of a policy says: whether it is understood, which older ones go before it, and whom of
//! those it means it can be held to. That is told from what the cluster knows of pods; what connections came
//! to, their proxies count.

use std::collections::{BTreeMap, BTreeSet};

use trellis_api::{
    annotations::Plaintext,
    pq_policy::{Direction, Ladder, MAX_LISTED, Outside, Scope, Workloads},
};

use super::{
    Policing,
    members::Member,
    policy::Policy,
    precedence::{self, Place},
};
use crate::{
    gateway::{
        listener::Problem,
        status::{Condition, Says, Status},
    },
    name::Name,
    pod::Sidecar,
};

/// Problems that one message has place for.
const TOLD: usize = 5;
const SIDES: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

impl Policing {
    pub fn is_unreported(&self) -> bool {
        self.unreported
    }

    /// Of each policy, what there is to say.
    pub fn report(&mut self, is_gateway: impl Fn(&Name) -> bool) -> Vec<(Name, Status)> {
        self.unreported = false;
        let mut tallies: BTreeMap<&Name, Tally> =
            self.policies.keys().map(|name| (name, Tally::default())).collect();
        for (namespace, member) in self.members.kinds() {
            let account = Name { namespace, name: member.account.clone() };
            self.judge(&account, &member, &mut tallies);
        }
        let of = |(name, policy): (&Name, &Policy)| {
            let tally = tallies.remove(name).unwrap_or_default();
            let conditions = vec![accepted(name, policy, &is_gateway), conflicted(&self.older(name, policy))];
            let workloads = match policy.terms.scope {
                // Its clients are no workloads.
                Scope::Gateways(_) => None,
                Scope::All | Scope::Workloads(_) => Some(tally.counted()),
            };
            let says = Says::PqPolicy { conditions, workloads };
            (name.clone(), Status { generation: policy.generation, says })
        };
        self.policies.iter().map(of).collect()
    }

    /// Adds a kind of pods to those policies that something of it is left to.
    fn judge<'a>(&'a self, account: &Name, member: &Member, tallies: &mut BTreeMap<&'a Name, Tally>) {
        let place = Place::Workload { account, labels: &member.labels };
        for side in SIDES {
            let key_exchange = precedence::key_exchange(self.candidates(&place), side);
            let signatures = precedence::signatures(self.candidates(&place), side);
            let plaintext = precedence::plaintext(self.candidates(&place), side);
            let strict = plaintext.as_ref().is_some_and(|found| found.value == Plaintext::Strict);
            let required = signatures.as_ref().is_some_and(|found| found.value == Ladder::Require);
            let ladders = key_exchange.iter().chain(&signatures).map(|found| found.policy);
            for policy in ladders.chain(plaintext.iter().map(|found| found.policy)) {
                // Names of the map's own live as long as it.
                let Some((policy, _)) = self.policies.get_key_value(policy) else { continue };
                let of_plaintext = plaintext.as_ref().is_some_and(|found| found.policy == policy);
                let of_signatures = signatures.as_ref().is_some_and(|found| found.policy == policy);
                let reason = match member.sidecar {
                    Sidecar::Absent => Some("not_injected"),
                    Sidecar::HostNetwork => Some("host_network"),
                    Sidecar::Injected
                        if member.skips && strict && of_plaintext && side == Direction::Inbound =>
                    {
                        Some("port_skipped")
                    }
                    Sidecar::Injected if member.classical_leaf && required && of_signatures => {
                        Some("classical_leaf")
                    }
                    Sidecar::Injected => None,
                };
                tallies.entry(policy).or_default().add(account, reason);
            }
        }
    }

    /// What an older policy that is as narrow says in its place.
    fn older(&self, name: &Name, policy: &Policy) -> Vec<String> {
        let rivals = self.by_namespace(&name.namespace);
        let before = |other: &Name, one: &Policy| {
            (one.created, other) < (policy.created, name) && one.terms.scope == policy.terms.scope
        };
        let mut older = BTreeSet::new();
        for (other, one) in rivals.iter().filter(|(other, one)| before(other, one)) {
            for side in SIDES {
                let both = policy.terms.direction.covers(side) && one.terms.direction.covers(side);
                let (own, theirs) = (&policy.terms, &one.terms);
                let fields = [
                    ("keyExchange", both && own.key_exchange.and(theirs.key_exchange).is_some()),
                    ("signatures", both && own.signatures.and(theirs.signatures).is_some()),
                    ("plaintext", own.plaintext(side).and(theirs.plaintext(side)).is_some()),
                ];
                let taken = fields.iter().filter(|(_, taken)| *taken);
                older.extend(
                    taken.map(|(field, _)| format!("{field} ({}) is as {other} says", side.as_str())),
                );
            }
        }
        older.into_iter().collect()
    }
}

fn accepted(name: &Name, policy: &Policy, is_gateway: impl Fn(&Name) -> bool) -> Condition {
    if let Some(first) = policy.problems.first() {
        let all = policy.problems.iter().take(TOLD).map(|problem| problem.message.as_str());
        let message = format!(
            "{}. Until it is corrected, it demands Require of key exchange and signatures, and Strict of plaintext",
            all.collect::<Vec<_>>().join(". ")
        );
        return Condition::fails("Accepted", &Problem::new(first.reason, message));
    }
    match policy.gateways().find(|gateway| !is_gateway(&name.beside(gateway))) {
        Some(missing) => {
            let message = format!(
                "targetRefs: namespace {} has no Gateway {missing} of class trellis; correct the name",
                name.namespace
            );
            Condition::fails("Accepted", &Problem::new("TargetNotFound", message))
        }
        None => Condition::holds("Accepted", "Accepted"),
    }
}

/// Selectors that overlap without being the same are each other's rivals, too; who wins where is what
/// `trellis_policy` of the proxy shows.
fn conflicted(older: &[String]) -> Condition {
    let mut condition = Condition::holds("Conflicted", "Overruled");
    match older.is_empty() {
        true => Condition { holds: false, reason: "NoConflict", ..condition },
        false => {
            condition.message = format!("an older policy goes first: {}", older.join(", "));
            condition
        }
    }
}

/// Who was met so far. A workload is outside if any of its pods is.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, Option<&'static str>>);

impl Tally {
    fn add(&mut self, account: &Name, reason: Option<&'static str>) {
        let known = self.0.entry(account.to_string()).or_default();
        *known = known.or(reason);
    }

    fn counted(&self) -> Workloads {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let within = self.0.iter().filter(|(_, reason)| reason.is_none());
        let outside = self.0.iter().filter_map(|(workload, reason)| {
            Some(Outside { workload: workload.clone(), reason: (*reason)?.to_owned() })
        });
        Workloads {
            selected: count(self.0.len()),
            within: count(within.clone().count()),
            outside: count(outside.clone().count()),
            compliant: within.map(|(workload, _)| workload.clone()).take(MAX_LISTED).collect(),
            exceptions: outside.take(MAX_LISTED).collect(),
        }
    }
}
