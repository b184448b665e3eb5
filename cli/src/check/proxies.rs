//! Whether each proxy is ready, of the control plane's version, and has a leaf that will be renewed.

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use trellis_api::names;

use super::{
    after::{VERSION, restart},
    facts::After,
    report::{Check, few},
};
use crate::stat::{Workload, meshed};

/// A leaf is renewed when at most a sixth of its life is left. As it began early for clocks that lag, and the
/// clocks that are asked about it may differ, what is left may be little more than a fourteenth. With less than
/// a sixteenth, renewal is late.
const LATE: i64 = 16;

pub fn all(facts: &After, now: Timestamp) -> Vec<Check> {
    let pods: Vec<&Pod> = facts.pods.iter().flatten().filter(|pod| meshed(pod)).collect();
    if pods.is_empty() {
        let why = if facts.pods.is_ok() { "there is no pod in the mesh" } else { "the pods are not known" };
        return vec![Check::new("proxies", "every proxy is ready, current and certified").skipped(why)];
    }
    vec![ready(&pods), version(&pods), leaves(facts, now)]
}

fn ready(pods: &[&Pod]) -> Check {
    let check = Check::new("proxies", "every proxy is ready");
    let not: Vec<String> = pods.iter().filter(|pod| !is_ready(pod)).map(|pod| full_name(pod)).collect();
    match not.first() {
        None => check.passed(""),
        Some(first) => {
            let (namespace, pod) = first.split_once('/').unwrap_or_default();
            check
                .failed(few(&not), format!("kubectl logs -n {namespace} {pod} -c {}", names::PROXY_CONTAINER))
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    containers.into_iter().flatten().any(|one| one.name == names::PROXY_CONTAINER && one.ready)
}

fn full_name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}

fn version(pods: &[&Pod]) -> Check {
    let check = Check::new("proxies", "every proxy is of this version");
    let mut others = Vec::new();
    let mut remedies = Vec::new();
    for pod in pods {
        let injected = pod.metadata.annotations.as_ref().and_then(|all| all.get(names::INJECTED));
        if let Some(by) = injected.filter(|by| *by != VERSION) {
            others.push(format!("{} ({by})", full_name(pod)));
            let remedy = restart(&Workload::of(pod));
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
    }
    match others.as_slice() {
        [] => check.passed(""),
        some => check.warned(few(some), remedies.join("; ")),
    }
}

fn leaves(facts: &After, now: Timestamp) -> Check {
    let check = Check::new("proxies", "every proxy has a leaf that is renewed in time");
    let mut failed = Vec::new();
    let mut late = Vec::new();
    for proxy in &facts.proxies {
        let name = &proxy.name;
        let leaf = match &proxy.evidence {
            Err(error) => {
                failed.push(format!("{name} could not be read: {error}"));
                continue;
            }
            Ok(evidence) => evidence.leaf.as_ref(),
        };
        let times = leaf.and_then(|leaf| {
            Some((leaf.not_before.parse::<Timestamp>().ok()?, leaf.not_after.parse::<Timestamp>().ok()?))
        });
        let Some((begins, ends)) = times else {
            failed.push(format!("{name} has none"));
            continue;
        };
        let (left, life) = (ends.as_second() - now.as_second(), ends.as_second() - begins.as_second());
        if left <= 0 {
            failed.push(format!("{name}'s ended at {ends}"));
        } else if left.saturating_mul(LATE) < life {
            late.push(format!("{name}'s ends at {ends} and was not renewed yet"));
        }
    }
    let remedy = format!(
        "see why the CA does not issue: kubectl logs -n {} deployment/{}, and the proxy's own log",
        facts.before.system,
        names::CA
    );
    if !failed.is_empty() {
        failed.extend(late);
        check.failed(few(&failed), remedy)
    } else if !late.is_empty() {
        check.warned(few(&late), remedy)
    } else {
        check.passed(format!("{} leaves", facts.proxies.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{NOW, after, outcome};

    fn checks(facts: &After, now: &str) -> Vec<Check> {
        all(facts, now.parse().unwrap())
    }

    #[test]
    fn a_proxy_that_is_not_ready_is_named() {
        let mut facts = after();
        let status = facts.pods.as_mut().unwrap()[0].status.as_mut().unwrap();
        status.init_container_statuses.as_mut().unwrap()[1].ready = false;
        let checks = checks(&facts, NOW);
        assert_eq!(outcome(&checks, "every proxy is ready"), "failed: shop/web-0");
    }

    #[test]
    fn a_proxy_of_another_version_is_a_warning() {
        let mut facts = after();
        let notes = facts.pods.as_mut().unwrap()[0].metadata.annotations.as_mut().unwrap();
        notes.insert(names::INJECTED.into(), "0.0.9".into());
        let checks = checks(&facts, NOW);
        assert_eq!(outcome(&checks, "every proxy is of this version"), "warned: shop/web-0 (0.0.9)");
    }

    #[test]
    fn a_leaf_is_late_missing_or_over() {
        let name = "every proxy has a leaf that is renewed in time";
        // From 07:44 for a day, renewed between 03:59 and 05:59, and a clock may be ten minutes ahead.
        for (now, said) in [
            ("2026-01-02T06:09:00Z", "passed: 1 leaves"),
            (
                "2026-01-02T06:30:00Z",
                "warned: shop/web-0's ends at 2026-01-02T07:44:00Z and was not renewed yet",
            ),
            ("2026-01-02T07:44:00Z", "failed: shop/web-0's ended at 2026-01-02T07:44:00Z"),
        ] {
            assert_eq!(outcome(&checks(&after(), now), name), said);
        }
        let mut facts = after();
        facts.proxies[0].evidence.as_mut().unwrap().leaf = None;
        assert_eq!(outcome(&checks(&facts, NOW), name), "failed: shop/web-0 has none");
        facts.proxies[0].evidence = Err("no answer within 10 s".into());
        assert_eq!(
            outcome(&checks(&facts, NOW), name),
            "failed: shop/web-0 could not be read: no answer within 10 s"
        );
    }
}
