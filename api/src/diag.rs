//! What a proxy knows, `trellis.dev/diag/v1`, and why it chooses what it chooses. It answers both on its admin
//! port; `trellis diag` shows them. There is no key in either, and no token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    access::{Direction, Posture},
    evidence::Leaf,
};

pub const API_VERSION: &str = "trellis.dev/diag/v1";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diag {
    pub api_version: String,
    /// `namespace/pod`.
    pub workload: String,
    pub version: String,
    pub identity: String,
    pub leaf: Option<Leaf>,
    /// The second certificate of a workload with a dual identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<Leaf>,
    /// Who is believed, our own trust domain first.
    pub trust: Vec<Anchor>,
    /// What connections must be now, and who says so.
    pub policy: Vec<Demand>,
    /// What the operator decided, as the proxy was told.
    pub settings: BTreeMap<String, String>,
    pub tunnels: Vec<Tunnel>,
    pub destinations: Vec<Destination>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    pub trust_domain: String,
    pub subject: String,
    pub algorithm: String,
    pub fingerprint: String,
    pub not_after: String,
}

/// What is demanded in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    pub direction: Direction,
    /// `key_exchange`, `signatures` or `plaintext`, as the metric `trellis_policy` has it.
    pub field: String,
    pub level: String,
    /// The policy, or `start` where none says it: as the proxy was started.
    pub source: String,
}

/// One tunnel that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    pub direction: Direction,
    pub peer: String,
    pub address: String,
    pub since: String,
    /// When the first of the two certificates ends.
    pub expires: String,
    /// Connections that it carries.
    pub streams: usize,
    pub posture: Posture,
}

/// What is known of a place that somebody wanted to reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// As it was asked for: an address, or a port of a Service.
    pub subject: String,
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    pub endpoints: Vec<Endpoint>,
    /// Names of the routes that its requests are led by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Service,
    Workload,
    /// What this proxy itself serves.
    Gateway,
    /// The mesh does not know it.
    Outside,
    /// Discovery has not said yet.
    Unanswered,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub address: String,
    pub peer: String,
    /// Why it is reached without a tunnel, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// What it has of ours in hand.
    pub in_flight: usize,
    /// What its answers took lately; left out where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Failures in a row.
    pub failures: u32,
    /// For how long it is still left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_ms: Option<u64>,
    /// How likely it takes the next request, as things are.
    pub share: f64,
}

/// What would become of a request, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub to: String,
    pub method: String,
    /// The destination that answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Kind and name of the route, and which of its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Who may get it: without a route one, of a route each with its weight.
    pub backends: Vec<Backend>,
    /// Why it would fail, whoever is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What was decided, in order, in words.
    pub steps: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    pub name: String,
    /// Of all requests that come this way.
    pub share: f64,
    pub endpoints: Vec<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Left out where the connection itself is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// As in `trellis-error`, logs and metrics.
    pub reason: String,
    pub detail: String,
}
