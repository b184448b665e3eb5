//! `trellis-injector`: parses, wires, runs.
#![forbid(unsafe_code)]

use std::{alloc::System, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use tokio::task::JoinSet;
use trellis_api::names;
use trellis_injector::{
    announce,
    certificates::Certificates,
    config::{Flags, TlsSpec},
    keeper::{self, Keeper},
    metrics::Metrics,
    namespaces::{self, Namespaces},
    serve,
    serving::{self, Serving},
    store::Store,
    trust::Trust,
    webhook::Webhook,
};
use trellis_pki::clock::SystemClock;
use trellis_source::{SourceSpec, kubernetes_client};
use trellis_telemetry::{
    Registry,
    health::Health,
    http, log, otlp,
    shutdown::{self, Shutdown},
};
use zeroizing_alloc::ZeroAlloc;

/// Everything is wiped when it is given back: the API server sends Secrets whole.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const VERSION: &str = env!("CARGO_PKG_VERSION");
const OTLP_INTERVAL: Duration = Duration::from_secs(15);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let logging = log::init(&flags.log, flags.log_format)?;
    if let Some(file) = flags.log_file.clone() {
        tokio::spawn(log::follow(logging, file, flags.log.clone()));
    }
    let stop = shutdown::signal()?;
    let registry = Registry::new();
    registry.build_info(VERSION);
    let metrics = match &flags.otlp_endpoint {
        Some(endpoint) => {
            let resource =
                [("service.name", names::INJECTOR.to_owned()), ("service.version", VERSION.to_owned())];
            Some(otlp::start(&registry, endpoint, &resource, OTLP_INTERVAL).context("otlp-endpoint")?)
        }
        None => None,
    };
    let result = run(flags, &registry, stop).await;
    if let Some(metrics) = metrics {
        metrics.shutdown().await;
    }
    result
}

async fn run(flags: Flags, registry: &Registry, stop: Shutdown) -> anyhow::Result<()> {
    let (settings, tls) = (flags.settings()?, flags.tls()?);
    let health = Health::new(&[keeper::CERTIFICATE, keeper::TRUST, namespaces::CONDITION, serve::CONDITION]);
    let metrics = Metrics::new(registry);
    let mut tasks = JoinSet::new();
    let at_metrics = http::bind(flags.metrics_listen).context("metrics-listen")?;
    tasks.spawn(http::serve(at_metrics, http::metrics_routes(registry), stop.clone()));
    let at_ready = http::bind(flags.ready_listen).context("ready-listen")?;
    tasks.spawn(http::serve(at_ready, health.routes(), stop.clone()));
    let tcp = http::bind(flags.listen).context("listen")?;

    let needs_client = flags.source == SourceSpec::Kubernetes || tls == TlsSpec::Secret;
    let client = if needs_client { Some(kubernetes_client().await?) } else { None };
    let of_source = client.clone().filter(|_| flags.source == SourceSpec::Kubernetes);

    let namespaces = Namespaces::new(of_source.clone());
    let source = flags.source.open(client.clone()).await?;
    tasks.spawn(namespaces.clone().follow(source, health.clone()));

    let certificates = of_source.clone().map_or(Certificates::Nowhere, Certificates::Cluster);
    let serving = Arc::new(Serving::default());
    let (store, trust) = match (tls, client) {
        (TlsSpec::Folder(path), _) => (Store::Folder(path.clone()), Trust::Folder(path)),
        (TlsSpec::Secret, Some(client)) => {
            (Store::secret(client.clone(), &settings.namespace), Trust::webhook(client))
        }
        (TlsSpec::Secret, None) => anyhow::bail!("tls: there is no Kubernetes API"),
    };
    let keeper = Keeper::new(
        store,
        trust,
        Arc::new(SystemClock),
        dns_names(&settings.namespace),
        serving.clone(),
        health.clone(),
        metrics.clone(),
    );
    tasks.spawn(keeper.run(stop.clone()));

    let (announcer, publisher) = announce::channel(of_source, metrics.clone());
    tasks.spawn(publisher.run());

    tracing::info!(address = %tcp.local_addr()?, version = settings.version, "admitting");
    let webhook = Arc::new(Webhook { settings, namespaces, certificates, announcer, metrics });
    let limits = serve::Limits::default();
    serve::serve(tcp, serving::tls(serving)?, webhook, limits, health, stop).await;
    Ok(())
}

/// As the API server calls the Service; the last one is for whoever runs it by hand.
fn dns_names(namespace: &str) -> Vec<String> {
    let service = format!("{}.{namespace}.svc", names::INJECTOR);
    vec![service.clone(), format!("{service}.cluster.local"), "localhost".to_owned()]
}
