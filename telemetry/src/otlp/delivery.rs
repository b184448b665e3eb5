//! What must reach the collector piece by piece: it waits in a bounded queue, and a batch is sent until the
//! collector has taken it. Whoever hands in a piece decides what happens where there is no room: wait, or go
//! without it.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{EXPORT_TIMEOUT, SHUTDOWN_TIMEOUT};
use crate::{instrument::Counter, registry::Registry, shutdown};

/// Pieces that wait.
pub const QUEUE: usize = 4_096;
/// Of one request: far below the 4 MiB that a gRPC receiver takes by default.
const MAX_PIECES: usize = 512;
const MAX_BYTES: usize = 1 << 20;
/// Between attempts to send the same batch.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// One of OTLP's signals.
pub(super) trait Signal: Send + 'static {
    type Piece: Send + 'static;
    type Request: Clone + Send;
    /// As logs call its pieces.
    const PIECES: &'static str;

    /// Bytes that a piece takes, roughly.
    fn size(piece: &Self::Piece) -> usize;
    fn request(&self, batch: Vec<Self::Piece>) -> Self::Request;
    /// How many pieces the collector rejected, which it does for good.
    fn send(&mut self, request: Self::Request) -> impl Future<Output = Result<u64, String>> + Send;
}

/// Takes pieces for a collector. It ends when this is dropped, or after a last attempt by
/// [`Delivery::shutdown`].
pub struct Delivery<T> {
    queue: mpsc::Sender<T>,
    dropped: Counter,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    pieces: &'static str,
}

/// What became of pieces, and of attempts to send them.
pub(super) struct Results {
    sent: Counter,
    rejected: Counter,
    dropped: Counter,
    failed: Counter,
}

impl Results {
    pub(super) fn new(registry: &Registry, pieces: [&str; 2], failures: [&str; 2]) -> Self {
        let pieces = registry.counter(pieces[0], pieces[1]);
        let failed = registry.counter(failures[0], failures[1]);
        let of = |result| pieces.with(&[("result", result)]);
        Self { sent: of("sent"), rejected: of("rejected"), dropped: of("dropped"), failed: failed.with(&[]) }
    }
}

pub(super) fn start<S: Signal>(signal: S, results: Results, endpoint: &str) -> Delivery<S::Piece> {
    let dropped = results.dropped.clone();
    let (queue, pieces) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let exporter = Exporter { signal, pieces, results, endpoint: endpoint.to_owned() };
    let task = tokio::spawn(exporter.run(stopped));
    Delivery { queue, dropped, stop, task, pieces: S::PIECES }
}

impl<T> Delivery<T> {
    /// Hands in a piece if there is room; if not, that is counted.
    pub fn offer(&self, piece: T) -> bool {
        let taken = self.queue.try_send(piece).is_ok();
        if !taken {
            self.dropped.inc();
        }
        taken
    }

    pub fn has_room(&self) -> bool {
        self.queue.capacity() > 0
    }

    /// Hands in a piece, and waits for room as long as it takes.
    pub async fn send(&self, piece: T) {
        // The task that receives lives as long as this.
        let _ = self.queue.send(piece).await;
    }

    /// Tries once more to send what waits, and ends. Takes three seconds at most.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        // The task that receives is the only one, and gone with this.
        if timeout(SHUTDOWN_TIMEOUT, self.queue.closed()).await.is_err() {
            tracing::warn!("the last {} were not exported in time", self.pieces);
        }
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Exporter<S: Signal> {
    signal: S,
    pieces: mpsc::Receiver<S::Piece>,
    results: Results,
    endpoint: String,
}

impl<S: Signal> Exporter<S> {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.pieces.recv() => first,
                () = shutdown::requested(stopped.clone()) => self.pieces.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            if !self.deliver(batch, &stopped).await {
                return;
            }
        }
    }

    fn gather(&mut self, first: S::Piece) -> Vec<S::Piece> {
        let mut bytes = S::size(&first);
        let mut batch = vec![first];
        while batch.len() < MAX_PIECES && bytes < MAX_BYTES {
            let Ok(next) = self.pieces.try_recv() else { break };
            bytes += S::size(&next);
            batch.push(next);
        }
        batch
    }

    /// Sends until it was taken; false if it was given up because the process ends.
    async fn deliver(&mut self, batch: Vec<S::Piece>, stopped: &watch::Receiver<bool>) -> bool {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let request = self.signal.request(batch);
        let mut wait = RETRY;
        loop {
            let sent = timeout(EXPORT_TIMEOUT, self.signal.send(request.clone())).await;
            match sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(rejected) => {
                    self.results.rejected.add(rejected.min(count));
                    self.results.sent.add(count.saturating_sub(rejected));
                    if wait > RETRY {
                        tracing::info!(endpoint = self.endpoint, "{} are exported again", S::PIECES);
                    }
                    return true;
                }
                Err(reason) => {
                    self.results.failed.inc();
                    // Logged when it begins, not every time.
                    if wait == RETRY {
                        let endpoint = &self.endpoint;
                        let pieces = S::PIECES;
                        tracing::warn!(endpoint, reason, "{pieces} cannot be exported; will keep trying");
                    }
                }
            }
            if *stopped.borrow() {
                return false;
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(MAX_RETRY),
                // One more attempt, at once.
                () = shutdown::requested(stopped.clone()) => {}
            }
        }
    }
}
