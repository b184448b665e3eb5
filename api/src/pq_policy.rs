//! The custom resource by which operators say what connections must resist, and for whom: a ladder for the
//! key exchange, one for signatures, and what becomes of plaintext. What is written is kept as it is
//! written, so that a field which nobody knows is seen and not dropped: a policy that cannot be understood
//! closes what it was meant for.

mod algorithms;
mod reading;
mod schema;
mod status;

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    reading::{MAX_TARGETS, Problem, Reading},
    status::{Condition, MAX_LISTED, Outside, PqPolicyStatus, Workloads},
};
use crate::{annotations::Plaintext, gateway::LabelSelector};

/// Who must be how far towards post-quantum, as its author wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "policy.trellis.dev",
    version = "v1",
    kind = "PQPolicy",
    root = "PqPolicy",
    plural = "pqpolicies",
    singular = "pqpolicy",
    shortname = "pqp",
    namespaced,
    status = "PqPolicyStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Selected","type":"integer","jsonPath":".status.workloads.selected"}"#,
    printcolumn = r#"{"name":"Outside","type":"integer","jsonPath":".status.workloads.outside"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(transparent)]
pub struct PqPolicySpec {
    pub given: Value,
}

/// How far towards post-quantum a side of the handshake must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ladder {
    /// Classical only, for peers and measurements from before.
    Classical,
    /// Post-quantum first, classical behind it.
    Prefer,
    /// Nothing weaker is offered or accepted.
    Require,
}

/// Whose connections are meant, seen from the workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
    #[default]
    Both,
}

/// Whom a policy is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scope {
    /// Everybody where it stands: its namespace, or the mesh.
    #[default]
    All,
    /// Workloads with these labels.
    Workloads(LabelSelector),
    /// Gateways of its namespace, or one listener of each.
    Gateways(Vec<Target>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub gateway: String,
    /// One of its listeners; all of it, where there is none.
    pub listener: Option<String>,
}

/// What a policy says. A field that it does not have is left to wider ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub scope: Scope,
    pub direction: Direction,
    pub key_exchange: Option<Ladder>,
    pub signatures: Option<Ladder>,
    pub plaintext: Option<Plaintext>,
}

impl PqPolicySpec {
    /// What it means; where that is not certain, the most that it can mean.
    pub fn read(&self) -> Reading {
        Reading::of(&self.given)
    }
}

impl Ladder {
    pub const ALL: [Self; 3] = [Self::Classical, Self::Prefer, Self::Require];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classical => "Classical",
            Self::Prefer => "Prefer",
            Self::Require => "Require",
        }
    }
}

impl Direction {
    pub const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Both];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "Inbound",
            Self::Outbound => "Outbound",
            Self::Both => "Both",
        }
    }

    /// Whether connections of this `side` are meant, which is one of the two.
    pub fn covers(self, side: Self) -> bool {
        self == Self::Both || self == side
    }
}

impl Terms {
    /// What it says of plaintext on this `side`. In both directions at once it means those who come in: who
    /// asks that nobody be reached in plaintext says so.
    pub fn plaintext(&self, side: Direction) -> Option<Plaintext> {
        let meant = match self.direction {
            Direction::Both => Direction::Inbound,
            one => one,
        };
        self.plaintext.filter(|_| meant == side)
    }
}
