//! From what an operator wrote to what it means. Nothing is passed over: a field or a value that is not
//! known makes the policy one that demands everything of those it is for.

use serde_json::{Map, Value};

use super::{
    Direction, Ladder, Scope, Target, Terms,
    algorithms::{self, Named},
};
use crate::{annotations::Plaintext, gateway::LabelSelector};

/// Gateways and listeners that one policy names.
pub const MAX_TARGETS: usize = 16;

/// What a policy means, and what is wrong with it. Where anything is, its terms are the strictest.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub terms: Terms,
    pub problems: Vec<Problem>,
}

/// What is wrong with a policy: the reason for its condition, and field, value and remedy for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

pub const UNKNOWN_FIELD: &str = "UnknownField";
pub const UNKNOWN_VALUE: &str = "UnknownValue";
pub const UNKNOWN_ALGORITHM: &str = "UnknownAlgorithm";
pub const CONTRADICTION: &str = "Contradiction";

const FIELDS: [&str; 9] = [
    "selector",
    "targetRefs",
    "direction",
    "keyExchange",
    "signatures",
    "plaintext",
    "algorithms",
    "hybrid",
    "rollback",
];
const GATEWAY_GROUP: &str = crate::gateway::GROUP;

impl Reading {
    pub(super) fn of(spec: &Value) -> Self {
        let mut reader = Reader { problems: Vec::new() };
        let none = Map::new();
        let fields = match spec {
            Value::Object(fields) => fields,
            other => {
                reader.value("spec", other, "write fields, such as `keyExchange: Prefer`");
                &none
            }
        };
        reader.known(fields, &FIELDS, "");
        let mut terms = reader.terms(fields);
        if !reader.problems.is_empty() {
            let Terms { scope, direction, .. } = terms;
            terms = Terms {
                scope,
                direction,
                key_exchange: Some(Ladder::Require),
                signatures: Some(Ladder::Require),
                plaintext: Some(Plaintext::Strict),
            };
        }
        Self { terms, problems: reader.problems }
    }
}

struct Reader {
    problems: Vec<Problem>,
}

/// What the short form says.
#[derive(Default)]
struct Short {
    hybrid: bool,
    /// Whether classical is allowed behind it, where that is said.
    rollback: Option<bool>,
    named: Vec<Named>,
    listed: bool,
}

impl Reader {
    fn terms(&mut self, fields: &Map<String, Value>) -> Terms {
        let ladder = |one: &str| Ladder::ALL.into_iter().find(|ladder| ladder.as_str() == one);
        let ladders = "write Classical, Prefer or Require";
        let direction = |one: &str| Direction::ALL.into_iter().find(|known| known.as_str() == one);
        let plaintext = |one: &str| match one {
            "Permissive" => Some(Plaintext::Permissive),
            "Strict" => Some(Plaintext::Strict),
            _ => None,
        };
        let scope = self.scope(fields);
        let direction = self.word(fields, "direction", "write Inbound, Outbound or Both", direction);
        let short = self.short(fields);
        let explicit = (
            self.word(fields, "keyExchange", ladders, ladder),
            self.word(fields, "signatures", ladders, ladder),
        );
        let terms = Terms {
            scope,
            direction: direction.unwrap_or_default(),
            key_exchange: explicit.0.or_else(|| self.short_key_exchange(&short)),
            signatures: explicit.1.or_else(|| self.short_signatures(&short)),
            plaintext: self.word(fields, "plaintext", "write Permissive or Strict", plaintext),
        };
        self.at_a_listener(&terms, explicit.1.is_some());
        terms
    }

    /// A listener faces the world: what a policy for one says of the mesh would have no effect.
    fn at_a_listener(&mut self, terms: &Terms, signatures: bool) {
        let Scope::Gateways(targets) = &terms.scope else { return };
        if targets.iter().all(|target| target.listener.is_none()) {
            return;
        }
        if signatures {
            self.problem(
                CONTRADICTION,
                "signatures: clients of a listener show certificates of the web, if any, which this ladder does \
                 not judge; leave it out, or leave out sectionName"
                    .to_owned(),
            );
        }
        if terms.direction == Direction::Outbound {
            self.problem(
                CONTRADICTION,
                "direction: Outbound: nothing goes out by a listener; write Inbound, or leave out sectionName"
                    .to_owned(),
            );
        }
    }

