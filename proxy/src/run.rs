//! The life of a proxy beside an application: sockets, identity, threads, traffic, drain.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use anyhow::Context;
use tokio::{sync::watch, time};
use tracing::{info, warn};
use trellis_channel::identity::{Application, IdentityConfig, IdentityTask, Resting};
use trellis_telemetry::{log, shutdown};

use crate::{
    alarm,
    config::Run,
    handshake::Handshaker,
    listen,
    member::{self, Member},
    node,
    quota::Quota,
    threads::{Door, Threads},
    worker::{Listeners, Shared, Stage},
    workload::{Leaf, Rotate, WorkloadApi},
};

/// Runs a proxy until it was asked to stop and has drained.
pub fn run(config: Run) -> anyhow::Result<()> {
    let reload = log::init(&config.member.log, config.member.log_format)?;
    member::raise_open_files();
    alarm::run(live(config, reload))?
}

/// The sockets that traffic comes in by.
struct Sockets {
    workers: Vec<Listeners>,
    tunnel: StdListener,
}

async fn live(config: Run, reload: log::Reload) -> anyhow::Result<()> {
    let sockets = sockets(&config)?;
    let member = Member::new(config.member.clone(), reload, &[])?;
    let stop = member.stop.clone();
    let workload_api = match config.workload_api_socket.clone() {
        Some(socket) => Some(WorkloadApi::open(socket, stop.clone(), &member.registry)?),
        None => None,
    };
    let Some(mut renewal) = member.identify().await? else { return Ok(()) };
    if let Some(api) = &workload_api {
        let leaf = application(&config, &member, &mut renewal)?;
        api.offer(leaf, stop.clone());
    }
    let own = member.own.clone();
    let rotate = workload_api.as_ref().map_or_else(Rotate::default, WorkloadApi::rotate);
    let joined = member.join(renewal, rotate, config.plaintext, config.settings())?;
    if !joined.policed().await {
        joined.leave().await;
        return Ok(());
    }
    if let Some(own) = config.pod_ips.first().map(std::net::IpAddr::to_canonical) {
        let directory = joined.base.directory.clone();
        tokio::spawn(async move { directory.locate(own).await });
    }

    let (stage, staged) = watch::channel(Stage { epoch: joined.base.tls.epoch(), draining: false });
    let (handshaker, handshakes) = Handshaker::new();
    let quota = Quota::new(config.per_identity());
    let rules = Arc::new(config.rules(node::gateways()));
    let shared = Shared::new(&joined.base, handshaker, rules, quota, staged);
    let mut threads =
        Threads::start(shared.clone(), sockets.workers, Door::Tunnel(sockets.tunnel), handshakes)?;
    info!(identity = %own, "serving");

    tokio::select! {
        () = member::follow(&stage, &shared.tls, joined.holding.clone()) => {}
        () = shutdown::requested(stop) => {}
        thread = threads.lost() => anyhow::bail!("the {thread} thread has ended, and traffic with it"),
    }
    info!(open = shared.ledger.open_connections(), limit = ?config.member.drain(), "draining");
    joined.unready();
    stage.send_modify(|stage| stage.draining = true);
    if time::timeout(config.member.drain(), threads.drained()).await.is_err() {
        warn!(open = shared.ledger.open_connections(), "connections were still open at the end of the drain");
    }
    if let Some(api) = workload_api {
        api.close().await;
    }
    joined.leave().await;
    Ok(())
}

/// The certificate of the application, which hears of trust by what the proxy hears.
fn application(config: &Run, member: &Member, renewal: &mut IdentityTask) -> anyhow::Result<Leaf> {
    let algorithm = config.workload_api_algorithm;
    let wanted = IdentityConfig {
        algorithm: algorithm.unwrap_or(config.member.leaf_algorithm),
        pinned: algorithm.is_some() || config.member.leaf_pinned,
        ..member.identity_config(Resting::default())?
    };
    let (clock, registry) = (member.clock.clone(), member.registry.clone());
    let application = Application::new(wanted, &member.tls, renewal.heard(), clock.clone(), &registry)?;
    let (beside, besides) = watch::channel(None);
    renewal.speak_for(besides);
    Ok(Leaf {
        identity: member.own.clone(),
        lifecycle: Box::new(move || application.lifecycle()),
        own: member.tls.clone(),
        holding: renewal.holding(),
        beside,
        clock,
        registry,
    })
}

fn sockets(config: &Run) -> anyhow::Result<Sockets> {
    let count = usize::from(config.member.workers);
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
