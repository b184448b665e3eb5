//! What operators see of a policy: whether it is understood, and who can be held to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::trust::Condition;

/// Names that one list of a status holds.
pub const MAX_LISTED: usize = 50;

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PqPolicyStatus {
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Workloads>,
}

/// Those whom it means, by ServiceAccount, which is who they are to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    pub selected: u32,
    /// Those of them whose proxies hold to it.
    pub within: u32,
    pub outside: u32,
    /// Of those within, the first 50, as NAMESPACE/SERVICEACCOUNT.
    // Also written where it is empty: a patch keeps what it does not name.
    #[serde(default)]
    pub compliant: Vec<String>,
    /// Of those outside, the first 50.
    #[serde(default)]
    pub exceptions: Vec<Outside>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outside {
    /// NAMESPACE/SERVICEACCOUNT.
    pub workload: String,
    /// not_injected, host_network, port_skipped or classical_leaf.
    pub reason: String,
}
