//! What must hold before the installation, and afterwards still.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use trellis_api::names;

use super::{
    facts::{Before, NEEDED},
    report::{Check, few},
};

/// The oldest version with everything that Trellis builds on: sidecars that start before and end after
/// the application (stable in 1.33).
const OLDEST: (u32, u32) = (1, 33);
/// A leaf counts from this long before it was issued.
const SKEW: i64 = 60;
const PSA: &str = "pod-security.kubernetes.io/enforce";

/// Labels and annotations by which other meshes are told to inject the pods of a namespace.
const OTHERS: [(&str, &[&str], &str); 6] = [
    ("istio-injection", &["enabled"], "Istio"),
    ("istio.io/rev", &[], "Istio"),
    ("istio.io/dataplane-mode", &["ambient"], "Istio"),
    ("linkerd.io/inject", &["enabled", "ingress"], "Linkerd"),
    ("kuma.io/sidecar-injection", &["enabled"], "Kuma"),
    ("appmesh.k8s.aws/sidecarInjectorWebhook", &["enabled"], "AWS App Mesh"),
];

pub fn all(facts: &Before) -> Vec<Check> {
    let mut checks = cluster(facts);
    checks.push(rights(facts));
    checks.extend(namespaces(facts));
    checks
}

pub fn cluster(facts: &Before) -> Vec<Check> {
    let answers = Check::new("cluster", "the API server answers");
    let version = match &facts.version {
        Err(error) => {
            return vec![
                answers.failed(error.as_str(), "check the cluster and the kubeconfig with `kubectl version`"),
            ];
        }
        Ok(version) => version,
    };
    let enough = Check::new("cluster", "its version is 1.33 or newer");
    let enough = if (version.major, version.minor) >= OLDEST {
        enough.passed(version.text.as_str())
    } else {
        enough.failed(
            format!("it is {}, which has no sidecars that are stable", version.text),
            "upgrade the cluster to Kubernetes 1.33 or newer",
        )
    };
    vec![answers.passed(""), enough, clocks(facts)]
}

fn clocks(facts: &Before) -> Check {
    let check = Check::new("cluster", "the clocks agree");
    let remedy = "start a time service (NTP) here and on the nodes: certificates are judged by the clock";
    match facts.skew {
        Err(ref error) => check.warned(error.as_str(), remedy),
        Ok(skew) if skew.abs() > SKEW => {
            let which = if skew > 0 { "ahead of" } else { "behind" };
            check.warned(format!("the local clock is {} s {which} the API server's", skew.abs()), remedy)
        }
        Ok(_) => check.passed(""),
    }
}

fn rights(facts: &Before) -> Check {
    let check = Check::new("rights", "this user may make what the installation needs");
    match &facts.denied {
        Err(error) => check.failed(
            format!("it could not be asked: {error}"),
            "allow this user to create selfsubjectaccessreviews, as every authenticated user may by default",
        ),
        Ok(denied) if denied.is_empty() => check.passed(format!("{} rights", NEEDED.len())),
        Ok(denied) => check.failed(
            format!("not allowed: {}", few(denied)),
            "install as a user who may, such as one bound to cluster-admin",
        ),
    }
}

pub fn namespaces(facts: &Before) -> Vec<Check> {
    let all = match &facts.namespaces {
        Ok(all) => all,
        Err(error) => {
            return vec![
                Check::new("namespaces", "they can be listed")
                    .failed(error.as_str(), "allow this user to list namespaces"),
            ];
        }
    };
    vec![switches(all), system(facts, all), other_meshes(all), admission(all)]
}

