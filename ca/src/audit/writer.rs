//! Chains what is recorded, signs the chain at intervals, and writes it. A sink that fails gets the same
//! lines again, and until it took them nothing new is taken off the queue.

use std::{
    io,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};
use trellis_pki::{audit::Chain, clock::Clock, key::PrivateKey};
use trellis_telemetry::{Counter, Family, Gauge, Registry, health::Health};

use super::{
    Audit, CONDITION, Entry,
    sink::{Sink, SinkSpec},
};

/// Records that are written in one go.
const BATCH: usize = 256;
/// A signature at the latest behind so many records, and so long after the first that has none.
const SIGN_RECORDS: u64 = 256;
const SIGN_AFTER: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// What a trail is made with.
pub struct Trail {
    /// Of this replica; a random part makes it that of this run.
    pub replica: String,
    pub key: Arc<PrivateKey>,
    pub sinks: Vec<SinkSpec>,
    pub clock: Arc<dyn Clock>,
    pub health: Health,
}

/// Writes a trail until it is told to end.
pub struct Writer {
    chain: Chain,
    key: Arc<PrivateKey>,
    clock: Arc<dyn Clock>,
    health: Health,
    entries: mpsc::Receiver<Entry>,
    sinks: Vec<Sink>,
    metrics: Metrics,
    /// When the chain must be signed, while something in it is not.
    due: Option<Instant>,
    first: Option<String>,
}

impl Trail {
    pub fn begin(self, registry: &Registry) -> io::Result<(Audit, Writer)> {
        let sinks: Vec<Sink> = self.sinks.iter().map(Sink::new).collect();
        let mut after = None;
        for sink in &sinks {
            after = after.or(sink.last_head()?);
        }
        let id = format!("{}-{:08x}", self.replica, rand::random::<u32>());
        let (chain, first) = Chain::begin(id, after.as_deref(), &self.key, self.clock.now());
        let (audit, entries) = Audit::new(registry);
        let writer = Writer {
            chain,
            key: self.key,
            clock: self.clock,
            health: self.health,
            entries,
            sinks,
            metrics: Metrics::new(registry),
            due: Some(Instant::now() + SIGN_AFTER),
            first: Some(first),
        };
        Ok((audit, writer))
    }
}

impl Writer {
    /// Goes on until `end` says true or is gone, and then writes what was recorded, and signs it.
    pub async fn run(mut self, mut end: watch::Receiver<bool>) {
        if let Some(first) = self.first.take() {
            self.write(vec![first]).await;
        }
        let mut batch = Vec::new();
        loop {
            let ended = tokio::select! {
                biased;
                received = self.entries.recv_many(&mut batch, BATCH) => received == 0,
                () = due(self.due) => false,
                _ = end.wait_for(|end| *end) => true,
            };
            let mut lines: Vec<String> = batch.drain(..).map(|entry| self.chain(entry)).collect();
            if ended {
                while let Ok(entry) = self.entries.try_recv() {
                    lines.push(self.chain(entry));
                }
            }
            self.sign_if_due(ended, &mut lines);
            self.write(lines).await;
            if ended {
                return;
            }
        }
    }

    fn chain(&mut self, entry: Entry) -> String {
        self.due.get_or_insert_with(|| Instant::now() + SIGN_AFTER);
        self.chain.record(entry.event.as_str(), entry.fields, self.clock.now())
    }

    fn sign_if_due(&mut self, ended: bool, lines: &mut Vec<String>) {
        let unsigned = self.chain.unsigned();
        let late = self.due.is_some_and(|due| due <= Instant::now());
        if unsigned == 0 || !(ended || late || unsigned >= SIGN_RECORDS) {
            return;
        }
        let now = self.clock.now();
        match self.chain.sign(&self.key, now) {
            Ok(line) => {
                lines.push(line);
                self.due = None;
                self.metrics.signed.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
            }
            Err(error) => {
                tracing::error!(%error, "the audit trail cannot be signed; trying again");
                self.due = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Writes to every sink, each as often as it takes.
    async fn write(&mut self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let count = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let text: Arc<str> = (lines.join("\n") + "\n").into();
        let mut failing = false;
        for mut sink in std::mem::take(&mut self.sinks) {
            loop {
                let (name, text) = (sink.name(), text.clone());
                let written = spawn_blocking(move || {
                    let result = sink.write(&text);
                    (sink, result)
                });
                let Ok((back, result)) = written.await else {
                    // Only a runtime that is going away drops such a task.
                    return;
                };
                sink = back;
                match result {
                    Ok(()) => break self.metrics.written.with(&[("sink", name)]).add(count),
                    Err(error) => {
                        failing = true;
                        self.metrics.failed.with(&[("sink", name)]).inc();
                        let problem = format!("audit: cannot write to {name}: {error}");
                        tracing::error!("{problem}; nothing is issued once the queue is full");
                        self.health.set(CONDITION, Err(problem));
                        sleep(RETRY).await;
                    }
                }
            }
            self.sinks.push(sink);
        }
        if failing {
            tracing::info!("the audit trail is written again");
        }
        self.health.set(CONDITION, Ok(()));
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Metrics {
    written: Family<Counter>,
    failed: Family<Counter>,
    signed: Gauge,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            written: registry
                .counter("trellis_ca_audit_records_total", "Records of the audit trail, by sink."),
            failed: registry.counter(
                "trellis_ca_audit_failures_total",
                "Attempts to write the audit trail that failed, by sink.",
            ),
            signed: registry
                .gauge("trellis_ca_audit_signed_timestamp_seconds", "When the audit trail was signed last.")
                .with(&[]),
        }
    }
}
