//! The mesh that is measured: one client workload and one server workload, each behind its proxy, and an
//! application that the client reaches through both proxies or directly.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Result, bail, ensure};
use tokio::{net::TcpStream, time};
use trellis_api::evidence::{Class, Connections, REFUSED};
use trellis_api::names::DEFAULT_TRUST_DOMAIN;
use trellis_local::{Environment, Mesh, Options, Role, Running, Service};

use crate::{
    cores::{self, Cores},
    driver::Client,
    load::{Load, Tally},
    usage::{Span, Watch, resident},
};

const NAMESPACE: &str = "bench";
const PORT: u16 = 8080;
/// How long the application may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Bed {
    mesh: Mesh,
    client: Running,
    server: Running,
    application: u32,
    cores: Cores,
}

/// How the client reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Both proxies and the tunnel between them.
    Through,
    Direct,
}

/// One load and what it took.
#[derive(Clone, Debug)]
pub struct Observed {
    pub tally: Tally,
    /// What it cost both proxies.
    pub span: Span,
}

impl Bed {
    /// Must be called from the core of the load, which all but the proxies stay on.
    pub async fn open(binaries: &Path, cores: Cores) -> Result<Self> {
        let options = Options {
            binaries: binaries.to_owned(),
            root_algorithm: "ml-dsa-65".to_owned(),
            signatures: "require".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            environment: Environment::new(),
            leaf_algorithms: "ml-dsa-65".to_owned(),
            log: "info".to_owned(),
        };
        let mut mesh = Mesh::start(options).await?;
        let entry = mesh.network().address(Role::Service, 1);
        let service = Service { name: "server".to_owned(), address: entry, port: PORT };
        let server = mesh.workload(NAMESPACE, "server", 1, vec![service]);
        let client = mesh.workload(NAMESPACE, "client", 2, Vec::new());
        mesh.announce(&server)?;
        mesh.announce(&client)?;
        let listen = SocketAddr::from((server.application, PORT));
        let own = std::env::current_exe()?;
        let application = mesh.attach("application", &own, ["application".to_owned(), listen.to_string()])?;
        let server = mesh.join(&server, &[], &[PORT], &[]).await?;
        let client = mesh.join(&client, &[SocketAddr::from((entry, PORT))], &[], &[]).await?;
        for proxy in [&client, &server] {
            cores::pin(proxy.pid, cores.mesh)?;
        }
        let bed = Self { mesh, client, server, application, cores };
        bed.wait_for_application().await?;
        Ok(bed)
    }

    pub async fn close(self) {
        self.mesh.stop().await;
    }

    /// The ends of all logs, for an error report.
    pub fn logs(&self) -> String {
        self.mesh.logs()
    }

    pub fn proxies(&self) -> [u32; 2] {
        [self.client.pid, self.server.pid]
    }

    /// Resident memory of each proxy, in bytes.
    pub fn weigh(&self) -> Result<[u64; 2]> {
        let [client, server] = self.proxies();
        Ok([resident(client)?, resident(server)?])
    }

    /// Lets a client work and watches everybody while it does.
    pub async fn observe(&self, route: Route, load: &Load) -> Result<Observed> {
        let mut client = self.client(route, load).await?;
        let others = [self.application, client.id(), std::process::id()];
        let watch = Watch::begin(self.cores, &self.proxies(), &others)?;
        client.go().await?;
        let tally = client.tally().await?;
        let span = watch.end()?;
        ensure!(tally.requests > 0, "a client was not answered once");
        Ok(Observed { tally, span })
    }

    /// A client that is ready for its load.
    pub async fn client(&self, route: Route, load: &Load) -> Result<Client> {
        let to = match route {
            Route::Through => (self.mesh.network().address(Role::Service, 1), PORT),
            Route::Direct => (self.server.workload.application, PORT),
        };
        Client::start(&load.clone().towards(to.into())).await
    }

    /// Asks both proxies what the connections really were: figures of anything but post-quantum tunnels
    /// would be worth nothing.
    pub async fn prove(&self) -> Result<()> {
        let (near, far) = (self.client.evidence().await?, self.server.evidence().await?);
        for (whose, rows) in [("client", near.outbound), ("server", far.inbound)] {
            let (proved, others): (Vec<Connections>, Vec<_>) = rows.into_iter().partition(is_post_quantum);
            ensure!(!proved.is_empty(), "the {whose}'s proxy carried no post-quantum connection");
            ensure!(others.is_empty(), "the {whose}'s proxy saw other connections as well: {others:?}");
        }
        Ok(())
    }

    async fn wait_for_application(&self) -> Result<()> {
        let address = SocketAddr::from((self.server.workload.application, PORT));
        let connected = async {
            while TcpStream::connect(address).await.is_err() {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        if time::timeout(PATIENCE, connected).await.is_err() {
            bail!("the application does not listen on {address}; the logs end with:\n{}", self.logs());
        }
        Ok(())
    }
}

fn is_post_quantum(row: &Connections) -> bool {
    row.class == Class::Pq && !row.reason.as_ref().is_some_and(|reason| reason.starts_with(REFUSED))
}
