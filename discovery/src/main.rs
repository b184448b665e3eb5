//! `trellis-discovery`: parses, wires, runs.
#![forbid(unsafe_code)]

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Parser;
use kube::Client;
use tokio::{runtime, sync::watch, task::JoinHandle, time};
use trellis_api::names;
use trellis_channel::{
    identity::{self, IdentityConfig, IdentityTask, Resting},
    server::{Limits, Listener},
};
use trellis_discovery::{
    controller::{self, Controller},
    feed,
    flags::Flags,
    hub::Hub,
    serve::{self, Service},
};
use trellis_election::Candidate;
use trellis_pki::{
    clock::{Clock, SystemClock},
    policy::{Ladder, Policy},
    tls::{ClientAuth, MeshTls},
};
use trellis_source::{AnySource, SourceSpec, kubernetes_client};
use trellis_telemetry::{
    Registry,
    health::Health,
    http::{self, Response},
    log, otlp, shutdown,
};

/// The health condition that holds once every object has been seen.
const SOURCE: &str = "source";
/// How long streams may take to end when the process does.
const DRAIN: Duration = Duration::from_secs(10);
const EXPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let flags = Flags::parse();
    let logging = log::init(&flags.log, flags.log_format)?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        if let Some(file) = flags.log_file.clone() {
            tokio::spawn(log::follow(logging, file, flags.log.clone()));
        }
        run(flags).await
    })
}

async fn run(flags: Flags) -> Result<()> {
    let stop = shutdown::signal()?;
    let registry = Registry::new();
    registry.build_info(env!("CARGO_PKG_VERSION"));
    let health = Health::new(&[SOURCE, identity::CONDITION]);
    // These answer until the very end, so that an end can be watched.
    let (_until_the_end, end) = watch::channel(false);
    tokio::spawn(http::serve(http::bind(flags.ready_listen)?, health.routes(), end.clone()));
    let hub = Arc::new(Hub::of(&flags.namespace));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shown = (hub.clone(), clock.clone());
    let routes = http::metrics_routes(&registry)
        .get("/status", move || Response::json(&shown.0.statuses(&controller::now(&shown.1))));
    tokio::spawn(http::serve(http::bind(flags.metrics_listen)?, routes, end));
    let otlp = flags.otlp_endpoint.as_deref().map(|endpoint| {
        let resource = [
            ("service.name", names::DISCOVERY.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            // Tells replicas apart: in a pod it is the pod's name.
            (
                "service.instance.id",
                fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            ),
        ];
        otlp::start(&registry, endpoint, &resource, EXPORT_EVERY)
    });
    let otlp = otlp.transpose()?;

    let outcome = tokio::select! {
        outcome = discover(&flags, hub, clock, &registry, &health, stop.clone()) => outcome,
        () = stopped_and_drained(stop) => Ok(()),
    };
    if let Some(otlp) = otlp {
        otlp.shutdown().await;
    }
    outcome
}

/// From the first object to the last stream.
async fn discover(
    flags: &Flags,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    registry: &Registry,
    health: &Health,
    stop: shutdown::Shutdown,
) -> Result<()> {
    let client = match &flags.source {
        SourceSpec::Kubernetes => Some(kubernetes_client().await.context("--source")?),
        SourceSpec::Folder(_) => None,
    };
    let source = flags.source.open(client.clone()).await.context("--source")?;
    count_problems(source.clone(), registry);
    // To a folder nothing is written: there the statuses are shown only.
    let election = match client {
        Some(client) => Some(control(flags, client, &hub, &clock, registry, &stop)?),
        None => None,
    };
    let feed = feed::run(&source, &hub, |missing| match missing {
        [] => health.set(SOURCE, Ok(())),
        kinds => health.set(SOURCE, Err(format!("not yet seen: every {}", kinds.join(", ")))),
    });
    let policy = Policy { signatures: flags.signatures, ..Policy::default() };
    let tls = Arc::new(MeshTls::new(policy, &flags.trust_domain, clock.clone()));
    let serving = async {
        let resting = Resting::default();
        let renewal = tokio::select! {
            renewal = identify(flags, &tls, &clock, health, registry, resting.clone()) => renewal?,
            () = shutdown::requested(stop.clone()) => return Ok(()),
        };
        tokio::spawn(renewal.run(stop.clone()));
        let listener = http::bind(flags.listen)?;
        // Which key a workload may have is the CA's decision; the key exchange is hybrid in any case.
        let tls = Arc::new(tls.under(Policy { signatures: Ladder::Prefer, ..Policy::default() }));
        let listener = Listener::new(listener, tls, ClientAuth::Required, Limits::default(), clock, registry)
            .resting(resting);
        let service = Service::new(hub.clone(), &flags.trust_domain, registry, stop.clone());
        tracing::info!(listen = %flags.listen, source = %flags.source, "serving");
        serve::run(service, listener.incoming()).await;
        // Whoever leads makes way before it goes.
        if let Some(election) = election {
            election.await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = feed => bail!(ended),
        outcome = serving => outcome,
    }
}

/// Takes part in the election of the replica that writes, and writes while it leads.
fn control(
    flags: &Flags,
    client: Client,
    hub: &Arc<Hub>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
    stop: &shutdown::Shutdown,
) -> Result<JoinHandle<()>> {
    let gauge =
        registry.gauge("trellis_discovery_leader", "1 on the replica that writes statuses.").with(&[]);
    let candidate =
        Candidate::new(client.clone(), &flags.namespace, names::DISCOVERY, &flags.pod_name, gauge);
    let controller = Controller {
        client,
        hub: hub.clone(),
        clock: clock.clone(),
        roles: candidate.role(),
        blueprint: flags.blueprint()?,
    };
    tokio::spawn(controller.run(stop.clone()));
    Ok(tokio::spawn(candidate.run(stop.clone())))
}

/// What is wrong with the source does not end readiness: what was known last goes on being answered.
fn count_problems(source: AnySource, registry: &Registry) {
    let problems = registry
        .gauge("trellis_discovery_source_problems", "What is wrong with the source now; the log names each.")
        .with(&[]);
    registry.on_collect(Box::new(move || problems.set(source.problems().len() as f64)));
}

async fn identify(
    flags: &Flags,
    tls: &Arc<MeshTls>,
    clock: &Arc<dyn Clock>,
    health: &Health,
    registry: &Registry,
    resting: Resting,
) -> Result<IdentityTask> {
    let config = IdentityConfig {
        ca_address: flags.ca_address.clone(),
        trust_domain: flags.trust_domain.clone(),
        token_file: flags.token_file.clone(),
        bundle_file: flags.bundle_file.clone(),
        algorithm: flags.leaf_algorithm,
        ca_identity: flags.ca_identity().context("the CA's identity, of --trust-domain and --namespace")?,
        pod: format!("{}/{}", flags.namespace, flags.pod_name),
        pinned: false,
        dual: Some(false),
        control: flags.signatures,
        resting,
    };
    Ok(identity::start(config, tls.clone(), clock.clone(), health.clone(), registry).await?)
}

async fn stopped_and_drained(stop: shutdown::Shutdown) {
    shutdown::requested(stop).await;
    time::sleep(DRAIN).await;
    tracing::warn!("streams were still open at the end of the drain");
}