    // === the scope ===

    fn scope(&mut self, fields: &Map<String, Value>) -> Scope {
        match (given(fields, "selector"), given(fields, "targetRefs")) {
            (None, None) => Scope::All,
            (Some(selector), None) => self.selector(selector),
            (None, Some(targets)) => self.targets(targets),
            (Some(_), Some(_)) => {
                self.problem(
                    CONTRADICTION,
                    "selector: a policy is for workloads or for gateways; remove selector or targetRefs"
                        .to_owned(),
                );
                Scope::All
            }
        }
    }

    fn selector(&mut self, given: &Value) -> Scope {
        if let Value::Object(fields) = given {
            self.known(fields, &["matchLabels", "matchExpressions"], "selector.");
        }
        let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
        match serde_json::from_value::<LabelSelector>(given.clone()) {
            Ok(selector) => {
                let mut expressions = selector.match_expressions.iter().flatten();
                match expressions.find(|one| !operators.contains(&one.operator.as_str())) {
                    Some(wrong) => {
                        let operator = Value::String(wrong.operator.clone());
                        let remedy = "write In, NotIn, Exists or DoesNotExist";
                        self.value("selector.matchExpressions.operator", &operator, remedy);
                        Scope::All
                    }
                    None => Scope::Workloads(selector),
                }
            }
            Err(_) => {
                self.value("selector", given, "write labels, as in `matchLabels: {app: web}`");
                Scope::All
            }
        }
    }

    fn targets(&mut self, given: &Value) -> Scope {
        let remedy =
            "write `- {group: gateway.networking.k8s.io, kind: Gateway, name: NAME}`, up to 16 of them";
        let Some(listed) = given.as_array().filter(|one| (1..=MAX_TARGETS).contains(&one.len())) else {
            self.value("targetRefs", given, remedy);
            return Scope::All;
        };
        let mut targets = Vec::new();
        for one in listed {
            let text = |field: &str| one[field].as_str();
            if let Value::Object(fields) = one {
                self.known(fields, &["group", "kind", "name", "sectionName"], "targetRefs.");
            }
            let is_gateway = (text("group"), text("kind")) == (Some(GATEWAY_GROUP), Some("Gateway"));
            match (is_gateway, text("name").filter(|name| !name.is_empty())) {
                (true, Some(name)) => targets.push(Target {
                    gateway: name.to_owned(),
                    listener: text("sectionName").map(ToOwned::to_owned),
                }),
                _ => self.value("targetRefs", one, remedy),
            }
        }
        match targets.is_empty() {
            true => Scope::All,
            false => Scope::Gateways(targets),
        }
    }

    // === the short form ===

    fn short(&mut self, fields: &Map<String, Value>) -> Short {
        let mut short = Short::default();
        match given(fields, "algorithms") {
            None => {}
            Some(Value::Array(listed)) if (1..=algorithms::MAX).contains(&listed.len()) => {
                short.listed = true;
                for one in listed {
                    match one.as_str().and_then(algorithms::of) {
                        Some(named) => short.named.push(named),
                        None => self.algorithm(one),
                    }
                }
            }
            Some(other) => {
                self.value("algorithms", other, "list 1 to 16 names, as in `[kyber768, dilithium3]`")
            }
        }
        match given(fields, "hybrid") {
            None => {}
            Some(Value::Bool(true)) => short.hybrid = true,
            Some(other) => self.value(
                "hybrid",
                other,
                "write true, or leave it out: ML-KEM is offered together with X25519 only",
            ),
        }
        let position = |one: &str| match one {
            "enabled" => Some(true),
            "disabled" => Some(false),
            _ => None,
        };
        short.rollback = self.word(fields, "rollback", "write enabled or disabled", position);
        short
    }