/// The injector refuses the pods of a namespace whose label it cannot read.
fn switches(all: &[Namespace]) -> Check {
    let check = Check::new("namespaces", "the label that switches injection is enabled or disabled");
    let odd = all.iter().filter_map(|one| {
        let value = label(one, names::INJECT)?;
        let known = matches!(value, names::ENABLED | names::DISABLED);
        (!known).then(|| format!("{} ({value:?})", name(one)))
    });
    match odd.collect::<Vec<_>>().as_slice() {
        [] => check.passed(""),
        some => check.failed(
            format!("pods are refused in {}", few(some)),
            format!("kubectl label namespace NAME {}={} --overwrite", names::INJECT, names::ENABLED),
        ),
    }
}

fn system(facts: &Before, all: &[Namespace]) -> Check {
    let check = Check::new("namespaces", "the control plane's namespace admits restricted pods only");
    let name = &facts.system;
    let Some(system) = all.iter().find(|one| one.metadata.name.as_ref() == Some(name)) else {
        return check.skipped(format!("{name} is not there yet; the installation makes it"));
    };
    match label(system, PSA) {
        Some("restricted") => check.passed(""),
        found => check.warned(
            format!("namespace {name} enforces {}", found.unwrap_or("nothing")),
            format!("kubectl label namespace {name} {PSA}=restricted --overwrite"),
        ),
    }
}

fn other_meshes(all: &[Namespace]) -> Check {
    let check = Check::new("namespaces", "no other mesh injects the pods of a labelled namespace");
    let mut found = Vec::new();
    for namespace in all.iter().filter(|one| is_labelled(one)) {
        for (key, values, mesh) in OTHERS {
            let notes = namespace.metadata.annotations.as_ref().and_then(|all| all.get(key));
            let value = label(namespace, key).or(notes.map(String::as_str));
            if value.is_some_and(|value| values.is_empty() || values.contains(&value)) {
                found.push(format!("{} ({mesh}, by {key})", name(namespace)));
            }
        }
    }
    if found.is_empty() {
        return check.passed("");
    }
    check.failed(
        format!("two meshes would capture the same traffic in {}", few(&found)),
        format!("remove the other mesh's label or annotation, or {} from the namespace", names::INJECT),
    )
}

/// The capture step needs NET_ADMIN in the pod's own network namespace, which only `privileged` admits.
fn admission(all: &[Namespace]) -> Check {
    let check = Check::new("namespaces", "labelled namespaces admit the capture step");
    let mut by_level: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for namespace in all.iter().filter(|one| is_labelled(one)) {
        if let Some(level @ ("baseline" | "restricted")) = label(namespace, PSA) {
            by_level.entry(level).or_default().push(name(namespace));
        }
    }
    if by_level.is_empty() {
        return check.passed("");
    }
    let found: Vec<String> =
        by_level.iter().map(|(level, names)| format!("{} ({level})", few(names))).collect();
    check.failed(
        format!("Pod Security will refuse injected pods, which need NET_ADMIN, in {}", few(&found)),
        format!("kubectl label namespace NAME {PSA}=privileged --overwrite"),
    )
}

pub fn is_labelled(namespace: &Namespace) -> bool {
    label(namespace, names::INJECT) == Some(names::ENABLED)
}

pub fn name(namespace: &Namespace) -> &str {
    namespace.metadata.name.as_deref().unwrap_or_default()
}

