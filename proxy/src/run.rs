//! A proxy's life: sockets, identity, threads, traffic, drain.

use std::{
    net::TcpListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
    time,
};
use tracing::{info, warn};
use trellis_api::{annotations::Switch, names, proto::ca::Holding};
use trellis_channel::identity::{self, Application, IdentityConfig, IdentityTask, Resting};
use trellis_pki::{
    clock::{Clock, SystemClock},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health, http, log, otlp, shutdown};

use crate::{
    admin,
    config::Run,
    directory::Directory,
    discovery,
    handshake::{self, Handshaker, Limits, Secured},
    ledger::Ledger,
    listen, node,
    quota::Quota,
    requests::Requests,
    worker::{self, Listeners, Shared, Stage},
    workload::{Leaf, Rotate, WorkloadApi},
};

/// How often a change of identity or trust is looked for that nobody told of.
const LOOK: Duration = Duration::from_secs(10);
const EXPORT_EVERY: Duration = Duration::from_secs(10);

/// Runs a proxy until it was asked to stop and has drained.
pub fn run(config: Run) -> anyhow::Result<()> {
    let reload = log::init(&config.log, config.log_format)?;
    raise_open_files();
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(live(config, reload))
}

/// The sockets that traffic comes in by.
struct Sockets {
    workers: Vec<Listeners>,
    tunnel: StdListener,
}

