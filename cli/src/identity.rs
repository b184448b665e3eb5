//! `trellis identity get`: a certificate of the mesh for a program without a proxy. The key is made here and
//! stays here; the CA gets a request for it, over TLS that it proves itself in, with the token of the pod.

mod api;
mod folder;
mod keep;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use trellis_api::names;
use trellis_channel::client::Address;
use trellis_pki::{
    algorithm::Algorithm,
    bundle::{Bundle, published_revision},
    clock::{Clock, SystemClock, rfc3339},
    csr,
    identity::Identity,
    key::PrivateKey,
    leaf::Leaf,
    policy::Ladder,
    spiffe::SpiffeId,
};

use self::{api::Api, folder::Folder, keep::After};

/// A token or a bundle is far smaller.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct IdentityArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key, have it certified, and write tls.key, tls.crt and ca.crt.
    Get(Get),
}

#[derive(Debug, Args)]
pub struct Get {
    /// The folder for tls.key, tls.crt and ca.crt, which change together.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The CA's HTTPS API.
    #[arg(long, value_name = "HOST:PORT", env = "TRELLIS_CA_API", default_value_t = default_address())]
    ca: String,
    /// The trust bundle by which the CA is known.
    #[arg(long, value_name = "PEM", default_value_os_t = mounted(names::BUNDLE_FILE))]
    ca_file: PathBuf,
    /// The pod's projected ServiceAccount token, for audience trellis.dev/ca.
    #[arg(long, value_name = "FILE", default_value_os_t = mounted(names::TOKEN_FILE))]
    token_file: PathBuf,
    /// The key's algorithm: ml-dsa-44, ml-dsa-65, ml-dsa-87 or ecdsa-p256.
    #[arg(long, default_value = "ml-dsa-65")]
    algorithm: Algorithm,
    /// The certificate's lifetime in hours; the CA decides if absent.
    #[arg(long, value_name = "HOURS")]
    hours: Option<u32>,
    /// The trust domain of the mesh.
    #[arg(long, env = "TRELLIS_TRUST_DOMAIN", default_value = names::DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    /// The namespace that the CA runs in, as part of its identity.
    #[arg(long, value_name = "NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    ca_namespace: String,
    /// What the CA may be signed with: require (ML-DSA only), prefer or classical.
    #[arg(long, default_value = "require")]
    signatures: Ladder,
    /// Do nothing while the certificate in the folder is good and not due for renewal.
    #[arg(long, conflicts_with = "watch")]
    renew: bool,
    /// Stay, and renew the certificate when proxies do, and whenever trust changes.
    #[arg(long)]
    watch: bool,
    /// With --watch, how often to look whether trust has changed, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    look: u64,
    /// With --watch, what to run by sh after each change; the folder is in TRELLIS_IDENTITY_DIR.
    #[arg(long, value_name = "COMMAND", requires = "watch")]
    exec: Option<String>,
    /// With --watch, the signal to send after each change to the process in --pid-file: HUP, USR1, USR2 or
    /// TERM.
    #[arg(long, value_name = "SIGNAL", requires_all = ["watch", "pid_file"])]
    signal: Option<keep::Signal>,
    /// Where the number of that process stands.
    #[arg(long, value_name = "FILE", requires = "signal")]
    pid_file: Option<PathBuf>,
    /// Print what was done as JSON, one document a line.
    #[arg(long)]
    json: bool,
}

fn default_address() -> String {
    format!("{}.{}.svc:{}", names::CA, names::SYSTEM_NAMESPACE, names::CA_API_PORT)
}

fn mounted(file: &str) -> PathBuf {
    Path::new(names::IDENTITY_DIR).join(file)
}

/// What was got.
struct Got {
    leaf: Leaf,
    /// The bundle that came with it.
    bundle: String,
}

