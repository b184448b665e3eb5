//! Constant load for a long time: requests on connections that stay and connections that come and go,
//! under which memory may not grow.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::time::{self, Instant};

use crate::{
    bed::{Bed, Route},
    cores::Cores,
    figure::{Figure, Report, Target, median},
    plan::Plan,
    rounds::Rounds,
};

/// Until all buffers and tables have the size that the load needs.
const WARM_UP: Duration = Duration::from_secs(10);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Growth that is none: a few pages that were touched late. A byte lost with each request or connection
/// would be more within a minute.
const TOLERANCE: f64 = 1.01;

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section(&format!(
        "Soak: {} s of constant load, both proxies in the last third of it and in the first",
        plan.soak.as_secs()
    ))?;
    let bed = Bed::open(binaries, cores).await?;
    let samples = soak(&bed, plan).await?;
    bed.prove().await?;
    bed.close().await;
    let (first, last) = thirds(&samples).context("too few samples for a first and a last third")?;
    let rounds = Rounds::from(vec![(last / 1e6, first / 1e6)]);
    let target = Target::RatioAtMost(TOLERANCE);
    report.add(Figure::compare("resident, both proxies", "MB", &rounds).target(target))
}

/// Bytes of both proxies, again and again.
async fn soak(bed: &Bed, plan: &Plan) -> Result<Vec<f64>> {
    let mut clients = Vec::new();
    for load in plan.soaking(WARM_UP) {
        clients.push(bed.client(Route::Through, &load).await?);
    }
    for client in &mut clients {
        client.go().await?;
    }
    let mut samples = Vec::new();
    let begin = Instant::now() + WARM_UP;
    let mut ticks = time::interval_at(begin, SAMPLE_EVERY);
    while ticks.tick().await < begin + plan.soak {
        samples.push(bed.weigh()?.iter().sum::<u64>() as f64);
    }
    for client in &mut clients {
        client.tally().await?;
    }
    Ok(samples)
}

/// Medians of the first and of the last third.
fn thirds(samples: &[f64]) -> Option<(f64, f64)> {
    let third = samples.len().div_ceil(3);
    let first = samples.get(..third)?;
    let last = samples.get(samples.len() - third..)?;
    (third > 0).then(|| (median(first), median(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_shows_between_the_thirds_and_a_spike_does_not() {
        let growing: Vec<f64> = (0..9).map(f64::from).collect();
        assert_eq!(thirds(&growing), Some((1.0, 7.0)));
        assert_eq!(thirds(&[5.0, 5.0, 900.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]), Some((5.0, 5.0)));
        assert_eq!(thirds(&[]), None);
    }
}
