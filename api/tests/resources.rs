//! The custom resource definitions in the chart are those of the types.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use kube::CustomResourceExt;
use serde_json::Value;
use trellis_api::{pq_policy::PqPolicy, trust::TrustDomain};

#[test]
fn the_chart_holds_the_definition_of_trust_domains() {
    check::<TrustDomain>("trustdomains.yaml");
}

#[test]
fn the_chart_holds_the_definition_of_policies() {
    check::<PqPolicy>("pqpolicies.yaml");
}

fn check<K: CustomResourceExt>(file: &str) {
    let mut is = serde_json::to_value(K::crd()).unwrap();
    for version in is["spec"]["versions"].as_array_mut().unwrap() {
        // kube writes an empty list where Kubernetes has none.
        version.as_object_mut().unwrap().retain(|_, value| *value != Value::Array(Vec::new()));
    }
    is["metadata"]["labels"] = serde_json::json!({ "app.kubernetes.io/part-of": "trellis" });
    let path = format!("{}/../charts/trellis/resources/{file}", env!("CARGO_MANIFEST_DIR"));
    let chart = std::fs::read_to_string(path).unwrap_or_default();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap_or_default();
    assert_eq!(is, chart, "it is now:\n{}", serde_saphyr::to_string(&is).unwrap());
}
