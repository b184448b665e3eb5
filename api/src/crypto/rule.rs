//! What the API server itself refuses, in its expression language: rules that no single field can break.

use serde_json::{Value, json};

/// One rule of a struct: what must hold, what is said where it does not, and of which field.
pub(super) struct Rule {
    pub rule: &'static str,
    pub message: &'static str,
    pub field: &'static str,
}

/// Both names of the Secret mean the same.
pub(super) const ONE_NAME: Rule = Rule {
    rule: "!has(self.secretName) || !has(self.outputSecretName) || size(self.secretName) == 0 \
           || size(self.outputSecretName) == 0 || self.secretName == self.outputSecretName",
    message: "secretName and outputSecretName mean the same and differ: remove one of them",
    field: ".outputSecretName",
};

/// Names that are known only to be refused with a reason.
pub(super) const STANDARDISED: Rule = Rule {
    rule: "!has(self.algorithm) || !self.algorithm.startsWith('Falcon')",
    message: "Falcon512 and Falcon1024 are no standard yet, so keys of them could not be kept: use ML-DSA-65",
    field: ".algorithm",
};

/// As a schema holds them.
pub(super) fn rules<const N: usize>(rules: [Rule; N]) -> Value {
    let rules = rules
        .iter()
        .map(|rule| json!({ "rule": rule.rule, "message": rule.message, "fieldPath": rule.field }));
    rules.collect()
}
