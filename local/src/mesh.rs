//! The control plane and the proxies, started in the order in which they need one another.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;
use trellis_api::{
    evidence::ProxyEvidence,
    names::{
        ADMIN_PORT, BUNDLE_PORT, CA_API_PORT, CA_PORT, DISCOVERY, DISCOVERY_PORT, METRICS_PORT, READY_PORT,
        SYSTEM_NAMESPACE, TUNNEL_PORT,
    },
    trust::{TRUST_DOMAIN, TrustDomain, TrustDomainSpec, TrustDomainStatus},
};

use crate::{
    get::{self, GetError},
    manifest::{self, Service, Workload},
    network::{Network, Role},
    process::{Process, ProcessError},
    token::{ISSUER, Signer, TokenError},
};

/// How long a process may take to become ready.
const PATIENCE: Duration = Duration::from_secs(30);
const CA_NAME: &str = "ca";
const DISCOVERY_NAME: &str = "discovery";
/// Longer than anybody runs a mesh on loopback.
const TOKEN_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// A running mesh. Dropping it ends every process and removes every file.
pub struct Mesh {
    options: Options,
    network: Network,
    signer: Signer,
    processes: Vec<Process>,
    directory: TempDir,
    wrap: Option<Wrap>,
    _mark: TcpListener,
}

/// A program that runs another one, to watch it.
#[derive(Clone, Debug)]
pub struct Wrap {
    pub program: PathBuf,
    /// Its own, before the other program and that one's.
    pub arguments: Vec<String>,
}

/// What processes find in their environment, which is empty otherwise, by the name of the process: `ca`,
/// `discovery`, or that of the workload whose proxy it is.
pub type Environment = BTreeMap<String, Vec<(String, String)>>;

#[derive(Clone, Debug)]
pub struct Options {
    /// Where `trellis-ca`, `trellis-discovery` and `trellis-proxy` are.
    pub binaries: PathBuf,
    /// Leaf algorithms that the CA may issue, as it reads them.
    pub leaf_algorithms: String,
    /// Algorithm of the first root.
    pub root_algorithm: String,
    /// What the control plane may be signed with: require, prefer or classical.
    pub signatures: String,
    pub trust_domain: String,
    /// Whether the CA serves its bundle to other trust domains. Their bundles are fetched every second then:
    /// nobody waits for minutes in a mesh on loopback.
    pub federated: bool,
    pub environment: Environment,
    pub log: String,
}

