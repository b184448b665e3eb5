//! `trellis-ca`: the certificate authority of the mesh.
#![forbid(unsafe_code)]

mod attest;
mod audit;
mod companion;
mod events;
mod federation;
mod flags;
mod https;
mod issue;
mod limit;
mod names;
mod openbao;
mod publish;
mod refuse;
mod requests;
mod serve;
mod servers;
mod token;
mod trust;
mod view;

use std::{
    alloc::System,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::http::StatusCode;
use anyhow::Context;
use clap::Parser;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use trellis_api::{names::CA, trust::TrustDomainStatus};
use trellis_channel::identity::{self, Resting};
use trellis_custody::Custody;
use trellis_election::{Candidate, Role};
use trellis_pki::{
    audit::public_key_pem,
    clock::{Clock, SystemClock},
    spiffe::SpiffeId,
};
use trellis_source::kubernetes_client;
use trellis_telemetry::{
    Registry,
    health::Health,
    http::{self, Response},
    log, otlp,
    shutdown::{self, Shutdown, requested},
};
use zeroizing_alloc::ZeroAlloc;

use crate::{
    attest::{Attestor, Jwks, TokenReviewer},
    audit::{Recorded, Trail},
    events::{Events, Told, TrustEvents},
    federation::{Endpoint, Fetched, Fetcher, Shown, WebRoots},
    flags::{Attest, Choices, Flags},
    issue::{Issuing, Terms},
    openbao::OpenBao,
    publish::{BundleFile, ClusterBundle, ConfigMaps, PublishSpec},
    requests::{Desk, Outcomes, PodRequests, SigningRequests},
    serve::OwnIssue,
    servers::Servers,
    token::Token,
    trust::{
        Authority, Bounds, Keeper, Keys, Making, Members, OutsideCa, Replicas, Store, Trusting, keeper,
        object,
        store::{Folder, Secret, StoreSpec},
        vault::kind_of,
    },
    view::View,
};

/// Everything is wiped when it is given back: keys pass through buffers of libraries, too, on their way to and
/// from Secrets.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

const VERSION: &str = env!("CARGO_PKG_VERSION");
const OTLP_INTERVAL: Duration = Duration::from_secs(15);
/// For what is under way when the process is asked to stop.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The health condition that holds once there is a root.
const ROOT: &str = "root";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let logging = log::init(&flags.log, flags.log_format)?;
    if let Some(file) = flags.log_file.clone() {
        tokio::spawn(log::follow(logging, file, flags.log.clone()));
    }
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
        Health::new(&[ROOT, audit::CONDITION, view::CONDITION, publish::CONDITION, identity::CONDITION]);
    let (mut tasks, mut leading) = (JoinSet::new(), JoinSet::new());
    let (status, statuses) = watch::channel(TrustDomainStatus::default());
    let shown_key = Arc::new(OnceLock::new());
    serve_http(&flags, registry, &health, &statuses, &shown_key, &shutdown, &mut tasks)?;
    let tcp = http::bind(flags.listen).context("listen")?;
    let bundle_tcp = flags.bundle_listen.map(http::bind).transpose().context("bundle-listen")?;
    let api = flags.api_listen.map(|address| http::bind(address).context("api-listen")).transpose()?;
    let bundle_web_tcp = flags.bundle_web_listen.map(http::bind).transpose().context("bundle-web-listen")?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let client = match choices.needs_kubernetes(&flags.source) || !flags.crypto_groups.is_empty() {
        true => Some(kubernetes_client().await?),
        false => None,
    };
    let store = store(&flags, &choices, client.as_ref())?;
    let token = choices.token.clone().map(|spec| Token::new(spec, registry));
    if let Some(token) = &token {
        // A wrong PIN must not be tried again by each restart, so this is waited for instead.
        token.ready(&health, shutdown.clone()).await;
        tasks.spawn(token.clone().watch(health.clone(), shutdown.clone()));
    }
    let keys = Keys { fresh: flags.outside.place(), token };
    let making = Making {
        trust_domain: flags.trust_domain.clone(),
        validity: flags.root_validity,
        keys: keys.clone(),
    };
    let read = store.open(&making, kind_of(flags.root_algorithm), clock.now()).await?;
    let key = Arc::new(store.audit_key().await?);
    // The key was perhaps written just now: from here on, writes follow that writing.
    let read = store.load().await?.unwrap_or(read);
    let audit_key = public_key_pem(key.public_key());
    let _ = shown_key.set(audit_key);
    let trail = Trail {
        replica: flags.pod_name.clone(),
        key,
        sinks: flags.audit.clone(),
        collector: flags.otlp_endpoint.clone(),
        clock: clock.clone(),
        health: health.clone(),
    };
    let (audit, writer) = trail.begin(registry).context("audit")?;
    let (end_of_trail, trail_ends) = watch::channel(false);
    leading.spawn(writer.run(trail_ends));
    let authority = Authority::new(&flags.trust_domain, keys, read).map_err(anyhow::Error::msg)?;
    health.set(ROOT, Ok(()));

    let leading_gauge = registry.gauge("trellis_ca_leader", "1 on the replica that leads.").with(&[]);
    let roles = match &client {
        Some(client) => {
            let candidate =
                Candidate::new(client.clone(), &flags.namespace, CA, &flags.pod_name, leading_gauge);
            let roles = candidate.role();
            leading.spawn(candidate.run(shutdown.clone()));
            tasks.spawn(keeper::follow(store.clone(), authority.clone(), shutdown.clone()));
            roles
        }
        None => trellis_election::always(&leading_gauge),
    };

    let source = flags.source.open(client.clone()).await?;
    let view = View::new(&flags.namespace, health.clone());
    let _following = view.follow(&source);
    let (wishes, _wishing) = object::follow(&source, &flags.namespace);
    publish(
        &flags,
        &choices,
        client.as_ref(),
        &authority,
        &view,
        &roles,
        &health,
        registry,
        &shutdown,
        &mut tasks,
    )?;

    let own = SpiffeId::new(&flags.trust_domain, &flags.namespace, CA)?;
    let own_issue = OwnIssue {
        authority: authority.clone(),
        identity: own.clone(),
        dns_names: vec![
            format!("{CA}.{}.svc.{}", flags.namespace, flags.cluster_domain),
            format!("{CA}.{}.svc", flags.namespace),
        ],
        clock: clock.clone(),
        validity: flags.leaf_validity,
    };
    let pod = format!("{}/{}", flags.namespace, flags.pod_name);
    let resting = Resting::default();
    let (tls, lifecycle) = serve::own_identity(own_issue, pod, flags.signatures, health, resting.clone());
    let identity = lifecycle.start(registry).await.context("the CA's own certificate")?;

    let members = Members::default();
    tasks.spawn(members.clone().count_self(identity.holding()));
    tasks.spawn(members.clone().count_alive(view.alive()));
    tasks.spawn(identity.run(shutdown.clone()));
    let replicas = Replicas {
        own_pod: flags.pod_name.clone(),
        namespace: flags.namespace.clone(),
        own: own.clone(),
        tls: tls.clone(),
        members: members.clone(),
        view: view.clone(),
        roles: roles.clone(),
    };
    tasks.spawn(replicas.run(shutdown.clone()));
    let web = flags.bundle_web_certificate.clone().map(|folder| Shown::Web(folder, clock.clone()));
    let endpoints = [(bundle_tcp, Some(Shown::identity(&tls)), "spiffe"), (bundle_web_tcp, web, "web")];
    for (tcp, shown, profile) in endpoints {
        let (Some(tcp), Some(shown)) = (tcp, shown) else { continue };
        let endpoint = Endpoint::new(shown, authority.clone(), flags.bundle_refresh_hint, registry);
        tracing::info!(address = %tcp.local_addr()?, profile, "serving the bundle to other trust domains");
        tasks.spawn(endpoint.serve(tcp, shutdown.clone()));
    }
    let (found, fetched) = watch::channel(Fetched::default());
    let fetcher = Fetcher {
        authority: authority.clone(),
        wishes: wishes.clone(),
        roles: roles.clone(),
        roots: WebRoots(flags.federation_web_roots.clone()),
        floor: flags.federation_fetch_interval,
        clock: clock.clone(),
        found,
        metrics: federation::Metrics::new(registry),
    };
    tasks.spawn(fetcher.run(shutdown.clone()));
    let known = view.clone();
    let keeper = Keeper {
        store,
        authority: authority.clone(),
        making,
        lasting: keeper::Lasting {
            service_domain: format!("svc.{}", flags.cluster_domain),
            leaf: flags.leaf_validity,
        },
        outside: OutsideCa::new(choices.openbao.map(OpenBao::new).transpose()?),
        signing: Mutex::default(),
        bounds: Bounds {
            leaves: flags.leaf_algorithms.iter().copied().map(kind_of).collect(),
            own: own.clone(),
            advance: flags.advance(),
        },
        fetched,
        members: members.clone(),
        wishes,
        roles: roles.clone(),
        seen: keeper::Seen::default(),
        known: Box::new(move || known.is_known()),
        clock: clock.clone(),
        status,
        audit: audit.clone(),
        metrics: keeper::Metrics::new(registry),
    };
    tasks.spawn(keeper.run(shutdown.clone()));
    let events = match &client {
        Some(client) => {
            let (events, writer) = Events::new(client.clone(), &flags.pod_name, clock.clone(), registry);
            tasks.spawn(writer.run(shutdown.clone()));
            let (events, namespace) = (events.clone(), flags.namespace.clone());
            let told = TrustEvents {
                events: events.clone(),
                namespace,
                status: statuses.clone(),
                roles: roles.clone(),
            };
            tasks.spawn(told.run(shutdown.clone()));
            events
        }
        None => Events::none(registry),
    };
    let answering = client.clone().filter(|_| !flags.request_algorithms.is_empty());
    let deciding = roles.clone();
    if let Some(client) = &client {
        if !flags.crypto_groups.is_empty() {
            let own_names = (flags.cluster_domain.as_str(), flags.namespace.as_str());
            let (authority, algorithms) = (authority.clone(), &flags.leaf_algorithms);
            let servers = Arc::new(Servers::new(authority, audit.clone(), own_names, algorithms, registry));
            tasks.spawn(servers.clone().follow(shutdown.clone()));
            let kept = Custody {
                client: client.clone(),
                namespace: flags.namespace.clone(),
                groups: flags.crypto_groups.clone(),
                clock: clock.clone(),
                herald: Arc::new(Told(events.clone())),
                ledger: Arc::new(Recorded(audit.clone())),
                metrics: trellis_custody::Metrics::new(registry),
                roles: roles.clone(),
                mesh: Some(servers),
            };
            tasks.spawn(kept.run(shutdown.clone()));
        }
        let shown = object::Shown::new(client.clone(), &flags.namespace, authority.clone(), statuses, roles);
        tasks.spawn(shown.run(shutdown.clone()));
    }

    let attestor = attestor(choices.attest, client, clock.clone()).await?;
    let terms = Terms {
        trust_domain: flags.trust_domain,
        cluster_domain: flags.cluster_domain,
        algorithms: flags.leaf_algorithms,
        request_algorithms: flags.request_algorithms,
        validity: flags.leaf_validity,
    };
    let trusting = Trusting::new(authority.clone(), members, view.clone(), own, registry);
    let issuing = Arc::new(Issuing::new(authority, attestor, view, terms, audit, clock.clone(), registry));
    if let Some(client) = answering {
        answer_requests(&client, &issuing, &events, &deciding, registry, &shutdown, &mut tasks);
    }
    if let Some(api) = api {
        tracing::info!(address = %api.local_addr()?, "serving the HTTPS API");
        let (issuing, clock, resting) = (issuing.clone(), clock.clone(), resting.clone());
        tasks.spawn(https::serve(api, &tls, issuing, clock, registry, resting, shutdown.clone()));
    }
    tracing::info!(address = %tcp.local_addr()?, "issuing certificates");
    let listener = serve::listener(tcp, tls, clock, registry, resting);
    let serving = serve::serve(listener, issuing, trusting, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        () = requested(shutdown) => if timeout(LAST_WORDS, serving).await.is_err() {
            tracing::warn!("stopped before all connections had ended");
        },
    }
    // A leader makes way before it goes, and the trail ends with a signature.
    end_of_trail.send_replace(true);
    let _ = timeout(LAST_WORDS, leading.join_all()).await;
    Ok(())
}

