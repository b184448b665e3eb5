//! What the API server is told of a policy. Known fields with values that mean nothing are refused there,
//! where their author reads why; unknown fields are kept, so that they can be answered for: a server that
//! drops them would leave a policy that says less than was meant.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Direction, Ladder, MAX_TARGETS, PqPolicySpec, algorithms};

impl JsonSchema for PqPolicySpec {
    fn schema_name() -> Cow<'static, str> {
        "PqPolicySpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let ladder = |of: &str| {
            json_schema!({
                "type": "string",
                "description": format!("{of}: Classical, Prefer (post-quantum first, classical behind it and counted) or Require."),
                "enum": Ladder::ALL.map(Ladder::as_str),
            })
        };
        json_schema!({
            "type": "object",
            "description": "What connections must resist. A field that is left out is left to wider policies.",
            "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-validations": [{
                "rule": "!(has(self.selector) && has(self.targetRefs))",
                "message": "a policy is for workloads or for gateways: remove selector or targetRefs",
            }],
            "properties": {
                "selector": {
                    "type": "object",
                    "description": "Workloads with these labels: of its namespace, or of all where it stands in the control plane's own.",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                        "matchExpressions": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["key", "operator"],
                                "properties": {
                                    "key": {"type": "string"},
                                    "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                                    "values": {"type": "array", "items": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
                "targetRefs": {
                    "type": "array",
                    "description": "Gateways of its namespace, or one listener of each.",
                    "minItems": 1,
                    "maxItems": MAX_TARGETS,
                    "items": {
                        "type": "object",
                        "required": ["group", "kind", "name"],
                        "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {
                            "group": {"type": "string", "enum": [crate::gateway::GROUP]},
                            "kind": {"type": "string", "enum": ["Gateway"]},
                            "name": {"type": "string", "minLength": 1, "maxLength": 253},
                            "sectionName": {"type": "string", "minLength": 1, "maxLength": 253},
                        },
                    },
                },
                "direction": {
                    "type": "string",
                    "description": "Whose connections are meant, seen from the workload; Both, where it is left out.",
                    "enum": Direction::ALL.map(Direction::as_str),
                },
                "keyExchange": ladder("The key exchange"),
                "signatures": ladder("Signatures of peers"),
                "plaintext": {
                    "type": "string",
                    "description": "Peers without TLS of the mesh: Permissive counts them, Strict refuses them.",
                    "enum": ["Permissive", "Strict"],
                },
                "algorithms": {
                    "type": "array",
                    "description": "The short form: what is wanted, by name. keyExchange and signatures win over it.",
                    "minItems": 1,
                    "maxItems": algorithms::MAX,
                    "items": {"type": "string", "enum": algorithms::names().collect::<Vec<_>>()},
                },
                "hybrid": {
                    "type": "boolean",
                    "description": "The short form: true; ML-KEM is offered together with X25519 only.",
                    "enum": [true],
                },
                "rollback": {
                    "type": "string",
                    "description": "The short form: enabled allows classical behind post-quantum, disabled does not.",
                    "enum": ["enabled", "disabled"],
                },
            },
        })
    }
}
