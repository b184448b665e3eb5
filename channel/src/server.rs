//! Accepts connections for our services: TLS first, in bounds that no flood can fill for others, and
//! never past the end of the certificate that a peer came in with. No more newcomers are in work than can
//! be served soon; the others wait with the kernel, where they cost nothing.

pub mod grpc;
mod secured;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{Stream, future::poll_fn};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use trellis_pki::{
    clock::Clock,
    leaf::Leaf,
    posture::Posture,
    refusal::Refusal,
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::{Counter, Family, Registry};

use crate::{
    admission::{Bounds, Gate, Pass},
    handshakes::{Direction, Handshakes},
    identity::Resting,
    throttle::Throttle,
};
pub use secured::{Newcomer, Secured};
use secured::{Over, Parts};

/// Reason of a handshake that had to make room for a newer one.
pub const CROWDED_OUT: &str = "crowded_out";
/// Reason of a connection that came before there was a certificate to answer with.
pub const NOT_READY: &str = "not_ready";

/// Connections that are through with their handshake and wait to be served.
const BACKLOG: usize = 64;
/// Per second; all are counted.
const REFUSALS_LOGGED: u32 = 10;
/// How often connections are asked whether trust has changed beneath them.
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a listener holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Newcomers: from the first byte to the end of the first answer.
    pub handshakes_in_flight: usize,
    pub handshakes_per_source: usize,
    /// Who has been a newcomer for so long makes room for others; under full load it takes a fraction of it.
    pub stalled: Duration,
    pub handshake_timeout: Duration,
    pub connections: usize,
    pub connections_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes_in_flight: 256,
            handshakes_per_source: 32,
            stalled: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(10),
            connections: 10_000,
            connections_per_source: 256,
        }
    }
}

/// Who is at the other end, as request extension of each gRPC call.
#[derive(Clone, Debug)]
pub struct Peer {
    /// None where the listener asks for no certificate.
    pub identity: Option<SpiffeId>,
    pub posture: Arc<Posture>,
    pub remote: SocketAddr,
}

/// A TLS listener that has not begun to accept.
pub struct Listener {
    tcp: TcpListener,
    handshaker: Handshaker,
}

impl Listener {
    pub fn new(
        tcp: TcpListener,
        tls: Arc<MeshTls>,
        auth: ClientAuth,
        limits: Limits,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Self {
        let newcomers =
            Bounds { total: limits.handshakes_in_flight, per_source: limits.handshakes_per_source };
        let handshaker = Handshaker {
            epochs: watch::Sender::new(tls.epoch()),
            resting: Resting::default(),
            tls,
            auth,
            clock,
            metrics: Handshakes::new(registry),
            ends: ends(registry),
            stalled: limits.stalled,
            timeout: limits.handshake_timeout,
            log: Mutex::new(Throttle::per_second(REFUSALS_LOGGED)),
            newcomers: Gate::new(newcomers),
            handshakes: Gate::new(newcomers),
            connections: Gate::new(Bounds {
                total: limits.connections,
                per_source: limits.connections_per_source,
            }),
        };
        Self { tcp, handshaker }
    }

    /// Counts its connections among those that the own identity knows to rest on an anchor.
    #[must_use]
    pub fn resting(mut self, resting: Resting) -> Self {
        self.handshaker.resting = resting;
        self
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the stream is dropped.
    pub fn incoming(self) -> Incoming {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let handshaker = Arc::new(self.handshaker);
        let mut tasks = JoinSet::new();
        tasks.spawn(look(handshaker.clone()));
        tasks.spawn(accept(self.tcp, handshaker, sender));
        Incoming { receiver, _tasks: tasks }
    }
}

/// Connections that ended before their peers wished it, by reason.
fn ends(registry: &Registry) -> Family<Counter> {
    registry.counter(
        "trellis_connections_ended_total",
        "Connections that a service of the control plane ended in good order, by reason.",
    )
}

/// Connections that are through with their handshake. Never fails, never ends.
pub struct Incoming {
    receiver: mpsc::Receiver<Secured>,
    /// End with the stream.
    _tasks: JoinSet<()>,
}

impl Stream for Incoming {
    type Item = Result<Secured, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|secured| secured.map(Ok))
    }
}

/// Where TCP connections come from.
trait Accept: Send + 'static {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>;
}

impl Accept for TcpListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        TcpListener::poll_accept(self, cx)
    }
}

