//! The mesh that is measured: one client workload and one server workload, each behind its proxy, and an
//! application that the client reaches through both proxies or directly.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{net::TcpStream, time};
use trellis_api::evidence::{Class, Connections, REFUSED};
use trellis_api::names::DEFAULT_TRUST_DOMAIN;
use trellis_local::{Environment, Mesh, Options, Role, Running, Service, Wrap, get::get};

use crate::{
    cores::{self, Cores},
    driver::Client,
    envoy::{self, Kind},
    load::{Load, Tally},
    usage::{Span, Watch, resident},
};

const NAMESPACE: &str = "bench";
const PORT: u16 = 8080;
/// Where the application listens as well: a Service with one endpoint would leave nothing to choose.
const OTHER_PORT: u16 = 8081;
const HANDSHAKES: &str = "trellis_handshakes_total{";
/// How long the application may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Bed {
    mesh: Mesh,
    client: Running,
    server: Running,
    applications: Vec<u32>,
    workers: u8,
    cores: Cores,
    envoys: Option<[envoy::Pair; 2]>,
}

/// How the proxies run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Inside another program.
    pub wrap: Option<Wrap>,
    /// Each has so many, and so has the application.
    pub workers: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Self { wrap: None, workers: 1 }
    }
}

/// How the client reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Both proxies and the tunnel between them.
    Through,
    Direct,
    /// Two Envoys, where they were added.
    Envoy(Kind),
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
        Self::open_in(binaries, cores, Setup::default()).await
    }

    pub async fn open_in(binaries: &Path, cores: Cores, setup: Setup) -> Result<Self> {
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
        mesh.wrap_proxies(setup.wrap);
        let entry = mesh.network().address(Role::Service, 1);
        let service = Service { name: "server".to_owned(), address: entry, port: PORT };
        let server = mesh.workload(NAMESPACE, "server", 1, vec![service]);
        let client = mesh.workload(NAMESPACE, "client", 2, Vec::new());
        mesh.announce(&server)?;
        mesh.announce(&client)?;
        mesh.add_endpoint(&server, "server", OTHER_PORT)?;
        let own = std::env::current_exe()?;
        let listen = [PORT, OTHER_PORT].map(|port| SocketAddr::from((server.application, port)).to_string());
        // A process of the application does no two things at once.
        let shares = listen.chunks(listen.len().div_ceil(setup.workers.into()));
        let mut applications = Vec::new();
        for (number, share) in shares.enumerate() {
            let arguments = std::iter::once("application".to_owned()).chain(share.iter().cloned());
            applications.push(mesh.attach(&format!("application-{number}"), &own, arguments)?);
        }
        let extra = extra(setup.workers);
        let server = mesh.join(&server, &[], &[PORT], &extra).await?;
        let client = mesh.join(&client, &[SocketAddr::from((entry, PORT))], &[], &extra).await?;
        for proxy in [&client, &server] {
            cores::pin(proxy.pid, cores.mesh)?;
        }
        let workers = setup.workers;
        let bed = Self { mesh, client, server, applications, workers, cores, envoys: None };
        bed.wait_for_application().await?;
        Ok(bed)
    }

    /// Puts Envoys beside our proxies, in front of the same application.
    pub async fn add_envoys(&mut self, program: &Path) -> Result<()> {
        let application = [PORT, OTHER_PORT].map(|port| (self.server.workload.application, port).into());
        let cores = self.cores;
        let http = envoy::Pair::start(&mut self.mesh, program, Kind::Http, application, cores).await?;
        let tcp = envoy::Pair::start(&mut self.mesh, program, Kind::Tcp, application, cores).await?;
        self.envoys = Some([http, tcp]);
        Ok(())
    }

    pub fn envoy(&self, kind: Kind) -> Result<&envoy::Pair> {
        let [http, tcp] = self.envoys.as_ref().context("no Envoy was added")?;
        Ok(match kind {
            Kind::Http => http,
            Kind::Tcp => tcp,
        })
    }

    /// Handshakes that the client's proxy has made.
    pub async fn handshakes(&self) -> Result<u64> {
        let (_, body) = get(self.client.metrics, "/metrics").await?;
        let text = String::from_utf8_lossy(&body);
        let counts = text.lines().filter(|line| {
            line.starts_with(HANDSHAKES) && line.contains("outbound") && line.contains("result=\"ok\"")
        });
        counts
            .map(|line| {
                let value = line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok());
                value.with_context(|| format!("not a count: {line:?}"))
            })
            .sum()
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
        let (measured, idle) = self.measured(route)?;
        let others = [self.applications.clone(), vec![client.id(), std::process::id()], idle].concat();
        let watch = Watch::begin(self.cores, &measured, &others)?;
        client.go().await?;
        let tally = client.tally().await?;
        let span = watch.end()?;
        ensure!(tally.requests > 0, "a client was not answered once");
        Ok(Observed { tally, span })
    }

    /// The processes that are on a route, and those that are on another.
    fn measured(&self, route: Route) -> Result<(Vec<u32>, Vec<u32>)> {
        let ours = self.proxies().to_vec();
        let all: Vec<u32> =
            self.envoys.iter().flatten().flat_map(|pair| [pair.client, pair.server]).collect();
        Ok(match route {
            Route::Through | Route::Direct => (ours, all),
            Route::Envoy(kind) => {
                let pair = self.envoy(kind)?;
                let on = [pair.client, pair.server];
                let rest = all.into_iter().filter(|process| !on.contains(process));
                (on.to_vec(), rest.chain(ours).collect())
            }
        })
    }

    /// A client that is ready for its load.
    pub async fn client(&self, route: Route, load: &Load) -> Result<Client> {
        Client::start(&load.clone().towards(self.entry(route)?)).await
    }

    /// Where a client connects.
    pub fn entry(&self, route: Route) -> Result<SocketAddr> {
        Ok(match route {
            Route::Through => (self.mesh.network().address(Role::Service, 1), PORT).into(),
            Route::Direct => (self.server.workload.application, PORT).into(),
            Route::Envoy(kind) => self.envoy(kind)?.entry,
        })
    }

    /// Lets proxies, application and the clients to come run on any of `cores`.
    pub fn spread(&self, cores: &[usize]) -> Result<()> {
        for process in self.applications.iter().copied().chain(self.proxies()) {
            cores::spread(process, cores)?;
        }
        cores::spread_self(cores)
    }

    /// Ends the proxy beside the client.
    pub async fn end_client(&mut self, route: Route) {
        match route {
            Route::Direct => {}
            Route::Through => self.mesh.end(&self.client.workload.name).await,
            Route::Envoy(kind) => self.mesh.end(&envoy::name(kind, envoy::CLIENT)).await,
        }
    }

    /// Starts it again, and waits for nothing.
    pub fn start_client(&mut self, route: Route) -> Result<u32> {
        let process = match route {
            Route::Direct => bail!("nothing stands beside a client that connects directly"),
            Route::Through => {
                let entry = self.entry(route)?;
                let workload = self.client.workload.clone();
                self.client = self.mesh.launch(&workload, &[entry], &[], &extra(self.workers))?;
                self.client.pid
            }
            Route::Envoy(kind) => {
                let [http, tcp] = self.envoys.as_mut().context("no Envoy was added")?;
                let pair = match kind {
                    Kind::Http => http,
                    Kind::Tcp => tcp,
                };
                pair.start_client(&mut self.mesh)?;
                pair.client
            }
        };
        cores::pin(process, self.cores.mesh)?;
        Ok(process)
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

impl Observed {
    pub fn per_second(&self) -> f64 {
        self.tally.requests as f64 / self.tally.seconds
    }

    /// CPU of both proxies, in microseconds. Of a million requests it is the same number in seconds.
    pub fn cpu_per_request(&self) -> f64 {
        self.span.cpu.as_secs_f64() * 1e6 / self.tally.requests as f64
    }
}

/// What proxies are told besides.
fn extra(workers: u8) -> [String; 2] {
    ["--plaintext=strict".to_owned(), format!("--workers={workers}")]
}

fn is_post_quantum(row: &Connections) -> bool {
    row.class == Class::Pq && !row.reason.as_ref().is_some_and(|reason| reason.starts_with(REFUSED))
}
