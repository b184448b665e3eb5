//! Accepts connections for our services: TLS first, in bounds that no flood can fill for others, and
//! never past the end of the certificate that a peer came in with.

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
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use trellis_pki::{
    clock::Clock,
    credential::Standing,
    leaf::Leaf,
    posture::Posture,
    refusal::Refusal,
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::Registry;

use crate::{
    admission::{Bounds, Gate, Pass},
    handshakes::{Direction, Handshakes},
    throttle::Throttle,
};

/// Reason of a handshake that had to make room for a newer one.
pub const CROWDED_OUT: &str = "crowded_out";
/// Reason of a connection that came before there was a certificate to answer with.
pub const NOT_READY: &str = "not_ready";

/// Connections that are through with their handshake and wait to be served.
const BACKLOG: usize = 64;
/// Per second; all are counted.
const REFUSALS_LOGGED: u32 = 10;
/// A handshake that has taken so long makes room for others; under full load it takes a fraction of it.
const STALLED: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a listener holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub handshakes_in_flight: usize,
    pub handshakes_per_source: usize,
    pub handshake_timeout: Duration,
    pub connections: usize,
    pub connections_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes_in_flight: 256,
            handshakes_per_source: 32,
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
    handshaker: Arc<Handshaker>,
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
        let handshaker = Arc::new(Handshaker {
            tls,
            auth,
            clock,
            metrics: Handshakes::new(registry),
            timeout: limits.handshake_timeout,
            log: Mutex::new(Throttle::per_second(REFUSALS_LOGGED)),
            handshakes: Gate::new(Bounds {
                total: limits.handshakes_in_flight,
                per_source: limits.handshakes_per_source,
            }),
            connections: Gate::new(Bounds {
                total: limits.connections,
                per_source: limits.connections_per_source,
            }),
        });
        Self { tcp, handshaker }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the stream is dropped.
    pub fn incoming(self) -> Incoming {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut task = JoinSet::new();
        task.spawn(accept(self.tcp, self.handshaker, sender));
        Incoming { receiver, _task: task }
    }
}

/// Connections that are through with their handshake. Never fails, never ends.
pub struct Incoming {
    receiver: mpsc::Receiver<Secured>,
    /// Ends with the stream.
    _task: JoinSet<()>,
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
        // Until then they wait with the kernel.
        handshaker.handshakes.room(STALLED).await;
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
    timeout: Duration,
    handshakes: Gate,
    connections: Gate,
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
        let pass = this.handshakes.enter(remote.ip());
        let this = this.clone();
        tasks.spawn(async move {
            if let Some(secured) = this.finish(stream, remote, pass).await {
                // Nobody listens any more: the process is on its way out.
                let _ = ready.send(secured).await;
            }
        });
    }

    async fn finish(&self, stream: TcpStream, remote: SocketAddr, mut pass: Pass) -> Option<Secured> {
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
                let epoch = self.tls.epoch();
                let left = expiry.map(|end| end.duration_since(self.clock.now()).unwrap_or_default());
                Some(Secured {
                    stream,
                    peer,
                    expiry: left.map(|left| Box::pin(sleep(left))),
                    pass: self.connections.enter(remote.ip()),
                    over: None,
                    tls: self.tls.clone(),
                    epoch,
                })
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

/// A connection whose peer has been identified. It breaks when the peer's certificate ends.
pub struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    expiry: Option<Pin<Box<Sleep>>>,
    pass: Pass,
    over: Option<Over>,
    tls: Arc<MeshTls>,
    /// Of our own trust, when the peer was last judged by it.
    epoch: u64,
}

/// Why a connection may no longer be used.
#[derive(Clone, Copy, Debug, Error)]
enum Over {
    #[error("a newer one took its place")]
    CrowdedOut,
    #[error("the peer's certificate has expired")]
    Expired,
    #[error("the peer is denied")]
    Denied,
}

impl Secured {
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Asks only when trust has changed: a peer is denied long after it was let in.
    fn is_denied(&mut self) -> bool {
        let epoch = self.tls.epoch();
        std::mem::replace(&mut self.epoch, epoch) != epoch
            && self.tls.standing(&self.peer.posture) == Standing::Denied
    }

    /// Ready once this connection may no longer be used. Whoever reads is woken for it.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        if self.over.is_none() {
            if Pin::new(&mut self.pass.evicted).poll(cx).is_ready() {
                self.over = Some(Over::CrowdedOut);
            } else if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
                self.over = Some(Over::Expired);
            } else if self.is_denied() {
                self.over = Some(Over::Denied);
            }
        }
        self.over.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Connected for Secured {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(over) = self.poll_over(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, over)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use trellis_pki::{clock::SystemClock, policy::Policy};

    use super::*;

    /// Fails as scripted, and then hands out real connections.
    struct Failing {
        errors: VecDeque<io::Error>,
        tcp: TcpListener,
    }

    impl Accept for Failing {
        fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
            match self.errors.pop_front() {
                Some(error) => Poll::Ready(Err(error)),
                None => self.tcp.poll_accept(cx),
            }
        }
    }

    #[tokio::test]
    async fn accepting_goes_on_after_every_error() {
        const EMFILE: i32 = 24;
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let errors = [
            io::Error::from_raw_os_error(EMFILE),
            io::ErrorKind::ConnectionAborted.into(),
            io::Error::from_raw_os_error(EMFILE),
            io::Error::other("unheard of"),
        ];
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let registry = Registry::new();
        let limits = Limits::default();
        let bounds = Bounds { total: 4, per_source: 4 };
        let handshaker = Handshaker {
            tls: Arc::new(MeshTls::new(Policy::default(), "cluster.local", clock.clone())),
            auth: ClientAuth::None,
            clock,
            metrics: Handshakes::new(&registry),
            timeout: limits.handshake_timeout,
            log: Mutex::new(Throttle::per_second(REFUSALS_LOGGED)),
            handshakes: Gate::new(bounds),
            connections: Gate::new(bounds),
        };
        let (ready, _served) = mpsc::channel(1);
        let accepting =
            tokio::spawn(accept(Failing { errors: errors.into(), tcp }, Arc::new(handshaker), ready));
        // There is no certificate to answer with, so the connection is closed: which shows that it was taken.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)));
        assert!(!accepting.is_finished());
        assert!(registry.prometheus().contains(NOT_READY));
        accepting.abort();
    }
}
