//! Who takes part: a visitor calls `web`, which calls `catalog` over HTTP and `orders` over a line
//! protocol in which the server speaks first. A `legacy` client, able to do only what was common before
//! quantum computers mattered, calls `catalog`, whose policy prefers but does not require better. All of
//! them begin under a classical root, and move to a post-quantum one while they talk.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use trellis_api::{
    names::DEFAULT_TRUST_DOMAIN,
    trust::{Issuing, KeyAlgorithm, Leaves, PastPhase, TrustDomainSpec},
};
use trellis_local::{Environment, Mesh, Options, Role, Running, Service, Workload};

const NAMESPACE: &str = "shop";
const HTTP: u16 = 8080;
const LINES: u16 = 7000;
/// What the mesh is moved away from, and to.
const CLASSICAL: KeyAlgorithm = KeyAlgorithm::EcdsaP256;
const POST_QUANTUM: KeyAlgorithm = KeyAlgorithm::MlDsa65;

pub struct Shop {
    mesh: Mesh,
    pub visitor: Running,
    pub web: Running,
    pub catalog: Running,
    pub orders: Running,
    pub legacy: Running,
    /// Where `legacy` reaches `catalog`.
    pub legacy_entry: SocketAddr,
}

impl Shop {
    pub async fn open(binaries: PathBuf) -> anyhow::Result<Self> {
        let options = Options {
            binaries,
            leaf_algorithms: "ml-dsa-65,ecdsa-p256".to_owned(),
            root_algorithm: CLASSICAL.to_string(),
            signatures: "prefer".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            environment: Environment::new(),
            log: "info".to_owned(),
        };
        let mut mesh = Mesh::start(options).await?;
        let service = |number, port| SocketAddr::new(address(&mesh, Role::Service, number), port);
        let (web_at, catalog_at, orders_at) = (service(1, HTTP), service(2, HTTP), service(3, LINES));
        let legacy_entry = service(4, HTTP);

        let catalog =
            workload(&mesh, 1, "catalog", &[("catalog", catalog_at), ("catalog-old", legacy_entry)]);
        let orders = workload(&mesh, 2, "orders", &[("orders", orders_at)]);
        let web = workload(&mesh, 3, "web", &[("web", web_at)]);
        let visitor = workload(&mesh, 4, "visitor", &[]);
        let legacy = workload(&mesh, 5, "legacy", &[]);
        // All are known before the first proxy asks about any.
        for one in [&catalog, &orders, &web, &visitor, &legacy] {
            mesh.announce(one)?;
        }

        let flags = |flags: &[&str]| flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        let migrating = ["--signatures=prefer", "--leaf-algorithm=ecdsa-p256"];
        let modern = flags(&migrating);
        let prefer = [flags(&["--key-exchange=prefer"]), modern.clone()].concat();
        let old = [flags(&["--key-exchange=classical", "--leaf-pinned=true"]), modern.clone()].concat();
        application(&mut mesh, &catalog, &["--http", &at(&catalog, HTTP)])?;
        application(&mut mesh, &orders, &["--lines", &at(&orders, LINES)])?;
        let calls = [
            "--http",
            &at(&web, HTTP),
            "--call-http",
            &catalog_at.to_string(),
            "--call-lines",
            &orders_at.to_string(),
        ];
        application(&mut mesh, &web, &calls)?;
        Ok(Self {
            catalog: mesh.join(&catalog, &[], &[HTTP], &prefer).await?,
            orders: mesh.join(&orders, &[], &[LINES], &modern).await?,
            web: mesh.join(&web, &[catalog_at, orders_at], &[HTTP], &modern).await?,
            visitor: mesh.join(&visitor, &[web_at], &[], &modern).await?,
            legacy: mesh.join(&legacy, &[legacy_entry], &[], &old).await?,
            legacy_entry,
            mesh,
        })
    }

    /// Has the mesh move to post-quantum certificates.
    pub fn migrate(&self) -> anyhow::Result<()> {
        let spec = TrustDomainSpec {
            leaf: Leaves { algorithm: Some(POST_QUANTUM), dual: false },
            ..TrustDomainSpec::of(Issuing::own(POST_QUANTUM, 1))
        };
        Ok(self.mesh.wish(&spec)?)
    }

    /// The migration's phases, once it has ended.
    pub async fn migrated(&self) -> anyhow::Result<Option<Vec<PastPhase>>> {
        let trust = self.mesh.trust().await?;
        Ok(trust.past.into_iter().next().map(|past| past.phases))
    }

    pub async fn close(self) {
        self.mesh.stop().await;
    }

    /// Where the visitor reaches `web`.
    pub fn entry(&self) -> SocketAddr {
        SocketAddr::new(address(&self.mesh, Role::Service, 1), HTTP)
    }

    pub fn proxies(&self) -> [&Running; 5] {
        [&self.visitor, &self.web, &self.catalog, &self.orders, &self.legacy]
    }

    /// Those whose certificates are all that they can be.
    pub fn modern(&self) -> [&Running; 4] {
        [&self.visitor, &self.web, &self.catalog, &self.orders]
    }

    /// `catalog`, as somebody outside of the mesh finds it.
    pub fn catalog_pod(&self) -> SocketAddr {
        SocketAddr::new(self.catalog.workload.pod.into(), HTTP)
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}

fn address(mesh: &Mesh, role: Role, number: u8) -> IpAddr {
    mesh.network().address(role, number).into()
}

fn workload(mesh: &Mesh, number: u8, name: &str, services: &[(&str, SocketAddr)]) -> Workload {
    let service = |(name, at): &(&str, SocketAddr)| match at.ip() {
        IpAddr::V4(address) => Some(Service { name: (*name).to_owned(), address, port: at.port() }),
        IpAddr::V6(_) => None,
    };
    mesh.workload(NAMESPACE, name, number, services.iter().filter_map(service).collect())
}

fn at(workload: &Workload, port: u16) -> String {
    SocketAddr::new(workload.application.into(), port).to_string()
}

/// Starts the application itself, which knows nothing of the mesh.
fn application(mesh: &mut Mesh, workload: &Workload, arguments: &[&str]) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let arguments = std::iter::once("demo-app").chain(arguments.iter().copied()).map(str::to_owned);
    mesh.attach(&format!("{}-app", workload.name), &own, arguments)?;
    Ok(())
}
