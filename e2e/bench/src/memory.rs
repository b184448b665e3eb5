//! What proxies weigh: at rest, and for each connection that only stays.

use std::{path::Path, time::Duration};

use anyhow::Result;
use tokio::time;

use crate::{
    bed::{Bed, Route},
    cores::Cores,
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::Rounds,
};

/// In bytes, of one proxy.
const IDLE: f64 = 10e6;
/// In bytes, of both.
const PER_CONNECTION: f64 = 6e3;
/// What was being done ends in this time.
const SETTLE: Duration = Duration::from_secs(1);

/// One mesh, weighed.
struct Weight {
    /// The heavier proxy, before its first connection.
    idle: f64,
    /// Both proxies for one more connection.
    per_connection: f64,
}

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Memory")?;
    let mut weights = Vec::new();
    for _ in 0..plan.weighings {
        // A proxy that has carried much keeps what it freed: only a fresh one shows what is needed.
        let bed = Bed::open(binaries, cores).await?;
        weights.push(weigh(&bed, plan).await?);
        bed.close().await;
    }
    let weights = Rounds::from(weights);
    let idle = weights.each(|weight| weight.idle / 1e6);
    let per_connection = weights.each(|weight| weight.per_connection);
    report.add(Figure::alone("a proxy at rest", "MB", &idle).target(Target::OursAtMost(IDLE / 1e6)))?;
    let name = format!("each of {} idle connections, both proxies", plan.idle_connections);
    report.add(Figure::alone(&name, "bytes", &per_connection).target(Target::OursAtMost(PER_CONNECTION)))
}

async fn weigh(bed: &Bed, plan: &Plan) -> Result<Weight> {
    time::sleep(SETTLE).await;
    let [near, far] = bed.weigh()?;
    let idle = near.max(far) as f64;
    bed.observe(Route::Through, &plan.warm_up()).await?;
    time::sleep(SETTLE).await;
    let before = sum(bed.weigh()?);
    let mut client = bed.client(Route::Through, &plan.idle()).await?;
    time::sleep(SETTLE).await;
    let grown = sum(bed.weigh()?) - before;
    client.go().await?;
    client.tally().await?;
    bed.prove().await?;
    Ok(Weight { idle, per_connection: grown / f64::from(plan.idle_connections) })
}

fn sum(weights: [u64; 2]) -> f64 {
    weights.iter().sum::<u64>() as f64
}
