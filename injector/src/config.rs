//! The command line, and the settings file that it names.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Parser;
use trellis_api::{
    injection::{Settings, SettingsError},
    names,
};
use trellis_source::SourceSpec;
use trellis_telemetry::log::Format;

/// The admission webhook of the mesh: puts the proxy into pods of labelled namespaces.
#[derive(Clone, Debug, Parser)]
#[command(name = "trellis-injector", version)]
pub struct Flags {
    /// What is injected: a JSON file of injection settings.
    #[arg(long, env = "TRELLIS_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// Where namespaces are read: kubernetes or folder:DIR.
    #[arg(long, env = "TRELLIS_SOURCE", default_value = "kubernetes")]
    pub source: SourceSpec,

    /// Where the serving certificate is kept: secret or file:DIR. With --source kubernetes: secret.
    #[arg(long, env = "TRELLIS_TLS")]
    pub tls: Option<TlsSpec>,

    /// The trust domain of every identity; instead of the settings' own.
    #[arg(long, env = "TRELLIS_TRUST_DOMAIN")]
    pub trust_domain: Option<String>,

    /// The control plane's namespace; instead of the settings' own.
    #[arg(long, env = "TRELLIS_NAMESPACE")]
    pub namespace: Option<String>,

    /// Where admission reviews are answered.
    #[arg(long, env = "TRELLIS_LISTEN", default_value_t = any(names::WEBHOOK_PORT))]
    pub listen: SocketAddr,

    /// Where metrics are served.
    #[arg(long, env = "TRELLIS_METRICS_LISTEN", default_value_t = any(names::METRICS_PORT))]
    pub metrics_listen: SocketAddr,

    /// Where readiness and liveness are served.
    #[arg(long, env = "TRELLIS_READY_LISTEN", default_value_t = any(names::READY_PORT))]
    pub ready_listen: SocketAddr,

    /// Where metrics are sent over OTLP, such as http://collector:4317; nowhere if absent.
    #[arg(long, env = "TRELLIS_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// What is logged: a level, or levels by target.
    #[arg(long, env = "TRELLIS_LOG", default_value = "info")]
    pub log: String,

    /// A file with such a filter, which wins while it is there, and may come, change and go at any time.
    #[arg(long, env = "TRELLIS_LOG_FILE")]
    pub log_file: Option<PathBuf>,

    /// How it is logged: text or json.
    #[arg(long, env = "TRELLIS_LOG_FORMAT", default_value_t = Format::Text)]
    pub log_format: Format,
}

/// `secret` or `file:DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSpec {
    Secret,
    Folder(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--config {}: {error}; give a file that this user may read", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("--config {}: {error}", path.display())]
    Malformed { path: PathBuf, error: serde_json::Error },
    #[error("--config {}: {error}", path.display())]
    Invalid { path: PathBuf, error: SettingsError },
    #[error("--tls {0:?} is unknown; use secret or file:DIR")]
    UnknownTls(String),
    #[error("--tls is needed with --source {0}; use --tls file:DIR")]
    NoTls(SourceSpec),
}

impl FromStr for TlsSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.split_once(':') {
            None if text == "secret" => Ok(Self::Secret),
            Some(("file", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ => Err(ConfigError::UnknownTls(text.to_owned())),
        }
    }
}

impl Flags {
    /// The settings file, with what the command line says instead of it.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = read(&self.config)?;
        if let Some(trust_domain) = &self.trust_domain {
            settings.trust_domain.clone_from(trust_domain);
        }
        if let Some(namespace) = &self.namespace {
            settings.namespace.clone_from(namespace);
        }
        let invalid = |error| ConfigError::Invalid { path: self.config.clone(), error };
        settings.validate().map_err(invalid)?;
        Ok(settings)
    }

    pub fn tls(&self) -> Result<TlsSpec, ConfigError> {
        match (&self.tls, &self.source) {
            (Some(tls), _) => Ok(tls.clone()),
            (None, SourceSpec::Kubernetes) => Ok(TlsSpec::Secret),
            (None, source) => Err(ConfigError::NoTls(source.clone())),
        }
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    serde_json::from_str(&text).map_err(|error| ConfigError::Malformed { path: path.to_owned(), error })
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, more: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let flags = Flags::try_parse_from(["trellis-injector", &config].iter().chain(more)).unwrap();
        flags.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_stands_above_the_file() {
        let file = r#"{"trustDomain": "a.example", "namespace": "mesh"}"#;
        let read = settings(file, &[]).unwrap();
        assert_eq!((&*read.trust_domain, &*read.namespace), ("a.example", "mesh"));
        let read = settings(file, &["--trust-domain=b.example", "--namespace=other"]).unwrap();
        assert_eq!((&*read.trust_domain, &*read.namespace), ("b.example", "other"));
    }

    #[test]
    fn a_bad_file_is_named_with_its_place() {
        assert!(settings(r#"{"caAdress": "x"}"#, &[]).unwrap_err().contains("unknown field `caAdress`"));
        assert!(settings("{", &[]).unwrap_err().contains("line 1 column 1"));
        assert!(settings(r#"{"caAddress": "x"}"#, &[]).unwrap_err().contains("`caAddress: x`"));
        assert!(settings("{}", &["--trust-domain=A"]).unwrap_err().contains("`trustDomain: A`"));
    }

    #[test]
    fn without_a_cluster_there_must_be_a_folder_for_the_certificate() {
        let tls = |more: &[&str]| {
            let flags = Flags::try_parse_from(["trellis-injector", "--config=x"].iter().chain(more)).unwrap();
            flags.tls().map_err(|error| error.to_string())
        };
        assert_eq!(tls(&[]), Ok(TlsSpec::Secret));
        assert_eq!(tls(&["--tls=file:x"]), Ok(TlsSpec::Folder("x".into())));
        assert!(tls(&["--source=folder:x"]).unwrap_err().contains("--tls file:DIR"));
        for wrong in ["--tls=file:", "--tls=disk", "--tls=file"] {
            assert!(Flags::try_parse_from(["trellis-injector", "--config=x", wrong]).is_err(), "{wrong}");
        }
    }
}
