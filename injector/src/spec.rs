//! The nine cryptographic kinds: a spec that cannot be met is refused, with each field, what stands there and
//! what could; one that can, but not as it reads, is let in with a warning. What can be met is decided in
//! [`trellis_api::crypto`], where the controller asks too.

use serde_json::Value;
use trellis_api::crypto::{GROUP, Kind, QUBESEC_GROUP, VERSION};
use trellis_crypto::algorithm::Algorithm;

use crate::{
    review::{Cause, Request},
    verdict::{self, Verdict},
};

/// The kind that is asked about, if it is one of the nine.
pub fn kind(request: &Request) -> Option<Kind> {
    let resource = &request.resource;
    let ours = [GROUP, QUBESEC_GROUP].contains(&resource.group.as_str()) && resource.version == VERSION;
    Kind::ALL.into_iter().find(|kind| ours && kind.plural() == resource.resource)
}

pub fn judge(request: &Request, kind: Kind) -> Verdict {
    let spec = &request.object["spec"];
    // What was let in before may still be labelled, or deleted: it is its spec that is judged.
    if request.operation == "UPDATE" && *spec == request.old_object["spec"] {
        return verdict::accepted(request, &[]);
    }
    let problems = kind.check(spec.clone());
    if problems.is_empty() {
        return verdict::accepted(request, &warnings(kind, spec));
    }
    let causes = problems.into_iter().map(|problem| {
        let message = match problem.value.as_str() {
            "" => problem.remedy,
            value => format!("Invalid value: {value:?}: {}", problem.remedy),
        };
        Cause { field: problem.field, message }
    });
    verdict::invalid(request, kind.as_str(), "spec", &causes.collect::<Vec<_>>())
}

fn warnings(kind: Kind, spec: &Value) -> Vec<String> {
    let text = |field: &str| spec[field].as_str().filter(|text| !text.is_empty());
    let mut warnings = Vec::new();
    let mut warn = |field: &str, what: &str| warnings.push(format!("spec.{field}: {what}"));
    if let Some(algorithm) = text("algorithm") {
        match Algorithm::parse(algorithm) {
            Ok(named) => named.note.iter().for_each(|note| warn("algorithm", note)),
            // The definition takes these for certificates alone.
            Err(_) => warn(
                "algorithm",
                &format!(
                    "{algorithm} falls to a quantum computer; ML-DSA-65 does not, and `hybrid` makes both"
                ),
            ),
        }
    }
    if kind == Kind::RandomNumber {
        if text("seed").is_some() {
            warn("seed", "is mixed in and decides nothing: the result is not deterministic");
        }
        if text("seedURI").is_some() {
            warn("seedURI", "is never fetched; remove it");
        }
        if text("provider") == Some("OpenSSL") {
            warn("provider", "OpenSSL means the system's generator here, as status.source will say");
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(resource: Value, operation: &str, spec: Value, before: Value) -> Request {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "name": "mine", "namespace": "shop", "operation": operation, "resource": resource,
                "object": {"spec": spec}, "oldObject": {"spec": before},
            },
        });
        Request::parse(review.to_string().as_bytes()).unwrap()
    }

    fn judged(kind: Kind, spec: Value) -> Verdict {
        let resource = json!({"group": GROUP, "version": "v1", "resource": kind.plural()});
        judge(&request(resource, "CREATE", spec, Value::Null), kind)
    }

    #[test]
    fn both_groups_are_known_and_no_other() {
        let of = |group: &str, version: &str, resource: &str| {
            let resource = json!({"group": group, "version": version, "resource": resource});
            kind(&request(resource, "CREATE", json!({}), Value::Null))
        };
        for each in Kind::ALL {
            assert_eq!(of(GROUP, "v1", &each.plural()), Some(each));
            assert_eq!(of(QUBESEC_GROUP, "v1", &each.plural()), Some(each));
            assert_eq!(of("example.org", "v1", &each.plural()), None);
            assert_eq!(of(GROUP, "v2", &each.plural()), None);
        }
    }

    #[test]
    fn what_was_let_in_may_be_changed_beside_its_spec() {
        let resource = json!({"group": GROUP, "version": "v1", "resource": "quantumkemkeypairs"});
        let wrong = json!({"algorithm": "RSA"});
        for (before, allowed) in [(wrong.clone(), true), (json!({}), false)] {
            let request = request(resource.clone(), "UPDATE", wrong.clone(), before);
            assert_eq!(judge(&request, Kind::KemKeyPair).response.allowed, allowed);
        }
    }

    #[test]
    fn what_is_met_but_not_as_it_reads_is_said() {
        for (kind, spec, part) in [
            (Kind::KemKeyPair, json!({"algorithm": "Kyber768"}), "spec.algorithm: "),
            (Kind::SignatureKeyPair, json!({"algorithm": "Dilithium3"}), "ML-DSA-65"),
            (Kind::RandomNumber, json!({"seed": "x".repeat(48)}), "not deterministic"),
            (Kind::RandomNumber, json!({"seedURI": "https://example.org"}), "never fetched"),
            (Kind::RandomNumber, json!({"provider": "OpenSSL"}), "system's generator"),
            (Kind::Certificate, json!({"domain": "a.example", "algorithm": "ECDSA-P256"}), "quantum"),
        ] {
            let verdict = judged(kind, spec);
            assert_eq!((verdict.response.allowed, verdict.label.result), (true, "warned"));
            let [warning] = verdict.response.warnings.as_slice() else { panic!("{verdict:?}") };
            assert!(warning.contains(part) && !warning.contains("xxx"), "{warning}");
        }
        for kind in [Kind::KemKeyPair, Kind::SignatureKeyPair, Kind::RandomNumber] {
            assert_eq!(judged(kind, json!({})).label.result, "accepted");
        }
    }
}
