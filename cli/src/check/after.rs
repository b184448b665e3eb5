//! What must hold after the installation: the control plane works, trust is everywhere, pods are in the
//! mesh and their proxies have what they need.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use trellis_api::names;
use trellis_pki::bundle::Bundle;

use super::{
    before::{self, is_labelled, name},
    certificates,
    facts::{After, Trial},
    policies, proxies,
    report::{Check, few},
};
use crate::stat::{Workload, meshed};

/// The version of Trellis that this binary belongs to.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the kubelet leaves on the image of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
const DAY: i64 = 24 * 3600;
/// A root is replaced by an overlap of bundles, which takes planning.
const ROOT_NEAR_ITS_END: i64 = 90 * DAY;
const ROOT_AT_ITS_END: i64 = 7 * DAY;

pub fn all(facts: &After, now: Timestamp) -> Vec<Check> {
    let mut checks = before::cluster(&facts.before);
    checks.extend(before::namespaces(&facts.before));
    checks.extend(control_plane(facts));
    checks.extend([root(facts, now), trust(facts), ca_bundle(facts), trial(facts.trial.as_ref())]);
    checks.extend(pods(facts));
    checks.extend(proxies::all(facts, now));
    checks.extend(policies::all(facts));
    checks.extend(certificates::all(facts));
    checks
}

fn control_plane(facts: &After) -> Vec<Check> {
    let available = Check::new("control plane", "every deployment is available");
    let version = Check::new("control plane", "its version is this command's");
    let system = &facts.before.system;
    let deployments = match &facts.deployments {
        Ok(deployments) => deployments,
        Err(error) => {
            return vec![
                available.failed(error.as_str(), format!("allow this user to list deployments in {system}")),
            ];
        }
    };
    let mut unavailable = Vec::new();
    let mut skewed = Vec::new();
    for wanted in [names::CA, names::DISCOVERY, names::INJECTOR] {
        let Some(found) = deployments.iter().find(|one| one.metadata.name.as_deref() == Some(wanted)) else {
            unavailable.push(format!("{wanted} is not there"));
            continue;
        };
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = found.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        if replicas == 0 {
            unavailable.push(format!("{wanted} is scaled to nothing"));
        } else if ready < replicas {
            unavailable.push(format!("{wanted} has {ready} of {replicas} replicas"));
        }
        let template = found.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let images = template.iter().flat_map(|pod| &pod.containers).filter_map(|one| one.image.as_deref());
        skewed.extend(images.filter(|image| tag(image) != Some(VERSION)).map(str::to_owned));
    }
    if unavailable.len() == 3 && deployments.is_empty() {
        return vec![available.failed(format!("there is none in namespace {system}"), "trellis install")];
    }
    let available = match unavailable.as_slice() {
        [] => available.passed(""),
        some => available.failed(few(some), format!("kubectl describe deployments,pods -n {system}")),
    };
    let version = match skewed.as_slice() {
        [] => version.passed(VERSION),
        some => version.warned(
            format!("this is {VERSION}, and there runs {}", few(some)),
            "run `trellis install` to bring the cluster to this version, or use the `trellis` of the cluster's",
        ),
    };
    vec![available, version]
}

/// The tag of an image reference, which may have a port in its registry and a digest at its end.
fn tag(image: &str) -> Option<&str> {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    last.split_once(':').map(|(_, tag)| tag)
}

