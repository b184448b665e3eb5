//! What the injector adds to a pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
        EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector, Pod, Probe, ProjectedVolumeSource,
        ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Volume,
        VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{Amounts, Plan, Resources, Settings, probes::Called, workload_api};
use crate::{
    annotations::{AccessLog, Egress, Ports, TraceSampling},
    names,
};

/// The kubelet replaces the token when four fifths of this are over.
const TOKEN_SECONDS: i64 = 3600;
const PROBE_PORTS: &str = "TRELLIS_PROBE_PORTS";
/// Where Kubernetes puts the application's token for its API into every container that has nothing there
/// yet, those that a webhook has added included. Ours have no use for it, and the proxy talks to
/// strangers.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An empty volume that takes its place.
pub(super) const NO_API_TOKEN_VOLUME: &str = "trellis-no-api-token";

/// The pod with everything that makes it a meshed one.
pub fn inject(pod: &Pod, plan: &Plan, settings: &Settings) -> Pod {
    let mut pod = pod.clone();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    // Whoever looks at the pod later, discovery for one, shall not need its namespace.
    annotations.extend(plan.annotations.inherited.clone());
    mark(annotations, settings);
    let spec = pod.spec.get_or_insert_default();
    let inits = spec.init_containers.get_or_insert_default();
    inits.splice(0..0, [capture(plan, settings), proxy(plan, settings)]);
    spec.volumes.get_or_insert_default().extend(volumes());
    if plan.annotations.workload_api.is_enabled() {
        workload_api::add(spec, plan.annotations.workload_api);
    }
    pod
}

/// Brings an injected pod up to date with containers that other webhooks have added to it since.
pub(super) fn refresh(pod: &mut Pod, settings: &Settings) -> Vec<String> {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    if !annotations.contains_key(names::INJECTED) || annotations.contains_key(names::NOT_INJECTED) {
        mark(annotations, settings);
    }
    let Some(spec) = &mut pod.spec else { return Vec::new() };
    let ports = Called::by_kubelet(spec).set();
    let inits = spec.init_containers.get_or_insert_default();
    if let Some(proxy) = inits.iter_mut().find(|container| container.name == names::PROXY_CONTAINER) {
        set_probe_ports(proxy.env.get_or_insert_default(), &ports);
    }
    workload_api::refresh(spec);
    let inits = spec.init_containers.get_or_insert_default();
    inits
        .iter()
        .take_while(|container| container.name != names::CAPTURE_CONTAINER)
        .map(|container| {
            format!(
                "trellis: init container `{}` starts before `{}`; its own connections are plaintext",
                container.name,
                names::CAPTURE_CONTAINER
            )
        })
        .collect()
}

/// Only the injector gives these names to init containers.
pub(super) fn is_ours(container: &Container) -> bool {
    [names::CAPTURE_CONTAINER, names::PROXY_CONTAINER].contains(&container.name.as_str())
}

fn mark(annotations: &mut BTreeMap<String, String>, settings: &Settings) {
    annotations.insert(names::INJECTED.to_owned(), settings.version.clone());
    annotations.remove(names::NOT_INJECTED);
}

fn capture(plan: &Plan, settings: &Settings) -> Container {
    let mut args = vec!["capture".to_owned()];
    for (flag, ports) in [
        ("--skip-inbound-ports", &plan.annotations.skip_inbound_ports),
        ("--skip-outbound-ports", &plan.annotations.skip_outbound_ports),
    ] {
        if !ports.is_empty() {
            args.extend([flag.to_owned(), ports.to_string()]);
        }
    }
    Container {
        name: names::CAPTURE_CONTAINER.to_owned(),
        image: Some(settings.images.capture.clone()),
        image_pull_policy: Some(settings.images.pull_policy.as_str().to_owned()),
        args: Some(args),
        resources: Some(requirements(&settings.capture)),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            // Added capabilities reach user 0 only. The pod's own default may say otherwise.
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            ..confined()
        }),
        volume_mounts: Some(vec![mount(NO_API_TOKEN_VOLUME, API_TOKEN_DIR)]),
        ..Container::default()
    }
}

pub(super) fn proxy(plan: &Plan, settings: &Settings) -> Container {
    Container {
        name: names::PROXY_CONTAINER.to_owned(),
        image: Some(settings.images.proxy.clone()),
        image_pull_policy: Some(settings.images.pull_policy.as_str().to_owned()),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment(plan, settings)),
        ports: Some(vec![
            port("trellis-tunnel", names::TUNNEL_PORT),
            port("trellis-metrics", names::METRICS_PORT),
            port("trellis-ready", names::READY_PORT),
        ]),
        resources: Some(requirements(&plan.resources)),
        // What makes it a sidecar that starts before and ends after the application.
        restart_policy: Some("Always".to_owned()),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            run_as_user: Some(names::PROXY_UID),
            run_as_group: Some(names::PROXY_UID),
            run_as_non_root: Some(true),
            ..confined()
        }),
        // The application starts when the proxy has its certificate.
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(120),
            ..probe("/ready")
        }),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/ready") }),
        liveness_probe: Some(Probe { period_seconds: Some(10), ..probe("/live") }),
        volume_mounts: Some(vec![
            mount(names::IDENTITY_VOLUME, names::IDENTITY_DIR),
            mount(NO_API_TOKEN_VOLUME, API_TOKEN_DIR),
        ]),
        ..Container::default()
    }
}

