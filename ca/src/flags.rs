//! The command line, and what follows from it.

mod outside;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use thiserror::Error;
use trellis_api::names;
use trellis_custody::Group;
use trellis_pki::{algorithm::Algorithm, policy::Ladder};
use trellis_source::SourceSpec;
use trellis_telemetry::log::Format;

use crate::{
    attest::AttestSpec, audit::SinkSpec, federation, openbao::OpenBaoSpec, publish::PublishSpec,
    token::TokenSpec, trust::store::StoreSpec,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificate authority of the mesh: attests workloads, issues their certificates and publishes the
/// trust bundle.
#[derive(Clone, Debug, Parser)]
#[command(name = "trellis-ca", version)]
pub struct Flags {
    /// Where pods, Services and namespaces are read: kubernetes or folder:DIR.
    #[arg(long, env = "TRELLIS_SOURCE", default_value = "kubernetes")]
    pub source: SourceSpec,

    /// The trust domain of every identity.
    #[arg(long, env = "TRELLIS_TRUST_DOMAIN", default_value = names::DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,

    /// The DNS domain of Services: what comes after "svc." in their names.
    #[arg(long, env = "TRELLIS_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// The namespace that the CA itself runs in.
    #[arg(long, env = "TRELLIS_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub namespace: String,

    /// The name of the CA's own pod; it tells replicas apart.
    #[arg(long, env = "TRELLIS_POD_NAME", default_value = names::CA)]
    pub pod_name: String,

    /// Where requests for certificates are answered.
    #[arg(long, env = "TRELLIS_LISTEN", default_value_t = any(names::CA_PORT))]
    pub listen: SocketAddr,

    /// Where the HTTPS API for programs without a proxy is served; nowhere if absent.
    #[arg(long, env = "TRELLIS_API_LISTEN")]
    pub api_listen: Option<SocketAddr>,

    /// Where metrics are served.
    #[arg(long, env = "TRELLIS_METRICS_LISTEN", default_value_t = any(names::METRICS_PORT))]
    pub metrics_listen: SocketAddr,

    /// Where readiness and liveness are served.
    #[arg(long, env = "TRELLIS_READY_LISTEN", default_value_t = any(names::READY_PORT))]
    pub ready_listen: SocketAddr,

    /// Where the root is kept: secret or file:DIR. With --source kubernetes: secret.
    #[arg(long, env = "TRELLIS_ROOT")]
    pub root: Option<StoreSpec>,

    /// Who judges tokens: tokenreview or jwks:FILE. With --source kubernetes: tokenreview.
    #[arg(long, env = "TRELLIS_ATTEST")]
    pub attest: Option<AttestSpec>,

    /// The issuer (iss) of the tokens that --attest jwks accepts.
    #[arg(long, env = "TRELLIS_JWKS_ISSUER")]
    pub jwks_issuer: Option<String>,

    /// Where the trust bundle is published: configmaps or file:PATH. With --source kubernetes: configmaps.
    #[arg(long, env = "TRELLIS_PUBLISH")]
    pub publish: Option<PublishSpec>,

    /// The algorithms that a certificate's key may have.
    #[arg(
        long,
        env = "TRELLIS_LEAF_ALGORITHMS",
        value_delimiter = ',',
        default_value = "ml-dsa-65,ml-dsa-44,ml-dsa-87"
    )]
    pub leaf_algorithms: Vec<Algorithm>,

    /// The algorithms that the key in a CertificateSigningRequest or PodCertificateRequest of the cluster may
    /// have; none of them is answered if absent.
    #[arg(long, env = "TRELLIS_REQUEST_ALGORITHMS", value_delimiter = ',')]
    pub request_algorithms: Vec<Algorithm>,

    /// The groups of cryptographic resources that are kept: crypto.trellis.dev, qubesec.io or both, separated by
    /// commas; none of them if absent. They are objects of a Kubernetes API.
    #[arg(long, env = "TRELLIS_CRYPTO_GROUPS", value_delimiter = ',', value_parser = group)]
    pub crypto_groups: Vec<Group>,

    /// What members and the control plane may be signed with: require (ML-DSA only), prefer or classical.
    #[arg(long, env = "TRELLIS_SIGNATURES", default_value = "require")]
    pub signatures: Ladder,

    /// Where the audit trail goes: stdout, file:PATH, otlp, or several, separated by commas.
    #[arg(long, env = "TRELLIS_AUDIT", value_delimiter = ',', default_value = "stdout")]
    pub audit: Vec<SinkSpec>,

    /// How long a certificate is valid.
    #[arg(long, env = "TRELLIS_LEAF_VALIDITY", default_value = "24h", value_parser = duration)]
    pub leaf_validity: Duration,

    /// Where the trust bundle is served to other trust domains, in SPIFFE's format; not at all if absent.
    #[arg(long, env = "TRELLIS_BUNDLE_LISTEN")]
    pub bundle_listen: Option<SocketAddr>,

    /// Where it is served by a certificate for a host name, to those who have no bundle of ours yet.
    #[arg(long, env = "TRELLIS_BUNDLE_WEB_LISTEN", requires = "bundle_web_certificate")]
    pub bundle_web_listen: Option<SocketAddr>,

    /// Folder with that certificate and its key, tls.crt and tls.key, read anew for each connection.
    #[arg(long, env = "TRELLIS_BUNDLE_WEB_CERTIFICATE", requires = "bundle_web_listen")]
    pub bundle_web_certificate: Option<PathBuf>,

    /// How often other trust domains are to fetch it. A new anchor is shown to them for three times as long
    /// before certificates are issued from it.
    #[arg(long, env = "TRELLIS_BUNDLE_REFRESH_HINT", default_value = "5m", value_parser = duration)]
    pub bundle_refresh_hint: Duration,

    /// The shortest time between two fetches of another trust domain's bundle.
    #[arg(long, env = "TRELLIS_FEDERATION_FETCH_INTERVAL", default_value = "1m", value_parser = duration)]
    pub federation_fetch_interval: Duration,

    /// PEM file with the authorities by which bundle endpoints of profile web are believed.
    #[arg(long, env = "TRELLIS_FEDERATION_WEB_ROOTS", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub federation_web_roots: PathBuf,

    /// The algorithm of a new root; a root that exists is used as it is.
    #[arg(long, env = "TRELLIS_ROOT_ALGORITHM", default_value = "ml-dsa-65")]
    pub root_algorithm: Algorithm,

    /// How long a new root is valid.
    #[arg(long, env = "TRELLIS_ROOT_VALIDITY", default_value = "3650d", value_parser = duration)]
    pub root_validity: Duration,

    #[command(flatten)]
    pub outside: outside::Outside,

    /// Where metrics, and the audit trail with --audit otlp, are sent over OTLP, such as http://collector:4317; nowhere if absent.
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

