//! Who may do what, as the chart tells the API server: rules in its expression language, evaluated here as far
//! as that can be done without an API server to say who may impersonate whom.

use std::fs;

use kube_cel::{AdmissionRequest, GroupVersionResource, VapEvaluator, VapExpression};
use serde_json::{Value, json};
use trellis_api::crypto::{GROUP, Kind};

/// The one object of a kind that the chart makes with its own values.
fn of_chart(kind: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/golden/default.yaml");
    let text = fs::read_to_string(path).unwrap();
    let start = format!("\nkind: {kind}\n");
    let [document] = text.split("\n---\n").filter(|part| part.contains(&start)).collect::<Vec<_>>()[..]
    else {
        panic!("there is not one {kind}");
    };
    serde_saphyr::from_str(document).unwrap()
}

struct Question<'a> {
    user: &'a str,
    resource: &'a str,
    object: Value,
    before: Option<Value>,
}

impl Question<'_> {
    fn holds(&self, expression: &str, message: Option<&str>) -> Result<(), String> {
        let mut evaluator = VapEvaluator::builder().object(self.object.clone()).request(AdmissionRequest {
            operation: if self.before.is_some() { "UPDATE" } else { "CREATE" }.into(),
            username: self.user.into(),
            namespace: "shop".into(),
            resource: GroupVersionResource { resource: self.resource.into(), ..Default::default() },
            ..Default::default()
        });
        if let Some(before) = &self.before {
            evaluator = evaluator.old_object(before.clone());
        }
        let expression = VapExpression {
            expression: expression.into(),
            message: None,
            message_expression: message.map(Into::into),
        };
        let result = evaluator.build().evaluate(&[expression]).remove(0);
        if result.passed { Ok(()) } else { Err(result.message.unwrap_or_default()) }
    }

    /// Whether all of these conditions hold: only then the question is one.
    fn is_asked(&self, conditions: &Value) -> bool {
        let conditions = conditions.as_array().unwrap().iter();
        // One after the other: what the first leaves out, the second need not understand.
        // What evaluates them spells the names of items as those of a custom resource's fields.
        let text = |one: &Value| one["expression"].as_str().unwrap().replace("'tls.crt'", "'tls__dot__crt'");
        conditions.into_iter().all(|one| self.holds(&text(one), None).is_ok())
    }
}

const AUTHORIZER: &str = "authorizer.group('').resource('serviceaccounts').namespace(request.namespace) \
                          .name(object.spec.serviceAccountName).check('impersonate').allowed()";

/// What the policy says, where the user may impersonate the account or not.
fn judged(question: &Question<'_>, impersonates: bool) -> Result<(), String> {
    let policy = of_chart("ValidatingAdmissionPolicy");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    if !question.is_asked(&policy["spec"]["matchConditions"]) {
        return Ok(());
    }
    let [validation] = &policy["spec"]["validations"].as_array().unwrap()[..] else { panic!("{policy}") };
    let expression = validation["expression"].as_str().unwrap();
    assert_eq!(expression.matches(AUTHORIZER).count(), 1, "{expression}");
    let expression = expression.replace(AUTHORIZER, if impersonates { "true" } else { "false" });
    question.holds(&expression, validation["messageExpression"].as_str())
}

fn signing(account: Option<&str>, message: &str) -> Value {
    let mut spec = json!({"privateKeyRef": {"name": "k"}, "messageRef": {"name": message}});
    if let Some(account) = account {
        spec["serviceAccountName"] = json!(account);
    }
    json!({"metadata": {"name": "s", "namespace": "shop"}, "spec": spec})
}

#[test]
fn only_an_account_itself_names_itself_or_who_may_impersonate_it() {
    let ask = |user, account: Option<&str>, before: Option<Value>| Question {
        user,
        resource: "quantumsignmessages",
        object: signing(account, "m"),
        before,
    };
    let own = "system:serviceaccount:shop:builder";
    let builder = Some("builder");
    assert_eq!(judged(&ask(own, builder, None), false), Ok(()));
    assert_eq!(judged(&ask("jane", builder, None), true), Ok(()));
    assert_eq!(judged(&ask("jane", None, None), false), Ok(()));
    for user in [
        "jane",
        "system:serviceaccount:other:builder",
        "system:serviceaccount:shop:builder2",
        "system:serviceaccount:shop:",
    ] {
        let said = judged(&ask(user, builder, None), false).unwrap_err();
        assert!(said.contains(user) && said.contains("shop/builder"), "{said}");
    }
    // Who changes what an account is doing, or who it is, does it in its name.
    let other = signing(builder, "another");
    assert!(judged(&ask("jane", builder, Some(other)), false).is_err());
    assert!(judged(&ask("jane", builder, Some(signing(None, "m"))), false).is_err());
    assert!(judged(&ask("jane", builder, Some(signing(Some("admin"), "m"))), false).is_err());
    // Labels are nobody's word.
    assert_eq!(judged(&ask("jane", builder, Some(signing(builder, "m"))), false), Ok(()));
    // To take the name away is to do it for nobody.
    assert_eq!(judged(&ask("jane", None, Some(signing(builder, "m"))), false), Ok(()));
}

#[test]
fn the_policy_is_for_every_kind_that_names_an_account_and_refuses() {
    let policy = of_chart("ValidatingAdmissionPolicy");
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]));
    let named: Vec<String> = Kind::ALL
        .into_iter()
        .filter(|kind| {
            let definition = trellis_api::crypto::definition(*kind, GROUP);
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            schema["properties"]["spec"]["properties"]["serviceAccountName"].is_object()
        })
        .map(Kind::plural)
        .collect();
    assert_eq!(rule["resources"], json!(named));
    let binding = of_chart("ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
}

#[test]
fn the_injector_is_asked_about_every_kind_and_about_nothing_that_stays_as_it_is() {
    let configuration = of_chart("ValidatingWebhookConfiguration");
    let [spec, warn, refuse] = &configuration["webhooks"].as_array().unwrap()[..] else {
        panic!("{configuration}")
    };
    assert_eq!(spec["rules"][0]["resources"], json!(Kind::ALL.map(Kind::plural)));
    let ask = |conditions: &Value, resource: &str, object: Value, before: Option<Value>| {
        Question { user: "jane", resource, object, before }.is_asked(conditions)
    };
    let of = |text: &str| json!({"spec": {"a": text}});
    for entry in [spec, warn, refuse] {
        let conditions = &entry["matchConditions"];
        for resource in ["ingresses", "gateways"] {
            assert!(ask(conditions, resource, of("x"), None));
            assert!(ask(conditions, resource, of("x"), Some(of("y"))));
            assert!(ask(conditions, resource, of("x"), Some(json!({}))));
            assert!(!ask(conditions, resource, of("x"), Some(of("x"))));
        }
    }
    let secret = |item: &str, content: &str| json!({"type": "Opaque", "data": {item: content}});
    for entry in [warn, refuse] {
        let conditions = &entry["matchConditions"];
        assert!(ask(conditions, "secrets", secret("tls.crt", "x"), None));
        assert!(ask(conditions, "secrets", secret("tls.crt", "x"), Some(secret("tls.crt", "y"))));
        assert!(ask(conditions, "secrets", secret("tls.crt", "x"), Some(json!({}))));
        assert!(!ask(conditions, "secrets", secret("tls.crt", "x"), Some(secret("tls.crt", "x"))));
        assert!(!ask(conditions, "secrets", secret("password", "x"), None));
        assert!(!ask(conditions, "secrets", json!({"type": "Opaque"}), None));
    }
}