fn serve_http(
    flags: &Flags,
    registry: &Registry,
    health: &Health,
    status: &watch::Receiver<TrustDomainStatus>,
    audit_key: &Arc<OnceLock<String>>,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let metrics = http::bind(flags.metrics_listen).context("metrics-listen")?;
    tracing::info!(address = %metrics.local_addr()?, "serving metrics");
    let (status, audit_key) = (status.clone(), audit_key.clone());
    let routes = http::metrics_routes(registry).get("/trust", move || Response::json(&*status.borrow())).get(
        "/audit-key",
        move || match audit_key.get() {
            Some(key) => Response::text(StatusCode::OK, key.clone()),
            None => Response::text(StatusCode::SERVICE_UNAVAILABLE, "there is no key yet\n"),
        },
    );
    tasks.spawn(http::serve(metrics, routes, shutdown.clone()));
    let ready = http::bind(flags.ready_listen).context("ready-listen")?;
    tracing::info!(address = %ready.local_addr()?, "serving readiness");
    tasks.spawn(http::serve(ready, health.routes(), shutdown.clone()));
    Ok(())
}

fn store(flags: &Flags, choices: &Choices, client: Option<&kube::Client>) -> anyhow::Result<Store> {
    Ok(match &choices.root {
        StoreSpec::Folder(path) => Store::Folder(Folder::new(path.clone())),
        StoreSpec::Secret => {
            let client = client.cloned().context("root: there is no Kubernetes API")?;
            Store::Secret(Box::new(Secret::new(client, &flags.namespace)))
        }
    })
}