async fn accept(mut tcp: impl Accept, handshaker: Arc<Handshaker>, ready: mpsc::Sender<Secured>) {
    // Handshakes end with the listener; connections that are served do not.
    let mut handshakes = JoinSet::new();
    let mut pause = SHORTEST_PAUSE;
    loop {
        while handshakes.try_join_next().is_some() {}
        // Until then they wait with the kernel. Two gates, because who loses its place among the newcomers
        // loses nothing else once it is through with its handshake.
        handshaker.newcomers.room(handshaker.stalled).await;
        handshaker.handshakes.room(handshaker.stalled).await;
        match poll_fn(|cx| tcp.poll_accept(cx)).await {
            Ok((stream, remote)) => {
                pause = SHORTEST_PAUSE;
                Handshaker::begin(&handshaker, &mut handshakes, stream, remote, ready.clone());
            }
            // The peer gave up before it was accepted; the next may be waiting.
            Err(error) if is_peers_fault(&error) => {}
            // Out of descriptors or memory: others have to end first.
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept a connection; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Tells connections of changed trust: who is silent on all sides is not woken by anything else.
async fn look(handshaker: Arc<Handshaker>) {
    loop {
        sleep(LOOK).await;
        let now = handshaker.tls.epoch();
        handshaker.epochs.send_if_modified(|epoch| std::mem::replace(epoch, now) != now);
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock)
}

/// What every handshake of a listener needs.
struct Handshaker {
    tls: Arc<MeshTls>,
    auth: ClientAuth,
    clock: Arc<dyn Clock>,
    metrics: Handshakes,
    ends: Family<Counter>,
    stalled: Duration,
    timeout: Duration,
    /// Whoever has not been served yet.
    newcomers: Gate,
    handshakes: Gate,
    connections: Gate,
    resting: Resting,
    epochs: watch::Sender<u64>,
    log: Mutex<Throttle>,
}

impl Handshaker {
    fn begin(
        this: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        remote: SocketAddr,
        ready: mpsc::Sender<Secured>,
    ) {
        let newcomer = this.newcomers.enter(remote.ip());
        let pass = this.handshakes.enter(remote.ip());
        let this = this.clone();
        tasks.spawn(async move {
            if let Some(secured) = this.finish(stream, remote, pass, newcomer).await {
                // Nobody listens any more: the process is on its way out.
                let _ = ready.send(secured).await;
            }
        });
    }

    async fn finish(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        mut pass: Pass,
        newcomer: Pass,
    ) -> Option<Secured> {
        let outcome = tokio::select! {
            biased;
            _ = &mut pass.evicted => Err((CROWDED_OUT, Over::CrowdedOut.to_string())),
            outcome = timeout(self.timeout, self.handshake(stream, remote)) => outcome.unwrap_or_else(|_| {
                Err((Refusal::TimedOut.as_str(), format!("no handshake within {:?}", self.timeout)))
            }),
        };
        match outcome {
            Ok((stream, peer)) => {
                let expiry = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| {
                    // What the verifier accepted can be parsed; if not, it is worth no second.
                    Leaf::parse(leaf).map_or(SystemTime::UNIX_EPOCH, |leaf| leaf.not_after)
                });
                let left = expiry.map(|end| end.duration_since(self.clock.now()).unwrap_or_default());
                Some(Secured::new(Parts {
                    stream,
                    rests: self.resting.enter(&peer.posture),
                    peer,
                    left,
                    place: self.connections.enter(remote.ip()),
                    connections: self.connections.clone(),
                    newcomer,
                    tls: self.tls.clone(),
                    epochs: self.epochs.subscribe(),
                    ends: self.ends.clone(),
                }))
            }
            Err((reason, error)) => {
                self.metrics.refused(Direction::Inbound, reason);
                if let Some(unsaid) = self.log.lock().pass(Instant::now()) {
                    tracing::warn!(%remote, reason, error, unsaid, "refused a connection");
                }
                None
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Peer), (&'static str, String)> {
        // A latency setting: without it the connection still works.
        let _ = stream.set_nodelay(true);
        let accepting = self.tls.accept(self.auth).map_err(|error| (NOT_READY, error.to_string()))?;
        let began = Instant::now();
        let stream = TlsAcceptor::from(accepting.config).accept(stream).await.map_err(|error| {
            // What our verifier found says more than what TLS made of it.
            let found = accepting.recorder.rejection().map(ToString::to_string);
            let refusal = Refusal::of_io(&error, &accepting.recorder);
            (refusal.as_str(), found.unwrap_or_else(|| error.to_string()))
        })?;
        let posture = accepting
            .recorder
            .posture(stream.get_ref().1)
            .ok_or((Refusal::Other.as_str(), "the handshake ended without a posture".to_owned()))?;
        self.metrics.completed(Direction::Inbound, &posture, began.elapsed());
        let peer = Peer { identity: posture.peer.clone(), posture: Arc::new(posture), remote };
        Ok((stream, peer))
    }
}

#[cfg(test)]
mod tests;
