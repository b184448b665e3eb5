//! The migration from ECDSA to ML-DSA under load: several workloads talk all the time, on connections that
//! stay and on new ones, while the mesh's anchor is replaced. No request may fail, and nothing may be closed
//! that does not rest on the anchor that goes.

mod visitors;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{self, Instant};
use trellis_api::{
    names::DEFAULT_TRUST_DOMAIN,
    trust::{Issuing, KeyAlgorithm, Leaves, Phase, TrustDomainSpec},
};
use trellis_local::{Environment, Mesh, Options, Role, Running, Service, Workload, get::get};

use self::visitors::{Counts, Visitors};
use crate::{
    cores::{self, Cores},
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::Rounds,
};

const NAMESPACE: &str = "bench";
const PORT: u16 = 8080;
/// Every client calls every server.
const CLIENTS: u8 = 2;
const SERVERS: u8 = 2;
/// Requests a second, all together.
const RATE: u32 = 500;
/// The share of them that must be sent on time: the load is what is claimed.
const ON_TIME: f64 = 0.98;
const CLASSICAL: KeyAlgorithm = KeyAlgorithm::EcdsaP256;
const POST_QUANTUM: KeyAlgorithm = KeyAlgorithm::MlDsa65;
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);
const TUNNELS_ENDED: &str = "trellis_tunnels_ended_total";

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section(&format!(
        "Migration: {CLASSICAL} to {POST_QUANTUM} under {RATE} requests a second, half of them on new connections"
    ))?;
    let town = Town::open(binaries, cores).await?;
    let measured = migrate(&town, plan, report).await;
    measured.with_context(|| format!("the mesh said:\n{}", town.mesh.logs()))?;
    town.mesh.stop().await;
    Ok(())
}

async fn migrate(town: &Town, plan: &Plan, report: &mut Report) -> Result<()> {
    let visitors = Visitors::start(&town.entries, RATE);
    time::sleep(plan.around_migration).await;
    let spec = TrustDomainSpec {
        leaf: Leaves { algorithm: Some(POST_QUANTUM), dual: false },
        ..TrustDomainSpec::of(Issuing::own(POST_QUANTUM, 1))
    };
    town.mesh.wish(&spec)?;
    let passed = time::timeout(PATIENCE, town.watch(&visitors)).await.context("it does not settle")??;
    time::sleep(plan.around_migration).await;
    let load = visitors.stop().await;
    for proxy in town.proxies() {
        let leaf = proxy.evidence().await?.leaf.context("a proxy without a certificate")?;
        ensure!(leaf.algorithm == "ML-DSA-65", "{} still has a key of {}", leaf.identity, leaf.algorithm);
    }

    let one = |value: f64| Rounds::from(vec![value]);
    for (phase, seconds) in passed.phases {
        report.add(Figure::alone(&format!("in {phase}"), "s", &one(seconds)))?;
    }
    let rates = Rounds::from(vec![(load.counts.sent as f64 / load.seconds, f64::from(RATE))]);
    let rate = Figure::compare("requests sent, against those that were to be", "1/s", &rates);
    report.add(rate.target(Target::RatioAtLeast(ON_TIME)))?;
    let none = Target::OursAtMost(0.0);
    report.add(Figure::alone("requests that failed", "", &one(load.counts.failed as f64)).target(none))?;
    if let Some(failure) = load.first_failure {
        report.section(&format!("The first of them: {failure}"))?;
    }
    let early = passed.before_removing.replaced as f64;
    report.add(Figure::alone("kept connections ended before Removing", "", &one(early)).target(none))?;
    let all = load.counts.replaced as f64;
    report.add(Figure::alone("kept connections ended in all", "", &one(all)))?;
    report.add(Figure::alone("requests asked again on another", "", &one(load.counts.repeated as f64)))?;
    let needless = town.tunnels_lost().await? as f64;
    report.add(Figure::alone("tunnels lost that rest on no removed anchor", "", &one(needless)).target(none))
}

/// What happened on the way.
struct Passed {
    phases: Vec<(Phase, f64)>,
    /// When the old anchor was still trusted by everybody, so that nothing had a reason to end.
    before_removing: Counts,
}

struct Town {
    mesh: Mesh,
    servers: Vec<Running>,
    clients: Vec<Running>,
    /// Where each client finds each server.
    entries: Vec<SocketAddr>,
}

