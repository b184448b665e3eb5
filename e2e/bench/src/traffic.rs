//! What traffic costs through both proxies, against the same traffic without them.

use anyhow::Result;

use crate::{
    bed::{Bed, Observed, Route},
    figure::{Figure, Report},
    load::Load,
    plan::{CONNECTION_RATE, Plan, RATE},
    rounds::{self, Round, Rounds},
};

pub async fn measure(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Traffic: through both proxies, and directly")?;
    steady(bed, plan, report).await?;
    saturation(bed, plan, report).await?;
    connections(bed, plan, report).await?;
    download(bed, plan, report).await?;
    bed.prove().await
}

async fn steady(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let rounds = compare(bed, plan.rounds, &plan.steady_requests()).await?;
    let p50 = rounds.each(|(ours, direct)| (ours.tally.p50, direct.tally.p50));
    let p99 = rounds.each(|(ours, direct)| (ours.tally.p99, direct.tally.p99));
    let added = |of: &Rounds<(f64, f64)>| of.each(|(ours, direct)| ours - direct);
    report.add(Figure::compare(&format!("request at {RATE}/s, p50"), "us", &p50))?;
    report.add(Figure::compare(&format!("request at {RATE}/s, p99"), "us", &p99))?;
    report.add(Figure::alone(&format!("added by the proxies at {RATE}/s, p50"), "us", &added(&p50)))?;
    report.add(Figure::alone(&format!("added by the proxies at {RATE}/s, p99"), "us", &added(&p99)))?;
    let cpu = rounds.each(|(ours, _)| ours.cpu_per_request());
    report.add(Figure::alone(&format!("CPU of both proxies at {RATE}/s"), "s/1M", &cpu))
}

async fn saturation(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let rounds = compare(bed, plan.rounds, &plan.all_requests()).await?;
    let rate = rounds.each(|(ours, direct)| (ours.per_second(), direct.per_second()));
    let cpu = rounds.each(|(ours, _)| ours.cpu_per_request());
    report.add(Figure::compare("requests at most, 64 connections", "1/s", &rate))?;
    report.add(Figure::alone("CPU of both proxies per request at most", "us", &cpu))
}

async fn connections(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let rounds = compare(bed, plan.rounds, &plan.all_connections()).await?;
    let rate = rounds.each(|(ours, direct)| (ours.per_second(), direct.per_second()));
    report.add(Figure::compare("new connections at most", "1/s", &rate))?;
    let load = plan.steady_connections();
    let rounds = rounds::quiet(plan.rounds, || async {
        let ours = bed.observe(Route::Through, &load).await?;
        Ok(Round { value: ours.cpu_per_request(), foreign: ours.span.foreign })
    });
    let name = format!("CPU of both proxies per connection, {CONNECTION_RATE}/s");
    report.add(Figure::alone(&name, "us", &rounds.await?))
}

async fn download(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.download();
    let rounds = compare(bed, plan.rounds, &load).await?;
    let bytes = |one: &Observed| (one.tally.requests * load.answer) as f64;
    let rate = |one: &Observed| bytes(one) * 8.0 / 1e9 / one.tally.seconds;
    let rates = rounds.each(|(ours, direct)| (rate(ours), rate(direct)));
    let cpu = rounds.each(|(ours, _)| ours.span.cpu.as_secs_f64() / (bytes(ours) / 1e9));
    report.add(Figure::compare("one download", "Gbit/s", &rates))?;
    report.add(Figure::alone("CPU of both proxies per GB", "s", &cpu))
}

/// The same load on both routes by turns.
async fn compare(bed: &Bed, rounds: usize, load: &Load) -> Result<Rounds<(Observed, Observed)>> {
    rounds::quiet(rounds, || async {
        let ours = bed.observe(Route::Through, load).await?;
        let direct = bed.observe(Route::Direct, load).await?;
        let foreign = ours.span.foreign.max(direct.span.foreign);
        Ok(Round { value: (ours, direct), foreign })
    })
    .await
}
