//! The mesh that a test plays on: a `client` and a `server`, each behind its proxy, with the test itself
//! as both applications.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Output,
    sync::Arc,
};

use trellis_api::names::{CA, DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE};
use trellis_channel::identity::{self, IdentityConfig, Resting};
use trellis_local::{Environment, Mesh, Options, Role, Running, Service, Workload};
use trellis_pki::{
    algorithm::Algorithm,
    clock::SystemClock,
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

pub const NAMESPACE: &str = "test";
/// The server's application port.
pub const PORT: u16 = 8080;

pub struct Stage {
    pub mesh: Mesh,
    pub client: Running,
    pub server: Running,
}

impl Stage {
    /// `server` are further flags of the server's proxy.
    pub async fn open(server: &[&str]) -> Result<Self, Error> {
        Self::open_in(Environment::new(), server).await
    }

    /// The same with processes that find something in their environment.
    pub async fn open_in(environment: Environment, server: &[&str]) -> Result<Self, Error> {
        Self::open_with(binaries()?, environment, server).await
    }

    /// The same with programs of another folder.
    pub async fn open_with(
        binaries: PathBuf,
        environment: Environment,
        server: &[&str],
    ) -> Result<Self, Error> {
        let mut mesh = Mesh::start(Options {
            binaries,
            root_algorithm: "ml-dsa-65".to_owned(),
            signatures: "require".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            environment,
            leaf_algorithms: "ml-dsa-65,ml-dsa-44,ml-dsa-87,ecdsa-p256".into(),
            log: "info".into(),
        })
        .await?;
        let entry = mesh.network().address(Role::Service, 1);
        let service = Service { name: "server".into(), address: entry, port: PORT };
        let server_workload = workload(&mesh, 1, "server", vec![service]);
        let client_workload = workload(&mesh, 2, "client", vec![]);
        let extra: Vec<String> = server.iter().map(|&flag| flag.to_owned()).collect();
        let server = mesh.join(&server_workload, &[], &[PORT], &extra).await?;
        let calls = [SocketAddr::from((entry, PORT))];
        let client = mesh.join(&client_workload, &calls, &[], &[]).await?;
        Ok(Self { mesh, client, server })
    }

    /// Where the client's application reaches the server.
    pub fn entry(&self) -> SocketAddr {
        (self.mesh.network().address(Role::Service, 1), PORT).into()
    }

    /// Where the server's application listens.
    pub fn application(&self) -> SocketAddr {
        (self.server.workload.application, PORT).into()
    }

    /// The server's pod, as everybody else knows it.
    pub fn pod(&self) -> SocketAddr {
        (self.server.workload.pod, PORT).into()
    }

    /// An address that belongs to nobody.
    pub fn outside(&self, number: u8) -> Ipv4Addr {
        self.mesh.network().address(Role::Outside, number)
    }

    pub fn server_identity(&self) -> Result<SpiffeId, Error> {
        Ok(SpiffeId::new(DEFAULT_TRUST_DOMAIN, NAMESPACE, "server")?)
    }

    /// The TLS side of a workload named `name` that has a certificate of the mesh, and no proxy.
    pub async fn peer(&self, number: u8, name: &str, policy: Policy) -> Result<Arc<MeshTls>, Error> {
        let workload = workload(&self.mesh, number, name, vec![]);
        self.mesh.announce(&workload)?;
        let clock = Arc::new(SystemClock);
        let tls = Arc::new(MeshTls::new(policy, DEFAULT_TRUST_DOMAIN, clock.clone()));
        let config = IdentityConfig {
            ca_address: self.mesh.ca_address().to_string(),
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            token_file: self.mesh.token(&workload)?,
            bundle_file: self.mesh.bundle(),
            algorithm: Algorithm::MlDsa65,
            ca_identity: SpiffeId::new(DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE, CA)?,
            pod: format!("{NAMESPACE}/{name}"),
            pinned: false,
            dual: None,
            control: Ladder::Require,
            resting: Resting::default(),
        };
        let health = Health::new(&[identity::CONDITION]);
        identity::start(config, tls.clone(), clock, health, &Registry::new()).await?;
        Ok(tls)
    }

    /// How many connections the server's proxy refused for `reason`.
    pub async fn refused(&self, reason: &str) -> Result<u64, Error> {
        let reason = format!("refused_{reason}");
        let evidence = self.server.evidence().await?;
        let rows = evidence.inbound.iter().filter(|row| row.reason.as_deref() == Some(&reason));
        Ok(rows.map(|row| row.count).sum())
    }
}

/// The workload `name` of account `name`.
pub fn workload(mesh: &Mesh, number: u8, name: &str, services: Vec<Service>) -> Workload {
    mesh.workload(NAMESPACE, name, number, services)
}

/// Runs the command line as a user does, with these arguments.
pub async fn trellis(arguments: &[&OsStr]) -> Result<Output, Error> {
    let program = binaries()?.join("trellis");
    // It ends by itself; what it needs is in its arguments.
    let output = tokio::process::Command::new(program).args(arguments).env_clear().output().await?;
    Ok(output)
}

/// The folder with the built programs.
pub fn binaries() -> Result<PathBuf, Error> {
    let given = std::env::vars_os().find(|(name, _)| name == "TRELLIS_BINARIES").map(|(_, value)| value);
    let folder = match given {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../bin")),
    };
    if folder.join("trellis-proxy").is_file() {
        return Ok(folder);
    }
    Err(format!("no trellis-proxy in {}; run `make build`, or set TRELLIS_BINARIES", folder.display()).into())
}

/// A client socket that comes from `source`.
pub async fn connect_from(source: IpAddr, to: SocketAddr) -> Result<tokio::net::TcpStream, Error> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    Ok(socket.connect(to).await?)
}
