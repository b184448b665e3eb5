//! A healthy mesh, for tests that then break one thing of it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::core::v1::{Namespace, Pod},
    jiff::Timestamp,
};
use serde_json::{Value, json};
use trellis_api::{enforcement::ENFORCE, names};
use trellis_pki::{algorithm::Algorithm, bundle::Bundle, issue::Issuer, key::PrivateKey};

use super::{
    after::VERSION,
    facts::{After, Before, Enforced, Trial, Version},
    report::{Check, Outcome},
};
use crate::stat;

pub const NOW: &str = "2026-01-01T12:00:00Z";
const ROOT_ENDS: &str = "2027-01-01T00:00:00Z";

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub fn before() -> Before {
    Before {
        system: "trellis-system".into(),
        version: Ok(Version { major: 1, minor: 36, text: "v1.36.3".into() }),
        skew: Ok(0),
        denied: Ok(Vec::new()),
        namespaces: Ok(vec![
            namespace("trellis-system", json!({"pod-security.kubernetes.io/enforce": "restricted"})),
            namespace("elsewhere", json!({ENFORCE: "deny"})),
            labelled("shop"),
        ]),
    }
}

pub fn after() -> After {
    let bundle = bundle();
    After {
        before: before(),
        deployments: Ok(vec![
            deployment("trellis-ca", 1),
            deployment("trellis-discovery", 2),
            deployment("trellis-injector", 2),
        ]),
        root: Ok(true),
        trust_domain: "cluster.local".into(),
        bundles: BTreeMap::from([
            ("trellis-system".to_owned(), Ok(Some(bundle.clone()))),
            ("shop".to_owned(), Ok(Some(bundle))),
        ]),
        webhook: Ok(Some(object(json!({
            "metadata": {"name": "trellis-injector"},
            "webhooks": [{
                "name": "namespace.inject.trellis.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"caBundle": "LS0tLS0="}
            }]
        })))),
        trial: Some(Trial { namespace: "shop".into(), outcome: Ok(mesh_pod("shop", "trial")) }),
        pods: Ok(vec![mesh_pod("shop", "web-0")]),
        policies: Ok(vec![object(json!({
            "apiVersion": "policy.trellis.dev/v1", "kind": "PQPolicy",
            "metadata": {"name": "first", "namespace": "shop"}, "spec": {"keyExchange": "Prefer"},
        }))]),
        enforced: BTreeMap::from([("elsewhere".to_owned(), Ok(Enforced::default()))]),
        proxies: vec![stat::samples::seen(
            "web-0",
            "deployment/web",
            "spiffe://cluster.local/ns/shop/sa/web",
            vec![],
            vec![],
        )],
    }
}

/// The bundle of a new CA.
pub fn bundle() -> String {
    let ends = SystemTime::from(ROOT_ENDS.parse::<Timestamp>().unwrap());
    let year = Duration::from_secs(365 * 24 * 3600);
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    // The issuer backdates; what counts here is the end.
    let begins = ends - year + trellis_pki::issue::backdate(year);
    let issuer = Issuer::new_root("cluster.local", key, begins, year).unwrap();
    Bundle::new("cluster.local", vec![issuer.anchor().clone()]).unwrap().to_pem()
}

pub fn namespace(name: &str, labels: Value) -> Namespace {
    object(json!({"metadata": {"name": name, "labels": labels}}))
}

pub fn labelled(name: &str) -> Namespace {
    namespace(name, json!({names::INJECT: names::ENABLED}))
}

fn deployment(name: &str, replicas: i32) -> k8s_openapi::api::apps::v1::Deployment {
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {},
            "template": {"spec": {"containers": [{"name": "it", "image": format!("trellis.dev/it:{VERSION}")}]}}
        },
        "status": {"availableReplicas": replicas}
    }))
}

pub fn mesh_pod(namespace: &str, name: &str) -> Pod {
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {"startedAt": "2026-01-01T08:00:00Z"}}
        })
    };
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "annotations": {names::INJECTED: VERSION}},
        "spec": {"containers": []},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [container(names::CAPTURE_CONTAINER), container(names::PROXY_CONTAINER)]
        }
    }))
}

pub fn plain_pod(namespace: &str, name: &str, deployment: Option<&str>) -> Pod {
    let owner = deployment.map(|deployment| {
        json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-abc"), "uid": "u",
            "controller": true
        }])
    });
    object(json!({
        "metadata": {
            "namespace": namespace, "name": name, "ownerReferences": owner, "labels": {"pod-template-hash": "abc"}
        },
        "spec": {"containers": []},
        "status": {"phase": "Running"}
    }))
}

/// The outcome of the check with this name, in a word and what was found.
pub fn outcome(checks: &[Check], name: &str) -> String {
    let check = checks.iter().find(|check| check.name == name).unwrap();
    match &check.outcome {
        Outcome::Passed(found) => format!("passed: {found}"),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Warned { problem, .. } => format!("warned: {problem}"),
        Outcome::Failed { problem, .. } => format!("failed: {problem}"),
    }
}
