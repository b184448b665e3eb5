//! `trellis tap`: requests and connections of a workload as they happen, each with what its connection
//! negotiated.

mod show;

pub use show::posture;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{signal, sync::mpsc, time};
use trellis_api::access::Entry;
use trellis_telemetry::http::Query;

use crate::proxies::{self, AdminUrl, Proxy};

/// Proxies that are watched at one time.
const MOST: usize = 64;
/// Lines that wait to be printed.
const QUEUE: usize = 1_024;
/// What one line may take.
const LONGEST: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub struct Tap {
    /// Whose proxies to watch, as deploy/shop, pod/shop-0 or gateway/front; all of the namespace without.
    workload: Option<String>,
    /// The workload's namespace; without it, that of the kubeconfig.
    #[arg(short = 'n', long, conflicts_with = "proxy")]
    namespace: Option<String>,
    /// Only what comes from there: NAMESPACE/SERVICEACCOUNT or a SPIFFE ID.
    #[arg(long)]
    from: Option<String>,
    /// Only what goes there: NAMESPACE/SERVICE with or without :PORT, a host, NAMESPACE/SERVICEACCOUNT or a
    /// SPIFFE ID.
    #[arg(long)]
    to: Option<String>,
    /// Only paths that begin so.
    #[arg(long)]
    path: Option<String>,
    #[arg(long)]
    method: Option<String>,
    /// Only what failed.
    #[arg(long)]
    failed: bool,
    /// Entries in one second of each proxy; what comes beyond is counted and not shown.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    length: Option<u64>,
    /// End after so many entries.
    #[arg(long)]
    count: Option<u64>,
    /// Print each entry as the proxy says it: a line of JSON.
    #[arg(long)]
    json: bool,
    /// Watch a proxy directly at its admin port, as http://HOST:15000, and use no cluster. May be repeated.
    #[arg(long, value_name = "URL", conflicts_with = "workload")]
    proxy: Vec<AdminUrl>,
}

/// What comes from one of the proxies.
enum Heard {
    Line { proxy: usize, line: String },
    Ended { proxy: usize, reason: String },
}

/// What a proxy says beside entries.
#[derive(serde::Deserialize)]
struct Lost {
    lost: u64,
}

impl Tap {
    /// Fails where a proxy could not be watched, or stopped being so.
    pub async fn run(self) -> Result<ExitCode> {
        let mut proxies = if self.proxy.is_empty() {
            let client = trellis_source::kubernetes_client().await?;
            let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
            proxies::of_workload(&client, &namespace, self.workload.as_deref()).await?
        } else {
            proxies::of_urls(&self.proxy)
        };
        if proxies.len() > MOST {
            writeln!(
                io::stderr(),
                "watching {MOST} of {} proxies; name a workload for fewer",
                proxies.len()
            )?;
            proxies.truncate(MOST);
        }
        let (hear, heard) = mpsc::channel(QUEUE);
        let mut failed = false;
        let mut watched = 0;
        for (index, proxy) in proxies.iter().enumerate() {
            match proxy.follow(&self.question()).await {
                Ok(body) => {
                    watched += 1;
                    tokio::spawn(read(index, body, hear.clone()));
                }
                Err(error) => {
                    failed = true;
                    writeln!(io::stderr(), "not watched: {}: {error:#}", proxy.name)?;
                }
            }
        }
        drop(hear);
        if watched == 0 {
            bail!("no proxy can be watched");
        }
        writeln!(io::stderr(), "watching {watched} {}", if watched == 1 { "proxy" } else { "proxies" })?;
        let over = async {
            match self.length {
                Some(seconds) => time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = self.show(&proxies, heard) => ended?,
            () = over => false,
            interrupted = signal::ctrl_c() => { interrupted?; false }
        };
        Ok(if failed || ended { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn question(&self) -> String {
        let texts = [("from", &self.from), ("to", &self.to), ("path", &self.path), ("method", &self.method)];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let mut question = format!("/tap?rate={}", self.rate);
        if self.failed {
            question.push_str("&failed");
        }
        for (name, value) in texts {
            question.push_str(&format!("&{name}={}", Query::encode(value)));
        }
        question
    }

    /// Prints what comes. True where a proxy ended although nobody asked it to.
    async fn show(&self, proxies: &[Proxy], mut heard: mpsc::Receiver<Heard>) -> Result<bool> {
        let mut out = io::stdout().lock();
        let mut shown = 0;
        let mut ended = false;
        let name = |index: usize| proxies.get(index).map_or("", |proxy| proxy.name.as_str());
        while let Some(one) = heard.recv().await {
            match one {
                Heard::Line { proxy, line } => {
                    if let Ok(Lost { lost }) = serde_json::from_str(&line) {
                        writeln!(io::stderr(), "{}: {lost} more were not shown", name(proxy))?;
                        continue;
                    }
                    let entry: Entry = serde_json::from_str(&line).with_context(|| {
                        format!(
                            "{} says what this version cannot read; compare `trellis version`",
                            name(proxy)
                        )
                    })?;
                    match self.json {
                        true => writeln!(out, "{line}")?,
                        false => writeln!(out, "{}", show::line(&entry))?,
                    }
                    out.flush()?;
                    shown += 1;
                    if self.count == Some(shown) {
                        return Ok(false);
                    }
                }
                Heard::Ended { proxy, reason } => {
                    ended = true;
                    writeln!(io::stderr(), "no longer watched: {}: {reason}", name(proxy))?;
                }
            }
        }
        Ok(ended)
    }
}

/// Hands on line by line what a proxy says.
async fn read(proxy: usize, mut body: Incoming, hear: mpsc::Sender<Heard>) {
    let mut buffer = BytesMut::new();
    let reason = loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => break error.to_string(),
            None => break "it has ended".to_owned(),
        };
        if let Ok(data) = frame.into_data() {
            buffer.extend_from_slice(&data);
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if hear.send(Heard::Line { proxy, line }).await.is_err() {
                return;
            }
        }
        if buffer.len() > LONGEST {
            break "it says more in one line than any entry has".to_owned();
        }
    };
    let _ = hear.send(Heard::Ended { proxy, reason }).await;
}
