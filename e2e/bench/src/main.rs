//! `make bench`: what the mesh costs, measured on the real binaries. A request through both proxies against
//! a direct one, post-quantum handshakes against classical ones of our own, memory, and a soak.
#![forbid(unsafe_code)]

mod against;
mod application;
mod authority;
mod bed;
mod clock;
mod cores;
mod cryptography;
mod custody;
mod driver;
mod envoy;
mod figure;
mod handshake;
mod instructions;
mod load;
mod memory;
mod migration;
mod pace;
mod plan;
mod rounds;
mod scaling;
mod share;
mod soak;
mod starts;
mod traffic;
mod usage;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{bed::Bed, cores::Cores, figure::Report, load::Load, plan::Plan};

#[derive(Debug, Parser)]
#[command(name = "trellis-bench", version, about = "What the mesh costs, measured")]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// Where trellis-ca, trellis-discovery and trellis-proxy are, built for release.
    #[arg(long, default_value = "bin")]
    binaries: PathBuf,
    /// An Envoy to compare with, as `ci/envoy` prints it. Without one, that comparison is left out.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// An OpenSSL to compare with, below what `ci/openssl` prints. Without one, that comparison is left out.
    #[arg(long)]
    openssl: Option<PathBuf>,
    /// Only these parts: may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// Keep what callgrind counts in this folder, for callgrind_annotate.
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Fewer and shorter rounds: about a minute.
    #[arg(long)]
    quick: bool,
    /// Seconds of constant load under which memory may not grow: 60, or 10 with --quick.
    #[arg(long, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    soak: Option<u64>,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "bench-results.json")]
    out: PathBuf,
}

/// What this program is when it was started by itself.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Application { listen: Vec<SocketAddr> },
    #[command(hide = true)]
    Client(Load),
}

/// A part of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Through both proxies, and directly.
    Traffic,
    /// Against Envoy.
    Envoy,
    /// The certificate authority.
    Authority,
    Migration,
    Handshakes,
    /// Key encapsulation and signatures, against OpenSSL.
    Crypto,
    /// Cryptographic resources, by the CA.
    Custody,
    Memory,
    /// From the start of a proxy to its first answer.
    Starts,
    /// What a second core is worth.
    Scaling,
    Soak,
    /// Instructions for a request, by valgrind.
    Instructions,
}

fn main() -> anyhow::Result<()> {
    trellis_local::child::become_child_if_asked()?;
    let cli = Cli::parse();
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        match cli.part {
            Some(Part::Application { listen }) => application::serve(&listen).await,
            Some(Part::Client(load)) => load::run(&load),
            None => {
                let (mut interrupt, mut terminate) =
                    (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
                // Leaving by the end of this function is what takes the processes and files along.
                tokio::select! {
                    result = measure(&cli) => result,
                    _ = interrupt.recv() => bail!("interrupted"),
                    _ = terminate.recv() => bail!("terminated"),
                }
            }
        }
    })
}

async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let plan = Plan::new(cli.quick, cli.soak);
    let cores = Cores::choose()?;
    // Everything that is started from here on inherits the place; the proxies are moved.
    cores::pin_self(cores.load)?;
    allow_files(plan.idle_connections.max(plan.crowd))?;
    let mut report = Report::begin(cores, &plan)?;

    let wanted = |section| cli.only.is_empty() || cli.only.contains(&section);
    if wanted(Section::Traffic) || wanted(Section::Envoy) {
        let mut bed = Bed::open(&cli.binaries, cores).await?;
        let measured = carry(cli, &mut bed, &plan, &mut report).await;
        let logs = bed.logs();
        measured.with_context(|| format!("the mesh said:\n{logs}"))?;
        bed.close().await;
    }
    if wanted(Section::Authority) {
        authority::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Migration) {
        migration::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Handshakes) {
        handshake::measure(cores, &plan, &mut report).await?;
    }
    if wanted(Section::Crypto) {
        cryptography::measure(cli.openssl.as_deref(), cores, &plan, &mut report).await?;
    }
    if wanted(Section::Custody) {
        custody::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Memory) {
        memory::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Starts) {
        starts::measure(&cli.binaries, cli.envoy.as_deref(), cores, &plan, &mut report).await?;
    }
    if wanted(Section::Scaling) {
        scaling::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Soak) {
        soak::measure(&cli.binaries, cores, &plan, &mut report).await?;
    }
    if wanted(Section::Instructions) {
        let profile = cli.profile.as_deref();
        instructions::measure(&cli.binaries, profile, cores, &plan, &mut report).await?;
    }
    report.write(&cli.out)
}

async fn carry(cli: &Cli, bed: &mut Bed, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let wanted = |section| cli.only.is_empty() || cli.only.contains(&section);
    if wanted(Section::Traffic) {
        traffic::measure(bed, plan, report).await?;
    }
    match &cli.envoy {
        _ if !wanted(Section::Envoy) => Ok(()),
        None => report.section("Envoy is not here (`ci/envoy` fetches it): nothing is compared with it"),
        Some(program) => {
            bed.add_envoys(program).await?;
            against::measure(bed, plan, report).await
        }
    }
}

/// Every process holds a file for each idle connection, and some of its own.
fn allow_files(connections: u32) -> anyhow::Result<()> {
    let needed = u64::from(connections) + 500;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        bail!("{connections} idle connections need {needed} open files in a process: raise `ulimit -Hn`");
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
