//! Whether policies say what can be understood: one that does not closes what it is for.

use trellis_api::pq_policy::PqPolicy;

use super::{
    facts::After,
    report::{Check, few},
};

pub fn all(facts: &After) -> Vec<Check> {
    let check = Check::new("policies", "every PQPolicy is understood");
    let policies = match &facts.policies {
        Ok(policies) => policies,
        Err(error) => return vec![check.failed(error.as_str(), "allow this user to list pqpolicies")],
    };
    let wrong: Vec<String> = policies.iter().filter_map(wrong).collect();
    vec![match wrong.as_slice() {
        [] if policies.is_empty() => check.skipped("there is none"),
        [] => check.passed(format!("{} policies", policies.len())),
        some => check.failed(
            few(some),
            "correct them: until then they demand Require and Strict of those whom they are for",
        ),
    }]
}

fn wrong(policy: &PqPolicy) -> Option<String> {
    let problems = policy.spec.read().problems;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = format!("{}/{}", text(&policy.metadata.namespace), text(&policy.metadata.name));
    problems.first().map(|problem| format!("{name}: {problem}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::samples::{after, outcome};

    #[test]
    fn a_policy_that_is_not_understood_is_named_with_its_field() {
        let name = "every PQPolicy is understood";
        let policy = |spec| {
            let object = json!({
                "apiVersion": "policy.trellis.dev/v1", "kind": "PQPolicy",
                "metadata": {"name": "first", "namespace": "shop"}, "spec": spec,
            });
            serde_json::from_value(object).unwrap()
        };
        let mut facts = after();
        assert_eq!(outcome(&all(&facts), name), "passed: 1 policies");
        facts.policies = Ok(Vec::new());
        assert_eq!(outcome(&all(&facts), name), "skipped: there is none");
        facts.policies = Ok(vec![policy(json!({"keyexchange": "Prefer"}))]);
        assert_eq!(
            outcome(&all(&facts), name),
            "failed: shop/first: keyexchange: there is no such field; did you mean keyExchange?"
        );
        facts.policies = Err("forbidden".into());
        assert_eq!(outcome(&all(&facts), name), "failed: forbidden");
    }
}
