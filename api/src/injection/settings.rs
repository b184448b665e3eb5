//! What the mesh's operator decides for every injected pod; annotations of the pod or of its namespace
//! override some of it.

use serde::{Deserialize, Serialize};

use crate::{
    annotations::{AccessLog, Cpu, Egress, LogFilter, Memory, Plaintext, Ports, TraceSampling},
    names,
    trust::KeyAlgorithm,
};

/// Whatever is left out keeps its default; a field that does not exist is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Version that is left on each pod in the annotation `trellis.dev/injected`.
    pub version: String,
    pub images: Images,
    /// Namespace of the control plane; its own pods are never injected.
    pub namespace: String,
    pub trust_domain: String,
    /// `host:port` of the CA and of discovery.
    pub ca_address: String,
    pub discovery_address: String,
    pub leaf_algorithm: KeyAlgorithm,
    pub key_exchange: Ladder,
    pub signatures: Ladder,
    /// What becomes of peers without a certificate.
    pub plaintext: Plaintext,
    /// Ports whose bytes are carried unread.
    pub opaque_ports: Ports,
    /// What applications may reach outside of the mesh.
    pub egress: Egress,
    /// Which requests and connections get a line each.
    pub access_log: AccessLog,
    /// The same of gateways.
    pub gateway_access_log: AccessLog,
    pub trace_sampling: TraceSampling,
    pub log: LogFilter,
    pub log_format: LogFormat,
    /// Where proxies send their metrics and spans; nowhere if absent. They can be scraped in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    pub proxy: Resources,
    pub capture: Resources,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Images {
    pub proxy: String,
    pub capture: String,
    pub pull_policy: PullPolicy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// How much of what is weaker than post-quantum a proxy accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ladder {
    #[default]
    Require,
    Prefer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    pub requests: Amounts,
    pub limits: Amounts,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Amounts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("injection settings: `{field}: {value}`: {problem}; {remedy}")]
pub struct SettingsError {
    pub field: &'static str,
    pub value: String,
    pub problem: &'static str,
    pub remedy: &'static str,
}

impl Settings {
    /// Checks what the types do not: that addresses, names and images can be what they are said to be.
    pub fn validate(&self) -> Result<(), SettingsError> {
        for (field, value) in [
            ("version", &self.version),
            ("images.proxy", &self.images.proxy),
            ("images.capture", &self.images.capture),
            ("namespace", &self.namespace),
        ] {
            let problem = if value.is_empty() {
                "it is empty"
            } else if value.contains(char::is_whitespace) {
                "it contains white space"
            } else {
                continue;
            };
            let remedy = "give a value, or leave the field out for its default";
            return Err(SettingsError { field, value: value.clone(), problem, remedy });
        }
        for (field, value) in [("caAddress", &self.ca_address), ("discoveryAddress", &self.discovery_address)]
        {
            if !is_host_and_port(value) {
                return Err(SettingsError {
                    field,
                    value: value.clone(),
                    problem: "it is not a host and a port",
                    remedy: "write `name:port`, or `[address]:port` for an IPv6 address",
                });
            }
        }
        if !is_trust_domain(&self.trust_domain) {
            return Err(SettingsError {
                field: "trustDomain",
                value: self.trust_domain.clone(),
                problem: "it is not a SPIFFE trust domain",
                remedy: "use lower-case letters, digits, dots, dashes and underscores, as in `cluster.local`",
            });
        }
        match &self.otlp_endpoint {
            Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => Err(SettingsError {
                field: "otlpEndpoint",
                value: url.clone(),
                problem: "it is not a URL",
                remedy: "write `http://host:4317`, or leave the field out to send nothing",
            }),
            _ => self.proxy.validate("proxy").and_then(|()| self.capture.validate("capture")),
        }
    }
}

impl Resources {
    fn validate(&self, field: &'static str) -> Result<(), SettingsError> {
        match self.contradiction() {
            None => Ok(()),
            Some((_, value)) => Err(SettingsError {
                field,
                value,
                problem: "the limit is below the request",
                remedy: "raise the limit or lower the request",
            }),
        }
    }

    /// The resource whose limit is below its request, and both amounts.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        if let (Some(request), Some(limit)) = (&self.requests.cpu, &self.limits.cpu)
            && request.exceeds(limit)
        {
            return Some(("cpu", format!("request {request}, limit {limit}")));
        }
        if let (Some(request), Some(limit)) = (&self.requests.memory, &self.limits.memory)
            && request.exceeds(limit)
        {
            return Some(("memory", format!("request {request}, limit {limit}")));
        }
        None
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_one = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
            !host.is_empty() && host.bytes().all(allowed)
        }
    };
    host_is_one && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn is_trust_domain(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)
}