impl Town {
    async fn open(binaries: &Path, cores: Cores) -> Result<Self> {
        let options = Options {
            binaries: binaries.to_owned(),
            root_algorithm: CLASSICAL.to_string(),
            signatures: "prefer".to_owned(),
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            federated: false,
            leaf_algorithms: format!("{POST_QUANTUM},{CLASSICAL}"),
            log: "info".to_owned(),
            environment: Environment::new(),
        };
        let mesh = Mesh::start(options).await?;
        let network = mesh.network();
        // Without capture each client has addresses of its own for what it calls.
        let entry = |server: u8, client: u8| network.address(Role::Service, 1 + server * CLIENTS + client);
        let servers: Vec<Workload> = (0..SERVERS)
            .map(|server| {
                let service = |client| Service {
                    name: format!("server-{server}-{client}"),
                    address: entry(server, client),
                    port: PORT,
                };
                let services = (0..CLIENTS).map(service).collect();
                mesh.workload(NAMESPACE, &format!("server-{server}"), 1 + server, services)
            })
            .collect();
        let clients: Vec<Workload> = (0..CLIENTS)
            .map(|client| {
                mesh.workload(NAMESPACE, &format!("client-{client}"), 1 + SERVERS + client, Vec::new())
            })
            .collect();
        // All are known before the first proxy asks about any.
        for one in servers.iter().chain(&clients) {
            mesh.announce(one)?;
        }
        let flags = [format!("--signatures={}", "prefer"), format!("--leaf-algorithm={CLASSICAL}")];
        let own = std::env::current_exe()?;
        let mut town = Self { mesh, servers: Vec::new(), clients: Vec::new(), entries: Vec::new() };
        for server in &servers {
            let listen = SocketAddr::from((server.application, PORT)).to_string();
            let name = format!("{}-application", server.name);
            town.mesh.attach(&name, &own, ["application".to_owned(), listen])?;
            town.servers.push(town.mesh.join(server, &[], &[PORT], &flags).await?);
        }
        for (number, client) in (0..CLIENTS).zip(&clients) {
            let calls: Vec<SocketAddr> =
                (0..SERVERS).map(|server| (entry(server, number), PORT).into()).collect();
            town.clients.push(town.mesh.join(client, &calls, &[], &flags).await?);
            town.entries.extend(calls);
        }
        for proxy in town.proxies() {
            cores::pin(proxy.pid, cores.mesh)?;
        }
        Ok(town)
    }

    fn proxies(&self) -> impl Iterator<Item = &Running> {
        self.servers.iter().chain(&self.clients)
    }

    /// Follows the rotation to its end.
    async fn watch(&self, visitors: &Visitors) -> Result<Passed> {
        let mut began: Vec<(Phase, Instant)> = Vec::new();
        let mut before_removing = Counts::default();
        loop {
            let counts = visitors.counts();
            let trust = self.mesh.trust().await?;
            let phase = trust.rotation.map(|rotation| rotation.phase);
            if phase != Some(Phase::Removing) && trust.past.is_empty() {
                before_removing = counts;
            }
            match phase {
                Some(phase) if began.last().is_none_or(|(last, _)| *last != phase) => {
                    began.push((phase, Instant::now()));
                }
                None if !trust.past.is_empty() => break,
                _ => {}
            }
            time::sleep(LOOK).await;
        }
        let ends = began.iter().skip(1).map(|(_, at)| *at).chain([Instant::now()]);
        let phases = began.iter().zip(ends).map(|((phase, at), end)| (*phase, (end - *at).as_secs_f64()));
        Ok(Passed { phases: phases.collect(), before_removing })
    }

    /// Tunnels that took connections along although everything that they rested on was trusted.
    async fn tunnels_lost(&self) -> Result<u64> {
        let mut lost = 0;
        for proxy in self.proxies() {
            let (_, body) = get(proxy.metrics, "/metrics").await?;
            lost += needless(&String::from_utf8_lossy(&body));
        }
        Ok(lost)
    }
}

/// The sum of all reasons but the one that is good.
fn needless(metrics: &str) -> u64 {
    let series = metrics.lines().filter(|line| line.starts_with(TUNNELS_ENDED));
    series
        .filter(|line| !line.contains("reason=\"anchor_removed\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_that_was_cut_for_its_anchor_is_not_lost_needlessly() {
        let metrics = "# TYPE trellis_tunnels_ended_total counter\n\
            trellis_tunnels_ended_total{direction=\"inbound\",reason=\"anchor_removed\"} 4\n\
            trellis_tunnels_ended_total{direction=\"outbound\",reason=\"broken\"} 2\n\
            trellis_tunnels_ended_total{direction=\"outbound\",reason=\"silent\"} 1\n\
            trellis_connections_total{peer=\"x\"} 9\n";
        assert_eq!(needless(metrics), 3);
        assert_eq!(needless(""), 0);
    }
}
