//! Where an audit trail goes: standard output, a file, a collector. Each sink that blocks has a thread of
//! its own, so that one which hangs delays no other until its own short queue is full.

use std::{collections::BTreeMap, fmt, io, path::PathBuf, str::FromStr, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use trellis_telemetry::{Counter, Family, Registry, health::Health};

use super::{CONDITION, place::Place};

/// Batches that wait for one sink.
const QUEUE: usize = 2;
/// Between attempts to write the same lines.
const RETRY: Duration = Duration::from_secs(1);

/// `stdout`, `file:PATH` or `otlp`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkSpec {
    Stdout,
    File(PathBuf),
    Otlp,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("audit sink {0:?} is unknown; use stdout, file:PATH or otlp")]
pub struct UnknownSink(String);

impl SinkSpec {
    /// The label of its metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Otlp => "otlp",
        }
    }
}

impl FromStr for SinkSpec {
    type Err = UnknownSink;

    fn from_str(text: &str) -> Result<Self, UnknownSink> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout),
            None if text == "otlp" => Ok(Self::Otlp),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(UnknownSink(text.to_owned())),
        }
    }
}

impl fmt::Display for SinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            other => f.write_str(other.name()),
        }
    }
}

/// Lines without their ends, in the order of their chain.
pub type Batch = Arc<[String]>;

/// A thread that appends.
pub struct Sink {
    batches: mpsc::Sender<Batch>,
    ended: oneshot::Receiver<()>,
}

impl Sink {
    pub fn start(spec: &SinkSpec, place: Place, state: State) -> io::Result<Self> {
        let (batches, received) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let spec = spec.clone();
        // A thread and not a task: what hangs in the kernel must not keep the process from ending.
        thread::Builder::new().name(format!("audit-{}", spec.name())).spawn(move || {
            run(&spec, place, received, &state);
            // Nobody waits where nobody is left.
            let _ = end.send(());
        })?;
        Ok(Self { batches, ended })
    }

    /// Hands over a batch, and waits while too many wait already.
    pub async fn write(&self, batch: Batch) {
        // The thread ends when this is dropped, and not before.
        let _ = self.batches.send(batch).await;
    }

    /// Waits until all is written.
    pub async fn end(self) {
        drop(self.batches);
        let _ = self.ended.await;
    }
}

fn run(spec: &SinkSpec, mut place: Place, mut batches: mpsc::Receiver<Batch>, state: &State) {
    while let Some(batch) = batches.blocking_recv() {
        let mut lines = &*batch;
        loop {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            match place.append(&text) {
                Ok(()) => break state.wrote(spec.name(), lines.len()),
                Err(short) => {
                    lines = lines.get(short.lines..).unwrap_or_default();
                    state.wrote_some(spec.name(), short.lines);
                    state.failed(spec.name(), format!("audit: cannot write to {spec}: {}", short.error));
                    thread::sleep(RETRY);
                }
            }
        }
    }
}

/// How the sinks are. Clones are the same.
#[derive(Clone)]
pub struct State {
    /// What is wrong with each sink that is needed.
    problems: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    health: Health,
    metrics: Arc<Metrics>,
}

struct Metrics {
    written: Family<Counter>,
    failed: Family<Counter>,
    dropped: Family<Counter>,
}

impl State {
    /// `needed` are the sinks without which nothing is issued.
    pub fn new(needed: &[&'static str], health: Health, registry: &Registry) -> Self {
        let metrics = Metrics {
            written: registry
                .counter("trellis_ca_audit_records_total", "Records of the audit trail, by sink."),
            failed: registry.counter(
                "trellis_ca_audit_failures_total",
                "Attempts to write the audit trail that failed, by sink.",
            ),
            dropped: registry.counter(
                "trellis_ca_audit_dropped_total",
                "Records that a sink which is not needed went without, by sink.",
            ),
        };
        let unknown =
            |name: &&'static str| (*name, Some(format!("audit: nothing was written to {name} yet")));
        let problems = Arc::new(Mutex::new(needed.iter().map(unknown).collect()));
        Self { problems, health, metrics: Arc::new(metrics) }
    }

    pub fn wrote(&self, sink: &'static str, records: usize) {
        self.wrote_some(sink, records);
        self.set(sink, None);
    }

    pub fn wrote_some(&self, sink: &'static str, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.metrics.written.with(&[("sink", sink)]).add(records);
    }

    pub fn failed(&self, sink: &'static str, problem: String) {
        self.metrics.failed.with(&[("sink", sink)]).inc();
        self.set(sink, Some(problem));
    }

    pub fn dropped(&self, sink: &'static str) {
        self.metrics.dropped.with(&[("sink", sink)]).inc();
    }

    fn set(&self, sink: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock();
        problems.insert(sink, problem);
        // Under the lock, so that of two sinks the later word is the last. What changes is logged there.
        self.health.set(CONDITION, problems.values().flatten().next().cloned().map_or(Ok(()), Err));
    }
}
