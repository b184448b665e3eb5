//! The `trellis.dev/` annotations by which a pod, or its namespace for all its pods, says how it wants
//! to be meshed. What is misspelt or malformed is refused rather than ignored: a port that somebody
//! believes to be skipped must be skipped.

mod egress;
mod ports;
mod quantity;
mod seeing;
mod workload_api;

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{names, trust::KeyAlgorithm};
pub use egress::{Egress, EgressError, Outside, Verdict};
pub use ports::{Ports, PortsError};
pub use quantity::{Cpu, Memory, QuantityError};
pub use seeing::{AccessLog, TraceSampling};
pub use workload_api::WorkloadApi;

/// Ports on which connections to the pod go to the application as they are.
pub const SKIP_INBOUND_PORTS: &str = "trellis.dev/skip-inbound-ports";
/// Ports to which the application connects without the proxy.
pub const SKIP_OUTBOUND_PORTS: &str = "trellis.dev/skip-outbound-ports";
/// Ports whose protocol is not looked at. Replaces the mesh's own list.
pub const OPAQUE_PORTS: &str = "trellis.dev/opaque-ports";
pub const PROXY_CPU_REQUEST: &str = "trellis.dev/proxy-cpu-request";
pub const PROXY_CPU_LIMIT: &str = "trellis.dev/proxy-cpu-limit";
pub const PROXY_MEMORY_REQUEST: &str = "trellis.dev/proxy-memory-request";
pub const PROXY_MEMORY_LIMIT: &str = "trellis.dev/proxy-memory-limit";
pub const PROXY_LOG_LEVEL: &str = "trellis.dev/proxy-log-level";
pub const LEAF_ALGORITHM: &str = "trellis.dev/leaf-algorithm";
/// Whether the workload also holds an ECDSA certificate, for peers that cannot verify ML-DSA.
pub const DUAL_IDENTITY: &str = "trellis.dev/dual-identity";
/// What becomes of peers without a certificate: `permissive` lets them in and counts them, `strict`
/// refuses them.
pub const PLAINTEXT: &str = "trellis.dev/plaintext";
/// How long the proxy finishes what is open when the pod ends.
pub const DRAIN_SECONDS: &str = "trellis.dev/drain-seconds";
/// Whether the application gets a certificate of its own over the SPIFFE Workload API, and of which
/// algorithm.
pub const WORKLOAD_API: &str = "trellis.dev/workload-api";

/// What the application may reach outside of the mesh.
pub const EGRESS: &str = "trellis.dev/egress";

/// Which requests and connections get a line each on the proxy's standard output.
pub const ACCESS_LOG: &str = "trellis.dev/access-log";
/// Of which requests spans are made, where there is a collector.
pub const TRACE_SAMPLING: &str = "trellis.dev/trace-sampling";

/// What a namespace's pods inherit from it.
pub const INHERITED: [&str; 16] = [
    SKIP_INBOUND_PORTS,
    SKIP_OUTBOUND_PORTS,
    OPAQUE_PORTS,
    PROXY_CPU_REQUEST,
    PROXY_CPU_LIMIT,
    PROXY_MEMORY_REQUEST,
    PROXY_MEMORY_LIMIT,
    PROXY_LOG_LEVEL,
    LEAF_ALGORITHM,
    DUAL_IDENTITY,
    PLAINTEXT,
    DRAIN_SECONDS,
    WORKLOAD_API,
    EGRESS,
    ACCESS_LOG,
    TRACE_SAMPLING,
];

/// What stands on a pod only: the switch, what the injector leaves behind, and whose pod it is.
const ON_PODS: [&str; 4] = [names::INJECT, names::INJECTED, names::NOT_INJECTED, names::GATEWAY];

/// Below this the nearest known name is no help.
const NEAR: f64 = 0.8;

type Map = BTreeMap<String, String>;

/// What a pod asks for, its namespace's wishes included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    pub inject: Option<Switch>,
    pub skip_inbound_ports: Ports,
    pub skip_outbound_ports: Ports,
    /// Nothing where the mesh's own list stays.
    pub opaque_ports: Option<Ports>,
    pub proxy_cpu_request: Option<Cpu>,
    pub proxy_cpu_limit: Option<Cpu>,
    pub proxy_memory_request: Option<Memory>,
    pub proxy_memory_limit: Option<Memory>,
    pub proxy_log_level: Option<LogFilter>,
    pub leaf_algorithm: Option<KeyAlgorithm>,
    /// Nothing where the mesh's default holds, as it stands in the TrustDomain at any time.
    pub dual_identity: Option<Switch>,
    pub plaintext: Option<Plaintext>,
    pub drain_seconds: Option<u32>,
    pub workload_api: WorkloadApi,
    pub egress: Option<Egress>,
    pub access_log: Option<AccessLog>,
    pub trace_sampling: Option<TraceSampling>,
    /// What the pod has of its namespace, as it is written there.
    pub inherited: Map,
}

