//! `trellis`: one command a file; this one parses, and hands over.
#![forbid(unsafe_code)]

mod attest;
mod audit;
mod chart;
mod check;
mod crypto;
mod demo;
mod diag;
mod helm;
mod identity;
mod inject;
mod install;
mod proxies;
mod stat;
mod table;
mod tap;
mod trust;
mod uninstall;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime;

#[derive(Debug, Parser)]
#[command(name = "trellis", version, about = "A post-quantum service mesh for Kubernetes")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install Trellis in a cluster, or upgrade it.
    Install(install::Install),
    /// Remove Trellis from a cluster.
    Uninstall(uninstall::Uninstall),
    /// Name each problem of the cluster or the mesh, with its remedy.
    Check(check::CheckArgs),
    /// Put the proxy into manifests, as the admission webhook would.
    Inject(inject::Inject),
    /// Show what connections really negotiated, by workload.
    Stat(stat::Stat),
    /// Show what a proxy knows, or why it would send a request where it would.
    Diag(diag::DiagArgs),
    /// Watch requests and connections as they happen, each with what it negotiated.
    Tap(tap::Tap),
    /// Show what the mesh is believed by, and change it while everybody keeps talking.
    Trust(trust::Trust),
    /// Get a certificate of the mesh for a program without a proxy, and keep it fresh.
    Identity(identity::IdentityArgs),
    /// Look through the CA's audit trail.
    Audit(audit::Audit),
    /// Make keys, encrypt, sign and verify files, say what a key or a signature is, and say where the CA may
    /// keep keys.
    Crypto(crypto::CryptoArgs),
    /// Sign an image by its digest, or a Kubernetes resource.
    Sign(attest::Sign),
    /// Say whether an image or a resource is the one that was signed.
    Verify(attest::Verify),
    /// Run the mesh on this machine, without a cluster, and show what it negotiates.
    Demo(demo::DemoArgs),
    /// An application of the demo.
    #[command(hide = true)]
    DemoApp(demo::AppArgs),
    /// Print the version.
    Version,
}

fn main() -> anyhow::Result<ExitCode> {
    trellis_local::child::become_child_if_asked()?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(Cli::parse().command))
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(install) => install.run().await,
        Command::Uninstall(uninstall) => uninstall.run().await,
        Command::Check(check) => check.run().await,
        Command::Inject(inject) => inject.run().await,
        Command::Stat(stat) => stat.run().await,
        Command::Diag(diag) => diag.run().await,
        Command::Tap(tap) => tap.run().await,
        Command::Trust(trust) => trust.run().await,
        Command::Identity(identity) => identity.run().await,
        Command::Audit(audit) => audit.run(),
        Command::Crypto(crypto) => crypto.run().await,
        Command::Sign(sign) => sign.run(),
        Command::Verify(verify) => verify.run(),
        Command::Demo(demo) => demo::run(demo).await.map(|()| ExitCode::SUCCESS),
        Command::DemoApp(app) => demo::app(app).await.map(|()| ExitCode::SUCCESS),
        Command::Version => {
            writeln!(io::stdout(), "trellis {}", env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