/// What the flags amount to, where one depends on another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    pub root: StoreSpec,
    pub attest: Attest,
    pub publish: PublishSpec,
    pub token: Option<TokenSpec>,
    pub openbao: Option<OpenBaoSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attest {
    TokenReview,
    Jwks { path: std::path::PathBuf, issuer: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlagError {
    #[error("--{flag} is needed with --source {source_}; use --{flag} {example}")]
    Needed { flag: &'static str, source_: String, example: &'static str },
    #[error("--jwks-issuer is needed with --attest jwks:FILE; give the iss of the tokens")]
    NoIssuer,
    #[error("--jwks-issuer has no effect with --attest tokenreview; leave it out")]
    UselessIssuer,
    #[error("--leaf-validity is {0:?}; use 5m to 7d")]
    LeafValidity(Duration),
    #[error(
        "--root-validity is {root:?} and --leaf-validity {leaf:?}; a root must be valid at least ten times as long, and at most 100 years"
    )]
    RootValidity { root: Duration, leaf: Duration },
    #[error("--cluster-domain {0:?} is no DNS domain; use labels of lower case letters, digits and dashes")]
    ClusterDomain(String),
    #[error("--{flag} is {value:?}; use 1s to 1d")]
    Interval { flag: &'static str, value: Duration },
    #[error("--audit names {0} twice; one of each kind is enough")]
    AuditTwice(&'static str),
    #[error("--audit otlp needs to know where to; give --otlp-endpoint")]
    AuditWithoutEndpoint,
    #[error(
        "--token-module, --token-label and --token-pin-file belong together, and --keys token needs them: give all"
    )]
    HalfAToken,
    #[error(
        "--openbao-address needs to know as whom: give --openbao-token-file or --openbao-kubernetes-role, and not both"
    )]
    OpenBaoLogin,
    #[error(
        "--{flag} {text:?} is no path of letters, digits, dots, dashes and underscores; use one such as pki"
    )]
    OpenBaoPath { flag: &'static str, text: String },
}

