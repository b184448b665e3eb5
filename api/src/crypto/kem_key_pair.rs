//! QuantumKEMKeyPair: a key pair by which secrets are encapsulated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KEM_ALGORITHMS, KeyFormat, Kind, Output, Problem, RecreatePolicy, Reference, Rotation, Spec, Standing,
    algorithms, lifecycle, reference,
    rule::{ONE_NAME, rules},
};

/// A key pair for key encapsulation, in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_NAME])))]
pub struct KemKeyPairSpec {
    /// Kyber512, Kyber768 and Kyber1024 mean ML-KEM of that size, which is not compatible with what was called
    /// so before the standard. Another algorithm is a rotation to it.
    #[serde(default = "default_algorithm")]
    #[schemars(schema_with = "algorithms::kem")]
    pub algorithm: String,
    /// How the keys are written; standard where it is left out, and a Secret of QubeSec then stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_format: Option<KeyFormat>,
    #[serde(flatten)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Puts this version back into the Secret; the newest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub version: Option<i64>,
    #[serde(default)]
    pub recreate_policy: RecreatePolicy,
    /// Who may decapsulate with it, as NAME in the key's namespace or NAMESPACE/NAME: operations then have to
    /// name one of them. Everybody in the namespace where it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(max = 317),
            regex(pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub allowed_service_accounts: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KemKeyPairStatus {
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_pair_reference: Option<Reference>,
    /// The first characters of SHA-256 over the SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_fingerprint: Option<String>,
    /// SubjectPublicKeyInfo, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

fn default_algorithm() -> String {
    "ML-KEM-768".to_owned()
}

impl Default for KemKeyPairSpec {
    fn default() -> Self {
        Self {
            algorithm: default_algorithm(),
            key_format: None,
            output: Output::default(),
            rotation: None,
            version: None,
            recreate_policy: RecreatePolicy::default(),
            allowed_service_accounts: Vec::new(),
        }
    }
}

impl Spec for KemKeyPairSpec {
    const KIND: Kind = Kind::KemKeyPair;
    type Status = KemKeyPairStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = algorithms::check(Some(&self.algorithm), &KEM_ALGORITHMS);
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Rotation::check));
        problems.extend(lifecycle::check_version(self.version));
        problems.extend(reference::check_accounts(&self.allowed_service_accounts));
        problems
    }
}