/// A proxy that runs.
#[derive(Clone, Debug)]
pub struct Running {
    pub workload: Workload,
    pub tunnel: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    /// Of the proxy.
    pub pid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("no part of 127.0.0.0/8 is free; end another mesh on this machine first")]
    NoNetwork,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Get(#[from] GetError),
    #[error("{address} answered {path} with something else than it should: {source}")]
    Answer { address: SocketAddr, path: &'static str, source: serde_json::Error },
}

impl Mesh {
    /// Starts the CA and discovery.
    pub async fn start(options: Options) -> Result<Self, MeshError> {
        let (network, mark) = Network::free().ok_or(MeshError::NoNetwork)?;
        let directory = tempfile::Builder::new()
            .prefix("trellis-")
            .tempdir()
            .map_err(|source| MeshError::File { path: std::env::temp_dir(), source })?;
        let signer = Signer::new()?;
        let mut mesh =
            Self { options, network, signer, processes: Vec::new(), directory, wrap: None, _mark: mark };
        for folder in ["manifests", "root", "identities", "logs"] {
            let path = mesh.path(folder);
            fs::create_dir(&path).map_err(|source| MeshError::File { path, source })?;
        }
        mesh.write("jwks.json", &mesh.signer.jwks().to_string())?;
        mesh.apply("system", vec![manifest::namespace(SYSTEM_NAMESPACE)])?;
        mesh.start_ca().await?;
        mesh.start_discovery().await?;
        Ok(mesh)
    }

    /// The HTTPS API of the CA.
    pub fn ca_api(&self) -> SocketAddr {
        (self.network.address(Role::Control, 1), CA_API_PORT).into()
    }

    pub fn network(&self) -> Network {
        self.network
    }

    /// The workload `name` of account `name` in the mesh, with the addresses of this number.
    pub fn workload(&self, namespace: &str, name: &str, number: u8, services: Vec<Service>) -> Workload {
        Workload {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: name.to_owned(),
            uid: format!("{name}-uid"),
            pod: self.network.address(Role::Pod, number),
            application: self.network.address(Role::Application, number),
            services,
            meshed: true,
        }
    }

    /// The PEM file with the trust bundle.
    pub fn bundle(&self) -> PathBuf {
        self.path("bundle.pem")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A token file for `workload`, as the kubelet would project it.
    pub fn token(&self, workload: &Workload) -> Result<PathBuf, MeshError> {
        let token = self.signer.token(workload, now(), TOKEN_VALIDITY)?;
        self.write(&format!("identities/{}-{}", workload.namespace, workload.name), &token)
    }

    pub fn ca_address(&self) -> SocketAddr {
        (self.network.address(Role::Control, 1), CA_PORT).into()
    }

    /// Where the CA of a federated mesh serves its bundle.
    pub fn bundle_address(&self) -> SocketAddr {
        (self.network.address(Role::Control, 1), BUNDLE_PORT).into()
    }

    pub fn discovery_address(&self) -> SocketAddr {
        (self.network.address(Role::Control, 2), DISCOVERY_PORT).into()
    }

    /// Wishes for trust to be as `spec` says, as an operator does.
    pub fn wish(&self, spec: &TrustDomainSpec) -> Result<(), MeshError> {
        let mut object = TrustDomain::new(TRUST_DOMAIN, spec.clone());
        object.metadata.namespace = Some(SYSTEM_NAMESPACE.to_owned());
        let object = serde_json::to_value(&object).map_err(|source| MeshError::File {
            path: self.path("manifests/trust.yaml"),
            source: io::Error::other(source),
        })?;
        self.apply("trust", vec![object])
    }

    /// How trust is, as the CA shows it.
    pub async fn trust(&self) -> Result<TrustDomainStatus, MeshError> {
        const PATH: &str = "/trust";
        let address = SocketAddr::new(self.network.address(Role::Control, 1).into(), METRICS_PORT);
        let (_, body) = get::get(address, PATH).await?;
        serde_json::from_slice(&body).map_err(|source| MeshError::Answer { address, path: PATH, source })
    }

    /// Has the proxies that are started from here on run inside another program.
    pub fn wrap_proxies(&mut self, wrap: Option<Wrap>) {
        self.wrap = wrap;
    }

    /// Makes a workload known without starting anything for it.
    pub fn announce(&self, workload: &Workload) -> Result<(), MeshError> {
        if workload.namespace != SYSTEM_NAMESPACE {
            self.apply(
                &format!("namespace-{}", workload.namespace),
                vec![manifest::namespace(&workload.namespace)],
            )?;
        }
        self.apply(&format!("{}-{}", workload.namespace, workload.name), workload.manifests())
    }

    /// Makes a workload one more endpoint of a Service that another one brought.
    pub fn behind(&self, service: &Service, workload: &Workload) -> Result<(), MeshError> {
        let name = format!("behind-{}-{}", service.name, workload.name);
        self.apply(&name, vec![service.also(workload)])
    }

    /// Makes a workload that was put behind a Service no endpoint of it any more.
    pub fn apart(&self, service: &Service, workload: &Workload) -> Result<(), MeshError> {
        self.apply(&format!("behind-{}-{}", service.name, workload.name), Vec::new())
    }

    /// Gives a Service of a workload one more endpoint: the same workload at another port.
    pub fn add_endpoint(&self, workload: &Workload, service: &str, port: u16) -> Result<(), MeshError> {
        let name = format!("{}-{service}-{port}", workload.namespace);
        self.apply(&name, vec![workload.slice(service, &port.to_string(), port)])
    }

    /// Makes many workloads of one namespace known at once.
    pub fn announce_all(&self, namespace: &str, workloads: &[Workload]) -> Result<(), MeshError> {
        let mut manifests = vec![manifest::namespace(namespace)];
        manifests.extend(workloads.iter().flat_map(Workload::manifests));
        self.apply(&format!("namespace-{namespace}"), manifests)
    }

    /// The process of the CA.
    pub fn ca_process(&self) -> Option<u32> {
        self.processes.iter().find(|process| process.name() == CA_NAME).map(Process::id)
    }

    /// Makes a Service known whose one endpoint is a workload of another trust domain.
    pub fn elsewhere(
        &self,
        namespace: &str,
        service: &Service,
        endpoint: Ipv4Addr,
        identity: &str,
    ) -> Result<(), MeshError> {
        self.apply(&format!("elsewhere-{}", service.name), service.elsewhere(namespace, endpoint, identity))
    }

    /// Makes a workload known and starts its proxy, which also listens on the addresses of the Services
    /// that the workload calls. `extra` are further flags.
    pub async fn join(
        &mut self,
        workload: &Workload,
        calls: &[SocketAddr],
        ports: &[u16],
        extra: &[String],
    ) -> Result<Running, MeshError> {
        let running = self.launch(workload, calls, ports, extra)?;
        if let Some(process) = self.processes.last_mut() {
            process.ready(SocketAddr::new(running.admin.ip(), READY_PORT), PATIENCE).await?;
        }
        Ok(running)
    }

    /// The same without waiting for the proxy to be ready.
    pub fn launch(
        &mut self,
        workload: &Workload,
        calls: &[SocketAddr],
        ports: &[u16],
        extra: &[String],
    ) -> Result<Running, MeshError> {
        self.announce(workload)?;
        let pod = IpAddr::V4(workload.pod);
        let at = |port| SocketAddr::new(pod, port);
        let list = |addresses: &mut dyn Iterator<Item = SocketAddr>| {
            addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(",")
        };
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(
            [
                ("pod-name", workload.name.clone()),
                ("pod-namespace", workload.namespace.clone()),
                ("service-account", workload.service_account.clone()),
                ("pod-ips", pod.to_string()),
                ("trust-domain", self.options.trust_domain.clone()),
                ("ca-address", self.ca_address().to_string()),
                ("discovery-address", self.discovery_address().to_string()),
                ("token-file", self.token(workload)?.display().to_string()),
                ("bundle-file", self.bundle().display().to_string()),
                ("outbound-listen", at(trellis_api::names::OUTBOUND_PORT).to_string()),
                ("tunnel-listen", at(TUNNEL_PORT).to_string()),
                ("admin-listen", at(ADMIN_PORT).to_string()),
                ("metrics-listen", at(METRICS_PORT).to_string()),
                ("ready-listen", at(READY_PORT).to_string()),
                ("application-address", workload.application.to_string()),
                ("drain-seconds", "2".to_owned()),
                ("log", self.options.log.clone()),
            ]
            .map(|(flag, value)| format!("--{flag}={value}")),
        );
        // Without capture, the proxy stands on the pod's own ports, and on those of the Services.
        let inbound: Vec<u16> =
            if ports.is_empty() { vec![trellis_api::names::INBOUND_PORT] } else { ports.to_vec() };
        arguments.push(format!("--inbound-listen={}", list(&mut inbound.into_iter().map(at))));
        if !calls.is_empty() {
            arguments.push(format!("--service-listen={}", list(&mut calls.iter().copied())));
        }
        arguments.extend(extra.iter().cloned());
        let process = match &self.wrap {
            None => self.spawn("trellis-proxy", &workload.name, arguments)?,
            Some(wrap) => {
                let proxy = self.options.binaries.join("trellis-proxy").display().to_string();
                let whole = wrap.arguments.iter().cloned().chain([proxy]).chain(arguments);
                let log = self.path(&format!("logs/{}.log", workload.name));
                Process::start(&workload.name, &wrap.program, whole, &[], log)?
            }
        };
        let pid = process.id();
        self.processes.push(process);
        let workload = workload.clone();
        Ok(Running {
            workload,
            tunnel: at(TUNNEL_PORT),
            admin: at(ADMIN_PORT),
            metrics: at(METRICS_PORT),
            pid,
        })
    }

    /// Starts a process that belongs to the mesh and ends with it.
    pub fn attach(
        &mut self,
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<u32, MeshError> {
        let log = self.path(&format!("logs/{name}.log"));
        let process = Process::start(name, program, arguments, &[], log)?;
        let pid = process.id();
        self.processes.push(process);
        Ok(pid)
    }

    /// Ends what was attached, or the proxy of the workload, of this name.
    pub async fn end(&mut self, name: &str) {
        if let Some(at) = self.processes.iter().position(|process| process.name() == name) {
            self.processes.remove(at).stop().await;
        }
    }

    /// What the processes wrote, for an error report.
    pub fn logs(&self) -> String {
        self.processes.iter().map(|process| process.log() + "\n").collect()
    }

    /// Ends the CA, runs `work` while there is none, and starts it again.
    pub async fn without_ca<T>(&mut self, work: impl AsyncFnOnce(&Self) -> T) -> Result<T, MeshError> {
        self.end(CA_NAME).await;
        let done = work(self).await;
        self.start_ca().await?;
        Ok(done)
    }

    /// Ends the whole control plane, runs `work` while there is none, and starts it again.
    pub async fn without_control_plane<T>(
        &mut self,
        work: impl AsyncFnOnce(&Self) -> T,
    ) -> Result<T, MeshError> {
        self.end(DISCOVERY_NAME).await;
        self.end(CA_NAME).await;
        let done = work(self).await;
        self.start_ca().await?;
        self.start_discovery().await?;
        Ok(done)
    }

    /// Replaces the whole control plane, one part after the other.
    pub async fn restart_control_plane(&mut self) -> Result<(), MeshError> {
        self.end(CA_NAME).await;
        self.start_ca().await?;
        self.end(DISCOVERY_NAME).await;
        self.start_discovery().await
    }

    /// Where the CA keeps trust.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Stops everything, the last started first.
    pub async fn stop(mut self) {
        while let Some(process) = self.processes.pop() {
            process.stop().await;
        }
    }

    async fn start_ca(&mut self) -> Result<(), MeshError> {
        let at = |port| SocketAddr::new(self.network.address(Role::Control, 1).into(), port);
        let arguments = [
            ("source", format!("folder:{}", self.path("manifests").display())),
            ("root", format!("file:{}", self.root().display())),
            ("attest", format!("jwks:{}", self.path("jwks.json").display())),
            ("jwks-issuer", ISSUER.to_owned()),
            ("publish", format!("file:{}", self.bundle().display())),
            ("leaf-algorithms", self.options.leaf_algorithms.clone()),
            ("root-algorithm", self.options.root_algorithm.clone()),
            ("signatures", self.options.signatures.clone()),
            ("listen", at(CA_PORT).to_string()),
            ("api-listen", at(CA_API_PORT).to_string()),
            ("metrics-listen", at(METRICS_PORT).to_string()),
            ("ready-listen", at(READY_PORT).to_string()),
            ("trust-domain", self.options.trust_domain.clone()),
            ("log", self.options.log.clone()),
        ];
        let federated = [
            ("bundle-listen", self.bundle_address().to_string()),
            ("bundle-refresh-hint", "1s".to_owned()),
            ("federation-fetch-interval", "1s".to_owned()),
        ];
        let more = federated.into_iter().filter(|_| self.options.federated);
        let arguments = arguments.into_iter().chain(more).map(|(flag, value)| format!("--{flag}={value}"));
        let ready = at(READY_PORT);
        let mut process = self.spawn("trellis-ca", CA_NAME, arguments.collect())?;
        process.ready(ready, PATIENCE).await?;
        self.processes.push(process);
        Ok(())
    }

    async fn start_discovery(&mut self) -> Result<(), MeshError> {
        let address = self.network.address(Role::Control, 2);
        let own = Workload {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            name: DISCOVERY_NAME.to_owned(),
            service_account: DISCOVERY.to_owned(),
            uid: "discovery-uid".to_owned(),
            pod: address,
            application: address,
            services: Vec::new(),
            meshed: false,
        };
        self.announce(&own)?;
        let at = |port| SocketAddr::new(address.into(), port);
        let arguments = [
            ("source", format!("folder:{}", self.path("manifests").display())),
            ("ca-address", self.ca_address().to_string()),
            ("pod-name", own.name.clone()),
            ("trust-domain", self.options.trust_domain.clone()),
            ("signatures", self.options.signatures.clone()),
            ("token-file", self.token(&own)?.display().to_string()),
            ("bundle-file", self.bundle().display().to_string()),
            ("listen", at(DISCOVERY_PORT).to_string()),
            ("metrics-listen", at(METRICS_PORT).to_string()),
            ("ready-listen", at(READY_PORT).to_string()),
            ("log", self.options.log.clone()),
        ]
        .map(|(flag, value)| format!("--{flag}={value}"));
        let mut process = self.spawn("trellis-discovery", DISCOVERY_NAME, arguments.to_vec())?;
        process.ready(at(READY_PORT), PATIENCE).await?;
        self.processes.push(process);
        Ok(())
    }

    fn spawn(&self, binary: &str, name: &str, arguments: Vec<String>) -> Result<Process, MeshError> {
        let log = self.path(&format!("logs/{name}.log"));
        let environment = self.options.environment.get(name).map_or(&[][..], Vec::as_slice);
        Ok(Process::start(name, &self.options.binaries.join(binary), arguments, environment, log)?)
    }

    /// Makes the objects of a file known, in place of those that it had.
    pub fn apply(&self, name: &str, manifests: Vec<Value>) -> Result<(), MeshError> {
        let documents: Vec<String> = manifests.iter().map(Value::to_string).collect();
        // Seen whole or not at all: the folder is being watched.
        let draft = self.write(&format!("{name}.draft"), &documents.join("\n---\n"))?;
        let path = self.path(&format!("manifests/{name}.yaml"));
        fs::rename(draft, &path).map_err(|source| MeshError::File { path, source })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, MeshError> {
        let path = self.path(name);
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(MeshError::File { path, source }),
        }
    }
}

impl Running {
    pub async fn evidence(&self) -> Result<ProxyEvidence, MeshError> {
        const PATH: &str = "/evidence";
        let (_, body) = get::get(self.metrics, PATH).await?;
        serde_json::from_slice(&body).map_err(|source| MeshError::Answer {
            address: self.metrics,
            path: PATH,
            source,
        })
    }

    /// Asks the proxy for a new certificate.
    pub async fn rotate(&self) -> Result<(), MeshError> {
        get::post(self.admin, "/identity/rotate").await?;
        Ok(())
    }
}

/// Tokens are dated by the machine's own clock, which the CA reads too.
#[expect(
    clippy::disallowed_methods,
    reason = "processes on one machine share its clock; nothing is tested here"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