impl Flags {
    pub fn choices(&self) -> Result<Choices, FlagError> {
        self.check_validities()?;
        check_domain(&self.cluster_domain)?;
        self.check_audit()?;
        self.check_intervals()?;
        let attest = match self.or_default("attest", "jwks:FILE", &self.attest, AttestSpec::TokenReview)? {
            AttestSpec::TokenReview if self.jwks_issuer.is_some() => return Err(FlagError::UselessIssuer),
            AttestSpec::TokenReview => Attest::TokenReview,
            AttestSpec::Jwks(path) => {
                let issuer = self.jwks_issuer.clone().filter(|issuer| !issuer.is_empty());
                Attest::Jwks { path, issuer: issuer.ok_or(FlagError::NoIssuer)? }
            }
        };
        Ok(Choices {
            root: self.or_default("root", "file:DIR", &self.root, StoreSpec::Secret)?,
            attest,
            publish: self.or_default("publish", "file:PATH", &self.publish, PublishSpec::ConfigMaps)?,
            token: self.outside.token()?,
            openbao: self.outside.openbao(self.root_validity)?,
        })
    }

    /// What was said, or what goes without saying where there is a Kubernetes API.
    fn or_default<T: Clone>(
        &self,
        flag: &'static str,
        example: &'static str,
        said: &Option<T>,
        default: T,
    ) -> Result<T, FlagError> {
        match (said, &self.source) {
            (Some(said), _) => Ok(said.clone()),
            (None, SourceSpec::Kubernetes) => Ok(default),
            (None, SourceSpec::Folder(_)) => {
                Err(FlagError::Needed { flag, source_: self.source.to_string(), example })
            }
        }
    }

    /// One of each kind: a chain goes on behind what is in one file.
    fn check_audit(&self) -> Result<(), FlagError> {
        let mut seen = BTreeSet::new();
        match self.audit.iter().map(SinkSpec::name).find(|name| !seen.insert(*name)) {
            Some(name) => Err(FlagError::AuditTwice(name)),
            None if self.audit.contains(&SinkSpec::Otlp) && self.otlp_endpoint.is_none() => {
                Err(FlagError::AuditWithoutEndpoint)
            }
            None => Ok(()),
        }
    }

    fn check_intervals(&self) -> Result<(), FlagError> {
        let intervals = [
            ("bundle-refresh-hint", self.bundle_refresh_hint),
            ("federation-fetch-interval", self.federation_fetch_interval),
        ];
        match intervals.into_iter().find(|(_, value)| !(Duration::from_secs(1)..=DAY).contains(value)) {
            Some((flag, value)) => Err(FlagError::Interval { flag, value }),
            None => Ok(()),
        }
    }

    /// How long other trust domains are shown a new anchor before it is used.
    pub fn advance(&self) -> Duration {
        match self.bundle_listen.or(self.bundle_web_listen) {
            Some(_) => self.bundle_refresh_hint * federation::ADVANCE,
            None => Duration::ZERO,
        }
    }

