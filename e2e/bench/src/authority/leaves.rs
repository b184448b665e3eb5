//! What a leaf costs, against the one signature that it needs.

use std::time::Duration;

use anyhow::Result;
use rcgen::SigningKey;
use trellis_api::names::DEFAULT_TRUST_DOMAIN;
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, SystemClock},
    csr,
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    spiffe::SpiffeId,
};

use crate::{
    clock,
    cores::Cores,
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round, Rounds},
    usage::Watch,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The share of a leaf's cost that its signature must be.
const USEFUL: f64 = 0.7;

pub async fn measure(cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    let now = SystemClock.now();
    let root = PrivateKey::generate(Algorithm::MlDsa65)?;
    let raw_key = PrivateKey::from_pkcs8(&root.pkcs8()?)?;
    let issuer = Issuer::new_root(DEFAULT_TRUST_DOMAIN, root, now, 365 * DAY)?;
    let identity = SpiffeId::new(DEFAULT_TRUST_DOMAIN, "bench", "workload")?;
    let names = ["workload.bench.svc.cluster.local", "workload"].map(str::to_owned);
    let workload = PrivateKey::generate(Algorithm::MlDsa65)?;
    let request = csr::make(&workload)?;
    let leaf = LeafRequest {
        public_key: workload.public_key(),
        identity: &identity,
        dns_names: &names,
        now,
        validity: DAY,
    };
    // As long as what is signed of a leaf.
    let message = vec![0; issuer.issue(&leaf)?.der.len() - raw_key.sign(b"")?.len()];
    let per_second = |cpu: Duration| plan.leaves as f64 / cpu.as_secs_f64();
    let rounds: Rounds<([f64; 2], f64)> = rounds::quiet(plan.rounds, || async {
        let watch = Watch::begin(cores, &[], &[std::process::id()])?;
        let [mut raw, mut issued, mut checked] = [Duration::ZERO; 3];
        // In turn, so that all meet the same machine.
        for _ in 0..plan.leaves {
            raw += spent(|| Ok(raw_key.sign(&message).map(drop)?))?;
            issued += spent(|| Ok(issuer.issue(&leaf).map(drop)?))?;
            checked += spent(|| Ok(csr::check(&request, &[Algorithm::MlDsa65]).map(drop)?))?;
        }
        let value = ([per_second(issued), per_second(issued + checked)], per_second(raw));
        Ok(Round { value, foreign: watch.end()?.foreign })
    })
    .await?;
    let pairs = |which: usize| rounds.each(|(ours, raw)| (ours[which], *raw));
    let issued = Figure::compare("leaves per core, against raw signatures", "1/s", &pairs(0));
    report.add(issued.target(Target::RatioAtLeast(USEFUL)))?;
    report.add(Figure::compare("the same with the check of the request", "1/s", &pairs(1)))
}

fn spent(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = clock::thread_cpu();
    work()?;
    Ok(clock::thread_cpu().saturating_sub(begun))
}
