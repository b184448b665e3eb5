//! The threads that traffic runs on: workers, and the one on which handshakes happen.

use std::{
    net::TcpListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use tokio::{net::TcpListener, runtime, sync::mpsc};
use tracing::warn;

use crate::{
    gateway::{self, Opening},
    handshake::{self, Limits},
    ledger::Direction,
    worker::{self, Delivery, Listeners, Shared},
};

const WORKER: &str = "worker";
const HANDSHAKE: &str = "handshake";

/// Where connections come in that begin with a handshake.
pub enum Door {
    /// Tunnels of peers.
    Tunnel(StdListener),
    /// Listeners of a gateway, as they are opened.
    Gateway(mpsc::UnboundedReceiver<Opening>),
}

pub struct Threads {
    ended: mpsc::UnboundedReceiver<&'static str>,
    running: usize,
    pub workers: Vec<mpsc::UnboundedSender<Delivery>>,
}

/// Says that a thread has ended, however it did.
struct Guard(&'static str, mpsc::UnboundedSender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

impl Threads {
    pub fn start(
        shared: Shared,
        listeners: Vec<Listeners>,
        door: Door,
        requests: handshake::Requests,
    ) -> anyhow::Result<Self> {
        let (ends, ended) = mpsc::unbounded_channel();
        let (mut workers, running) = (Vec::new(), listeners.len());
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (deliver, delivered) = mpsc::unbounded_channel();
            workers.push(deliver);
            let (shared, guard) = (shared.clone(), Guard(WORKER, ends.clone()));
            thread::Builder::new().name(format!("{WORKER}-{number}")).spawn(move || {
                let _guard = guard;
                if let Err(error) = worker::run(shared, listeners, delivered) {
                    warn!(%error, "worker ended");
                }
            })?;
        }
        let guard = Guard(HANDSHAKE, ends);
        let deliveries = Deliveries { workers: workers.clone(), turn: Arc::default() };
        thread::Builder::new().name(HANDSHAKE.into()).spawn(move || {
            let _guard = guard;
            if let Err(error) = handshakes(shared, door, requests, deliveries) {
                warn!(%error, "the handshake thread ended");
            }
        })?;
        Ok(Self { ended, running, workers })
    }

    /// The first thread that ends although nobody asked it to.
    pub async fn lost(&mut self) -> &'static str {
        self.ended.recv().await.unwrap_or(WORKER)
    }

    /// Waits for the workers to end, once they drain.
    pub async fn drained(&mut self) {
        while self.running > 0 {
            match self.ended.recv().await {
                Some(WORKER) => self.running -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Hands connections to workers in turn.
#[derive(Clone)]
pub struct Deliveries {
    workers: Vec<mpsc::UnboundedSender<Delivery>>,
    turn: Arc<AtomicUsize>,
}

impl Deliveries {
    pub fn deliver(&self, delivery: Delivery) {
        let turn = self.turn.fetch_add(1, Relaxed);
        if let Some(worker) = self.workers.get(turn % self.workers.len().max(1)) {
            // A worker that has ended lets the connection drop, which its peer sees as a close.
            let _ = worker.send(delivery);
        }
    }
}

/// The handshake thread: accepts until the proxy drains, and connects as long as workers ask.
fn handshakes(
    shared: Shared,
    door: Door,
    requests: handshake::Requests,
    deliveries: Deliveries,
) -> std::io::Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let Shared { demands, clock, ledger, mut stage, handshaker, .. } = shared;
        // Only workers may keep the requests open.
        drop(handshaker);
        let limits = Limits::default();
        let serving =
            handshake::serve(requests, demands.tls(Direction::Outbound).clone(), ledger.clone(), limits);
        match door {
            Door::Tunnel(tunnel) => {
                let listener = TcpListener::from_std(tunnel)?;
                let deliver = move |secured| deliveries.deliver(Delivery::Tunnel(Box::new(secured)));
                let tls = demands.tls(Direction::Inbound).clone();
                let listening = handshake::listen(listener, tls, ledger, limits, deliver);
                let accepting = async move {
                    tokio::select! {
                        () = listening => {}
                        _ = stage.wait_for(|stage| stage.draining) => {}
                    }
                };
                tokio::join!(accepting, serving);
            }
            Door::Gateway(openings) => {
                let accepting =
                    gateway::secured(openings, gateway::Thread { clock, ledger, stage, deliveries });
                tokio::join!(accepting, serving);
            }
        }
        Ok(())
    })
}