fn label<'a>(namespace: &'a Namespace, key: &str) -> Option<&'a str> {
    namespace.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::{
        facts::Version,
        report::Outcome,
        samples::{before, labelled, namespace, outcome},
    };

    #[test]
    fn a_fit_cluster_passes_every_check() {
        for check in all(&before()) {
            assert!(matches!(check.outcome, Outcome::Passed(_)), "{check:?}");
        }
    }

    #[test]
    fn a_cluster_that_does_not_answer_is_one_problem_and_not_ten() {
        let mut facts = before();
        facts.version = Err("connection refused".into());
        let checks = cluster(&facts);
        assert_eq!(checks.len(), 1);
        assert_eq!(outcome(&checks, "the API server answers"), "failed: connection refused");
    }

    #[test]
    fn an_old_cluster_is_refused() {
        let version = "its version is 1.33 or newer";
        let mut facts = before();
        for (major, minor, fit) in [(1, 32, false), (1, 33, true), (1, 100, true), (2, 0, true)] {
            facts.version = Ok(Version { major, minor, text: format!("v{major}.{minor}.0") });
            assert_eq!(outcome(&all(&facts), version).starts_with("passed"), fit, "{major}.{minor}");
        }
    }

    #[test]
    fn clocks_that_differ_are_a_warning() {
        let mut facts = before();
        for (skew, said) in [
            (60, "passed: "),
            (61, "warned: the local clock is 61 s ahead of the API server's"),
            (-3600, "warned: the local clock is 3600 s behind the API server's"),
        ] {
            facts.skew = Ok(skew);
            assert_eq!(outcome(&all(&facts), "the clocks agree"), said);
        }
    }

    #[test]
    fn what_the_user_may_not_do_is_named() {
        let mut facts = before();
        facts.denied = Ok(vec![NEEDED[0], NEEDED[5]]);
        assert_eq!(
            outcome(&all(&facts), "this user may make what the installation needs"),
            "failed: not allowed: create namespaces, create deployments.apps"
        );
    }

    #[test]
    fn a_label_that_means_nothing_is_named() {
        let mut facts = before();
        facts.namespaces.as_mut().unwrap().push(namespace("a", json!({names::INJECT: "true"})));
        assert_eq!(
            outcome(&all(&facts), "the label that switches injection is enabled or disabled"),
            "failed: pods are refused in a (\"true\")"
        );
    }

    #[test]
    fn a_second_mesh_in_a_labelled_namespace_is_refused() {
        let name = "no other mesh injects the pods of a labelled namespace";
        let mut facts = before();
        let all_namespaces = facts.namespaces.as_mut().unwrap();
        // Not ours to judge.
        all_namespaces.push(namespace("theirs", json!({"istio-injection": "enabled"})));
        assert_eq!(outcome(&all(&facts), name), "passed: ");

        let ours = json!({names::INJECT: names::ENABLED, "istio.io/rev": "stable"});
        let mut linkerd = labelled("b");
        linkerd.metadata.annotations = Some([("linkerd.io/inject".to_owned(), "enabled".to_owned())].into());
        let mut off = labelled("c");
        off.metadata.annotations = Some([("linkerd.io/inject".to_owned(), "disabled".to_owned())].into());
        facts.namespaces.as_mut().unwrap().extend([namespace("a", ours), linkerd, off]);
        assert_eq!(
            outcome(&all(&facts), name),
            "failed: two meshes would capture the same traffic in a (Istio, by istio.io/rev), \
             b (Linkerd, by linkerd.io/inject)"
        );
    }

    #[test]
    fn a_namespace_that_would_refuse_injected_pods_is_named() {
        let name = "labelled namespaces admit the capture step";
        let mut facts = before();
        let enforced = |level: &str| json!({names::INJECT: names::ENABLED, PSA: level});
        facts.namespaces.as_mut().unwrap().extend([
            namespace("a", enforced("baseline")),
            namespace("b", enforced("privileged")),
            namespace("c", enforced("restricted")),
        ]);
        assert_eq!(
            outcome(&all(&facts), name),
            "failed: Pod Security will refuse injected pods, which need NET_ADMIN, in a (baseline), c (restricted)"
        );
    }

    #[test]
    fn the_control_planes_namespace_is_to_be_restricted() {
        let name = "the control plane's namespace admits restricted pods only";
        let mut facts = before();
        facts.namespaces = Ok(vec![namespace("trellis-system", json!({}))]);
        assert_eq!(outcome(&all(&facts), name), "warned: namespace trellis-system enforces nothing");
        facts.namespaces = Ok(Vec::new());
        assert!(outcome(&all(&facts), name).starts_with("skipped: trellis-system is not there yet"));
    }
}
