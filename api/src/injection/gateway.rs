//! The pods of a gateway: the proxy alone, with what it needs to be part of the mesh.

use k8s_openapi::api::core::v1::{Lifecycle, LifecycleHandler, PodSpec, SleepAction};

use super::{Plan, Settings, sidecar};
use crate::{annotations::Annotations, names};

/// Seconds in which connections of a gateway that ends may end by themselves.
pub const GATEWAY_DRAIN: u32 = 30;
/// Seconds in which everybody hears that a pod takes no new connections, before it takes none.
const LEAVING: i64 = 5;
/// In which the proxy itself still accepts who has not heard, and then ends.
const LAST_WORDS: i64 = 10;

/// The pods of gateway `namespace/name`.
pub fn gateway_pod(namespace: &str, name: &str, settings: &Settings) -> PodSpec {
    let plan = Plan {
        annotations: Annotations { access_log: Some(settings.gateway_access_log), ..Annotations::default() },
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