impl IdentityArgs {
    pub async fn run(self) -> Result<ExitCode> {
        let Command::Get(get) = self.command;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        get.run(&clock).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Get {
    async fn run(self, clock: &Arc<dyn Clock>) -> Result<()> {
        let folder = Folder::new(self.out.clone());
        let held = folder.held(&self.trust_domain, self.algorithm, clock.now());
        if self.watch {
            let after = After::new(&self.out, self.exec.clone(), self.signal, self.pid_file.clone());
            return keep::keep(&self, &folder, held, &after, clock).await;
        }
        if let (true, Some(leaf)) = (self.renew, &held)
            && !is_due(leaf, clock.now())
        {
            return self.say("kept", leaf);
        }
        let got = self.get(&folder, None, clock).await?;
        self.say("issued", &got.leaf)
    }

    /// Asks for a certificate and writes it. `known` is a bundle that the CA has told before.
    async fn get(&self, folder: &Folder, known: Option<&str>, clock: &Arc<dyn Clock>) -> Result<Got> {
        let api = self.api(known, clock)?;
        let token = read(&self.token_file)
            .context("token-file: project a ServiceAccount token for audience trellis.dev/ca into the pod")?;
        let key = PrivateKey::generate(self.algorithm)?;
        let answer = api.issue(&csr::make(&key)?, token.trim(), self.hours).await?;
        let bundle = Bundle::from_pem(&self.trust_domain, &answer.bundle).context("the CA's bundle")?;
        let der = folder::certificate(answer.certificate.as_bytes()).context("the CA's certificate")?;
        let pkcs8 = key.pkcs8()?;
        // What a peer would refuse is not written over what may still be good.
        let identity = Identity::new(key, der, &bundle, self.algorithm, clock.now())?;
        folder.write(&pkcs8, &answer.certificate, &answer.bundle)?;
        Ok(Got { leaf: identity.leaf().clone(), bundle: answer.bundle })
    }

    /// The bundle in the file is what counts, unless the CA has told a newer one.
    fn api(&self, known: Option<&str>, clock: &Arc<dyn Clock>) -> Result<Api> {
        let address: Address = self.ca.parse().context("ca")?;
        let file = read(&self.ca_file).context(
            "ca-file: mount the ConfigMap trellis-trust, or the ClusterTrustBundle of trellis.dev/mesh",
        );
        let text = match (file, known) {
            (Ok(file), Some(known)) if published_revision(known) >= published_revision(&file) => {
                known.to_owned()
            }
            (Ok(file), _) => file,
            (Err(_), Some(known)) => known.to_owned(),
            (Err(error), None) => return Err(error),
        };
        let bundle = Bundle::from_pem(&self.trust_domain, &text)
            .with_context(|| format!("ca-file: {}", self.ca_file.display()))?;
        let ca = SpiffeId::new(&self.trust_domain, &self.ca_namespace, names::CA).context("ca-namespace")?;
        Api::new(address, bundle, ca, self.signatures, clock.clone())
    }

    fn say(&self, what: &str, leaf: &Leaf) -> Result<()> {
        let (until, out) = (rfc3339(leaf.not_after), self.out.display());
        let mut stdout = io::stdout().lock();
        if self.json {
            let document = json!({
                "action": what, "identity": leaf.identity.as_str(), "dnsNames": leaf.dns_names,
                "serial": leaf.serial, "algorithm": leaf.algorithm.flag(),
                "issuerAlgorithm": leaf.issuer_algorithm.flag(), "notBefore": rfc3339(leaf.not_before),
                "notAfter": until, "folder": self.out,
            });
            writeln!(stdout, "{document}")?;
        } else {
            let algorithm = leaf.algorithm.name();
            writeln!(
                stdout,
                "{what} {} ({algorithm}, serial {}) until {until} in {out}",
                leaf.identity, leaf.serial
            )?;
        }
        Ok(stdout.flush()?)
    }
}

/// Whether proxies would renew it by now.
fn is_due(leaf: &Leaf, now: SystemTime) -> bool {
    let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
    let age = now.duration_since(leaf.not_before).unwrap_or(Duration::ZERO);
    age >= life / 24 * 20
}

fn read(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    if std::fs::metadata(path).with_context(cannot)?.len() > MAX_FILE {
        bail!("{} is longer than {MAX_FILE} bytes; name another file", path.display());
    }
    std::fs::read_to_string(path).with_context(cannot)
}
