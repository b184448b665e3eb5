//! QuantumVerifySignature: whether a signature is that of a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Kind, MessageReference, Problem, Reference, SIGNATURE_ALGORITHMS, Spec, Standing, algorithms, reference,
    rule::{Rule, STANDARDISED, rules},
    sign_message::{message, signature},
};

const ONE_KEY: Rule = Rule {
    rule: "has(self.publicKeyRef) != has(self.publicKey)",
    message: "a signature is verified by one key: name a QuantumSignatureKeyPair in publicKeyRef, or set publicKey",
    field: ".publicKeyRef",
};

/// A verification, whose outcome is in the status. It is done anew when anything that it is about changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_KEY, STANDARDISED])))]
pub struct VerifySignatureSpec {
    /// The QuantumSignatureKeyPair whose public key is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_ref: Option<Reference>,
    /// The public key itself, as PEM, for keys from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub public_key: Option<String>,
    /// The Secret or ConfigMap with the message.
    pub message_ref: MessageReference,
    /// The Secret or ConfigMap with the signature.
    pub signature_ref: MessageReference,
    /// If it is named, the key has to be of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "algorithms::signature")]
    pub algorithm: Option<String>,
    /// Where the message stands.
    #[serde(default = "message")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub message_key: String,
    /// Where the signature stands.
    #[serde(default = "signature")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub signature_key: String,
    /// The context that the signature was made in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub context: Option<String>,
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifySignatureStatus {
    #[serde(flatten)]
    pub standing: Standing,
    // Also written where it is false.
    #[serde(default)]
    pub verified: bool,
    /// The first characters of an HMAC over the message, by which those of one cluster are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_fingerprint: Option<String>,
    /// That of the key that it was verified by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_fingerprint: Option<String>,
    /// A digest of everything that the outcome is about: while it is the same, so is the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// When the outcome, or what it is about, changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_checked_time: Option<String>,
}

impl Spec for VerifySignatureSpec {
    const KIND: Kind = Kind::VerifySignature;
    type Status = VerifySignatureStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.public_key_ref.is_some() == self.public_key.is_some() {
            problems.push(Problem::new(
                "spec.publicKeyRef",
                "",
                "a signature is verified by one key: name a QuantumSignatureKeyPair here, or set spec.publicKey",
            ));
        }
        problems.extend(self.public_key_ref.iter().flat_map(|to| to.check("spec.publicKeyRef")));
        problems.extend(self.message_ref.check("spec.messageRef"));
        problems.extend(self.signature_ref.check("spec.signatureRef"));
        problems.extend(algorithms::check(self.algorithm.as_deref(), &SIGNATURE_ALGORITHMS));
        problems.extend(reference::check_item("spec.messageKey", &self.message_key));
        problems.extend(reference::check_item("spec.signatureKey", &self.signature_key));
        problems.extend(reference::check_context(self.context.as_deref()));
        problems
    }
}
