//! `trellis stat`: what the connections of each workload really negotiated, read from its proxies.

mod document;
mod fetch;
mod overview;
mod requests;
#[cfg(test)]
pub mod samples;
mod workload;

pub use fetch::{Seen, gateway_of, meshed, of_pods, pods};
pub use workload::Workload;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{self, Instant};
use trellis_pki::clock::{Clock, SystemClock};

use fetch::ProxyUrl;

#[derive(Debug, Args)]
pub struct Stat {
    /// The namespace to look at; without it, that of the kubeconfig.
    #[arg(short = 'n', long, conflicts_with_all = ["all_namespaces", "proxy"])]
    namespace: Option<String>,
    /// Look at every namespace.
    #[arg(short = 'A', long, conflicts_with = "proxy")]
    all_namespaces: bool,
    /// Print the evidence document of all that was seen.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// `wide` adds open connections and bytes; `json` is --json.
    #[arg(short = 'o', long, value_enum)]
    output: Option<Output>,
    /// Show requests instead of connections: how many a second, how many of them well, and how long they took,
    /// by route and by who answered.
    #[arg(long, conflicts_with = "output")]
    requests: bool,
    /// Seconds between the two readings that requests are counted between.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "requests",
          value_parser = clap::value_parser!(u32).range(1..=600))]
    window: u32,
    /// Read a proxy directly at its metrics port, as http://HOST:15020, and use no cluster. May be repeated.
    #[arg(long, value_name = "URL")]
    proxy: Vec<ProxyUrl>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Json,
}

impl Stat {
    /// Fails where a proxy could not be read: what it knows is missing from what is shown.
    pub async fn run(self) -> Result<ExitCode> {
        if self.requests {
            return self.run_requests().await;
        }
        let seen = if self.proxy.is_empty() {
            let client = trellis_source::kubernetes_client().await?;
            let namespace = match (self.all_namespaces, &self.namespace) {
                (true, _) => None,
                (false, Some(namespace)) => Some(namespace.clone()),
                (false, None) => Some(client.default_namespace().to_owned()),
            };
            fetch::of_cluster(&client, namespace.as_deref()).await?
        } else {
            fetch::of_proxies(&self.proxy).await
        };
        // Whole seconds, as everything else that is said about time.
        let now = Timestamp::from_second(Timestamp::try_from(SystemClock.now())?.as_second())?;
        let mut out = io::stdout().lock();
        if self.json || self.output == Some(Output::Json) {
            serde_json::to_writer_pretty(&mut out, &document::of(&seen, now))?;
            writeln!(out)?;
        } else {
            write!(out, "{}", overview::of(&seen, now, self.output == Some(Output::Wide)))?;
        }
        let mut unread = 0;
        for one in &seen {
            if let Err(reason) = &one.evidence {
                unread += 1;
                writeln!(io::stderr(), "not read: {}: {reason}", one.name)?;
            }
        }
        Ok(if unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn run_requests(&self) -> Result<ExitCode> {
        let before = self.metrics().await?;
        let begun = Instant::now();
        time::sleep(Duration::from_secs(self.window.into())).await;
        let after = self.metrics().await?;
        let (rows, unread) = requests::between(&before, &after, begun.elapsed());
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
            false => write!(out, "{}", requests::table(&rows))?,
        }
        for (name, reason) in &unread {
            writeln!(io::stderr(), "not read: {name}: {reason}")?;
        }
        Ok(if unread.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn metrics(&self) -> Result<Vec<fetch::Metrics>> {
        if !self.proxy.is_empty() {
            return Ok(fetch::metrics_of_proxies(&self.proxy).await);
        }
        let client = trellis_source::kubernetes_client().await?;
        let namespace = match (self.all_namespaces, &self.namespace) {
            (true, _) => None,
            (false, Some(namespace)) => Some(namespace.as_str()),
            (false, None) => Some(client.default_namespace()),
        };
        fetch::metrics_of_cluster(&client, namespace).await
    }
}