impl Default for Settings {
    fn default() -> Self {
        let service = |name: &str, port: u16| format!("{name}.{}.svc:{port}", names::SYSTEM_NAMESPACE);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            images: Images::default(),
            namespace: names::SYSTEM_NAMESPACE.to_owned(),
            trust_domain: names::DEFAULT_TRUST_DOMAIN.to_owned(),
            ca_address: service(names::CA, names::CA_PORT),
            discovery_address: service(names::DISCOVERY, names::DISCOVERY_PORT),
            leaf_algorithm: KeyAlgorithm::default(),
            key_exchange: Ladder::default(),
            plaintext: Plaintext::default(),
            signatures: Ladder::default(),
            // SMTP, POP3, IMAP, submission, MySQL and Galera: their servers speak first.
            egress: Egress::Allow,
            opaque_ports: [25, 110, 143, 587, 3306, 4444].into_iter().collect(),
            access_log: AccessLog::default(),
            gateway_access_log: AccessLog::default(),
            trace_sampling: TraceSampling::default(),
            log: LogFilter::default(),
            log_format: LogFormat::default(),
            otlp_endpoint: None,
            proxy: Resources {
                requests: Amounts { cpu: amount("50m"), memory: amount("32Mi") },
                // Without a limit of CPU: throttling would show as latency of the application.
                limits: Amounts { cpu: None, memory: amount("256Mi") },
            },
            // Equal, so that a pod of the class Guaranteed can remain one.
            capture: Resources {
                requests: Amounts { cpu: amount("100m"), memory: amount("32Mi") },
                limits: Amounts { cpu: amount("100m"), memory: amount("32Mi") },
            },
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        let image = |name: &str| format!("trellis.dev/{name}:{}", env!("CARGO_PKG_VERSION"));
        Self { proxy: image("proxy"), capture: image("capture"), pull_policy: PullPolicy::default() }
    }
}

/// For the amounts above; a test holds them to be quantities.
fn amount<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl Ladder {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
        }
    }
}

impl LogFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete_and_valid() {
        let settings = Settings::default();
        assert_eq!(settings.validate(), Ok(()));
        assert!(settings.proxy.requests.cpu.is_some() && settings.proxy.requests.memory.is_some());
        assert!(settings.proxy.limits.memory.is_some());
        assert_eq!(settings.capture.requests, settings.capture.limits);
        assert!(settings.capture.limits.cpu.is_some() && settings.capture.limits.memory.is_some());
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), settings);
        let written = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings);
    }

    #[test]
    fn a_field_that_does_not_exist_or_does_not_parse_is_an_error() {
        for (text, message) in [
            (r#"{"image": {}}"#, "unknown field `image`"),
            (r#"{"images": {"tag": "1"}}"#, "unknown field `tag`"),
            (r#"{"leafAlgorithm": "rsa-2048"}"#, "unknown variant `rsa-2048`"),
            (r#"{"keyExchange": "classical"}"#, "unknown variant `classical`"),
            (r#"{"opaquePorts": "a"}"#, "`a` is not a port"),
            (r#"{"proxy": {"requests": {"memory": "64"}}}"#, "`64`: this is less than a megabyte"),
            (r#"{"accessLog": "on"}"#, "unknown variant `on`"),
            (r#"{"traceSampling": "2"}"#, "this is neither a share between 0 and 1"),
            (r#"{"log": "loud"}"#, "`loud` is not one of"),
            (r#"{"images": {"pullPolicy": "Sometimes"}}"#, "unknown variant `Sometimes`"),
        ] {
            let error = serde_json::from_str::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_its_field_and_a_remedy() {
        type Spoil = fn(&mut Settings);
        let cases: [(&str, Spoil); 9] = [
            ("version", |s| s.version.clear()),
            ("images.proxy", |s| s.images.proxy = "a b".into()),
            ("caAddress", |s| s.ca_address = "trellis-ca".into()),
            ("caAddress", |s| s.ca_address = "::1:15012".into()),
            ("discoveryAddress", |s| s.discovery_address = "trellis-discovery:0".into()),
            ("trustDomain", |s| s.trust_domain = "Cluster.Local".into()),
            ("otlpEndpoint", |s| s.otlp_endpoint = Some("collector:4317".into())),
            ("proxy", |s| s.proxy.limits.memory = "1Mi".parse().ok()),
            ("capture", |s| s.capture.limits.cpu = "1m".parse().ok()),
        ];
        for (field, spoil) in cases {
            let mut settings = Settings::default();
            spoil(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.field, field);
            assert!(error.to_string().contains("; "), "{error}");
        }
        for address in ["10.0.0.1:1", "[fd00::1]:15012", "ca.example:65535"] {
            assert!(is_host_and_port(address), "{address}");
        }
    }
}