/// Who wrote an annotation or a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Pod,
    Namespace,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error("annotation `{name}` of the {holder} is unknown: {hint}")]
    Unknown { name: String, holder: Holder, hint: String },
    #[error("annotation `{name}: {value}` of the {holder}: {problem}; {remedy}")]
    Bad { name: &'static str, value: String, holder: Holder, problem: String, remedy: &'static str },
    #[error(
        "annotation `{name}` of the namespace has no effect: it is a label there; use `kubectl label \
         namespace` and remove the annotation",
        name = names::INJECT
    )]
    SwitchOnNamespace,
}

impl Annotations {
    /// Reads the annotations of a pod and, where the pod says nothing, those of its namespace.
    pub fn of(pod: &Map, namespace: &Map) -> Result<Self, AnnotationError> {
        if namespace.contains_key(names::INJECT) {
            return Err(AnnotationError::SwitchOnNamespace);
        }
        check_names(pod, Holder::Pod)?;
        check_names(namespace, Holder::Namespace)?;
        let read = Reader { pod, namespace };
        let ports = "write ports and ranges with commas between them, as in `80,9000-9010`";
        let cpu = "write cores, as in `100m` or `0.5`";
        let memory = "write bytes with a unit, as in `64Mi`";
        Ok(Self {
            inject: switch(pod)?,
            skip_inbound_ports: read.value(SKIP_INBOUND_PORTS, ports)?.unwrap_or_default(),
            skip_outbound_ports: read.value(SKIP_OUTBOUND_PORTS, ports)?.unwrap_or_default(),
            opaque_ports: read.value(OPAQUE_PORTS, ports)?,
            proxy_cpu_request: read.value(PROXY_CPU_REQUEST, cpu)?,
            proxy_cpu_limit: read.value(PROXY_CPU_LIMIT, cpu)?,
            proxy_memory_request: read.value(PROXY_MEMORY_REQUEST, memory)?,
            proxy_memory_limit: read.value(PROXY_MEMORY_LIMIT, memory)?,
            proxy_log_level: read
                .value(PROXY_LOG_LEVEL, "write a level, as in `info`, or `trellis=debug,warn`")?,
            leaf_algorithm: read
                .value(LEAF_ALGORITHM, "write `ml-dsa-44`, `ml-dsa-65`, `ml-dsa-87` or `ecdsa-p256`")?,
            dual_identity: read.value(DUAL_IDENTITY, "write `enabled` or `disabled`")?,
            plaintext: read.value(PLAINTEXT, "write `permissive` or `strict`")?,
            drain_seconds: read
                .value::<Seconds>(DRAIN_SECONDS, "write whole seconds, as in `25`")?
                .map(|s| s.0),
            workload_api: read
                .value(WORKLOAD_API, "write `disabled`, `enabled` or the algorithm of its certificate")?
                .unwrap_or_default(),
            egress: read.value(
                EGRESS,
                "write `allow`, `deny`, or what is allowed, as in `10.0.0.0/8,*.example.org:443`",
            )?,
            access_log: read.value(ACCESS_LOG, "write `disabled`, `errors` or `enabled`")?,
            trace_sampling: read
                .value(TRACE_SAMPLING, "write a share, as in `0.01`, or `disabled` for no spans at all")?,
            inherited: read.inherited(),
        })
    }
}

/// The pod's own switch, whatever else stands on it.
pub fn switch(pod: &Map) -> Result<Option<Switch>, AnnotationError> {
    Reader { pod, namespace: &Map::new() }.value(names::INJECT, "write `enabled` or `disabled`")
}

fn check_names(annotations: &Map, holder: Holder) -> Result<(), AnnotationError> {
    let ours = annotations.keys().filter(|name| name.starts_with(names::PREFIX));
    let known = || INHERITED.iter().chain(&ON_PODS);
    for name in ours {
        if !known().any(|known| known == name) {
            return Err(AnnotationError::Unknown { name: name.clone(), holder, hint: hint(name) });
        }
    }
    Ok(())
}