fn root(facts: &After, now: Timestamp) -> Check {
    let check = Check::new("trust", "the root is there and will last");
    let system = &facts.before.system;
    match &facts.root {
        Err(error) => {
            return check.failed(error.as_str(), format!("allow this user to see Secrets in {system}"));
        }
        Ok(false) => {
            return check.failed(
                format!("there is no Secret {system}/{}", names::ROOT_SECRET),
                format!(
                    "the CA makes it at its first start: kubectl logs -n {system} deployment/{}",
                    names::CA
                ),
            );
        }
        Ok(true) => {}
    }
    let bundle = match own_bundle(facts) {
        Ok(bundle) => bundle,
        Err(problem) => {
            return check.failed(problem, format!("kubectl logs -n {system} deployment/{}", names::CA));
        }
    };
    // While roots overlap, the one that lasts longest is the new one.
    let ends = bundle.anchors().iter().filter_map(|anchor| Timestamp::try_from(anchor.not_after).ok()).max();
    let Some(ends) = ends else { return check.failed("the bundle is empty", "restart the CA") };
    let left = ends.as_second() - now.as_second();
    let remedy = "rotate the root: add the new one to the bundle, issue from it, then remove the old one";
    if left <= ROOT_AT_ITS_END {
        check.failed(format!("it ends at {ends}"), remedy)
    } else if left <= ROOT_NEAR_ITS_END {
        check.warned(format!("it ends at {ends}"), remedy)
    } else {
        check.passed(format!("until {ends}"))
    }
}

/// The bundle that the CA publishes in its own namespace.
fn own_bundle(facts: &After) -> Result<Bundle, String> {
    let system = &facts.before.system;
    let place = format!("ConfigMap {system}/{}", names::TRUST_CONFIG_MAP);
    match facts.bundles.get(system) {
        Some(Ok(Some(pem))) => {
            Bundle::from_pem(&facts.trust_domain, pem).map_err(|error| format!("{place}: {error}"))
        }
        Some(Err(error)) => Err(format!("{place}: {error}")),
        Some(Ok(None)) | None => Err(format!("{place} is not there")),
    }
}

fn trust(facts: &After) -> Check {
    let check = Check::new("trust", "every namespace of the mesh has the CA's bundle");
    let Ok(own) = own_bundle(facts) else { return check.skipped("there is no bundle to compare with") };
    let mut wrong = Vec::new();
    for (namespace, bundle) in &facts.bundles {
        match bundle {
            Ok(Some(pem)) => match Bundle::from_pem(&facts.trust_domain, pem) {
                Ok(bundle) if bundle.fingerprint() == own.fingerprint() => {}
                Ok(_) => wrong.push(format!("{namespace} has another")),
                Err(error) => wrong.push(format!("{namespace}: {error}")),
            },
            Ok(None) => wrong.push(format!("{namespace} has none")),
            Err(error) => wrong.push(format!("{namespace}: {error}")),
        }
    }
    if wrong.is_empty() {
        return check.passed(format!(
            "{} anchors in {} namespaces",
            own.anchors().len(),
            facts.bundles.len()
        ));
    }
    let system = &facts.before.system;
    check.failed(
        few(&wrong),
        format!(
            "the CA repairs this by itself; if it does not: kubectl logs -n {system} deployment/{}",
            names::CA
        ),
    )
}

fn ca_bundle(facts: &After) -> Check {
    let check = Check::new("injector", "the webhook is registered with its CA");
    let remedy = format!("kubectl logs -n {} deployment/{}", facts.before.system, names::INJECTOR);
    match &facts.webhook {
        Err(error) => check.failed(error.as_str(), "allow this user to read mutatingwebhookconfigurations"),
        Ok(None) => check.failed(
            format!("there is no MutatingWebhookConfiguration {}", names::WEBHOOK_CONFIGURATION),
            "trellis install",
        ),
        Ok(Some(found)) => {
            let without = found.webhooks.iter().flatten().filter(|webhook| {
                webhook.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty())
            });
            let without: Vec<&str> = without.map(|webhook| webhook.name.as_str()).collect();
            match without.as_slice() {
                [] => check.passed(""),
                some => check.failed(format!("no caBundle in {}; the injector writes it", few(some)), remedy),
            }
        }
    }
}