async fn live(config: Run, reload: log::Reload) -> anyhow::Result<()> {
    let stop = shutdown::signal()?;
    let registry = Registry::new();
    registry.build_info(env!("CARGO_PKG_VERSION"));
    let health = Health::new(&[identity::CONDITION, discovery::CONDITION, DRAINING]);
    health.set(DRAINING, Ok(()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sockets = sockets(&config)?;
    let ready = http::bind(config.ready_listen)?;
    let metrics = http::bind(config.metrics_listen)?;
    let admin = http::bind(config.admin_listen)?;
    // These answer until the very end, so that a drain can be watched.
    let (_serving, serve_until) = watch::channel(false);
    tokio::spawn(http::serve(ready, health.routes(), serve_until.clone()));

    let own = config.identity().context("the proxy's own identity")?;
    // What is derived of it for the control plane admits peers of our own domain only.
    let tls = Arc::new(MeshTls::new(config.policy(), config.trust_domain.clone(), clock.clone()).federated());
    let resting = Resting::default();
    let workload_api = match config.workload_api_socket.clone() {
        Some(socket) => Some(WorkloadApi::open(socket, stop.clone(), &registry)?),
        None => None,
    };
    let mut renewal = {
        let config = identity_config(&config, resting.clone())?;
        let started = identity::start(config, tls.clone(), clock.clone(), health.clone(), &registry);
        tokio::select! {
            started = started => started?,
            () = shutdown::requested(stop.clone()) => return Ok(()),
        }
    };
    let rotator = renewal.rotator();
    let holding = renewal.holding();
    if let Some(api) = &workload_api {
        let leaf = application(&config, own.clone(), &mut renewal, tls.clone(), clock.clone(), &registry)?;
        api.offer(leaf, stop.clone());
    }
    tokio::spawn(renewal.run(stop.clone()));

    let (directory, wishes) = Directory::new();
    let workload = format!("{}/{}", config.pod_namespace, config.pod_name);
    let ledger = Arc::new(Ledger::new(&own, workload, directory.clone(), &registry));
    let requests = Arc::new(Requests::new(&registry));
    tokio::spawn({
        let expected = config.system_identity(names::DISCOVERY)?;
        let control = Arc::new(tls.under(config.control()));
        let channel = trellis_channel::client::channel(&config.discovery_address, control, expected, true)?;
        discovery::run(channel, directory.clone(), wishes, health.clone(), rand::random)
    });
    if let Some(own) = config.pod_ips.first().map(std::net::IpAddr::to_canonical) {
        let directory = directory.clone();
        tokio::spawn(async move { directory.locate(own).await });
    }
    let rotate = workload_api.as_ref().map_or_else(Rotate::default, WorkloadApi::rotate);
    let routes = admin::public(&registry, &ledger, &tls);
    tokio::spawn(http::serve(metrics, routes.clone(), serve_until.clone()));
    tokio::spawn(http::serve(
        admin,
        routes.merge(admin::local(rotator, rotate, reload, &directory)),
        serve_until,
    ));
    let _otlp = match &config.otlp_endpoint {
        Some(endpoint) => Some(otlp::start(&registry, endpoint, &resource(&config), EXPORT_EVERY)?),
        None => None,
    };

    let (stage, staged) = watch::channel(Stage { epoch: tls.epoch(), draining: false });
    let (handshaker, handshakes) = Handshaker::new();
    let quota = Quota::new(config.per_identity());
    let rules = Arc::new(config.rules(node::gateways()));
    let shared =
        Shared { tls, clock, handshaker, directory, ledger, requests, rules, quota, resting, stage: staged };
    let mut threads = Threads::start(shared.clone(), sockets, handshakes)?;
    info!(identity = %own, "serving");

    tokio::select! {
        () = follow(&stage, &shared.tls, holding) => {}
        () = shutdown::requested(stop) => {}
        thread = threads.lost() => anyhow::bail!("the {thread} thread has ended, and traffic with it"),
    }
    info!(open = shared.ledger.open_connections(), limit = ?config.drain(), "draining");
    health.set(DRAINING, Err("the proxy is shutting down".into()));
    stage.send_modify(|stage| stage.draining = true);
    if time::timeout(config.drain(), threads.drained()).await.is_err() {
        warn!(open = shared.ledger.open_connections(), "connections were still open at the end of the drain");
    }
    if let Some(api) = workload_api {
        api.close().await;
    }
    if let Some(otlp) = _otlp {
        otlp.shutdown().await;
    }
    Ok(())
}

fn identity_config(config: &Run, resting: Resting) -> anyhow::Result<IdentityConfig> {
    Ok(IdentityConfig {
        ca_address: config.ca_address.clone(),
        trust_domain: config.trust_domain.clone(),
        token_file: config.token_file.clone(),
        bundle_file: config.bundle_file.clone(),
        algorithm: config.leaf_algorithm,
        ca_identity: config.system_identity(names::CA)?,
        pod: format!("{}/{}", config.pod_namespace, config.pod_name),
        pinned: config.leaf_pinned,
        dual: config.dual_identity.map(|switch| switch == Switch::Enabled),
        control: config.control().signatures,
        resting,
    })
}

/// The certificate of the application, which hears of trust by what the proxy hears.
fn application(
    config: &Run,
    identity: SpiffeId,
    renewal: &mut IdentityTask,
    own: Arc<MeshTls>,
    clock: Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<Leaf> {
    let wanted = IdentityConfig {
        algorithm: config.workload_api_algorithm.unwrap_or(config.leaf_algorithm),
        pinned: config.workload_api_algorithm.is_some() || config.leaf_pinned,
        ..identity_config(config, Resting::default())?
    };
    let application = Application::new(wanted, &own, renewal.heard(), clock.clone(), registry)?;
    let (beside, besides) = watch::channel(None);
    renewal.speak_for(besides);
    Ok(Leaf {
        identity,
        lifecycle: Box::new(move || application.lifecycle()),
        own,
        holding: renewal.holding(),
        beside,
        clock,
        registry: registry.clone(),
    })
}

/// As many open files as this process may have: each connection takes two.
fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        warn!(%error, current = limits.current, "the number of open files could not be raised");
    }
}

/// The condition that ends readiness once the proxy drains.
const DRAINING: &str = "serving";

fn sockets(config: &Run) -> anyhow::Result<Sockets> {
    let count = usize::from(config.workers);
    let mut workers: Vec<Listeners> = (0..count).map(|_| Listeners::default()).collect();
    for address in &config.outbound_listen {
        let bound = listen::bind_if_possible("outbound connections", *address, count)?;
        workers.iter_mut().zip(bound).for_each(|(worker, socket)| worker.outbound.push(socket));
    }
    for address in &config.service_listen {
        let bound = listen::bind("a Service's connections", *address, count)?;
        workers.iter_mut().zip(bound).for_each(|(worker, socket)| worker.outbound.push(socket));
    }
    for address in &config.inbound_listen {
        let bound = listen::bind("inbound connections", *address, count)?;
        workers.iter_mut().zip(bound).for_each(|(worker, socket)| worker.inbound.push(socket));
    }
    let tunnel = listen::bind("the tunnel", config.tunnel_listen, 1)?.into_iter().next();
    Ok(Sockets { workers, tunnel: tunnel.context("no socket for the tunnel")? })
}

fn resource(config: &Run) -> Vec<(&'static str, String)> {
    vec![
        ("service.name", config.service_account.clone()),
        ("k8s.namespace.name", config.pod_namespace.clone()),
        ("k8s.pod.name", config.pod_name.clone()),
    ]
}

/// Tells the data path when our identity or trust has changed.
async fn follow(stage: &watch::Sender<Stage>, tls: &MeshTls, mut holding: watch::Receiver<Holding>) {
    loop {
        tokio::select! {
            Ok(()) = holding.changed() => drop(holding.borrow_and_update()),
            () = time::sleep(LOOK) => {}
        }
        let epoch = tls.epoch();
        stage.send_if_modified(|stage| std::mem::replace(&mut stage.epoch, epoch) != epoch);
    }
}

/// The threads that traffic runs on.
struct Threads {
    ended: mpsc::UnboundedReceiver<&'static str>,
    workers: usize,
}

/// Says that a thread has ended, however it did.
struct Guard(&'static str, mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

const WORKER: &str = "worker";
const HANDSHAKE: &str = "handshake";

impl Threads {
    fn start(shared: Shared, sockets: Sockets, requests: handshake::Requests) -> anyhow::Result<Self> {
        let (ends, ended) = mpsc::unbounded_channel();
        let (mut deliveries, workers) = (Vec::new(), sockets.workers.len());
        for (number, listeners) in sockets.workers.into_iter().enumerate() {
            let (deliver, delivered) = mpsc::unbounded_channel();
            deliveries.push(deliver);
            let (shared, guard) = (shared.clone(), Guard(WORKER, ends.clone()));
            thread::Builder::new().name(format!("{WORKER}-{number}")).spawn(move || {
                let _guard = guard;
                if let Err(error) = worker::run(shared, listeners, delivered) {
                    warn!(%error, "worker ended");
                }
            })?;
        }
        let guard = Guard(HANDSHAKE, ends);
        thread::Builder::new().name(HANDSHAKE.into()).spawn(move || {
            let _guard = guard;
            if let Err(error) = handshakes(shared, sockets.tunnel, requests, deliveries) {
                warn!(%error, "the handshake thread ended");
            }
        })?;
        Ok(Self { ended, workers })
    }

    /// The first thread that ends although nobody asked it to.
    async fn lost(&mut self) -> &'static str {
        self.ended.recv().await.unwrap_or(WORKER)
    }

    /// Waits for the workers to end, once they drain.
    async fn drained(&mut self) {
        while self.workers > 0 {
            match self.ended.recv().await {
                Some(WORKER) => self.workers -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// The handshake thread: accepts tunnels until the proxy drains, and connects as long as workers ask.
fn handshakes(
    shared: Shared,
    tunnel: StdListener,
    requests: handshake::Requests,
    deliveries: Vec<mpsc::UnboundedSender<Secured>>,
) -> std::io::Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let Shared { tls, ledger, mut stage, handshaker, .. } = shared;
        // Only workers may keep the requests open.
        drop(handshaker);
        let listener = TcpListener::from_std(tunnel)?;
        let turn = Arc::new(AtomicUsize::new(0));
        let deliver = move |secured| {
            let turn = turn.fetch_add(1, Relaxed);
            if let Some(worker) = deliveries.get(turn % deliveries.len().max(1)) {
                // A worker that has ended lets the connection drop, which its peer sees as a close.
                let _ = worker.send(secured);
            }
        };
        let limits = Limits::default();
        let listening = handshake::listen(listener, tls.clone(), ledger.clone(), limits, deliver);
        let accepting = async move {
            tokio::select! {
                () = listening => {}
                _ = stage.wait_for(|stage| stage.draining) => {}
            }
        };
        tokio::join!(accepting, handshake::serve(requests, tls, ledger, limits));
        Ok(())
    })
}
