//! Our proxies against two Envoys that do the same: in HTTP, where both read requests and choose an endpoint
//! for each, and as bytes, where each connection goes to one. By turns, on the same cores.

use anyhow::Result;

use crate::{
    bed::{Bed, Observed, Route},
    envoy::Kind,
    figure::{Figure, Report, Target},
    load::Load,
    plan::{Plan, RATE},
    rounds::{self, Round, Rounds},
};

const HTTP: Route = Route::Envoy(Kind::Http);
const TCP: Route = Route::Envoy(Kind::Tcp);

pub async fn measure(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Against Envoy: HTTP, requests of 1 kB with answers of 1 kB")?;
    http(bed, plan, report).await?;
    report.section("Against Envoy: the same as bytes")?;
    bytes(bed, plan, report).await?;
    report.section("Against Envoy: new connections of the application, each with one request")?;
    connections(bed, plan, report).await?;
    bed.prove().await
}

async fn http(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.steady_requests().in_http();
    let routes = [(Route::Through, &load), (HTTP, &load), (Route::Direct, &load)];
    let rounds = by_turns(bed, plan.rounds, routes).await?;
    let cpu = rounds.each(|[ours, envoy, _]| (ours.cpu_per_request(), envoy.cpu_per_request()));
    let name = format!("HTTP: CPU per request at {RATE}/s");
    report.add(Figure::compare(&name, "us", &cpu).target(Target::RatioAtMost(0.4)))?;
    let added = |of: fn(&Observed) -> f64| {
        rounds.each(|[ours, envoy, direct]| (of(ours) - of(direct), of(envoy) - of(direct)))
    };
    let p50 = Figure::compare(&format!("HTTP: added at {RATE}/s, p50"), "us", &added(|one| one.tally.p50));
    report.add(p50.target(Target::RatioAtMost(0.5)))?;
    let p99 = Figure::compare(&format!("HTTP: added at {RATE}/s, p99"), "us", &added(|one| one.tally.p99));
    report.add(p99.target(Target::RatioAtMost(1.0)))?;

    let load = plan.all_requests().in_http();
    let rounds = by_turns(bed, plan.rounds, [(Route::Through, &load), (HTTP, &load)]).await?;
    let cpu = rounds.each(|[ours, envoy]| (ours.cpu_per_request(), envoy.cpu_per_request()));
    let figure = Figure::compare("HTTP: CPU per request at most, 64 connections", "us", &cpu);
    report.add(figure.target(Target::RatioAtMost(0.25)))?;
    let rate = rounds.each(|[ours, envoy]| (ours.per_second(), envoy.per_second()));
    let figure = Figure::compare("HTTP: requests at most, 64 connections", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(4.0)))
}

async fn bytes(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.steady_requests();
    let rounds = by_turns(bed, plan.rounds, [(Route::Through, &load), (TCP, &load)]).await?;
    let cpu = rounds.each(|[ours, envoy]| (ours.cpu_per_request(), envoy.cpu_per_request()));
    let figure = Figure::compare(&format!("bytes: CPU per request at {RATE}/s"), "us", &cpu);
    report.add(figure.target(Target::RatioAtMost(0.8)))?;
    let load = plan.all_requests();
    let rounds = by_turns(bed, plan.rounds, [(Route::Through, &load), (TCP, &load)]).await?;
    let rate = rounds.each(|[ours, envoy]| (ours.per_second(), envoy.per_second()));
    let figure = Figure::compare("bytes: requests at most, 64 connections", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(2.0)))?;
    let load = plan.download();
    let rounds = by_turns(bed, plan.rounds, [(Route::Through, &load), (TCP, &load)]).await?;
    let rate = |one: &Observed| one.per_second() * load.answer as f64 * 8.0 / 1e9;
    let rates = rounds.each(|[ours, envoy]| (rate(ours), rate(envoy)));
    let figure = Figure::compare("bytes: one download", "Gbit/s", &rates);
    report.add(figure.target(Target::RatioAtLeast(1.0)))
}

async fn connections(bed: &Bed, plan: &Plan, report: &mut Report) -> Result<()> {
    let (bytes, http) = (plan.all_connections(), plan.all_connections().in_http());
    let before = bed.handshakes().await?;
    let (tcp_before, http_before) =
        (bed.envoy(Kind::Tcp)?.handshakes().await?, bed.envoy(Kind::Http)?.handshakes().await?);
    let routes = [(Route::Through, &bytes), (TCP, &bytes), (Route::Through, &http), (HTTP, &http)];
    let rounds = by_turns(bed, plan.rounds, routes).await?;
    let rate = rounds.each(|[ours, envoy, _, _]| (ours.per_second(), envoy.per_second()));
    let figure = Figure::compare("bytes: new connections at most", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(6.0)))?;
    let rate = rounds.each(|[_, _, ours, envoy]| (ours.per_second(), envoy.per_second()));
    let figure = Figure::compare("HTTP: new connections at most", "1/s", &rate);
    report.add(figure.target(Target::RatioAtLeast(1.5)))?;
    // Of all connections in all rounds, warm-up and repeated rounds included.
    let ours = bed.handshakes().await? - before;
    let tcp = bed.envoy(Kind::Tcp)?.handshakes().await? - tcp_before;
    let http = bed.envoy(Kind::Http)?.handshakes().await? - http_before;
    let count = Rounds::from(vec![(ours as f64, (tcp + http) as f64)]);
    let figure = Figure::compare("handshakes for all of them", "", &count);
    report.add(figure.target(Target::OursAtMost(0.0)))
}

/// Each load on its route by turns.
async fn by_turns<const N: usize>(
    bed: &Bed,
    rounds: usize,
    loads: [(Route, &Load); N],
) -> Result<Rounds<[Observed; N]>> {
    rounds::quiet(rounds, || async {
        let mut observed = Vec::with_capacity(N);
        for (route, load) in loads {
            observed.push(bed.observe(route, load).await?);
        }
        let foreign = observed.iter().map(|one| one.span.foreign).fold(0.0, f64::max);
        let value = observed.try_into().map_err(|_| anyhow::anyhow!("a round that was cut short"))?;
        Ok(Round { value, foreign })
    })
    .await
}