/// The proxy's flags, each as its environment variable.
fn environment(plan: &Plan, settings: &Settings) -> Vec<EnvVar> {
    let annotations = &plan.annotations;
    let leaf = annotations.leaf_algorithm.unwrap_or(settings.leaf_algorithm);
    let plaintext = annotations.plaintext.unwrap_or(settings.plaintext);
    let opaque = annotations.opaque_ports.as_ref().unwrap_or(&settings.opaque_ports);
    let log = annotations.proxy_log_level.as_ref().unwrap_or(&settings.log);
    let in_identity = |file: &str| format!("{}/{file}", names::IDENTITY_DIR);
    let mut all = vec![
        field("TRELLIS_POD_NAME", "metadata.name"),
        field("TRELLIS_POD_NAMESPACE", "metadata.namespace"),
        field("TRELLIS_POD_IPS", "status.podIPs"),
        field("TRELLIS_NODE_IPS", "status.hostIPs"),
        field("TRELLIS_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        text("TRELLIS_TRUST_DOMAIN", settings.trust_domain.clone()),
        text("TRELLIS_SYSTEM_NAMESPACE", settings.namespace.clone()),
        text("TRELLIS_CA_ADDRESS", settings.ca_address.clone()),
        text("TRELLIS_DISCOVERY_ADDRESS", settings.discovery_address.clone()),
        text("TRELLIS_TOKEN_FILE", in_identity(names::TOKEN_FILE)),
        text("TRELLIS_BUNDLE_FILE", in_identity(names::BUNDLE_FILE)),
        text("TRELLIS_LEAF_ALGORITHM", leaf.as_str().to_owned()),
        text("TRELLIS_LEAF_PINNED", annotations.leaf_algorithm.is_some().to_string()),
        text("TRELLIS_KEY_EXCHANGE", settings.key_exchange.as_str().to_owned()),
        text("TRELLIS_SIGNATURES", settings.signatures.as_str().to_owned()),
        text("TRELLIS_PLAINTEXT", plaintext.as_str().to_owned()),
        text("TRELLIS_OPAQUE_PORTS", opaque.to_string()),
        text("TRELLIS_DRAIN_SECONDS", plan.drain_seconds.to_string()),
        text("TRELLIS_LOG", log.as_str().to_owned()),
        text("TRELLIS_LOG_FORMAT", settings.log_format.as_str().to_owned()),
    ];
    if let Some(dual) = annotations.dual_identity {
        all.push(text("TRELLIS_DUAL_IDENTITY", dual.to_string()));
    }
    let egress = annotations.egress.as_ref().unwrap_or(&settings.egress);
    if *egress != Egress::Allow {
        all.push(text("TRELLIS_EGRESS", egress.to_string()));
    }
    let access_log = annotations.access_log.unwrap_or(settings.access_log);
    if access_log != AccessLog::Disabled {
        all.push(text("TRELLIS_ACCESS_LOG", access_log.to_string()));
    }
    let sampling = annotations.trace_sampling.unwrap_or(settings.trace_sampling);
    if sampling != TraceSampling::default() {
        all.push(text("TRELLIS_TRACE_SAMPLING", sampling.to_string()));
    }
    if let Some(endpoint) = &settings.otlp_endpoint {
        all.push(text("TRELLIS_OTLP_ENDPOINT", endpoint.clone()));
    }
    set_probe_ports(&mut all, &plan.probe_ports);
    all
}

/// In its place if it is there, at the end if not.
fn set_probe_ports(environment: &mut Vec<EnvVar>, ports: &Ports) {
    let wanted = text(PROBE_PORTS, ports.to_string());
    match environment.iter_mut().find(|variable| variable.name == PROBE_PORTS) {
        // An API server leaves an empty value out.
        Some(variable) if variable.value.as_deref().unwrap_or_default() == ports.to_string() => {}
        Some(variable) => *variable = wanted,
        None => environment.push(wanted),
    }
}

pub(super) fn text(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: None, field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

pub(super) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(names::READY_PORT.into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn requirements(resources: &Resources) -> ResourceRequirements {
    ResourceRequirements {
        requests: amounts(&resources.requests),
        limits: amounts(&resources.limits),
        claims: None,
    }
}

fn amounts(amounts: &Amounts) -> Option<BTreeMap<String, Quantity>> {
    let cpu = amounts.cpu.as_ref().map(|amount| ("cpu".to_owned(), amount.into()));
    let memory = amounts.memory.as_ref().map(|amount| ("memory".to_owned(), amount.into()));
    let all: BTreeMap<String, Quantity> = cpu.into_iter().chain(memory).collect();
    (!all.is_empty()).then_some(all)
}

/// What the proxy needs to have mounted.
pub(super) fn volumes() -> [Volume; 2] {
    [identity(), no_api_token()]
}

/// A token of the pod's own for the CA and nobody else, whether or not the application mounts one, and
/// the anchors by which the CA is known.
fn identity() -> Volume {
    Volume {
        name: names::IDENTITY_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: None,
            sources: Some(vec![
                VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some(names::TOKEN_AUDIENCE.to_owned()),
                        expiration_seconds: Some(TOKEN_SECONDS),
                        path: names::TOKEN_FILE.to_owned(),
                    }),
                    ..VolumeProjection::default()
                },
                VolumeProjection {
                    config_map: Some(ConfigMapProjection {
                        name: names::TRUST_CONFIG_MAP.to_owned(),
                        items: Some(vec![KeyToPath {
                            key: names::TRUST_BUNDLE_KEY.to_owned(),
                            path: names::BUNDLE_FILE.to_owned(),
                            mode: None,
                        }]),
                        optional: None,
                    }),
                    ..VolumeProjection::default()
                },
            ]),
        }),
        ..Volume::default()
    }
}

fn no_api_token() -> Volume {
    Volume {
        name: NO_API_TOKEN_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}