    fn check_validities(&self) -> Result<(), FlagError> {
        let (leaf, root) = (self.leaf_validity, self.root_validity);
        if !(Duration::from_secs(5 * 60)..=7 * DAY).contains(&leaf) {
            return Err(FlagError::LeafValidity(leaf));
        }
        if !(leaf * 10..=36_525 * DAY).contains(&root) {
            return Err(FlagError::RootValidity { root, leaf });
        }
        Ok(())
    }
}

impl Choices {
    pub fn needs_kubernetes(&self, source: &SourceSpec) -> bool {
        *source == SourceSpec::Kubernetes
            || self.root == StoreSpec::Secret
            || self.attest == Attest::TokenReview
            || self.publish == PublishSpec::ConfigMaps
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

fn check_domain(domain: &str) -> Result<(), FlagError> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= 120 && domain.split('.').all(is_label) {
        return Ok(());
    }
    Err(FlagError::ClusterDomain(domain.to_owned()))
}

/// A number and a unit: s, m, h or d.
fn group(text: &str) -> Result<Group, String> {
    Group::of(text).ok_or_else(|| {
        format!("there is no such group: write {} or {}", Group::Trellis.as_str(), Group::Qubesec.as_str())
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; use a number and s, m, h or d, such as 24h");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u32>().ok()).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(args: &[&str]) -> Result<Choices, FlagError> {
        Flags::try_parse_from(["trellis-ca"].iter().chain(args)).unwrap().choices()
    }

    #[test]
    fn on_kubernetes_everything_goes_without_saying() {
        let expected = Choices {
            root: StoreSpec::Secret,
            attest: Attest::TokenReview,
            publish: PublishSpec::ConfigMaps,
            token: None,
            openbao: None,
        };
        assert_eq!(choices(&[]), Ok(expected));
    }

    #[test]
    fn with_a_folder_each_choice_must_be_made_and_the_error_says_how() {
        let folder = ["--source", "folder:/m", "--root", "file:/r", "--publish", "file:/b"];
        let missing = choices(&folder).unwrap_err().to_string();
        assert!(missing.contains("--attest jwks:FILE"), "{missing}");
        let complete = [&folder[..], &["--attest", "jwks:/k", "--jwks-issuer", "demo"]].concat();
        let chosen = choices(&complete).unwrap();
        assert_eq!(chosen.attest, Attest::Jwks { path: "/k".into(), issuer: "demo".into() });
        assert!(!chosen.needs_kubernetes(&SourceSpec::Folder("/m".into())));
        assert_eq!(choices(&[&folder[..], &["--attest", "jwks:/k"]].concat()), Err(FlagError::NoIssuer));
    }

    #[test]
    fn wrong_values_are_refused() {
        for args in [
            ["--root", "vault:x"],
            ["--attest", "none"],
            ["--publish", "file:"],
            ["--audit", "file:"],
            ["--audit", "syslog"],
            ["--leaf-validity", "24"],
            ["--leaf-validity", "1.5h"],
            ["--leaf-algorithms", "rsa-2048"],
            ["--source", "folder:"],
            ["--bundle-web-listen", "127.0.0.1:1"],
            ["--bundle-web-certificate", "/tls"],
        ] {
            assert!(Flags::try_parse_from(["trellis-ca"].iter().chain(&args)).is_err(), "{args:?} was taken");
        }
        for args in [
            ["--leaf-validity", "4m"],
            ["--leaf-validity", "8d"],
            ["--root-validity", "9d"],
            ["--root-validity", "40000d"],
            ["--cluster-domain", "Cluster.Local"],
            ["--jwks-issuer", "x"],
            ["--bundle-refresh-hint", "0s"],
            ["--federation-fetch-interval", "2d"],
            ["--audit", "otlp"],
            ["--audit", "stdout,stdout"],
            ["--audit", "file:/a,file:/b"],
            ["--keys", "token"],
            ["--token-module", "/m.so"],
            ["--openbao-address", "https://bao:8200"],
        ] {
            assert!(choices(&args).is_err(), "{args:?} was taken");
        }
    }
}
