//! From the start of a client's proxy to the first answer that an application gets through it. Ours fetches
//! its certificate and asks discovery meanwhile; Envoy finds all that in files.

use std::{env, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::task;

use crate::{
    bed::{Bed, Route},
    clock,
    cores::Cores,
    envoy::Kind,
    figure::{Figure, Report, Target},
    load::Load,
    plan::Plan,
    rounds::Rounds,
};

/// In milliseconds, without entropy of the library's own.
const TARGET: Target = Target::OursAtMost(15.0);
const AGAIN: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn measure(
    binaries: &Path,
    envoy: Option<&Path>,
    cores: Cores,
    plan: &Plan,
    report: &mut Report,
) -> Result<()> {
    report.section("From the start of the client's proxy to the first answer through it")?;
    let mut bed = Bed::open(binaries, cores).await?;
    if let Some(envoy) = envoy {
        bed.add_envoys(envoy).await?;
    }
    let measured = starts(&mut bed, envoy.is_some(), plan, report).await;
    measured.with_context(|| format!("the mesh said:\n{}", bed.logs()))?;
    bed.close().await;
    Ok(())
}

async fn starts(bed: &mut Bed, envoy: bool, plan: &Plan, report: &mut Report) -> Result<()> {
    let load = plan.one_by_one().in_http();
    let name = "HTTP: first answer after the start";
    let (mut ours, mut pairs) = (Vec::new(), Vec::new());
    for _ in 0..plan.starts {
        let own = start(bed, Route::Through, &load).await?;
        ours.push(own);
        if envoy {
            pairs.push((own, start(bed, Route::Envoy(Kind::Http), &load).await?));
        }
    }
    let figure = match envoy {
        true => Figure::compare(name, "ms", &Rounds::from(pairs)),
        false => Figure::alone(name, "ms", &Rounds::from(ours)),
    };
    report.add(figure.target(TARGET))
}

/// Milliseconds from the start of the program to the end of the first answer.
async fn start(bed: &mut Bed, route: Route, load: &Load) -> Result<f64> {
    bed.end_client(route).await;
    let process = bed.start_client(route)?;
    let load = load.clone().towards(bed.entry(route)?);
    let waiting = task::spawn_blocking(move || first_answer(process, &load));
    Ok(waiting.await??.as_secs_f64() * 1e3)
}

fn first_answer(process: u32, load: &Load) -> Result<Duration> {
    // It begins as a copy of this program, which becomes the other one.
    let own = env::current_exe()?;
    let exe = format!("/proc/{process}/exe");
    let asked = clock::now();
    while fs::read_link(&exe).with_context(|| exe.clone())? == own {
        ensure!(clock::now() < asked + PATIENCE, "a proxy did not start");
    }
    let begun = clock::now();
    loop {
        match load.ask_once() {
            Ok(()) => return Ok(clock::now().saturating_sub(begun)),
            Err(error) if clock::now() > begun + PATIENCE => return Err(error),
            Err(_) => thread::sleep(AGAIN),
        }
    }
}
