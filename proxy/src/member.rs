//! What every proxy is, whatever it carries: a member of the mesh with an identity, with what discovery tells
//! it, and with ports on which it shows itself.

use std::{sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time,
};
use tracing::warn;
use trellis_api::{
    annotations::{Plaintext, Switch, TraceSampling},
    names,
    proto::ca::Holding,
};
use trellis_channel::identity::{self, IdentityConfig, IdentityTask, Resting};
use trellis_pki::{
    clock::{Clock, SystemClock},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{
    Registry,
    health::Health,
    http, log,
    otlp::{
        self,
        spans::{self, Spans},
    },
    shutdown::{self, Shutdown},
};

use crate::{
    account::{Audience, Log},
    admin,
    config::Member as Config,
    diag::Knowledge,
    directory::{Directory, Wish},
    discovery,
    ledger::Ledger,
    policy::{self, Demands, Side},
    requests::Requests,
    roster::Roster,
    trace::Tracer,
    webroots::WebRoots,
    worker::{Base, Stage},
    workload::Rotate,
};

/// How often a change of identity or trust is looked for that nobody told of.
const LOOK: Duration = Duration::from_secs(10);
const EXPORT_EVERY: Duration = Duration::from_secs(10);
/// The condition that ends readiness once the proxy drains.
const DRAINING: &str = "serving";

/// One that has not yet asked who it is.
pub struct Member {
    pub config: Config,
    pub stop: Shutdown,
    pub registry: Registry,
    pub health: Health,
    pub clock: Arc<dyn Clock>,
    pub own: SpiffeId,
    pub tls: Arc<MeshTls>,
    pub resting: Resting,
    reload: log::Reload,
    metrics: TcpListener,
    admin: TcpListener,
    serving: watch::Sender<bool>,
}

/// One that has an identity and asks discovery.
pub struct Joined {
    pub base: Base,
    pub health: Health,
    pub holding: watch::Receiver<Holding>,
    otlp: Option<otlp::Otlp>,
    spans: Option<Arc<Spans>>,
    audience: Arc<Audience>,
    stop: Shutdown,
    /// What shows the proxy answers until the very end, so that a drain can be watched.
    _serving: watch::Sender<bool>,
}

impl Member {
    /// Not ready before `conditions` hold, beside those that every proxy has.
    pub fn new(config: Config, reload: log::Reload, conditions: &[&'static str]) -> anyhow::Result<Self> {
        let stop = shutdown::signal()?;
        let registry = Registry::new();
        registry.build_info(env!("CARGO_PKG_VERSION"));
        let health = Health::new(
            &[&[identity::CONDITION, discovery::CONDITION, policy::CONDITION, DRAINING], conditions].concat(),
        );
        health.set(DRAINING, Ok(()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ready = http::bind(config.ready_listen)?;
        let metrics = http::bind(config.metrics_listen)?;
        let admin = http::bind(config.admin_listen)?;
        let (serving, serve_until) = watch::channel(false);
        tokio::spawn(http::serve(ready, health.routes(), serve_until));
        let own = anyhow::Context::context(config.identity(), "the proxy's own identity")?;
        // What is derived of it for the control plane admits peers of our own domain only.
        let tls = MeshTls::new(config.policy(), config.trust_domain.clone(), clock.clone()).federated();
        Ok(Self {
            config,
            stop,
            registry,
            health,
            clock,
            own,
            tls: Arc::new(tls),
            resting: Resting::default(),
            reload,
            metrics,
            admin,
            serving,
        })
    }

    /// Waits for an identity; `None` where the proxy was asked to stop before there was one.
    pub async fn identify(&self) -> anyhow::Result<Option<IdentityTask>> {
        let config = self.identity_config(self.resting.clone())?;
        let started = identity::start(
            config,
            self.tls.clone(),
            self.clock.clone(),
            self.health.clone(),
            &self.registry,
        );
        tokio::select! {
            started = started => Ok(Some(started?)),
            () = shutdown::requested(self.stop.clone()) => Ok(None),
        }
    }

    pub fn identity_config(&self, resting: Resting) -> anyhow::Result<IdentityConfig> {
        let config = &self.config;
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

    /// Lives by `renewal`, asks discovery, and shows itself. `plaintext` is what becomes of peers without a
    /// certificate where no policy says it, `settings` are what the operator decided beside what every proxy
    /// is told, for who asks.
    pub fn join(
        self,
        renewal: IdentityTask,
        rotate: Rotate,
        plaintext: Plaintext,
        settings: impl IntoIterator<Item = (&'static str, String)>,
    ) -> anyhow::Result<Joined> {
        let Self {
            config,
            stop,
            registry,
            health,
            clock,
            own,
            tls,
            resting,
            reload,
            metrics,
            admin,
            serving,
        } = self;
        let (rotator, holding) = (renewal.rotator(), renewal.holding());
        tokio::spawn(renewal.run(stop.clone()));
        let (directory, wishes) = Directory::new();
        let workload = format!("{}/{}", config.pod_namespace, config.pod_name);
        let log = Log::start(config.access_log, std::io::stdout(), &registry)?;
        let audience = Arc::new(Audience::new(workload.clone(), clock.clone(), log));
        let ledger =
            Arc::new(Ledger::new(&own, workload.clone(), directory.clone(), audience.clone(), &registry));
        let spans = match &config.otlp_endpoint {
            Some(endpoint) if config.trace_sampling != TraceSampling::Disabled => {
                Some(Arc::new(spans::start(&registry, endpoint, &resource(&config))?))
            }
            Some(_) | None => None,
        };
        let tracer = Tracer::new(spans.clone(), config.trace_sampling);
        let requests = Arc::new(Requests::new(&ledger, tracer, &registry));
        let ladders = config.policy();
        let inbound = Side { ladders, plaintext };
        let outbound = Side { ladders, plaintext: Plaintext::Permissive };
        let demands = Demands::new(&tls, [inbound, outbound], &registry);
        ask(&config, &tls, &directory, wishes, &health)?;
        tokio::spawn(demands.clone().follow(directory.clone(), config.pod(), health.clone()));
        let roster = Arc::<Roster>::default();
        let settings = config.settings().into_iter().chain(settings);
        let knowledge = Knowledge {
            own,
            workload,
            tls: tls.clone(),
            directory: directory.clone(),
            roster: roster.clone(),
            demands: demands.clone(),
            settings: settings.map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let routes = admin::public(&registry, &ledger, &tls);
        tokio::spawn(http::serve(metrics, routes.clone(), serving.subscribe()));
        let local = routes.merge(admin::local(rotator, rotate, reload, knowledge, &audience));
        tokio::spawn(http::serve(admin, local, serving.subscribe()));
        let otlp = match &config.otlp_endpoint {
            Some(endpoint) => Some(otlp::start(&registry, endpoint, &resource(&config), EXPORT_EVERY)?),
            None => None,
        };
        let web_roots = Arc::new(WebRoots::new(config.web_roots.clone()));
        let base = Base { tls, clock, directory, ledger, requests, demands, resting, roster, web_roots };
        Ok(Joined { base, health, holding, otlp, spans, audience, stop, _serving: serving })
    }
}

impl Joined {
    /// Waits until policies are known: nobody is served by less than they demand. False where the proxy was
    /// asked to stop before.
    pub async fn policed(&self) -> bool {
        let mut changes = self.base.demands.known();
        tokio::select! {
            known = changes.wait_for(|known| *known) => known.is_ok(),
            () = shutdown::requested(self.stop.clone()) => false,
        }
    }

    /// Readiness ends, and nothing else yet.
    pub fn unready(&self) {
        self.health.set(DRAINING, Err("the proxy is shutting down".into()));
    }

    /// Says goodbye to those who watch.
    pub async fn leave(self) {
        self.audience.finish().await;
        if let Some(spans) = &self.spans {
            spans.shutdown().await;
        }
        if let Some(otlp) = self.otlp {
            otlp.shutdown().await;
        }
    }
}

/// Keeps the stream to discovery.
fn ask(
    config: &Config,
    tls: &MeshTls,
    directory: &Directory,
    wishes: mpsc::UnboundedReceiver<Wish>,
    health: &Health,
) -> anyhow::Result<()> {
    let expected = config.system_identity(names::DISCOVERY)?;
    let control = Arc::new(tls.under(config.control()));
    let channel = trellis_channel::client::channel(&config.discovery_address, control, expected, true)?;
    tokio::spawn(discovery::run(channel, directory.clone(), wishes, health.clone(), rand::random));
    Ok(())
}

/// As many open files as this process may have: each connection takes two.
pub fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        warn!(%error, current = limits.current, "the number of open files could not be raised");
    }
}

fn resource(config: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("service.name", config.service_account.clone()),
        ("k8s.namespace.name", config.pod_namespace.clone()),
        ("k8s.pod.name", config.pod_name.clone()),
    ]
}

/// Tells the data path when our identity or trust has changed.
pub async fn follow(stage: &watch::Sender<Stage>, tls: &MeshTls, mut holding: watch::Receiver<Holding>) {
    loop {
        tokio::select! {
            Ok(()) = holding.changed() => drop(holding.borrow_and_update()),
            () = time::sleep(LOOK) => {}
        }
        let epoch = tls.epoch();
        stage.send_if_modified(|stage| std::mem::replace(&mut stage.epoch, epoch) != epoch);
    }
}
