//! QuantumSignMessage: the signature of a message.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Kind, MessageReference, Output, Problem, Reference, SIGNATURE_ALGORITHMS, Spec, Standing, algorithms,
    reference,
    rule::{ONE_NAME, STANDARDISED, rules},
};

/// A signature over a message, in a Secret. It is made anew when the message or the key changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([STANDARDISED, ONE_NAME])))]
pub struct SignMessageSpec {
    /// The QuantumSignatureKeyPair that signs.
    pub private_key_ref: Reference,
    /// The Secret or ConfigMap with the message.
    pub message_ref: MessageReference,
    /// If it is named, the key has to be of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "algorithms::signature")]
    pub algorithm: Option<String>,
    /// Where in it the message stands.
    #[serde(default = "message")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub message_key: String,
    /// Where in the Secret the signature is put.
    #[serde(default = "signature")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub signature_key: String,
    /// A context that is signed along, and that who verifies has to name as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub context: Option<String>,
    #[serde(flatten)]
    pub output: Output,
    /// The ServiceAccount of its namespace that this is done for, which a key may ask for. Only it may set
    /// this, and who may impersonate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignMessageStatus {
    #[serde(flatten)]
    pub standing: Standing,
    /// In base64, up to 8 KiB; longer ones are in the Secret alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_reference: Option<Reference>,
    /// The first characters of an HMAC over the message, by which those of one cluster are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_fingerprint: Option<String>,
    /// That of the key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_fingerprint: Option<String>,
}

pub(super) fn message() -> String {
    "message".to_owned()
}

pub(super) fn signature() -> String {
    "signature".to_owned()
}

impl Spec for SignMessageSpec {
    const KIND: Kind = Kind::SignMessage;
    type Status = SignMessageStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.private_key_ref.check("spec.privateKeyRef");
        problems.extend(self.message_ref.check("spec.messageRef"));
        problems.extend(algorithms::check(self.algorithm.as_deref(), &SIGNATURE_ALGORITHMS));
        problems.extend(reference::check_item("spec.messageKey", &self.message_key));
        problems.extend(reference::check_item("spec.signatureKey", &self.signature_key));
        problems.extend(reference::check_context(self.context.as_deref()));
        problems.extend(self.output.check());
        problems.extend(reference::check_account(self.service_account_name.as_deref()));
        problems
    }
}
