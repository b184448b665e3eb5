//! Two Envoys that do what our proxies do, as Istio would have them do it: one beside the client and one
//! beside the application, with mutual TLS 1.3 between them. Their certificates are classical, since Envoy
//! knows no others; their key exchange is hybrid.

mod config;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use http::StatusCode;
use tokio::time;
use trellis_api::names::DEFAULT_TRUST_DOMAIN;
use trellis_local::{Mesh, Role, get::get};
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, SystemClock},
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    spiffe::SpiffeId,
    x509_pem,
};

use crate::cores::{self, Cores};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Until an Envoy serves.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);
const ADMIN: u16 = 15_000;
const TUNNEL: u16 = 15_443;
pub const CLIENT: &str = "client";
const SERVER: &str = "server";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests are read and routed on both sides.
    Http,
    /// Bytes are carried, each connection in one of its own.
    Tcp,
}

/// A pair that runs.
#[derive(Clone, Debug)]
pub struct Pair {
    program: PathBuf,
    directory: PathBuf,
    kind: Kind,
    pub client: u32,
    pub server: u32,
    /// Where the application's clients connect.
    pub entry: SocketAddr,
    admin: SocketAddr,
}

/// Where everything of a pair is.
struct Plan {
    kind: Kind,
    entry: SocketAddr,
    /// Where the server's side takes the client's, one for each address of the application.
    tunnels: [SocketAddr; 2],
    application: [SocketAddr; 2],
    client_admin: SocketAddr,
    server_admin: SocketAddr,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }

    /// Keeps the addresses of the pairs apart.
    fn number(self) -> u8 {
        match self {
            Self::Http => 20,
            Self::Tcp => 30,
        }
    }
}

/// What a process of a pair is called.
pub fn name(kind: Kind, side: &str) -> String {
    format!("envoy-{}-{side}", kind.name())
}

impl Pair {
    /// Starts `program` twice beside the workloads of `mesh`, in front of an application at these addresses.
    pub async fn start(
        mesh: &mut Mesh,
        program: &Path,
        kind: Kind,
        application: [SocketAddr; 2],
        cores: Cores,
    ) -> Result<Self> {
        let at = |role, number, port| {
            SocketAddr::from((mesh.network().address(role, kind.number() + number), port))
        };
        let plan = Plan {
            kind,
            entry: at(Role::Service, 0, application[0].port()),
            tunnels: [at(Role::Pod, 1, TUNNEL), at(Role::Pod, 2, TUNNEL)],
            application,
            client_admin: at(Role::Pod, 0, ADMIN),
            server_admin: at(Role::Pod, 1, ADMIN),
        };
        let directory = mesh.path(&format!("envoy-{}", kind.name()));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let certificates = certify(&directory)?;
        let configs = [
            (SERVER, config::server(&plan, &certificates), plan.server_admin),
            (CLIENT, config::client(&plan, &certificates), plan.client_admin),
        ];
        let mut pair = Self {
            program: program.to_owned(),
            directory,
            kind,
            client: 0,
            server: 0,
            entry: plan.entry,
            admin: plan.client_admin,
        };
        for (side, config, admin) in configs {
            let path = pair.directory.join(format!("{side}.json"));
            fs::write(&path, config.to_string()).with_context(|| path.display().to_string())?;
            let process = pair.run(mesh, side)?;
            ready(admin).await.with_context(|| format!("an Envoy does not start:\n{}", mesh.logs()))?;
            cores::pin(process, cores.mesh)?;
            match side {
                CLIENT => pair.client = process,
                _ => pair.server = process,
            }
        }
        Ok(pair)
    }

    /// Starts the client's side again, after it was ended.
    pub fn start_client(&mut self, mesh: &mut Mesh) -> Result<()> {
        self.client = self.run(mesh, CLIENT)?;
        Ok(())
    }

    fn run(&self, mesh: &mut Mesh, side: &str) -> Result<u32> {
        let config = self.directory.join(format!("{side}.json")).display().to_string();
        let arguments = [
            "--config-path",
            &config,
            // Like ours, they have one thread for traffic.
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ];
        Ok(mesh.attach(&name(self.kind, side), &self.program, arguments.map(str::to_owned))?)
    }

    /// Handshakes that the client's side has made, every one of which must have been what it was meant to be.
    pub async fn handshakes(&self) -> Result<u64> {
        let (status, body) = get(self.admin, "/stats?filter=cluster.server.ssl").await?;
        ensure!(status == StatusCode::OK, "Envoy says {status} of its own statistics");
        let text = String::from_utf8_lossy(&body);
        let count = |name: &str| -> u64 {
            let name = format!("cluster.server.ssl.{name}: ");
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
        };
        let all = count("handshake");
        let (hybrid, newest) = (count("curves.X25519MLKEM768"), count("versions.TLSv1.3"));
        ensure!(
            hybrid == all && newest == all,
            "of {all} handshakes {hybrid} were hybrid and {newest} of TLS 1.3"
        );
        Ok(all)
    }
}

async fn ready(admin: SocketAddr) -> Result<()> {
    let live = async {
        while !matches!(get(admin, "/ready").await, Ok((StatusCode::OK, _))) {
            time::sleep(LOOK).await;
        }
    };
    if time::timeout(PATIENCE, live).await.is_err() {
        bail!("nothing is ready at {admin} after {PATIENCE:?}");
    }
    Ok(())
}

/// The files that both sides read.
struct Certificates {
    directory: PathBuf,
    /// What each side's certificate says of it.
    client: SpiffeId,
    server: SpiffeId,
}

impl Certificates {
    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

fn certify(directory: &Path) -> Result<Certificates> {
    let (now, algorithm) = (SystemClock.now(), Algorithm::EcdsaP256);
    let root = Issuer::new_root(DEFAULT_TRUST_DOMAIN, PrivateKey::generate(algorithm)?, now, 365 * DAY)?;
    let write = |name: &str, label: &str, der: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, x509_pem(label, der)).with_context(|| path.display().to_string())
    };
    let identity = |side| SpiffeId::new(DEFAULT_TRUST_DOMAIN, "bench", side);
    let (client, server) = (identity("client")?, identity("server")?);
    write("root.pem", "CERTIFICATE", &root.anchor().der)?;
    for (side, identity) in [("client", &client), ("server", &server)] {
        let key = PrivateKey::generate(algorithm)?;
        let request =
            LeafRequest { public_key: key.public_key(), identity, dns_names: &[], now, validity: DAY };
        write(&format!("{side}.pem"), "CERTIFICATE", &root.issue(&request)?.der)?;
        write(&format!("{side}.key"), "PRIVATE KEY", &key.pkcs8()?)?;
    }
    Ok(Certificates { directory: directory.to_owned(), client, server })
}
