//! What the fields of a policy mean, and what becomes of those that mean nothing.

use serde_json::json;

use super::*;

fn read(spec: Value) -> Reading {
    Reading::of(&spec)
}

/// Key exchange, signatures, plaintext.
fn line(spec: Value) -> String {
    let Reading { terms, problems } = read(spec);
    let ladder = |one: Option<Ladder>| one.map_or("-", Ladder::as_str);
    let plaintext = terms.plaintext.map_or("-", Plaintext::as_str);
    let reasons: Vec<_> = problems.iter().map(|one| one.reason).collect();
    let all = [ladder(terms.key_exchange), ladder(terms.signatures), plaintext, &reasons.join(",")];
    all.join(" ").trim().to_owned()
}

#[test]
fn the_ladders_and_the_short_form_mean_what_the_guide_says() {
    for (spec, means) in [
        (json!({}), "- - -"),
        (json!({"keyExchange": "Prefer"}), "Prefer - -"),
        (json!({"signatures": "Classical", "plaintext": "Strict"}), "- Classical strict"),
        (json!({"plaintext": "Permissive", "direction": "Outbound"}), "- - permissive"),
        // The short form.
        (
            json!({"algorithms": ["kyber768", "dilithium3"], "hybrid": true, "rollback": "enabled"}),
            "Prefer Prefer -",
        ),
        (
            json!({"algorithms": ["kyber768", "dilithium3"], "hybrid": true, "rollback": "disabled"}),
            "Require Require -",
        ),
        (json!({"algorithms": ["kyber768", "dilithium3"], "hybrid": true}), "Prefer Require -"),
        (json!({"algorithms": ["ML-KEM-768", "ML-DSA-87"]}), "Require Require -"),
        (json!({"algorithms": ["X25519MLKEM768", "X25519"]}), "Prefer - -"),
        (json!({"algorithms": ["X25519", "ecdsa-p256"]}), "Classical Classical -"),
        (json!({"algorithms": ["ml-dsa-65", "ECDSA-P256"]}), "- Prefer -"),
        (json!({"algorithms": ["dilithium5"], "rollback": "enabled"}), "- Prefer -"),
        (json!({"hybrid": true}), "Prefer - -"),
        (json!({"rollback": "enabled"}), "Prefer Prefer -"),
        (json!({"rollback": "disabled"}), "Require Require -"),
        // What is said in full wins.
        (json!({"rollback": "enabled", "keyExchange": "Require"}), "Require Prefer -"),
        (json!({"algorithms": ["kyber768"], "signatures": "Prefer"}), "Require Prefer -"),
    ] {
        assert_eq!(line(spec.clone()), means, "{spec}");
    }
}

