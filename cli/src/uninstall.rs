//! `trellis uninstall`: takes the control plane away and everything that it made, unless workloads still
//! stand on it.

mod leftovers;
mod quantum;
mod standing;

use std::{
    ffi::OsString,
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::Args;
use trellis_api::names;

use crate::{helm::HelmPath, install::RELEASE};

#[derive(Debug, Args)]
pub struct Uninstall {
    /// The namespace of the control plane.
    #[arg(short = 'n', long, default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Go on although injected pods are running. Their certificates cannot be renewed any more.
    #[arg(long)]
    force: bool,
    /// Keep the Secret with the mesh's root, so that a later installation is the same mesh.
    #[arg(long, conflicts_with = "yes")]
    keep_root: bool,
    /// Delete the mesh's root without asking.
    #[arg(long)]
    yes: bool,
    /// How long to wait for pods to end, as Helm writes it.
    #[arg(long, default_value = "5m")]
    timeout: String,
    #[command(flatten)]
    helm: HelmPath,
}

impl Uninstall {
    pub async fn run(self) -> Result<ExitCode> {
        let helm = self.helm.clone().find().await?;
        let client = trellis_source::kubernetes_client().await?;
        if !self.force {
            standing::nothing_may(&client).await?;
        }
        if !self.keep_root && !self.yes {
            confirm(&self.namespace)?;
        }
        helm.run(self.arguments()).await?;
        let outcome = leftovers::remove(&client, &self.namespace, self.keep_root).await?;
        for removed in outcome.removed {
            writeln!(io::stdout(), "removed {removed}")?;
        }
        if !outcome.kept.is_empty() {
            writeln!(
                io::stdout(),
                "kept the definitions of cryptographic resources, for with them these objects and their keys would go:"
            )?;
            for kept in outcome.kept {
                writeln!(io::stdout(), "  {kept}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Foreground, so that no CA is left that could publish again what is removed afterwards.
    fn arguments(&self) -> Vec<OsString> {
        let arguments = [
            "uninstall",
            RELEASE,
            "--namespace",
            &self.namespace,
            "--ignore-not-found",
            "--cascade",
            "foreground",
            "--wait",
            "--timeout",
            &self.timeout,
        ];
        arguments.map(OsString::from).into()
    }
}

/// Asks whoever sits there; a script has to say it by an option.
fn confirm(namespace: &str) -> Result<()> {
    let what = format!("Secret {namespace}/{}, the root of the mesh", names::ROOT_SECRET);
    if !io::stdin().is_terminal() {
        bail!("this deletes {what}: say --yes to delete it, or --keep-root to keep it");
    }
    write!(
        io::stderr(),
        "This deletes {what}. No certificate of it will be trusted again. Type yes to go on: "
    )?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("nothing was changed; --keep-root uninstalls and keeps it");
    }
    Ok(())
}