fn hint(name: &str) -> String {
    let typed = [&INHERITED[..], &[names::INJECT]].concat();
    let near = typed
        .iter()
        .map(|known| (strsim::jaro_winkler(bare(known), bare(name)), *known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match near {
        Some((likeness, known)) if likeness >= NEAR => format!("did you mean `{known}`?"),
        _ => format!("there are {}", typed.join(", ")),
    }
}

fn bare(name: &str) -> &str {
    name.strip_prefix(names::PREFIX).unwrap_or(name)
}

struct Reader<'a> {
    pod: &'a Map,
    namespace: &'a Map,
}

impl Reader<'_> {
    fn value<T>(&self, name: &'static str, remedy: &'static str) -> Result<Option<T>, AnnotationError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let (value, holder) = match (self.pod.get(name), self.namespace.get(name)) {
            (Some(value), _) => (value, Holder::Pod),
            (None, Some(value)) => (value, Holder::Namespace),
            (None, None) => return Ok(None),
        };
        value.parse().map(Some).map_err(|error: T::Err| AnnotationError::Bad {
            name,
            value: value.clone(),
            holder,
            problem: error.to_string(),
            remedy,
        })
    }

    fn inherited(&self) -> Map {
        let inherits = |name: &str| INHERITED.contains(&name) && !self.pod.contains_key(name);
        self.namespace
            .iter()
            .filter(|(name, _)| inherits(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pod => "pod",
            Self::Namespace => "namespace",
        })
    }
}

/// The value of a label or annotation that switches something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Enabled,
    Disabled,
}

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            names::ENABLED => Ok(Self::Enabled),
            names::DISABLED => Ok(Self::Disabled),
            _ => Err("this is no position of the switch"),
        }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Enabled => names::ENABLED,
            Self::Disabled => names::DISABLED,
        })
    }
}

/// Whether peers without a certificate may reach the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plaintext {
    #[default]
    Permissive,
    Strict,
}

impl Plaintext {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for Plaintext {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Permissive, Self::Strict].into_iter().find(|one| one.as_str() == text);
        known.ok_or("there is no such treatment of plaintext")
    }
}

