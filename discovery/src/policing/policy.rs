//! What discovery keeps of a PQPolicy.

use trellis_api::pq_policy::{PqPolicy, Problem, Reading, Scope, Terms};

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub created: i64,
    pub generation: i64,
    pub terms: Terms,
    /// What its author got wrong. Its terms are then the strictest.
    pub problems: Vec<Problem>,
}

impl Policy {
    pub fn of(policy: &PqPolicy) -> Self {
        let Reading { terms, problems } = policy.spec.read();
        let metadata = &policy.metadata;
        Self {
            created: metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_second()),
            generation: metadata.generation.unwrap_or_default(),
            terms,
            problems,
        }
    }

    /// The gateways that it names, of its namespace.
    pub fn gateways(&self) -> impl Iterator<Item = &str> {
        let targets = match &self.terms.scope {
            Scope::Gateways(targets) => targets.as_slice(),
            Scope::All | Scope::Workloads(_) => &[],
        };
        targets.iter().map(|target| target.gateway.as_str())
    }
}
