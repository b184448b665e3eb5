//! `trellis-ca`: the certificate authority of the mesh.
#![forbid(unsafe_code)]

mod attest;
#[cfg(test)]
mod fake_api;
mod flags;
mod issue;
mod limit;
mod names;
mod publish;
mod refuse;
mod root;
mod serve;
mod view;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use tokio::{task::JoinSet, time::timeout};
use trellis_api::names::CA;
use trellis_pki::{
    bundle::Bundle,
    clock::{Clock, SystemClock},
    issue::Issuer,
    spiffe::SpiffeId,
};
use trellis_source::kubernetes_client;
use trellis_telemetry::{
    Registry,
    health::Health,
    http, log, otlp,
    shutdown::{self, Shutdown, requested},
};

use crate::{
    attest::{Attestor, Jwks, TokenReviewer},
    flags::{Attest, Choices, Flags},
    issue::{Issuing, Terms},
    publish::{BundleFile, ConfigMaps, PublishSpec},
    root::{Folder, RootSpec, Secret, Store, Wanted},
    serve::OwnIssue,
    view::View,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const OTLP_INTERVAL: Duration = Duration::from_secs(15);
/// For what is under way when the process is asked to stop.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The health condition that holds once there is a root.
const ROOT: &str = "root";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    log::init(&flags.log, flags.log_format)?;
    let choices = flags.choices()?;
    let shutdown = shutdown::signal()?;
    let registry = Registry::new();
    registry.build_info(VERSION);
    let metrics = match &flags.otlp_endpoint {
        Some(endpoint) => {
            let resource = [("service.name", CA.to_owned()), ("service.version", VERSION.to_owned())];
            Some(otlp::start(&registry, endpoint, &resource, OTLP_INTERVAL).context("otlp-endpoint")?)
        }
        None => None,
    };
    let result = run(flags, choices, &registry, shutdown).await;
    if let Some(metrics) = metrics {
        metrics.shutdown().await;
    }
    result
}

async fn run(flags: Flags, choices: Choices, registry: &Registry, shutdown: Shutdown) -> anyhow::Result<()> {
    let health =
        Health::new(&[ROOT, view::CONDITION, publish::CONDITION, trellis_channel::identity::CONDITION]);
    let mut tasks = JoinSet::new();
    serve_http(&flags, registry, &health, &shutdown, &mut tasks)?;
    let tcp = http::bind(flags.listen).context("listen")?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let client = match choices.needs_kubernetes(&flags.source) {
        true => Some(kubernetes_client().await?),
        false => None,
    };
    let issuer = Arc::new(open_root(&flags, &choices, client.as_ref(), clock.as_ref()).await?);
    health.set(ROOT, Ok(()));

    let source = flags.source.open(client.clone()).await?;
    let view = View::new(&flags.namespace, health.clone());
    let _following = view.follow(&source);
    let pem = Bundle::new(&flags.trust_domain, vec![issuer.anchor().clone()])?.to_pem();
    match (&choices.publish, &client) {
        (PublishSpec::File(path), _) => {
            tasks.spawn(BundleFile::new(path.clone(), pem, health.clone()).run(shutdown.clone()));
        }
        (PublishSpec::ConfigMaps, client) => {
            let client = client.clone().context("publish: there is no Kubernetes API")?;
            let (own, wanted) = (&flags.namespace, view.meshed());
            let maps = ConfigMaps::new(client, own, pem, wanted, health.clone(), registry);
            tasks.spawn(maps.run(shutdown.clone()));
        }
    }

    let own = OwnIssue {
        issuer: issuer.clone(),
        identity: SpiffeId::new(&flags.trust_domain, &flags.namespace, CA)?,
        clock: clock.clone(),
        validity: flags.leaf_validity,
    };
    let (tls, lifecycle) = serve::own_identity(own, health);
    let identity = lifecycle.start(registry).await.context("the CA's own certificate")?;
    tasks.spawn(identity.run(shutdown.clone()));

    let attestor = attestor(choices.attest, client, clock.clone()).await?;
    let terms = Terms {
        trust_domain: flags.trust_domain,
        cluster_domain: flags.cluster_domain,
        algorithms: flags.leaf_algorithms,
        validity: flags.leaf_validity,
    };
    let issuing = Issuing::new(issuer, attestor, view, terms, clock.clone(), registry);
    tracing::info!(address = %tcp.local_addr()?, "issuing certificates");
    let serving = serve::serve(tcp, tls, issuing, clock, registry, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served.context("serving ended")?,
        () = requested(shutdown) => match timeout(LAST_WORDS, serving).await {
            Ok(served) => served.context("serving ended")?,
            Err(_) => tracing::warn!("stopped before all connections had ended"),
        },
    }
    Ok(())
}

fn serve_http(
    flags: &Flags,
    registry: &Registry,
    health: &Health,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let metrics = http::bind(flags.metrics_listen).context("metrics-listen")?;
    tracing::info!(address = %metrics.local_addr()?, "serving metrics");
    tasks.spawn(http::serve(metrics, http::metrics_routes(registry), shutdown.clone()));
    let ready = http::bind(flags.ready_listen).context("ready-listen")?;
    tracing::info!(address = %ready.local_addr()?, "serving readiness");
    tasks.spawn(http::serve(ready, health.routes(), shutdown.clone()));
    Ok(())
}

async fn open_root(
    flags: &Flags,
    choices: &Choices,
    client: Option<&kube::Client>,
    clock: &dyn Clock,
) -> anyhow::Result<Issuer> {
    let store = match &choices.root {
        RootSpec::Folder(path) => Store::Folder(Folder::new(path.clone())),
        RootSpec::Secret => {
            let client = client.cloned().context("root: there is no Kubernetes API")?;
            Store::Secret(Box::new(Secret::new(client, &flags.namespace)))
        }
    };
    let wanted = Wanted {
        trust_domain: flags.trust_domain.clone(),
        algorithm: flags.root_algorithm,
        validity: flags.root_validity,
    };
    Ok(store.open(&wanted, clock.now()).await?)
}

async fn attestor(
    attest: Attest,
    client: Option<kube::Client>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Attestor> {
    Ok(match attest {
        Attest::Jwks { path, issuer } => Attestor::Jwks(Jwks::open(path, issuer, clock).await?),
        Attest::TokenReview => {
            Attestor::TokenReview(TokenReviewer::new(client.context("attest: there is no Kubernetes API")?))
        }
    })
}
