//! What a second core is worth: everything on one core with one worker in each proxy, and everything on two
//! with two. The load and the application need their share of both, so that no third core is wanted; how
//! much of the gain is the proxies' own shows in what a request costs them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    bed::{Bed, Route, Setup},
    cores::{self, Cores},
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round},
};

/// Load carried by two cores, of that carried by one.
const GAIN: f64 = 1.8;

pub async fn measure(binaries: &Path, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section(
        "Two cores, each proxy with two workers, against one core and one worker; HTTP, 64 connections",
    )?;
    let one = Bed::open_in(binaries, cores, Setup::default()).await?;
    let two = Bed::open_in(binaries, cores, Setup { workers: 2, ..Setup::default() }).await?;
    let compared = compare(&one, &two, cores, plan, report).await;
    // What comes after this is on the core of the load again.
    cores::pin_self(cores.load)?;
    compared.with_context(|| format!("the meshes said:\n{}\n{}", one.logs(), two.logs()))?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn compare(one: &Bed, two: &Bed, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.all_requests().in_http();
    let on = async |bed: &Bed, cores: &[usize]| {
        bed.spread(cores)?;
        bed.observe(Route::Through, &load).await
    };
    let rounds = rounds::quiet(plan.rounds, || async {
        let value = (on(two, &cores.both()).await?, on(one, &[cores.mesh]).await?);
        Ok(Round { foreign: value.0.span.foreign.max(value.1.span.foreign), value })
    })
    .await?;
    let rate = rounds.each(|(two, one)| (two.per_second(), one.per_second()));
    let figure = Figure::compare("requests at most, load and application included", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(GAIN)))?;
    // As many cores as there are, divided by this, is what the proxies alone would carry.
    let cpu = rounds.each(|(two, one)| (two.cpu_per_request(), one.cpu_per_request()));
    let figure = Figure::compare("CPU of both proxies per request", "us", &cpu);
    report.add(figure.target(Target::RatioAtMost(2.0 / GAIN)))
}
