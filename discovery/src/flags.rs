//! What the operator and the chart tell discovery: flags, each also an environment variable.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;
use thiserror::Error;
use trellis_api::{
    injection::{Settings, SettingsError},
    names,
};
use trellis_pki::{algorithm::Algorithm, policy::Ladder, spiffe::SpiffeId};
use trellis_source::SourceSpec;
use trellis_telemetry::log::Format;

use crate::controller::Blueprint;

#[derive(Clone, Debug, Parser)]
#[command(name = "trellis-discovery", version, about = "Tells proxies about those they talk to")]
pub struct Flags {
    /// Where Services, Pods, routes and the like come from: `kubernetes`, or `folder:DIR` with their manifests.
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
    /// Settings of proxies, as the injector has them: by them the pods of gateways are made. Without, none are.
    #[arg(long, env = "TRELLIS_GATEWAY_SETTINGS")]
    pub gateway_settings: Option<PathBuf>,
    /// Pods of each gateway.
    #[arg(long, env = "TRELLIS_GATEWAY_REPLICAS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub gateway_replicas: u16,
    /// An OpenTelemetry collector's gRPC receiver, as http://HOST:4317.
    #[arg(long, env = "TRELLIS_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// What is logged: a level, or levels by target.
    #[arg(long, env = "TRELLIS_LOG", default_value = "info")]
    pub log: String,
    /// A file with such a filter, which wins while it is there, and may come, change and go at any time.
    #[arg(long, env = "TRELLIS_LOG_FILE")]
    pub log_file: Option<PathBuf>,
    #[arg(long, env = "TRELLIS_LOG_FORMAT", default_value_t = Format::Text)]
    pub log_format: Format,
}

#[derive(Debug, Error)]
pub enum InvalidSettings {
    #[error("--gateway-settings {}: {error}; give a file that this user may read", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("--gateway-settings {}: {error}", path.display())]
    Malformed { path: PathBuf, error: serde_json::Error },
    #[error("--gateway-settings {}: {error}", path.display())]
    Invalid { path: PathBuf, error: SettingsError },
}

impl Flags {
    /// How gateways are made; nothing, where none shall be.
    pub fn blueprint(&self) -> Result<Option<Blueprint>, InvalidSettings> {
        let Some(path) = &self.gateway_settings else { return Ok(None) };
        let text = fs::read_to_string(path)
            .map_err(|error| InvalidSettings::Unreadable { path: path.clone(), error })?;
        let settings: Settings = serde_json::from_str(&text)
            .map_err(|error| InvalidSettings::Malformed { path: path.clone(), error })?;
        settings.validate().map_err(|error| InvalidSettings::Invalid { path: path.clone(), error })?;
        Ok(Some(Blueprint { settings, replicas: self.gateway_replicas }))
    }

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
    fn settings_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        let told = |text: &str| {
            fs::write(&path, text).unwrap();
            let flag = format!("--gateway-settings={}", path.display());
            let flags = Flags::parse_from(["trellis-discovery", &flag, "--gateway-replicas=3"]);
            flags
                .blueprint()
                .map(|blueprint| blueprint.map(|one| one.replicas))
                .map_err(|error| error.to_string())
        };
        assert_eq!(told("{}"), Ok(Some(3)));
        assert!(told("{").unwrap_err().contains("line 1 column 1"));
        assert!(told(r#"{"caAddress": "x"}"#).unwrap_err().contains("`caAddress: x`"));
        let none = Flags::parse_from(["trellis-discovery"]).blueprint();
        assert!(matches!(none, Ok(None)));
        let gone = Flags::parse_from(["trellis-discovery", "--gateway-settings=/nowhere"]).blueprint();
        assert!(gone.unwrap_err().to_string().contains("give a file that this user may read"));
        assert!(Flags::try_parse_from(["trellis-discovery", "--gateway-replicas=0"]).is_err());
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
