//! What every proxy is told, whatever it carries: who it is, whom it asks, and where it shows itself.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use trellis_api::{
    annotations::{AccessLog, Switch, TraceSampling},
    names::{
        ADMIN_PORT, BUNDLE_FILE, DEFAULT_TRUST_DOMAIN, IDENTITY_DIR, METRICS_PORT, READY_PORT,
        SYSTEM_NAMESPACE, TOKEN_FILE,
    },
};
use trellis_pki::{
    algorithm::Algorithm,
    policy::{Ladder, Policy},
    spiffe::{SpiffeError, SpiffeId},
};
use trellis_telemetry::log::Format;

use super::{any, local_v4};
use crate::directory::PodName;

#[derive(Clone, Debug, Args)]
pub struct Member {
    #[arg(long, env = "TRELLIS_POD_NAME")]
    pub pod_name: String,
    #[arg(long, env = "TRELLIS_POD_NAMESPACE")]
    pub pod_namespace: String,
    #[arg(long, env = "TRELLIS_SERVICE_ACCOUNT")]
    pub service_account: String,
    #[arg(long, env = "TRELLIS_TRUST_DOMAIN", default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// The namespace of the control plane, and so part of the identities that it must prove.
    #[arg(long, env = "TRELLIS_SYSTEM_NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub system_namespace: String,
    /// The CA, HOST:PORT.
    #[arg(long, env = "TRELLIS_CA_ADDRESS")]
    pub ca_address: String,
    /// Discovery, HOST:PORT.
    #[arg(long, env = "TRELLIS_DISCOVERY_ADDRESS")]
    pub discovery_address: String,
    #[arg(long, env = "TRELLIS_TOKEN_FILE", default_value_os_t = PathBuf::from(IDENTITY_DIR).join(TOKEN_FILE))]
    pub token_file: PathBuf,
    #[arg(long, env = "TRELLIS_BUNDLE_FILE", default_value_os_t = PathBuf::from(IDENTITY_DIR).join(BUNDLE_FILE))]
    pub bundle_file: PathBuf,
    #[arg(long, env = "TRELLIS_LEAF_ALGORITHM", default_value = "ml-dsa-65")]
    pub leaf_algorithm: Algorithm,
    /// Whether the algorithm is this workload's own choice, which the mesh's does not change.
    #[arg(long, env = "TRELLIS_LEAF_PINNED", action = clap::ArgAction::Set, default_value_t = false)]
    pub leaf_pinned: bool,
    /// Whether this workload also holds an ECDSA certificate, for peers that cannot verify ML-DSA: enabled or
    /// disabled. Absent: as the mesh has it.
    #[arg(long, env = "TRELLIS_DUAL_IDENTITY")]
    pub dual_identity: Option<Switch>,
    /// Key exchange with peers: require (hybrid only), prefer (hybrid first) or classical.
    #[arg(long, env = "TRELLIS_KEY_EXCHANGE", default_value = "require")]
    pub key_exchange: Ladder,
    /// Signatures of peers: require (ML-DSA only), prefer or classical.
    #[arg(long, env = "TRELLIS_SIGNATURES", default_value = "require")]
    pub signatures: Ladder,
    #[arg(long, env = "TRELLIS_ADMIN_LISTEN", default_value_t = local_v4(ADMIN_PORT))]
    pub admin_listen: SocketAddr,
    #[arg(long, env = "TRELLIS_METRICS_LISTEN", default_value_t = any(METRICS_PORT))]
    pub metrics_listen: SocketAddr,
    #[arg(long, env = "TRELLIS_READY_LISTEN", default_value_t = any(READY_PORT))]
    pub ready_listen: SocketAddr,
    /// Threads that carry traffic.
    #[arg(long, env = "TRELLIS_WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    /// How long open connections may take to end after SIGTERM.
    #[arg(long, env = "TRELLIS_DRAIN_SECONDS", default_value_t = 25)]
    pub drain_seconds: u32,
    /// PEM of the authorities by which applications are known that speak TLS with a name of the web.
    #[arg(long, env = "TRELLIS_WEB_ROOTS", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub web_roots: PathBuf,
    /// Requests and connections that get a line of JSON each on standard output: disabled, errors or enabled.
    #[arg(long, env = "TRELLIS_ACCESS_LOG", default_value_t)]
    pub access_log: AccessLog,
    /// The share of requests that begin a trace, where they belong to none: 0.01; or disabled, for no spans at
    /// all. Those that are sampled already get a span where there is a collector.
    #[arg(long, env = "TRELLIS_TRACE_SAMPLING", default_value_t)]
    pub trace_sampling: TraceSampling,
    /// Send metrics and spans to this OpenTelemetry collector, http://HOST:4317.
    #[arg(long, env = "TRELLIS_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    #[arg(long, env = "TRELLIS_LOG", default_value = "info")]
    pub log: String,
    #[arg(long, env = "TRELLIS_LOG_FORMAT", default_value = "text")]
    pub log_format: Format,
}

impl Member {
    pub fn identity(&self) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(&self.trust_domain, &self.pod_namespace, &self.service_account)
    }

    /// Who must answer where the control plane's `service` is.
    pub fn system_identity(&self, service: &str) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(&self.trust_domain, &self.system_namespace, service)
    }

    pub fn policy(&self) -> Policy {
        Policy { key_exchange: self.key_exchange, signatures: self.signatures }
    }

    pub fn pod(&self) -> PodName {
        let (namespace, name) = (self.pod_namespace.as_str().into(), self.pod_name.as_str().into());
        PodName { namespace, name }
    }

    /// The policy towards the control plane: its key exchange is hybrid whatever that of peers is, and it
    /// may be signed with what the mesh accepts.
    pub fn control(&self) -> Policy {
        let signatures = match self.signatures {
            Ladder::Require => Ladder::Require,
            Ladder::Prefer | Ladder::Classical => Ladder::Prefer,
        };
        Policy { signatures, ..Policy::default() }
    }

    /// What the operator decided, for who asks.
    pub fn settings(&self) -> [(&'static str, String); 6] {
        // Without a name and a password, if somebody wrote them there.
        let collector = self.otlp_endpoint.as_deref().unwrap_or_default();
        let collector = collector.rsplit_once('@').map_or(collector, |(_, host)| host);
        [
            ("keyExchange", self.key_exchange.to_string()),
            ("signatures", self.signatures.to_string()),
            ("leafAlgorithm", self.leaf_algorithm.name().to_owned()),
            ("accessLog", self.access_log.to_string()),
            ("traceSampling", self.trace_sampling.to_string()),
            ("otlpEndpoint", collector.to_owned()),
        ]
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds.into())
    }
}
