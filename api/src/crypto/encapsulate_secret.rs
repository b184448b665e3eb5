//! QuantumEncapsulateSecret: a shared secret, and the ciphertext by which the holder of a private key gets
//! the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KEM_ALGORITHMS, Kind, Output, Problem, RecreatePolicy, Reference, Rotation, Spec, Standing, algorithms,
    lifecycle,
    rule::{ONE_NAME, rules},
};

/// A shared secret under a public key, in a Secret with its ciphertext.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_NAME])))]
pub struct EncapsulateSecretSpec {
    /// The QuantumKEMKeyPair whose public key is used. When its key changes, a fresh secret is encapsulated.
    pub public_key_ref: Reference,
    /// If it is named, the key has to be of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "algorithms::kem")]
    pub algorithm: Option<String>,
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
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncapsulateSecretStatus {
    #[serde(flatten)]
    pub standing: Standing,
    /// In hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret_reference: Option<Reference>,
    /// The first characters of an HMAC over the shared secret, by which those of one cluster are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// That of the public key it was encapsulated under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_fingerprint: Option<String>,
}

impl Spec for EncapsulateSecretSpec {
    const KIND: Kind = Kind::EncapsulateSecret;
    type Status = EncapsulateSecretStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.public_key_ref.check("spec.publicKeyRef");
        problems.extend(algorithms::check(self.algorithm.as_deref(), &KEM_ALGORITHMS));
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Rotation::check));
        problems.extend(lifecycle::check_version(self.version));
        problems
    }
}
