//! Whether a pod is injected, as a truth table. The first row that applies decides.
//!
//! | # | what is seen | decision |
//! |---|---|---|
//! | 1 | the namespace is the control plane's, or one of Kubernetes' own | skip `system_namespace` |
//! | 2 | `trellis-capture` and `trellis-proxy` are among the init containers | rows 9 and 10, then skip `already_injected` |
//! | 3 | the pod's switch is neither `enabled` nor `disabled`, or its label and its annotation differ | refuse |
//! | 4 | the pod's switch is `disabled` | skip `pod_opted_out` |
//! | 5 | the pod has no switch, and its namespace's label | |
//! | | is absent | skip `not_asked` |
//! | | is `disabled` | skip `namespace_opted_out` |
//! | | is neither `enabled` nor `disabled` | refuse |
//! | 6 | from here on the pod is to be injected: it mirrors a static pod | skip `mirror_pod`, and say so |
//! | 7 | it uses its node's network | skip `host_network`, and say so |
//! | 8 | it runs on Windows | skip `windows`, and say so |
//! | 9 | a container runs as the proxy's user, whose traffic is not captured | refuse |
//! | 10 | a container listens, or is probed, on a port of the proxy | refuse |
//! | 11 | a name that the injector gives is taken, or only one of its two containers is there | refuse |
//! | 12 | an annotation is unknown, malformed, or contradicts another value | refuse |
//! | 13 | anything else | inject |
//!
//! The pod's switch is the annotation `trellis.dev/inject`, or the label of that name: webhooks are
//! chosen by labels only, so a pod that wants to be meshed in a namespace that is not carries the label.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{
    Ladder, Namespace, Resources, Settings,
    probes::Called,
    sidecar::{NO_API_TOKEN_VOLUME, is_ours},
};
use crate::{
    annotations::{self, AnnotationError, Annotations, Ports, Switch},
    names,
    trust::KeyAlgorithm,
};

/// Namespaces of Kubernetes itself. What runs there must start without the mesh.
const KUBERNETES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The kubelet's mark on the mirror of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
const DEFAULT_GRACE: i64 = 30;
/// What the kubelet needs of the grace period after the proxy is done.
const MARGIN: i64 = 5;

const PORTS: [u16; 6] = [
    names::OUTBOUND_PORT,
    names::INBOUND_PORT,
    names::TUNNEL_PORT,
    names::ADMIN_PORT,
    names::METRICS_PORT,
    names::READY_PORT,
];

#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Inject(Box<Plan>),
    Skip(Skip),
    Refuse(Refusal),
}

/// All that differs from pod to pod in what is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub annotations: Annotations,
    pub resources: Resources,
    pub probe_ports: Ports,
    pub drain_seconds: u32,
    pub warnings: Vec<String>,
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    SystemNamespace,
    AlreadyInjected,
    NotAsked,
    NamespaceOptedOut,
    PodOptedOut,
    MirrorPod,
    HostNetwork,
    Windows,
}

/// Why a pod is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the pod has no spec")]
    NoSpec,
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(
        "label `{name}: {value}` of the {holder}: this is no position of the switch; write `enabled` or \
         `disabled`",
        name = names::INJECT
    )]
    Label { holder: annotations::Holder, value: String },
    #[error(
        "the pod's label and its annotation `{name}` differ: `{label}` and `{annotation}`; remove one of \
         them",
        name = names::INJECT
    )]
    Undecided { label: String, annotation: String },
    #[error(
        "container `{0}` runs as user {uid}, whose traffic would pass by the proxy; give it another \
         `runAsUser`",
        uid = names::PROXY_UID
    )]
    ProxyUser(String),
    #[error(
        "container `{container}` uses port {port}, on which the proxy listens; choose another port, or \
         opt the pod out with `{name}: disabled`",
        name = names::INJECT
    )]
    ProxyPort { container: String, port: u16 },
    #[error("the pod has a {kind} of its own called `{name}`, a name that the injector gives; rename it")]
    NameTaken { kind: &'static str, name: &'static str },
    #[error("the pod has the init container `{present}` but not `{missing}`; remove it, and both are added")]
    HalfInjected { present: &'static str, missing: &'static str },
    #[error(
        "the proxy's limit of {resource} is below its request ({amounts}); set both \
         `trellis.dev/proxy-{resource}-request` and `trellis.dev/proxy-{resource}-limit`"
    )]
    Resources { resource: &'static str, amounts: String },
    #[error(
        "annotation `{name}: {drain}` leaves the kubelet nothing of the pod's grace period of {grace} \
         seconds; lower it, or raise `terminationGracePeriodSeconds`",
        name = annotations::DRAIN_SECONDS
    )]
    Drain { drain: u32, grace: i64 },
    #[error(
        "annotation `{dual}: enabled` beside `{leaf}: ecdsa-p256`: the second certificate is the ECDSA one; \
         remove one of them, or write `{dual}: disabled`",
        dual = annotations::DUAL_IDENTITY, leaf = annotations::LEAF_ALGORITHM
    )]
    Dual,
}

