//! A gateway: what the world sends to a Gateway's listeners is led into the mesh. It is the same proxy as
//! beside an application, and has none: identity, tunnels, routes and the record are the same, and only the
//! side that clients come in by is another.
//!
//! | Step | Where | What |
//! |---|---|---|
//! | what is served | [`listener`] | discovery's answer, read; which listener a host is for |
//! | ports | [`keep`] | opened and closed as the answer changes |
//! | clients with TLS | [`secured`] | greeting, certificate, handshake, on the handshake thread |
//! | clients without | [`arrival`] | on the workers |
//! | who the client is | [`proxied`], [`forwarded`] | as a balancer says, and as applications hear it |
//! | requests | [`entrance`] | by `http`, as everybody's |
//! | bytes | [`bytes`] | to one endpoint |

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time,
};
use tracing::{info, warn};
use trellis_api::annotations::Plaintext;
use trellis_telemetry::{log, shutdown};

use crate::{
    alarm,
    config::Gateway as Config,
    directory::{GatewayName, Subject},
    handshake::Handshaker,
    member::{self, Member},
    quota::{Limits, Quota},
    threads::{Door, Threads},
    worker::{Listeners, Rules, Shared, Stage},
    workload::Rotate,
};

mod arrival;
mod bytes;
mod entrance;
mod forwarded;
mod keep;
mod listener;
mod port;
mod proof;
pub(crate) mod proxied;
mod secured;
mod sources;

pub(crate) use self::{
    arrival::{Arrival, accept, serve},
    entrance::Entrance,
    listener::Serving,
    port::Opening,
    proof::Proof,
    secured::{Thread, secured},
};
use self::{keep::Keeper, port::Edge, proxied::Proxied, sources::Sources};

/// A client that proved nothing. All are one: whoever they are, the record must not grow with them, nor
/// discovery be asked about the world's addresses.
const CLIENT: &str = "unverified:client";
const TOO_MANY: &str = "too_many_connections_of_this_source";

/// Runs a gateway until it was asked to stop and has drained.
pub fn run(config: Config) -> anyhow::Result<()> {
    let reload = log::init(&config.member.log, config.member.log_format)?;
    member::raise_open_files();
    alarm::run(live(config, reload))?
}

async fn live(config: Config, reload: log::Reload) -> anyhow::Result<()> {
    let member = Member::new(config.member.clone(), reload, &[keep::CONDITION])?;
    let Some(renewal) = member.identify().await? else { return Ok(()) };
    let (own, stop, metrics) =
        (member.own.clone(), member.stop.clone(), keep::Metrics::new(&member.registry));
    let served = [("gateway", format!("{}/{}", config.gateway_namespace, config.gateway_name))];
    // Its clients are the world, of whom its listeners say what they must be.
    let joined = member.join(renewal, Rotate::default(), Plaintext::Permissive, served)?;
    if !joined.policed().await {
        joined.leave().await;
        return Ok(());
    }

    let (stage, staged) = watch::channel(Stage { epoch: joined.base.tls.epoch(), draining: false });
    let (handshaker, handshakes) = Handshaker::new();
    let rules = Arc::new(Rules { removal_grace: config.member.drain(), ..Rules::default() });
    // Nobody has a tunnel to a gateway.
    let quota = Quota::new(Limits { tunnels: 0, streams: 0 });
    let shared = Shared::new(&joined.base, handshaker, rules, quota, staged);
    let (openings, opened) = mpsc::unbounded_channel();
    let listeners = (0..config.member.workers).map(|_| Listeners::default()).collect();
    let mut threads = Threads::start(shared.clone(), listeners, Door::Gateway(opened), handshakes)?;
    let name = GatewayName {
        namespace: config.gateway_namespace.as_str().into(),
        name: config.gateway_name.as_str().into(),
    };
    let edge = Edge {
        gateway: name.to_string().into(),
        proxied: Proxied { mode: config.proxy_protocol, sources: config.proxy_protocol_sources.clone() },
        sources: Sources::new(usize::try_from(config.connections_per_source).unwrap_or(usize::MAX)),
        stall: config.client_stall(),
    };
    let keeper = Keeper {
        directory: joined.base.directory.clone(),
        subject: Subject::Gateway(name.clone()),
        edge: Arc::new(edge),
        proof: shared.proof.clone(),
        address: config.gateway_listen,
        workers: threads.workers.clone(),
        secured: openings,
        health: joined.health.clone(),
        metrics,
    };
    let keeping = tokio::spawn(keeper.keep());
    info!(identity = %own, gateway = %name, "serving");

    let follow = member::follow(&stage, &shared.tls, joined.holding.clone());
    tokio::pin!(follow);
    let lost = |thread| anyhow::anyhow!("the {thread} thread has ended, and traffic with it");
    tokio::select! {
        () = &mut follow => {}
        () = shutdown::requested(stop) => {}
        thread = threads.lost() => return Err(lost(thread)),
    }
    // Balancers send clients here until they have seen that it is not ready any more.
    joined.unready();
    let delay = config.drain_delay();
    info!(open = shared.ledger.open_connections(), ?delay, "leaving");
    tokio::select! {
        () = &mut follow => {}
        () = time::sleep(delay) => {}
        thread = threads.lost() => return Err(lost(thread)),
    }
    drain(&stage, &mut threads, &shared, config.member.drain()).await;
    keeping.abort();
    joined.leave().await;
    Ok(())
}

async fn drain(stage: &watch::Sender<Stage>, threads: &mut Threads, shared: &Shared, limit: Duration) {
    info!(open = shared.ledger.open_connections(), ?limit, "draining");
    stage.send_modify(|stage| stage.draining = true);
    if time::timeout(limit, threads.drained()).await.is_err() {
        warn!(open = shared.ledger.open_connections(), "connections were still open at the end of the drain");
    }
}
