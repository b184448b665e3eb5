//! The custom resource definitions in the chart are those of the types.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use kube::CustomResourceExt;
use serde_json::Value;
use trellis_api::{
    crypto::{GROUP, Kind, QUBESEC_GROUP, definition},
    pq_policy::PqPolicy,
    trust::TrustDomain,
};

#[test]
fn the_chart_holds_the_definition_of_trust_domains() {
    check::<TrustDomain>("trustdomains.yaml");
}

#[test]
fn the_chart_holds_the_definition_of_policies() {
    check::<PqPolicy>("pqpolicies.yaml");
}

#[test]
fn the_chart_holds_the_definitions_of_the_cryptographic_kinds() {
    for kind in Kind::ALL {
        compare(&definition(kind, GROUP), &format!("crypto/{}.yaml", kind.plural()));
    }
}

/// `cargo test -p trellis-api --test resources -- --ignored`, after a change of the types.
#[test]
#[ignore = "writes what the others compare with"]
fn the_definitions_of_the_cryptographic_kinds_are_written_anew() {
    for kind in Kind::ALL {
        let path = format!("{RESOURCES}/crypto/{}.yaml", kind.plural());
        std::fs::write(path, serde_saphyr::to_string(&definition(kind, GROUP)).unwrap()).unwrap();
    }
}

/// The chart makes them by replacing two lines.
#[test]
fn the_other_group_differs_by_its_name_alone() {
    for kind in Kind::ALL {
        let path = format!("{RESOURCES}/crypto/{}.yaml", kind.plural());
        let ours = std::fs::read_to_string(path).unwrap();
        let (name, group) = (format!("  name: {}.{GROUP}\n", kind.plural()), format!("  group: {GROUP}\n"));
        assert_eq!((ours.matches(&name).count(), ours.matches(&group).count()), (1, 1), "{kind:?}");
        let theirs = ours
            .replace(&name, &name.replace(GROUP, QUBESEC_GROUP))
            .replace(&group, &group.replace(GROUP, QUBESEC_GROUP));
        let theirs: Value = serde_saphyr::from_str(&theirs).unwrap();
        assert_eq!(theirs, definition(kind, QUBESEC_GROUP));
    }
}

const RESOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/trellis/resources");

fn check<K: CustomResourceExt>(file: &str) {
    let mut is = serde_json::to_value(K::crd()).unwrap();
    for version in is["spec"]["versions"].as_array_mut().unwrap() {
        // kube writes an empty list where Kubernetes has none.
        version.as_object_mut().unwrap().retain(|_, value| *value != Value::Array(Vec::new()));
    }
    is["metadata"]["labels"] = serde_json::json!({ "app.kubernetes.io/part-of": "trellis" });
    compare(&is, file);
}

fn compare(is: &Value, file: &str) {
    let path = format!("{RESOURCES}/{file}");
    let chart = std::fs::read_to_string(path).unwrap_or_default();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap_or_default();
    assert_eq!(*is, chart, "it is now:\n{}", serde_saphyr::to_string(is).unwrap());
}
