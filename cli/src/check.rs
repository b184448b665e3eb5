//! `trellis check`: names each problem with its remedy, before and after the installation.

mod after;
mod before;
mod certificates;
mod enforced;
mod facts;
mod gather;
mod policies;
mod proxies;
mod report;
#[cfg(test)]
mod samples;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use trellis_api::names;
use trellis_pki::clock::{Clock, SystemClock};

use report::{Check, Report};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only what must hold before the installation.
    #[arg(long)]
    pre: bool,
    /// The namespace of the control plane.
    #[arg(short = 'n', long, default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    #[arg(long, default_value = names::DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl CheckArgs {
    /// Fails where any check failed. A warning is no failure.
    pub async fn run(self) -> Result<ExitCode> {
        let report = Report(self.checks().await?);
        let mut out = io::stdout().lock();
        match self.output {
            Output::Text => write!(out, "{report}")?,
            Output::Json => {
                serde_json::to_writer_pretty(&mut out, &report)?;
                writeln!(out)?;
            }
        }
        Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn checks(&self) -> Result<Vec<Check>> {
        let client = match trellis_source::kubernetes_client().await {
            Ok(client) => client,
            Err(error) => {
                let check = Check::new("cluster", "the API server answers");
                return Ok(vec![check.failed(error.to_string(), "point KUBECONFIG at the cluster")]);
            }
        };
        let before = gather::before(&client, &self.namespace).await;
        if before.version.is_err() {
            // Nothing else could be asked, and a page of the same error helps nobody.
            return Ok(before::cluster(&before));
        }
        if self.pre {
            return Ok(before::all(&before));
        }
        let now = Timestamp::try_from(SystemClock.now())?;
        let after = gather::after(&client, before, &self.trust_domain).await;
        Ok(after::all(&after, now))
    }
}
