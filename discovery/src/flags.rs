//! What the operator and the chart tell discovery: flags, each also an environment variable.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;
use trellis_api::names;
use trellis_pki::{algorithm::Algorithm, policy::Ladder, spiffe::SpiffeId};
use trellis_source::SourceSpec;
use trellis_telemetry::log::Format;

#[derive(Clone, Debug, Parser)]
#[command(name = "trellis-discovery", version, about = "Tells proxies about those they talk to")]
pub struct Flags {
    /// Where Services, EndpointSlices and Pods come from: `kubernetes`, or `folder:DIR` with their manifests.
    #[arg(long, env = "TRELLIS_SOURCE", default_value = "kubernetes")]
    pub source: SourceSpec,
    #[arg(long, env = "TRELLIS_TRUST_DOMAIN", default_value = names::DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// The namespace of the control plane, and so part of its identities.
    #[arg(long, env = "TRELLIS_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// The name of discovery's own pod; it tells replicas apart.
    #[arg(long, env = "TRELLIS_POD_NAME", default_value = names::DISCOVERY)]
    pub pod_name: String,
    #[arg(long, env = "TRELLIS_LISTEN", default_value_t = any(names::DISCOVERY_PORT))]
    pub listen: SocketAddr,
    #[arg(long, env = "TRELLIS_METRICS_LISTEN", default_value_t = any(names::METRICS_PORT))]
    pub metrics_listen: SocketAddr,
    #[arg(long, env = "TRELLIS_READY_LISTEN", default_value_t = any(names::READY_PORT))]
    pub ready_listen: SocketAddr,
    /// The CA, as HOST:PORT.
    #[arg(long, env = "TRELLIS_CA_ADDRESS", default_value = "trellis-ca.trellis-system.svc:15012")]
    pub ca_address: String,
    #[arg(long, env = "TRELLIS_TOKEN_FILE", default_value_os_t = identity_file(names::TOKEN_FILE))]
    pub token_file: PathBuf,
    #[arg(long, env = "TRELLIS_BUNDLE_FILE", default_value_os_t = identity_file(names::BUNDLE_FILE))]
    pub bundle_file: PathBuf,
    #[arg(long, env = "TRELLIS_LEAF_ALGORITHM", default_value = "ml-dsa-65")]
    pub leaf_algorithm: Algorithm,
    /// What the CA may be signed with: require (ML-DSA only), prefer or classical.
    #[arg(long, env = "TRELLIS_SIGNATURES", default_value = "require")]
    pub signatures: Ladder,
    /// An OpenTelemetry collector's gRPC receiver, as http://HOST:4317.
    #[arg(long, env = "TRELLIS_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    #[arg(long, env = "TRELLIS_LOG", default_value = "info")]
    pub log: String,
    #[arg(long, env = "TRELLIS_LOG_FORMAT", default_value_t = Format::Text)]
    pub log_format: Format,
}

impl Flags {
    /// Who must answer at the CA's address.
    pub fn ca_identity(&self) -> Result<SpiffeId, trellis_pki::spiffe::SpiffeError> {
        SpiffeId::new(&self.trust_domain, &self.namespace, names::CA)
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn identity_file(name: &str) -> PathBuf {
    PathBuf::from(names::IDENTITY_DIR).join(name)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_chart() {
        let flags = Flags::parse_from(["trellis-discovery"]);
        assert_eq!(flags.listen.to_string(), "[::]:15013");
        assert_eq!(flags.metrics_listen.to_string(), "[::]:15020");
        assert_eq!(flags.ready_listen.to_string(), "[::]:15021");
        assert_eq!(flags.leaf_algorithm, Algorithm::MlDsa65);
        assert_eq!(
            flags.ca_identity().unwrap().to_string(),
            "spiffe://cluster.local/ns/trellis-system/sa/trellis-ca"
        );
    }

    #[test]
    fn every_flag_has_its_variable() {
        for argument in Flags::command().get_arguments().filter(|one| one.get_long().is_some()) {
            let long = argument.get_long().unwrap_or_default();
            if !matches!(long, "help" | "version") {
                let variable = format!("TRELLIS_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(argument.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
            }
        }
    }
}