/// Answers what is asked for by objects in the Kubernetes API.
fn answer_requests(
    client: &kube::Client,
    issuing: &Arc<Issuing>,
    events: &Events,
    roles: &watch::Receiver<Role>,
    registry: &Registry,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) {
    let outcomes = Outcomes::new(registry);
    let (issuing, events) = (issuing.clone(), events.clone());
    let signing =
        SigningRequests { issuing: issuing.clone(), events: events.clone(), outcomes: outcomes.clone() };
    tasks.spawn(Desk::new(client.clone(), signing, roles.clone()).run(shutdown.clone()));
    let pods = PodRequests { issuing, events, outcomes };
    tasks.spawn(Desk::new(client.clone(), pods, roles.clone()).run(shutdown.clone()));
}

#[expect(clippy::too_many_arguments, reason = "one call, from the place where all of them are made")]
fn publish(
    flags: &Flags,
    choices: &Choices,
    client: Option<&kube::Client>,
    authority: &Authority,
    view: &View,
    roles: &watch::Receiver<Role>,
    health: &Health,
    registry: &Registry,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let pem = authority.pem();
    match &choices.publish {
        PublishSpec::File(path) => {
            tasks.spawn(BundleFile::new(path.clone(), pem, health.clone()).run(shutdown.clone()));
        }
        PublishSpec::ConfigMaps => {
            let client = client.cloned().context("publish: there is no Kubernetes API")?;
            let bundle = ClusterBundle::new(client.clone(), pem.clone(), roles.clone(), registry);
            tasks.spawn(bundle.run(shutdown.clone()));
            let (own, wanted, roles) = (&flags.namespace, view.meshed(), roles.clone());
            let maps = ConfigMaps::new(client, own, pem, wanted, roles, health.clone(), registry);
            tasks.spawn(maps.run(shutdown.clone()));
        }
    }
    Ok(())
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
