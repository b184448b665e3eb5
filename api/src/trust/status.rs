//! What operators see of trust: the anchors, who holds them, and where a rotation is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FederationStatus, Issuing, KeyAlgorithm, Part, Phase, Renewed};

/// How trust is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainStatus {
    #[serde(default)]
    pub observed_generation: i64,
    /// Settled, or the phase of the rotation.
    #[serde(default)]
    pub phase: String,
    /// Algorithm and short fingerprint of the anchor that certificates are issued from.
    #[serde(default)]
    pub issuing: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuing_kind: Option<Issuing>,
    /// The algorithm of leaves, for workloads that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<KeyAlgorithm>,
    /// Algorithm and short fingerprint of the companion that certificates are issued from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub companion: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion_kind: Option<Issuing>,
    /// Whether workloads that do not say so themselves hold a certificate of the companion as well.
    #[serde(default)]
    pub dual: bool,
    /// Grows with each change that proxies are told.
    #[serde(default)]
    pub revision: u64,
    #[serde(default)]
    pub anchors: Vec<AnchorStatus>,
    /// Fresh keys that renewal has come to: a wish for an older generation of the same kind means these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<Renewed>,
    /// Those who hold an identity and are in reach.
    #[serde(default)]
    pub members: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// An issuing key that waits for its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingStatus>,
    /// Rotations that ended, the newest first.
    #[serde(default)]
    pub past: Vec<PastRotation>,
    /// Each trust domain that is federated with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federation: Vec<FederationStatus>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnchorStatus {
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    pub algorithm: String,
    pub generation: u32,
    pub not_after: String,
    /// When a fresh key takes its place by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renews: String,
    /// Members that trust it.
    pub held_by: u32,
    /// Members whose certificate chains to it.
    pub leaves: u32,
    /// Where its key is, unless that is kept with the state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Where an outside CA signed it: the certificate and those above it, as PEM. The mesh itself believes
    /// the certificate alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingStatus {
    pub kind: Issuing,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// The signing request, as PEM.
    pub request: String,
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    pub number: u32,
    #[serde(default)]
    pub of: Part,
    pub phase: Phase,
    /// `none` where a companion comes, and `to` where it goes.
    pub from: String,
    pub to: String,
    /// What issuing goes back to when the rotation is rolled back, and leaves with it. A companion that is
    /// new has nothing to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_kind: Option<Issuing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_before: Option<KeyAlgorithm>,
    /// Where nobody wished for it: the fresh key of a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewed>,
    pub started: String,
    /// When this phase began.
    pub since: String,
    pub rolling_back: bool,
    pub paused: bool,
    /// How many the phase still waits for, and the first of them by name.
    pub waiting: u32,
    pub waiting_for: Vec<WaitingFor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// NAMESPACE/NAME of a pod.
    pub pod: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastRotation {
    pub number: u32,
    #[serde(default)]
    pub of: Part,
    pub from: String,
    pub to: String,
    pub rolled_back: bool,
    pub started: String,
    pub ended: String,
    /// Seconds from the start to the end of each phase.
    pub phases: Vec<PastPhase>,
    /// Those whom a forced step cut off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut_off: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastPhase {
    pub phase: Phase,
    pub seconds: u64,
    #[serde(default)]
    pub forced: bool,
}

/// As Kubernetes writes conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub last_transition_time: String,
    #[serde(default)]
    pub observed_generation: i64,
}