/// The whole way at once: the API server finds the injector, believes its certificate, and gets a pod with
/// a proxy back.
fn trial(trial: Option<&Trial>) -> Check {
    let check = Check::new("injector", "a pod made on trial gets its proxy");
    let Some(Trial { namespace, outcome }) = trial else {
        return check.skipped(format!(
            "no namespace is labelled; kubectl label namespace NAME {}={}",
            names::INJECT,
            names::ENABLED
        ));
    };
    match outcome {
        Ok(pod) if meshed(pod) => check.passed(format!("in {namespace}")),
        Ok(pod) => {
            let notes = pod.metadata.annotations.as_ref();
            let why = notes.and_then(|all| all.get(names::NOT_INJECTED)).map_or("nothing", String::as_str);
            check.failed(
                format!("in {namespace} it came back without one; the injector said: {why}"),
                format!("kubectl get mutatingwebhookconfiguration {} -o yaml", names::WEBHOOK_CONFIGURATION),
            )
        }
        Err(error) => check.failed(format!("in {namespace}: {error}"), remedy(error)),
    }
}

fn remedy(error: &str) -> &'static str {
    if error.contains("x509") || error.contains("tls:") {
        "the caBundle is not that of the injector's certificate, which the injector repairs: restart it"
    } else if error.contains("failed calling webhook") {
        "the API server does not reach the injector: check its Deployment and what NetworkPolicies and \
         firewalls let from the API server to port 8443 of its pods"
    } else if error.contains("PodSecurity") {
        "kubectl label namespace NAME pod-security.kubernetes.io/enforce=privileged --overwrite"
    } else {
        "see what the message says; a pod of your own would be refused in the same way"
    }
}

fn pods(facts: &After) -> Vec<Check> {
    let check = Check::new("pods", "every pod of a labelled namespace is in the mesh");
    let (namespaces, pods) = match (&facts.before.namespaces, &facts.pods) {
        (Ok(namespaces), Ok(pods)) => (namespaces, pods),
        // Said already.
        (Err(_), _) => return vec![check.skipped("the namespaces are not known")],
        (_, Err(error)) => return vec![check.failed(error.as_str(), "allow this user to list pods")],
    };
    let labelled: Vec<&str> = namespaces.iter().filter(|one| is_labelled(one)).map(name).collect();
    let here = |pod: &&Pod| pod.metadata.namespace.as_deref().is_some_and(|own| labelled.contains(&own));
    let outside: Vec<&Pod> = pods.iter().filter(here).filter(|pod| lives(pod) && !meshed(pod)).collect();
    let (never, own): (Vec<&Pod>, Vec<&Pod>) =
        outside.into_iter().filter(|pod| !opted_out(pod)).partition(|pod| impossible(pod).is_some());
    let mut by_workload: BTreeMap<Workload, usize> = BTreeMap::new();
    for pod in own {
        *by_workload.entry(Workload::of(pod)).or_default() += 1;
    }
    let mut checks = Vec::new();
    checks.push(if by_workload.is_empty() {
        check.passed("")
    } else {
        let found: Vec<String> =
            by_workload.iter().map(|(workload, count)| format!("{workload} ({count})")).collect();
        let restart: Vec<String> = by_workload.keys().map(restart).collect();
        check.failed(format!("started before the label was there: {}", few(&found)), restart.join("; "))
    });
    let check = Check::new("pods", "every one of them can be");
    let names: Vec<String> = never
        .iter()
        .map(|pod| format!("{} ({})", Workload::of(pod), impossible(pod).unwrap_or_default()))
        .collect();
    checks.push(match names.as_slice() {
        [] => check.passed(""),
        some => check.warned(
            format!("the traffic of some cannot be captured and stays plaintext: {}", few(some)),
            format!(
                "set hostNetwork: false where the workload allows it, or say that this is meant with {}: {}",
                names::INJECT,
                names::DISABLED
            ),
        ),
    });
    checks
}

fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn opted_out(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    let says = |all: &Option<BTreeMap<String, String>>| {
        all.as_ref().and_then(|all| all.get(names::INJECT)).is_some_and(|value| value == names::DISABLED)
    };
    says(&meta.annotations) || says(&meta.labels)
}

/// Why a pod can never have a proxy, if so.
fn impossible(pod: &Pod) -> Option<&str> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return Some("host_network");
    }
    let notes = pod.metadata.annotations.as_ref()?;
    if notes.contains_key(MIRROR) {
        return Some("mirror_pod");
    }
    notes.get(names::NOT_INJECTED).map(String::as_str)
}