    fn short_key_exchange(&mut self, short: &Short) -> Option<Ladder> {
        let (hybrid, classical) = (Named::HybridExchange, Named::ClassicalExchange);
        let [strong, weak] = [hybrid, classical].map(|one| short.named.contains(&one));
        let said = strong || weak || short.hybrid || (short.rollback.is_some() && !short.listed);
        if !said {
            return None;
        }
        if weak && !strong && short.hybrid {
            let message = "hybrid: true: algorithms lists only classical key exchange; add X25519MLKEM768, or \
                           leave hybrid out";
            self.problem(CONTRADICTION, message.to_owned());
        }
        let ladder = self.short_ladder(short, strong, weak, "key exchange");
        Some(match ladder {
            // Both parts of a hybrid are there, and so the classical one may be all that a peer has.
            Ladder::Require if short.hybrid && short.rollback.is_none() => Ladder::Prefer,
            ladder => ladder,
        })
    }

    fn short_signatures(&mut self, short: &Short) -> Option<Ladder> {
        let [strong, weak] = [Named::MlDsa, Named::ClassicalSignature].map(|one| short.named.contains(&one));
        let said = strong || weak || (short.rollback.is_some() && !short.listed);
        said.then(|| self.short_ladder(short, strong, weak, "signatures"))
    }

    fn short_ladder(&mut self, short: &Short, strong: bool, weak: bool, what: &str) -> Ladder {
        match (short.rollback, strong, weak) {
            (Some(false), _, true) => {
                self.problem(
                    CONTRADICTION,
                    format!(
                        "rollback: disabled: algorithms lists classical {what}; remove them, or write enabled"
                    ),
                );
                Ladder::Require
            }
            (_, false, true) => Ladder::Classical,
            (Some(true), ..) | (None, true, true) => Ladder::Prefer,
            (Some(false) | None, _, false) => Ladder::Require,
        }
    }

    // === what is wrong ===

    fn word<T>(
        &mut self,
        fields: &Map<String, Value>,
        field: &str,
        remedy: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let given = given(fields, field)?;
        let read = given.as_str().and_then(read);
        if read.is_none() {
            self.value(field, given, remedy);
        }
        read
    }

    fn known(&mut self, fields: &Map<String, Value>, known: &[&str], within: &str) {
        for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
            let near = known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, field), *known))
                .max_by(|(a, _), (b, _)| a.total_cmp(b));
            let remedy = match near {
                Some((likeness, near)) if likeness >= 0.8 => format!("did you mean {near}?"),
                _ => format!("there are {}", known.join(", ")),
            };
            self.problem(
                UNKNOWN_FIELD,
                format!("{within}{}: there is no such field; {remedy}", clipped(field)),
            );
        }
    }

    fn algorithm(&mut self, given: &Value) {
        let remedy = match given.as_str() {
            Some(name)
                if name.to_ascii_lowercase().replace('-', "").ends_with("kyber1024")
                    || name.to_ascii_lowercase().replace('-', "").contains("mlkem1024") =>
            {
                "the mesh's key exchange is X25519MLKEM768, which is less: write kyber768"
            }
            _ => "write names such as kyber768, X25519MLKEM768, dilithium3, ML-DSA-65 or ECDSA-P256",
        };
        let given = clipped(&given.to_string());
        self.problem(UNKNOWN_ALGORITHM, format!("algorithms: {given} is not offered here; {remedy}"));
    }

    fn value(&mut self, field: &str, given: &Value, remedy: &str) {
        let given = clipped(&given.to_string());
        self.problem(UNKNOWN_VALUE, format!("{field}: {given} means nothing here; {remedy}"));
    }

    fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.push(Problem { reason, message });
    }
}

/// What is written as null is not written.
fn given<'a>(fields: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    fields.get(field).filter(|value| !value.is_null())
}

/// As much of it as a message has place for.
fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
