//! Full mutual handshakes with the TLS code of our proxies: post-quantum against classical, in memory and
//! over sockets. The classical side is classical in everything: key exchange, leaves and root.

mod memory;
mod socket;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use rustls::CommonState;
use trellis_api::names::DEFAULT_TRUST_DOMAIN;
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    identity::Identity,
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    policy::{Ladder, Policy},
    posture::Class,
    record::Recorder,
    spiffe::SpiffeId,
    tls::MeshTls,
};

use crate::{
    cores::Cores,
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round, Rounds},
    usage::Watch,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Server CPU, post-quantum over classical.
const TARGET: Target = Target::RatioAtMost(2.1);

/// Two workloads that may talk to each other.
struct Pair {
    client: MeshTls,
    server: MeshTls,
    server_identity: SpiffeId,
    class: Class,
}

/// What one round found out about one pair.
#[derive(Clone, Copy, Debug)]
struct Costs {
    /// CPU of the server for one handshake, in microseconds: TLS alone, and with the connection it is on.
    in_memory: f64,
    on_socket: f64,
    /// Both ways.
    bytes: f64,
}

pub async fn measure(cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Handshakes: X25519MLKEM768 and ML-DSA-65, and X25519 and ECDSA P-256")?;
    let ours = Arc::new(Pair::new(Algorithm::MlDsa65, Ladder::Require, Class::Pq)?);
    let classical = Arc::new(Pair::new(Algorithm::EcdsaP256, Ladder::Classical, Class::Classical)?);
    let rounds: Rounds<(Costs, Costs)> = rounds::quiet(plan.rounds, || async {
        let watch = Watch::begin(cores, &[], &[std::process::id()])?;
        let costs = (costs(&ours, cores, plan.handshakes)?, costs(&classical, cores, plan.handshakes)?);
        Ok(Round { value: costs, foreign: watch.end()?.foreign })
    })
    .await?;
    let pairs = |of: fn(&Costs) -> f64| rounds.each(|(ours, classical)| (of(ours), of(classical)));
    let per_second = pairs(|costs| 1e6 / costs.on_socket);
    report.add(Figure::compare("full handshakes per core of the server", "1/s", &per_second))?;
    let on_socket = Figure::compare("server CPU, with its connection", "us", &pairs(|costs| costs.on_socket));
    report.add(on_socket.target(TARGET))?;
    let in_memory = Figure::compare("server CPU, TLS alone", "us", &pairs(|costs| costs.in_memory));
    report.add(in_memory.target(TARGET))?;
    report.add(Figure::compare("bytes on the wire, both ways", "bytes", &pairs(|costs| costs.bytes)))
}

fn costs(pair: &Arc<Pair>, cores: Cores, handshakes: usize) -> Result<Costs> {
    let (in_memory, bytes) = memory::run(pair, handshakes)?;
    let on_socket = socket::run(pair, cores, handshakes)?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / handshakes as f64;
    Ok(Costs {
        in_memory: each(in_memory),
        on_socket: each(on_socket),
        bytes: bytes as f64 / handshakes as f64,
    })
}

impl Pair {
    fn new(algorithm: Algorithm, ladder: Ladder, class: Class) -> Result<Self> {
        let now = SystemClock.now();
        let root = Issuer::new_root(DEFAULT_TRUST_DOMAIN, PrivateKey::generate(algorithm)?, now, 365 * DAY)?;
        let policy = Policy { key_exchange: ladder, signatures: ladder };
        let workload = |account| {
            let identity = SpiffeId::new(DEFAULT_TRUST_DOMAIN, "bench", account)?;
            let tls = MeshTls::new(policy, DEFAULT_TRUST_DOMAIN, Arc::new(SystemClock));
            let bundle = Bundle::new(DEFAULT_TRUST_DOMAIN, vec![root.anchor().clone()])?;
            let key = PrivateKey::generate(algorithm)?;
            // The CA gives leaves no DNS names unless they are asked for.
            let request = LeafRequest {
                public_key: key.public_key(),
                identity: &identity,
                dns_names: &[],
                now,
                validity: DAY,
            };
            let leaf = root.issue(&request)?;
            tls.install(Identity::new(key, leaf.der, &bundle, algorithm, now)?, bundle)?;
            anyhow::Ok((tls, identity))
        };
        let (client, _) = workload("client")?;
        let (server, server_identity) = workload("server")?;
        Ok(Self { client, server, server_identity, class })
    }

    /// Reads from the server's end what the handshake came to, as a proxy does; anything but what is to be
    /// measured is an error.
    fn check(&self, recorder: &Recorder, connection: &CommonState) -> Result<()> {
        let posture = recorder.posture(connection).context("a handshake that did not end")?;
        ensure!(posture.class == self.class && !posture.resumed, "not what is to be measured: {posture:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_negotiates_its_class_and_no_other() {
        for (algorithm, ladder, class, bytes) in [
            (Algorithm::MlDsa65, Ladder::Require, Class::Pq, 20_000..22_000),
            (Algorithm::EcdsaP256, Ladder::Classical, Class::Classical, 1_500..2_500),
        ] {
            let mut pair = Pair::new(algorithm, ladder, class).unwrap();
            let (cpu, moved) = memory::run(&pair, 2).unwrap();
            assert!(!cpu.is_zero() && bytes.contains(&(moved / 2)), "{class:?}: {cpu:?}, {moved} bytes");
            pair.class = Class::Hybrid;
            let error = memory::run(&pair, 1).unwrap_err().to_string();
            assert!(error.contains("not what is to be measured"), "{error}");
        }
    }
}
