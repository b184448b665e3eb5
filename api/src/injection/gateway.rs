//! The pods of a gateway: the proxy alone, with what it needs to be part of the mesh.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, PodSpec, SleepAction};

use super::{Plan, Settings, sidecar};
use crate::{
    annotations::{ACCESS_LOG, Annotations, TRACE_SAMPLING},
    names::{self, PREFIX},
};

/// Seconds in which connections of a gateway that ends may end by themselves.
pub const GATEWAY_DRAIN: u32 = 30;
/// Seconds in which everybody hears that a pod takes no new connections, before it takes none.
const LEAVING: i64 = 5;
/// In which the proxy itself still accepts who has not heard, and then ends.
const LAST_WORDS: i64 = 10;

/// What a Gateway may wish for its pods, by annotations that its `spec.infrastructure` gives them.
const WISHES: [&str; 2] = [ACCESS_LOG, TRACE_SAMPLING];

/// Reads those wishes. Ours that do nothing there are refused, as all that is misspelt is.
pub fn gateway_annotations(infrastructure: &BTreeMap<String, String>) -> Result<Annotations, String> {
    let idle =
        infrastructure.keys().find(|name| name.starts_with(PREFIX) && !WISHES.contains(&name.as_str()));
    if let Some(name) = idle {
        return Err(format!(
            "annotation `{name}` does nothing on a gateway; there are {}",
            WISHES.join(", ")
        ));
    }
    Annotations::of(infrastructure, &BTreeMap::new()).map_err(|error| error.to_string())
}

/// The pods of gateway `namespace/name`.
pub fn gateway_pod(namespace: &str, name: &str, wishes: Annotations, settings: &Settings) -> PodSpec {
    let plan = Plan {
        annotations: Annotations {
            access_log: Some(wishes.access_log.unwrap_or(settings.gateway_access_log)),
            ..wishes
        },
        resources: settings.proxy.clone(),
        probe_ports: Default::default(),
        drain_seconds: GATEWAY_DRAIN,
        warnings: Vec::new(),
    };
    let mut proxy = sidecar::proxy(&plan, settings);
    let args = ["gateway", "--gateway-namespace", namespace, "--gateway-name", name];
    proxy.args = Some(args.map(str::to_owned).to_vec());
    // It is the pod, and not beside one.
    proxy.restart_policy = None;
    let sleep = Some(SleepAction { seconds: LEAVING });
    proxy.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler { sleep, ..LifecycleHandler::default() }),
        ..Lifecycle::default()
    });
    PodSpec {
        service_account_name: Some(names::gateway_workload(name)),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(LEAVING + i64::from(GATEWAY_DRAIN) + LAST_WORDS),
        containers: vec![proxy],
        volumes: Some(sidecar::volumes().into()),
        ..PodSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(wishes: &[(&str, &str)], settings: &Settings) -> BTreeMap<String, String> {
        let wishes: BTreeMap<String, String> =
            wishes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let wishes = gateway_annotations(&wishes).unwrap();
        let pod = gateway_pod("edge", "front", wishes, settings);
        let environment = pod.containers[0].env.iter().flatten();
        environment.filter_map(|one| Some((one.name.clone(), one.value.clone()?))).collect()
    }

    #[test]
    fn a_gateways_own_wishes_win_over_those_of_the_mesh() {
        use crate::annotations::AccessLog;
        let settings = Settings {
            access_log: AccessLog::Enabled,
            gateway_access_log: AccessLog::Errors,
            ..Settings::default()
        };
        let told = environment(&[], &settings);
        assert_eq!(told.get("TRELLIS_ACCESS_LOG").map(String::as_str), Some("errors"));
        assert_eq!(told.get("TRELLIS_TRACE_SAMPLING"), None);
        let told = environment(&[(ACCESS_LOG, "enabled"), (TRACE_SAMPLING, "0.5"), ("team", "a")], &settings);
        assert_eq!(told["TRELLIS_ACCESS_LOG"], "enabled");
        assert_eq!(told["TRELLIS_TRACE_SAMPLING"], "0.5");
        assert_eq!(environment(&[(ACCESS_LOG, "disabled")], &settings).get("TRELLIS_ACCESS_LOG"), None);
    }

    #[test]
    fn what_does_nothing_on_a_gateway_is_refused() {
        for (name, value, problem) in [
            ("trellis.dev/plaintext", "strict", "`trellis.dev/plaintext` does nothing on a gateway"),
            ("trellis.dev/acess-log", "enabled", "`trellis.dev/acess-log` does nothing on a gateway"),
            (ACCESS_LOG, "on", "there is no such access log"),
        ] {
            let wishes = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let error = gateway_annotations(&wishes).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