/// What brings a workload into the mesh.
pub fn restart(workload: &Workload) -> String {
    let Workload { namespace, name } = workload;
    match name.split_once('/') {
        Some(("deployment" | "statefulset" | "daemonset", _)) => {
            format!("kubectl rollout restart -n {namespace} {name}")
        }
        _ => format!("delete {name} in {namespace} and make it again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        report::Outcome,
        samples::{self, NOW, after, outcome, plain_pod},
    };

    fn checks(facts: &After) -> Vec<Check> {
        all(facts, NOW.parse().unwrap())
    }

    #[test]
    fn a_healthy_mesh_passes_every_check() {
        for check in checks(&after()) {
            assert!(matches!(check.outcome, Outcome::Passed(_)), "{check:?}");
        }
    }

    #[test]
    fn a_control_plane_that_is_not_all_there_is_named() {
        let mut facts = after();
        let deployments = facts.deployments.as_mut().unwrap();
        deployments[1].status.as_mut().unwrap().available_replicas = Some(1);
        deployments.remove(0);
        assert_eq!(
            outcome(&checks(&facts), "every deployment is available"),
            "failed: trellis-ca is not there, trellis-discovery has 1 of 2 replicas"
        );
        facts.deployments = Ok(Vec::new());
        assert_eq!(
            outcome(&checks(&facts), "every deployment is available"),
            "failed: there is none in namespace trellis-system"
        );
    }

    #[test]
    fn another_version_is_a_warning() {
        let mut facts = after();
        let deployment = &mut facts.deployments.as_mut().unwrap()[0];
        let pod = deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        pod.containers[0].image = Some("registry:5000/trellis.dev/ca:9.9.9@sha256:00".into());
        let said = outcome(&checks(&facts), "its version is this command's");
        assert!(said.starts_with("warned: this is") && said.contains("9.9.9"), "{said}");
    }

    #[test]
    fn the_tag_of_an_image_is_not_its_registrys_port() {
        for (image, expected) in [
            ("trellis.dev/ca:0.1.0", Some("0.1.0")),
            ("localhost:5000/ca", None),
            ("localhost:5000/ca:1@sha256:aa", Some("1")),
            ("ca", None),
        ] {
            assert_eq!(tag(image), expected);
        }
    }

    #[test]
    fn a_root_that_ends_soon_or_is_missing_is_named() {
        let name = "the root is there and will last";
        let mut facts = after();
        let at = |now: &str| all(&after(), now.parse().unwrap());
        assert!(outcome(&at("2026-11-01T00:00:00Z"), name).starts_with("warned: it ends at 2027-01-01"));
        assert!(outcome(&at("2026-12-30T00:00:00Z"), name).starts_with("failed: it ends at 2027-01-01"));
        facts.root = Ok(false);
        assert_eq!(
            outcome(&checks(&facts), name),
            "failed: there is no Secret trellis-system/trellis-ca-root"
        );
        facts.root = Ok(true);
        facts.bundles.insert("trellis-system".into(), Ok(None));
        assert_eq!(
            outcome(&checks(&facts), name),
            "failed: ConfigMap trellis-system/trellis-trust is not there"
        );
    }

    #[test]
    fn a_namespace_with_another_bundle_is_named() {
        let mut facts = after();
        facts.bundles.insert("a".into(), Ok(None));
        facts.bundles.insert("b".into(), Ok(Some("-----BEGIN".into())));
        facts.bundles.insert("c".into(), Ok(Some(samples::bundle())));
        let said = outcome(&checks(&facts), "every namespace of the mesh has the CA's bundle");
        assert!(said.starts_with("failed: a has none, b: the trust bundle"), "{said}");
        assert!(said.ends_with("c has another"), "{said}");
    }

    #[test]
    fn a_webhook_that_does_not_answer_is_told_from_one_that_is_not_believed() {
        let name = "a pod made on trial gets its proxy";
        let mut facts = after();
        for (error, says) in [
            ("failed calling webhook: x509: certificate signed by unknown authority", "caBundle"),
            ("failed calling webhook: no endpoints available", "does not reach the injector"),
            ("violates PodSecurity \"baseline:latest\"", "enforce=privileged"),
        ] {
            facts.trial = Some(Trial { namespace: "shop".into(), outcome: Err(error.into()) });
            let checks = checks(&facts);
            let check = checks.iter().find(|check| check.name == name).unwrap();
            let Outcome::Failed { remedy, .. } = &check.outcome else { panic!("{check:?}") };
            assert!(remedy.contains(says), "{remedy}");
        }
        let bare = plain_pod("shop", "trial", None);
        facts.trial = Some(Trial { namespace: "shop".into(), outcome: Ok(bare) });
        assert!(outcome(&checks(&facts), name).starts_with("failed: in shop it came back without one"));
        facts.trial = None;
        assert!(outcome(&checks(&facts), name).starts_with("skipped: no namespace is labelled"));
    }

    #[test]
    fn a_webhook_without_its_ca_is_named() {
        let name = "the webhook is registered with its CA";
        let mut facts = after();
        let webhook = facts.webhook.as_mut().unwrap().as_mut().unwrap();
        webhook.webhooks.as_mut().unwrap()[0].client_config.ca_bundle = None;
        assert!(outcome(&checks(&facts), name).starts_with("failed: no caBundle in namespace.inject"));
        facts.webhook = Ok(None);
        assert!(outcome(&checks(&facts), name).starts_with("failed: there is no Mutating"));
    }

    #[test]
    fn pods_that_are_not_in_the_mesh_are_named_with_what_brings_them_in() {
        let name = "every pod of a labelled namespace is in the mesh";
        let mut facts = after();
        let pods = facts.pods.as_mut().unwrap();
        pods.push(plain_pod("shop", "old-a", Some("old")));
        pods.push(plain_pod("shop", "old-b", Some("old")));
        pods.push(plain_pod("shop", "alone", None));
        // None of these is meant to be.
        pods.push(plain_pod("elsewhere", "free", None));
        let mut out = plain_pod("shop", "out", None);
        out.metadata.labels = Some([(names::INJECT.to_owned(), names::DISABLED.to_owned())].into());
        let mut done = plain_pod("shop", "done", None);
        done.status.as_mut().unwrap().phase = Some("Succeeded".into());
        pods.extend([out, done]);
        let mut agent = plain_pod("shop", "agent", None);
        agent.spec.as_mut().unwrap().host_network = Some(true);
        let mut windows = plain_pod("shop", "windows", None);
        windows.metadata.annotations = Some([(names::NOT_INJECTED.to_owned(), "windows".to_owned())].into());
        pods.extend([agent, windows]);

        let checks = checks(&facts);
        assert_eq!(
            outcome(&checks, name),
            "failed: started before the label was there: shop/deployment/old (2), shop/pod/alone (1)"
        );
        let check = checks.iter().find(|check| check.name == name).unwrap();
        let Outcome::Failed { remedy, .. } = &check.outcome else { panic!("{check:?}") };
        assert_eq!(
            remedy,
            "kubectl rollout restart -n shop deployment/old; delete pod/alone in shop and make it again"
        );
        assert_eq!(
            outcome(&checks, "every one of them can be"),
            "warned: the traffic of some cannot be captured and stays plaintext: \
             shop/pod/agent (host_network), shop/pod/windows (windows)"
        );
    }

    #[test]
    fn what_could_not_be_asked_is_never_passed() {
        let mut facts = after();
        let denied = || "forbidden".to_owned();
        facts.deployments = Err(denied());
        facts.root = Err(denied());
        facts.webhook = Err(denied());
        facts.pods = Err(denied());
        facts.policies = Err(denied());
        facts.before.namespaces = Err(denied());
        facts.bundles = BTreeMap::from([("trellis-system".to_owned(), Err(denied()))]);
        facts.trial = None;
        let passed: Vec<_> = checks(&facts)
            .into_iter()
            .filter(|check| matches!(check.outcome, Outcome::Passed(_)))
            .map(|check| check.category)
            .collect();
        assert_eq!(passed, ["cluster", "cluster", "cluster"]);
    }
}