#[test]
fn what_is_not_understood_demands_everything_and_says_why() {
    for (spec, reason, message) in [
        (
            json!({"keyexchange": "Prefer"}),
            UNKNOWN_FIELD,
            "keyexchange: there is no such field; did you mean keyExchange?",
        ),
        (json!({"mode": "pq"}), UNKNOWN_FIELD, "mode: there is no such field; there are selector,"),
        (
            json!({"keyExchange": "prefer"}),
            UNKNOWN_VALUE,
            "keyExchange: \"prefer\" means nothing here; write Classical, Prefer or Require",
        ),
        (json!({"signatures": 3}), UNKNOWN_VALUE, "signatures: 3 means"),
        (
            json!({"plaintext": "Denied"}),
            UNKNOWN_VALUE,
            "plaintext: \"Denied\" means nothing here; write Permissive or Strict",
        ),
        (json!({"direction": "In"}), UNKNOWN_VALUE, "direction: \"In\""),
        (json!({"hybrid": false}), UNKNOWN_VALUE, "hybrid: false means nothing here; write true"),
        (
            json!({"rollback": true}),
            UNKNOWN_VALUE,
            "rollback: true means nothing here; write enabled or disabled",
        ),
        (
            json!({"algorithms": ["kyber1024"]}),
            UNKNOWN_ALGORITHM,
            "algorithms: \"kyber1024\" is not offered here; the mesh's key exchange",
        ),
        (
            json!({"algorithms": ["falcon512"]}),
            UNKNOWN_ALGORITHM,
            "algorithms: \"falcon512\" is not offered here; write names",
        ),
        (json!({"algorithms": []}), UNKNOWN_VALUE, "algorithms: [] means"),
        (
            json!({"algorithms": ["x25519"], "rollback": "disabled"}),
            CONTRADICTION,
            "rollback: disabled: algorithms lists classical key exchange",
        ),
        (json!({"algorithms": ["x25519"], "hybrid": true}), CONTRADICTION, "hybrid: true"),
        (json!({"selector": {"app": "web"}}), UNKNOWN_FIELD, "selector.app: there is no such field"),
        (
            json!({"selector": "app=web"}),
            UNKNOWN_VALUE,
            "selector: \"app=web\" means nothing here; write labels",
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            UNKNOWN_VALUE,
            "selector.matchExpressions.operator: \"Near\"",
        ),
        (json!({"selector": {}, "targetRefs": []}), CONTRADICTION, "selector: a policy is for"),
        (json!({"targetRefs": [{"kind": "Service", "name": "web"}]}), UNKNOWN_VALUE, "targetRefs: "),
        (json!(["keyExchange"]), UNKNOWN_VALUE, "spec: [\"keyExchange\"] means"),
    ] {
        let Reading { terms, problems } = read(spec.clone());
        assert_eq!(problems[0].reason, reason, "{spec}");
        assert!(problems[0].message.starts_with(message), "{spec}: {}", problems[0].message);
        let demands = (terms.key_exchange, terms.signatures, terms.plaintext);
        assert_eq!(
            demands,
            (Some(Ladder::Require), Some(Ladder::Require), Some(Plaintext::Strict)),
            "{spec}"
        );
    }
}

#[test]
fn what_is_closed_is_what_was_meant_as_far_as_that_can_be_read() {
    let closed = read(json!({
        "selector": {"matchLabels": {"app": "web"}}, "direction": "Outbound", "keyExchange": "Perhaps",
    }));
    assert!(matches!(closed.terms.scope, Scope::Workloads(_)));
    assert_eq!(closed.terms.direction, Direction::Outbound);
    // Who it was for is not known: everybody where it stands.
    assert_eq!(read(json!({"selectr": {}, "keyExchange": "Prefer"})).terms.scope, Scope::All);
}

#[test]
fn gateways_and_listeners_are_named() {
    let target = |section: Option<&str>| {
        let mut one = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
        if let Some(section) = section {
            one["sectionName"] = json!(section);
        }
        one
    };
    let read_at = |section, more: Value| {
        let mut spec = more;
        spec["targetRefs"] = json!([target(section)]);
        read(spec)
    };
    let whole = read_at(None, json!({"signatures": "Require"}));
    let edge = |listener| Target { gateway: "edge".into(), listener };
    assert_eq!((whole.terms.scope, whole.problems), (Scope::Gateways(vec![edge(None)]), vec![]));
    let one = read_at(Some("https"), json!({"keyExchange": "Require"}));
    assert_eq!(one.terms.scope, Scope::Gateways(vec![edge(Some("https".into()))]));
    assert!(one.problems.is_empty());
    for more in [json!({"signatures": "Prefer"}), json!({"direction": "Outbound"})] {
        assert_eq!(read_at(Some("https"), more).problems[0].reason, CONTRADICTION);
    }
}

#[test]
fn both_directions_of_plaintext_are_those_who_come_in() {
    let strict = |direction: &str, side| {
        read(json!({"plaintext": "Strict", "direction": direction})).terms.plaintext(side).is_some()
    };
    use Direction::{Inbound, Outbound};
    assert!(strict("Both", Inbound) && !strict("Both", Outbound));
    assert!(strict("Inbound", Inbound) && !strict("Inbound", Outbound));
    assert!(!strict("Outbound", Inbound) && strict("Outbound", Outbound));
}