/// See the table above.
pub fn decide(pod: &Pod, namespace: &Namespace, settings: &Settings) -> Decision {
    match judge(pod, namespace, settings) {
        Ok(Ok(plan)) => Decision::Inject(Box::new(plan)),
        Ok(Err(skip)) => Decision::Skip(skip),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn judge(pod: &Pod, namespace: &Namespace, settings: &Settings) -> Result<Result<Plan, Skip>, Refusal> {
    if namespace.name == settings.namespace || KUBERNETES.contains(&namespace.name.as_str()) {
        return Ok(Err(Skip::SystemNamespace));
    }
    let spec = pod.spec.as_ref().ok_or(Refusal::NoSpec)?;
    let called = Called::by_kubelet(spec);
    if is_injected(spec) && !is_mirror(pod) {
        check_user(spec)?;
        check_ports(spec, &called)?;
        return Ok(Err(Skip::AlreadyInjected));
    }
    let nothing = BTreeMap::new();
    let on_pod = pod.metadata.annotations.as_ref().unwrap_or(&nothing);
    if let Some(skip) = unwanted(pod, on_pod, namespace)?.or_else(|| impossible(pod, spec)) {
        return Ok(Err(skip));
    }
    check_user(spec)?;
    check_ports(spec, &called)?;
    check_names(spec)?;
    let annotations = Annotations::of(on_pod, &namespace.annotations)?;
    check_dual(&annotations)?;
    let plan = Plan {
        resources: resources(&annotations, settings)?,
        drain_seconds: drain(spec, &annotations)?,
        probe_ports: called.set(),
        warnings: warnings(namespace, &called, &annotations, settings),
        annotations,
    };
    Ok(Ok(plan))
}

fn unwanted(
    pod: &Pod,
    annotations: &BTreeMap<String, String>,
    namespace: &Namespace,
) -> Result<Option<Skip>, Refusal> {
    let annotation = annotations::switch(annotations)?;
    let label = label(pod.metadata.labels.as_ref(), annotations::Holder::Pod)?;
    if let (Some(label), Some(annotation)) = (label, annotation)
        && label != annotation
    {
        let (label, annotation) = (label.to_string(), annotation.to_string());
        return Err(Refusal::Undecided { label, annotation });
    }
    match annotation.or(label) {
        Some(Switch::Enabled) => Ok(None),
        Some(Switch::Disabled) => Ok(Some(Skip::PodOptedOut)),
        None => Ok(match self::label(Some(&namespace.labels), annotations::Holder::Namespace)? {
            Some(Switch::Enabled) => None,
            Some(Switch::Disabled) => Some(Skip::NamespaceOptedOut),
            None => Some(Skip::NotAsked),
        }),
    }
}

fn label(
    labels: Option<&BTreeMap<String, String>>,
    holder: annotations::Holder,
) -> Result<Option<Switch>, Refusal> {
    let Some(value) = labels.and_then(|labels| labels.get(names::INJECT)) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| Refusal::Label { holder, value: value.clone() })
}

fn impossible(pod: &Pod, spec: &PodSpec) -> Option<Skip> {
    let selects_windows = || {
        let selector = spec.node_selector.as_ref()?;
        Some(selector.get("kubernetes.io/os")? == "windows")
    };
    if is_mirror(pod) {
        Some(Skip::MirrorPod)
    } else if spec.host_network.unwrap_or(false) {
        Some(Skip::HostNetwork)
    } else if spec.os.as_ref().is_some_and(|os| os.name == "windows") || selects_windows().unwrap_or(false) {
        Some(Skip::Windows)
    } else {
        None
    }
}

/// Whether the API server takes the pod as its node's kubelet wrote it, or not at all.
pub(super) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

fn is_injected(spec: &PodSpec) -> bool {
    [names::CAPTURE_CONTAINER, names::PROXY_CONTAINER].into_iter().all(|name| has_init(spec, name))
}

fn has_init(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|container| container.name == name)
}