impl fmt::Display for Plaintext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// What the proxy logs: a level, or levels by module with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split(',') {
            let level = match part.split_once('=') {
                Some((module, level)) if is_module(module) => level,
                Some((module, _)) => return Err(format!("`{module}` is not the name of a module")),
                None => part,
            };
            if !matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace") {
                return Err(format!("`{level}` is not one of off, error, warn, info, debug, trace"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_module(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

/// More than an hour is no drain but a leak.
struct Seconds(u32);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(seconds @ 1..=3600) if !text.starts_with('+') => Ok(Self(seconds)),
            _ => Err("this is not between 1 and 3600"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn message(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> String {
        Annotations::of(&map(pod), &map(namespace)).unwrap_err().to_string()
    }

    #[test]
    fn every_annotation_is_read() {
        let read = Annotations::of(
            &map(&[
                (names::INJECT, "enabled"),
                (SKIP_INBOUND_PORTS, "22,9000-9010"),
                (SKIP_OUTBOUND_PORTS, "443"),
                (OPAQUE_PORTS, ""),
                (PROXY_CPU_REQUEST, "20m"),
                (PROXY_CPU_LIMIT, "2"),
                (PROXY_MEMORY_REQUEST, "20Mi"),
                (PROXY_MEMORY_LIMIT, "1Gi"),
                (PROXY_LOG_LEVEL, "trellis_proxy=debug,warn"),
                (LEAF_ALGORITHM, "ml-dsa-87"),
                (DUAL_IDENTITY, "enabled"),
                (PLAINTEXT, "strict"),
                (DRAIN_SECONDS, "60"),
                (WORKLOAD_API, "ecdsa-p256"),
                (EGRESS, "10.0.0.0/8"),
                (ACCESS_LOG, "errors"),
                (TRACE_SAMPLING, "0.01"),
                ("example.com/trellis.dev", "not ours"),
            ]),
            &Map::new(),
        )
        .unwrap();
        assert_eq!(
            read,
            Annotations {
                inject: Some(Switch::Enabled),
                skip_inbound_ports: "22,9000-9010".parse().unwrap(),
                skip_outbound_ports: "443".parse().unwrap(),
                opaque_ports: Some(Ports::default()),
                proxy_cpu_request: Some("20m".parse().unwrap()),
                proxy_cpu_limit: Some("2".parse().unwrap()),
                proxy_memory_request: Some("20Mi".parse().unwrap()),
                proxy_memory_limit: Some("1Gi".parse().unwrap()),
                proxy_log_level: Some("trellis_proxy=debug,warn".parse().unwrap()),
                leaf_algorithm: Some(KeyAlgorithm::MlDsa87),
                dual_identity: Some(Switch::Enabled),
                plaintext: Some(Plaintext::Strict),
                drain_seconds: Some(60),
                workload_api: WorkloadApi::Of(KeyAlgorithm::EcdsaP256),
                egress: Some("10.0.0.0/8".parse().unwrap()),
                access_log: Some(AccessLog::Errors),
                trace_sampling: Some(TraceSampling::Share(0.01)),
                inherited: Map::new(),
            }
        );
    }

    #[test]
    fn a_pod_inherits_from_its_namespace_and_wins_over_it() {
        let read = Annotations::of(
            &map(&[(SKIP_INBOUND_PORTS, "22"), (names::INJECT, "disabled")]),
            &map(&[(SKIP_INBOUND_PORTS, "80"), (DRAIN_SECONDS, "7"), ("team", "blue")]),
        )
        .unwrap();
        assert_eq!(read.skip_inbound_ports.to_string(), "22");
        assert_eq!(read.drain_seconds, Some(7));
        assert_eq!(read.inherited, map(&[(DRAIN_SECONDS, "7")]));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name_its_value_and_a_remedy() {
        for (name, value, problem) in [
            (names::INJECT, "true", "this is no position of the switch"),
            (SKIP_INBOUND_PORTS, "http", "`http` is not a port between 1 and 65535"),
            (SKIP_OUTBOUND_PORTS, "80;443", "`80;443` is not a port between 1 and 65535"),
            (OPAQUE_PORTS, "9010-9000", "the range `9010-9000` ends before it begins"),
            (PROXY_CPU_REQUEST, "fast", "this is not a quantity of Kubernetes"),
            (PROXY_CPU_LIMIT, "0", "a thousandth of a core is the least that can be asked for"),
            (PROXY_MEMORY_REQUEST, "64", "this is less than a megabyte; a unit may be missing"),
            (PROXY_MEMORY_LIMIT, "64m", "there are no parts of a byte"),
            (PROXY_LOG_LEVEL, "loud", "`loud` is not one of off, error, warn, info, debug, trace"),
            (LEAF_ALGORITHM, "rsa-2048", "leaves are not made with this algorithm"),
            (DUAL_IDENTITY, "ecdsa-p256", "this is no position of the switch"),
            (PLAINTEXT, "allowed", "there is no such treatment of plaintext"),
            (DRAIN_SECONDS, "1m", "this is not between 1 and 3600"),
            (WORKLOAD_API, "ecdsa-p265", "there is no such choice, the nearest is `ecdsa-p256`"),
            (EGRESS, "10.0.0.0/40", "`10.0.0.0/40` has more bits than its address"),
            (ACCESS_LOG, "true", "there is no such access log"),
            (TRACE_SAMPLING, "1%", "this is neither a share between 0 and 1 nor `disabled`"),
            (WORKLOAD_API, "enable", "there is no such choice, the nearest is `enabled`"),
            (
                WORKLOAD_API,
                "1",
                "there is no such choice among disabled, enabled, ml-dsa-44, ml-dsa-65, ml-dsa-87, ecdsa-p256",
            ),
        ] {
            let message = message(&[(name, value)], &[]);
            let start = format!("annotation `{name}: {value}` of the pod: {problem}; write ");
            assert!(message.starts_with(&start), "{message}");
        }
    }

    #[test]
    fn a_bad_value_of_the_namespace_is_its_own() {
        assert!(message(&[], &[(DRAIN_SECONDS, "0")]).contains("of the namespace: this is not between"));
        assert_eq!(
            Annotations::of(&map(&[(DRAIN_SECONDS, "9")]), &map(&[(DRAIN_SECONDS, "0")]))
                .map(|a| a.drain_seconds),
            Ok(Some(9))
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_known_one() {
        for (typed, meant) in [
            ("trellis.dev/skip-inbound-port", SKIP_INBOUND_PORTS),
            ("trellis.dev/skip-outbund-ports", SKIP_OUTBOUND_PORTS),
            ("trellis.dev/opaque_ports", OPAQUE_PORTS),
            ("trellis.dev/proxy-memory-limits", PROXY_MEMORY_LIMIT),
            ("trellis.dev/injekt", names::INJECT),
            ("trellis.dev/leaf-algoritm", LEAF_ALGORITHM),
            ("trellis.dev/workloadapi", WORKLOAD_API),
        ] {
            assert_eq!(
                message(&[(typed, "x")], &[]),
                format!("annotation `{typed}` of the pod is unknown: did you mean `{meant}`?")
            );
        }
        let message = message(&[], &[("trellis.dev/zzz", "x")]);
        assert!(message.starts_with("annotation `trellis.dev/zzz` of the namespace is unknown: there are "));
        for name in INHERITED {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn the_switch_of_a_namespace_is_a_label() {
        assert!(message(&[], &[(names::INJECT, "enabled")]).contains("kubectl label namespace"));
    }
}
