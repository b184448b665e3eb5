//! QuantumDecapsulateSecret: the shared secret that a ciphertext carries to the holder of a private key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KEM_ALGORITHMS, Keeping, Kind, Output, Problem, Reference, Spec, Standing, algorithms, lifecycle,
    reference,
    rule::{ONE_NAME, Rule, rules},
};

const SOMETHING: Rule = Rule {
    rule: "has(self.ciphertextRef) || (has(self.ciphertext) && size(self.ciphertext) > 0)",
    message: "there is nothing to decapsulate: name a QuantumEncapsulateSecret in ciphertextRef, or set ciphertext",
    field: ".ciphertextRef",
};

/// The shared secret of a ciphertext, in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([SOMETHING, ONE_NAME])))]
pub struct DecapsulateSecretSpec {
    /// The QuantumKEMKeyPair whose private key is used.
    pub private_key_ref: Reference,
    /// In hex. It wins over ciphertextRef, unless it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^([0-9a-fA-F]{2})*$"))]
    pub ciphertext: Option<String>,
    /// The QuantumEncapsulateSecret whose ciphertext is used. The result is compared with what was
    /// encapsulated, and follows when that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphertext_ref: Option<Reference>,
    /// If it is named, the key has to be of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "algorithms::kem")]
    pub algorithm: Option<String>,
    #[serde(flatten)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Keeping>,
    /// Puts this version back into the Secret; the newest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub version: Option<i64>,
    /// The ServiceAccount of its namespace that this is done for, which a key may ask for. Only it may set
    /// this, and who may impersonate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecapsulateSecretStatus {
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret_reference: Option<Reference>,
    /// The first characters of an HMAC over the shared secret, by which those of one cluster are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// That of the private key's public half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_fingerprint: Option<String>,
}

impl DecapsulateSecretSpec {
    pub fn ciphertext(&self) -> Option<&str> {
        self.ciphertext.as_deref().filter(|ciphertext| !ciphertext.is_empty())
    }
}

impl Spec for DecapsulateSecretSpec {
    const KIND: Kind = Kind::DecapsulateSecret;
    type Status = DecapsulateSecretStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.private_key_ref.check("spec.privateKeyRef");
        if self.ciphertext().is_none() && self.ciphertext_ref.is_none() {
            problems.push(Problem::new(
                "spec.ciphertextRef",
                "",
                "there is nothing to decapsulate: name a QuantumEncapsulateSecret here, or set spec.ciphertext",
            ));
        }
        problems.extend(self.ciphertext_ref.iter().flat_map(|to| to.check("spec.ciphertextRef")));
        problems.extend(reference::check_hex("spec.ciphertext", self.ciphertext(), 2048));
        problems.extend(algorithms::check(self.algorithm.as_deref(), &KEM_ALGORITHMS));
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Keeping::check));
        problems.extend(lifecycle::check_version(self.version));
        problems.extend(reference::check_account(self.service_account_name.as_deref()));
        problems
    }
}
