//! Chains what is recorded, signs the chain at intervals, and hands it to the sinks. Until every sink that
//! is needed has room for it, nothing new is taken off the queue.

use std::{
    io, mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use futures::future::join_all;
use serde_json::{Map, json};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use trellis_api::names::CA;
use trellis_pki::{
    audit::{Chain, FORM},
    clock::Clock,
    key::{KeyError, PrivateKey},
};
use trellis_telemetry::{
    Gauge, Registry,
    health::Health,
    otlp::{
        OtlpError,
        logs::{self, Log, Logs},
    },
    shutdown,
};

use super::{
    Audit, Entry, Event, Shared,
    place::Place,
    sink::{Batch, Sink, SinkSpec, State},
};

/// Records that are written in one go.
const BATCH: usize = 256;
/// A signature at the latest so long after the first record that has none.
const SIGN_AFTER: Duration = Duration::from_secs(60);
/// Between attempts to sign.
const RETRY: Duration = Duration::from_secs(1);

/// What a trail is made with.
pub struct Trail {
    /// Of this replica; a random part makes it that of this run.
    pub replica: String,
    pub key: Arc<PrivateKey>,
    pub sinks: Vec<SinkSpec>,
    /// Where the sink `otlp` sends to.
    pub collector: Option<String>,
    pub clock: Arc<dyn Clock>,
    pub health: Health,
}

#[derive(Debug, Error)]
pub enum TrailError {
    #[error("cannot read {sink}, which the trail would go on behind: {error}")]
    Unreadable { sink: SinkSpec, error: io::Error },
    #[error("cannot start writing: {0}")]
    Thread(#[from] io::Error),
    #[error("cannot sign the trail: {0}")]
    Key(#[from] KeyError),
    #[error("{0}")]
    Otlp(#[from] OtlpError),
    #[error("otlp needs to know where to: give --otlp-endpoint")]
    NoCollector,
}

/// Writes a trail until it is told to end.
pub struct Writer {
    chain: Chain,
    key: Arc<PrivateKey>,
    clock: Arc<dyn Clock>,
    entries: mpsc::Receiver<Entry>,
    shared: Arc<Shared>,
    sinks: Vec<Sink>,
    collector: Option<Collector>,
    state: State,
    signed: Gauge,
    /// When the chain must be signed, while something in it is not.
    due: Option<Instant>,
    first: Vec<String>,
}

/// A collector, and whether it must have every record. Alone it is the trail, and must.
struct Collector {
    logs: Logs,
    needed: bool,
}

impl Trail {
    pub fn begin(self, registry: &Registry) -> Result<(Audit, Writer), TrailError> {
        let alone = self.sinks.len() == 1;
        let needed = self.sinks.iter().filter(|sink| alone || **sink != SinkSpec::Otlp);
        let needed: Vec<&str> = needed.map(SinkSpec::name).collect();
        let state = State::new(&needed, self.health.clone(), registry);
        let (mut sinks, mut collector, mut after) = (Vec::new(), None, None);
        for spec in &self.sinks {
            let place = match spec {
                SinkSpec::Stdout => Place::stdout()?,
                SinkSpec::File(path) => Place::file(path.clone()),
                SinkSpec::Otlp => {
                    collector = Some(Collector { logs: self.export(registry)?, needed: alone });
                    continue;
                }
            };
            let unreadable = |error| TrailError::Unreadable { sink: spec.clone(), error };
            after = after.or(place.last_record().map_err(unreadable)?);
            sinks.push(Sink::start(spec, place, state.clone())?);
        }
        let id = format!("{}-{:08x}", self.replica, rand::random::<u32>());
        tracing::info!(chain = id, key = self.key.public_key().fingerprint(), "an audit trail begins");
        let now = self.clock.now();
        let (chain, first) = Chain::begin(id, after.as_deref(), &self.key, now)?;
        let signed = registry
            .gauge("trellis_ca_audit_signed_timestamp_seconds", "When the audit trail was signed last.")
            .with(&[]);
        signed.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let (audit, entries, shared) = Audit::new(self.clock.clone(), registry);
        let writer = Writer {
            chain,
            key: self.key,
            clock: self.clock,
            entries,
            shared,
            sinks,
            collector,
            state,
            signed,
            due: None,
            first: first.into(),
        };
        Ok((audit, writer))
    }

    fn export(&self, registry: &Registry) -> Result<Logs, TrailError> {
        let endpoint = self.collector.as_deref().ok_or(TrailError::NoCollector)?;
        let resource = [
            ("service.name", CA.to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", self.replica.clone()),
        ];
        Ok(logs::start(registry, endpoint, &resource)?)
    }
}

impl Writer {
    /// Goes on until `end` says true or is gone, and then writes what was recorded, and signs it.
    pub async fn run(mut self, end: watch::Receiver<bool>) {
        let mut hangups = signal(SignalKind::hangup()).ok();
        let first = mem::take(&mut self.first);
        self.write(first).await;
        let mut batch = Vec::new();
        loop {
            let quiet = self.shared.quiet.lock().next();
            let (mut ended, mut rotated) = (false, false);
            tokio::select! {
                biased;
                received = self.entries.recv_many(&mut batch, BATCH) => ended = received == 0,
                () = at(self.due) => {}
                () = at(quiet) => {}
                () = hung_up(hangups.as_mut()) => rotated = true,
                () = shutdown::requested(end.clone()) => ended = true,
            }
            let mut lines = Vec::new();
            for entry in batch.drain(..) {
                self.chain(&entry, &mut lines).await;
            }
            let counted = match ended {
                true => self.rest(),
                false => self.shared.quiet.lock().due(Instant::now()),
            };
            for entry in counted.into_iter().chain(self.lost(ended)) {
                self.chain(&entry, &mut lines).await;
            }
            let late = self.due.is_some_and(|due| due <= Instant::now());
            if self.chain.must_sign() || (self.chain.unsigned() > 0 && (ended || late)) {
                self.sign(&mut lines);
            }
            // Whoever rotates files finds the new one before there is something to write.
            if !lines.is_empty() || rotated {
                self.write(lines).await;
            }
            if ended {
                return self.end().await;
            }
        }
    }

    /// All that was recorded and counted, at the end.
    fn rest(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while let Ok(entry) = self.entries.try_recv() {
            entries.push(entry);
        }
        entries.extend(self.shared.quiet.lock().all());
        entries
    }

    /// What found no place, behind all that did.
    fn lost(&self, ended: bool) -> Option<Entry> {
        if !ended && !self.entries.is_empty() {
            return None;
        }
        let count = self.shared.lost.swap(0, Ordering::Relaxed);
        let fields = Map::from_iter([("count".to_owned(), json!(count))]);
        (count > 0).then(|| Entry { event: Event::Lost, fields, time: self.clock.now() })
    }

    async fn chain(&mut self, entry: &Entry, lines: &mut Vec<String>) {
        // Whoever reads the trail takes more than this without a signature for a forgery.
        while self.chain.must_sign() && !self.sign(lines) {
            sleep(RETRY).await;
        }
        self.due.get_or_insert_with(|| Instant::now() + SIGN_AFTER);
        lines.push(self.chain.record(entry.event.as_str(), &entry.fields, entry.time));
    }

    fn sign(&mut self, lines: &mut Vec<String>) -> bool {
        let now = self.clock.now();
        match self.chain.sign(&self.key, now) {
            Ok(line) => {
                lines.push(line);
                self.due = None;
                self.signed.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
                true
            }
            Err(error) => {
                tracing::error!(%error, "the audit trail cannot be signed; trying again");
                self.due = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    async fn write(&self, lines: Vec<String>) {
        let batch: Batch = lines.into();
        let blocking = join_all(self.sinks.iter().map(|sink| sink.write(batch.clone())));
        tokio::join!(blocking, self.export(&batch));
    }

    async fn export(&self, batch: &Batch) {
        let Some(Collector { logs, needed }) = &self.collector else { return };
        let name = SinkSpec::Otlp.name();
        for line in batch.iter() {
            let log = Log { time: self.clock.now(), event: FORM.to_owned(), body: line.clone() };
            if !needed {
                match logs.offer(log) {
                    true => self.state.wrote_some(name, 1),
                    false => self.state.dropped(name),
                }
                continue;
            }
            if !logs.has_room() {
                let problem = "audit: the collector takes no records, and too many wait; see otlp-endpoint";
                self.state.failed(name, problem.to_owned());
            }
            logs.send(log).await;
            self.state.wrote(name, 1);
        }
    }

    async fn end(self) {
        join_all(self.sinks.into_iter().map(Sink::end)).await;
        if let Some(collector) = self.collector {
            collector.logs.shutdown().await;
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn hung_up(hangups: Option<&mut Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