/// The application's containers, those that start before it included.
fn theirs(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.chain(&spec.containers).filter(|container| !is_ours(container))
}

fn check_user(spec: &PodSpec) -> Result<(), Refusal> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    for container in theirs(spec) {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        if own.or(of_pod) == Some(names::PROXY_UID) {
            return Err(Refusal::ProxyUser(container.name.clone()));
        }
    }
    Ok(())
}

fn check_ports(spec: &PodSpec, called: &Called) -> Result<(), Refusal> {
    for container in theirs(spec) {
        let tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|name| name == "TCP");
        for port in container.ports.iter().flatten().filter(|port| tcp(&port.protocol)) {
            if let Some(port) = PORTS.into_iter().find(|ours| i32::from(*ours) == port.container_port) {
                return Err(Refusal::ProxyPort { container: container.name.clone(), port });
            }
        }
    }
    match called.ports.iter().find(|(_, port)| PORTS.contains(port)) {
        Some((container, port)) => Err(Refusal::ProxyPort { container: container.clone(), port: *port }),
        None => Ok(()),
    }
}

fn check_names(spec: &PodSpec) -> Result<(), Refusal> {
    let (capture, proxy) = (names::CAPTURE_CONTAINER, names::PROXY_CONTAINER);
    for (present, missing) in [(capture, proxy), (proxy, capture)] {
        if has_init(spec, present) {
            return Err(Refusal::HalfInjected { present, missing });
        }
        if spec.containers.iter().any(|container| container.name == present) {
            return Err(Refusal::NameTaken { kind: "container", name: present });
        }
    }
    let taken = |name: &str| spec.volumes.iter().flatten().any(|volume| volume.name == name);
    let ours = [names::IDENTITY_VOLUME, NO_API_TOKEN_VOLUME, names::WORKLOAD_API_VOLUME];
    match ours.into_iter().find(|name| taken(name)) {
        Some(name) => Err(Refusal::NameTaken { kind: "volume", name }),
        None => Ok(()),
    }
}

fn resources(annotations: &Annotations, settings: &Settings) -> Result<Resources, Refusal> {
    let mut wanted = settings.proxy.clone();
    let Annotations { proxy_cpu_request, proxy_cpu_limit, proxy_memory_request, proxy_memory_limit, .. } =
        annotations.clone();
    wanted.requests.cpu = proxy_cpu_request.or(wanted.requests.cpu);
    wanted.limits.cpu = proxy_cpu_limit.or(wanted.limits.cpu);
    wanted.requests.memory = proxy_memory_request.or(wanted.requests.memory);
    wanted.limits.memory = proxy_memory_limit.or(wanted.limits.memory);
    match wanted.contradiction() {
        Some((resource, amounts)) => Err(Refusal::Resources { resource, amounts }),
        None => Ok(wanted),
    }
}

fn drain(spec: &PodSpec, annotations: &Annotations) -> Result<u32, Refusal> {
    let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    match annotations.drain_seconds {
        Some(drain) if i64::from(drain) >= grace => Err(Refusal::Drain { drain, grace }),
        Some(drain) => Ok(drain),
        None => Ok(u32::try_from((grace - MARGIN).max(1)).unwrap_or(u32::MAX)),
    }
}

