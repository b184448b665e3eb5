//! QuantumSignatureKeyPair: a key pair by which messages are signed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KeyFormat, Kind, Output, Problem, RecreatePolicy, Reference, Rotation, SIGNATURE_ALGORITHMS, Spec,
    Standing, algorithms, lifecycle, reference,
    rule::{ONE_NAME, STANDARDISED, rules},
};

/// A key pair for signatures, in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([STANDARDISED, ONE_NAME])))]
pub struct SignatureKeyPairSpec {
    /// Dilithium2, 3 and 5 mean ML-DSA-44, 65 and 87, SPHINCS+-SHA2-128f-simple means SLH-DSA-SHA2-128f, none of
    /// which is compatible with what was called so before the standard. Another algorithm is a rotation to it.
    #[serde(default = "default_algorithm")]
    #[schemars(schema_with = "algorithms::signature")]
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
    /// Who may sign with it, as NAME in the key's namespace or NAMESPACE/NAME: operations then have to name
    /// one of them. Everybody in the namespace where it is left out.
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
pub struct SignatureKeyPairStatus {
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
    "ML-DSA-65".to_owned()
}

impl Default for SignatureKeyPairSpec {
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

impl Spec for SignatureKeyPairSpec {
    const KIND: Kind = Kind::SignatureKeyPair;
    type Status = SignatureKeyPairStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = algorithms::check(Some(&self.algorithm), &SIGNATURE_ALGORITHMS);
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Rotation::check));
        problems.extend(lifecycle::check_version(self.version));
        problems.extend(reference::check_accounts(&self.allowed_service_accounts));
        problems
    }
}
