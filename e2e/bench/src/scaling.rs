//! What a second core is worth to the proxies. Workers are given small cores of their own, a share of a real
//! one that neither load nor application takes from: with one of these, and with two.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{
    bed::{Bed, Route, Setup},
    cores::{self, Cores},
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round},
    share::Shares,
};

/// Load carried by two, of that carried by one.
const GAIN: f64 = 1.8;
/// What a worker has of a core. Two in each proxy are one core, so that the other is left to the load.
const SHARE: f64 = 0.25;
const WORKER: &str = "worker-";

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut shares = match Shares::open() {
        Ok(shares) => shares,
        Err(why) => return report.section(&format!("Two workers against one: not measured, {why:#}")),
    };
    report.section(
        "Two workers in each proxy against one, each with a quarter of a core that the load has no part in; \
         HTTP, 256 connections",
    )?;
    let one = Bed::open_in(binaries, cores, Setup::default()).await?;
    let two = Bed::open_in(binaries, cores, Setup { workers: 2, ..Setup::default() }).await?;
    for (bed, workers) in [(&one, 1), (&two, 2)] {
        bed.spread(&cores.both())?;
        for proxy in bed.proxies() {
            let limited = shares.limit(proxy, WORKER, SHARE)?;
            ensure!(limited == workers, "{limited} threads are called {WORKER}.. instead of {workers}");
        }
    }
    let compared = compare(&one, &two, plan, report).await;
    // What comes after this is on the core of the load again.
    cores::pin_self(cores.load)?;
    compared.with_context(|| format!("the meshes said:\n{}\n{}", one.logs(), two.logs()))?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn compare(one: &Bed, two: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.crowd_of_requests().in_http();
    let rounds = rounds::quiet(plan.rounds, || async {
        let value = (two.observe(Route::Through, &load).await?, one.observe(Route::Through, &load).await?);
        Ok(Round { foreign: value.0.span.foreign.max(value.1.span.foreign), value })
    })
    .await?;
    let rate = rounds.each(|(two, one)| (two.per_second(), one.per_second()));
    let figure = Figure::compare("requests at most", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(GAIN)))?;
    let cpu = rounds.each(|(two, one)| (two.cpu_per_request(), one.cpu_per_request()));
    report.add(Figure::compare("CPU of both proxies per request", "us", &cpu))
}