fn check_dual(annotations: &Annotations) -> Result<(), Refusal> {
    let classical = annotations.leaf_algorithm == Some(KeyAlgorithm::EcdsaP256);
    match annotations.dual_identity {
        Some(Switch::Enabled) if classical => Err(Refusal::Dual),
        _ => Ok(()),
    }
}

fn warnings(
    namespace: &Namespace,
    called: &Called,
    annotations: &Annotations,
    settings: &Settings,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if annotations.dual_identity == Some(Switch::Enabled) && settings.signatures == Ladder::Require {
        warnings.push(format!(
            "trellis: `{}: enabled` has no effect while the mesh's `signatures` is `require` and no PQPolicy \
             prefers: nothing classical is presented; set it to `prefer`",
            annotations::DUAL_IDENTITY
        ));
    }
    let enforced = namespace.labels.get(POD_SECURITY).map(String::as_str);
    if let Some(level @ ("baseline" | "restricted")) = enforced {
        warnings.push(format!(
            "trellis: the namespace enforces Pod Security `{level}`, which refuses the NET_ADMIN that \
             `{}` needs; label it `{POD_SECURITY}: privileged`",
            names::CAPTURE_CONTAINER
        ));
    }
    for (container, port) in &called.unresolved {
        warnings.push(format!(
            "trellis: container `{container}` is probed on port `{port}`, which it does not declare"
        ));
    }
    warnings
}

impl Skip {
    pub const ALL: [Self; 8] = [
        Self::SystemNamespace,
        Self::AlreadyInjected,
        Self::NotAsked,
        Self::NamespaceOptedOut,
        Self::PodOptedOut,
        Self::MirrorPod,
        Self::HostNetwork,
        Self::Windows,
    ];

    /// Value of metrics' labels and of the annotation `trellis.dev/not-injected`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SystemNamespace => "system_namespace",
            Self::AlreadyInjected => "already_injected",
            Self::NotAsked => "not_asked",
            Self::NamespaceOptedOut => "namespace_opted_out",
            Self::PodOptedOut => "pod_opted_out",
            Self::MirrorPod => "mirror_pod",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
        }
    }

    pub fn explanation(self) -> &'static str {
        match self {
            Self::SystemNamespace => "nothing is injected in this namespace",
            Self::AlreadyInjected => "the pod has its proxy already",
            Self::NotAsked => "neither the namespace nor the pod asks for it",
            Self::NamespaceOptedOut => "the namespace is labelled trellis.dev/inject: disabled",
            Self::PodOptedOut => "the pod says trellis.dev/inject: disabled",
            Self::MirrorPod => {
                "a static pod is the kubelet's own and cannot be changed; run it as a DaemonSet"
            }
            Self::HostNetwork => {
                "the pod uses its node's network (hostNetwork), where its traffic cannot be told from the \
                 node's; its connections are plaintext"
            }
            Self::Windows => "the proxy runs on Linux; the connections of this Windows pod are plaintext",
        }
    }

    /// Somebody wanted a meshed pod and does not get one.
    pub fn was_asked_for(self) -> bool {
        matches!(self, Self::MirrorPod | Self::HostNetwork | Self::Windows)
    }
}

impl Refusal {
    /// Value of metrics' labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoSpec => "no_spec",
            Self::Annotation(AnnotationError::Unknown { .. }) => "unknown_annotation",
            Self::Annotation(_) => "bad_annotation",
            Self::Label { .. } => "bad_label",
            Self::Undecided { .. } => "undecided",
            Self::ProxyUser(_) => "proxy_user",
            Self::ProxyPort { .. } => "proxy_port",
            Self::NameTaken { .. } => "name_taken",
            Self::HalfInjected { .. } => "half_injected",
            Self::Resources { .. } => "resources",
            Self::Drain { .. } => "drain",
            Self::Dual => "dual",
        }
    }
}
