//! Handshakes happen on a thread of their own: an ML-DSA signature takes long enough to delay live
//! traffic, and a flood of half-open handshakes must find only this thread. A finished connection is
//! handed to the worker that will serve it.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
    time::{self, Instant},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{debug, warn};
use trellis_channel::{
    admission::{Bounds, Gate},
    server::CROWDED_OUT,
};
use trellis_pki::{
    leaf::Leaf,
    posture::Posture,
    record::Recorder,
    refusal::Refusal,
    spiffe::SpiffeId,
    tls::{Accepting, ClientAuth, Connecting, MeshTls},
};

use crate::{
    ledger::{Direction, Ledger},
    original::canonical,
    pool::Unavailable,
};

/// A mutually authenticated connection, ready to be served on any thread.
pub struct Secured {
    pub socket: std::net::TcpStream,
    pub tls: rustls::Connection,
    pub posture: Posture,
    pub recorder: Recorder,
    /// From here on neither end's certificate is good.
    pub expires: SystemTime,
    pub remote: SocketAddr,
    /// The state of our own identity and trust that the handshake used.
    pub epoch: u64,
}

/// What bounds handshakes that others begin.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub in_flight: usize,
    pub per_source: usize,
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 512, per_source: 64, timeout: Duration::from_secs(10) }
    }
}

/// The reason when there is no valid certificate to present.
const NOT_READY: &str = "no_certificate_of_our_own";

/// Asks the handshake thread for connections.
#[derive(Clone)]
pub struct Handshaker(mpsc::UnboundedSender<Wanted>);

struct Wanted {
    address: SocketAddr,
    expected: SpiffeId,
    reply: oneshot::Sender<Result<Secured, ConnectError>>,
}

/// Why no secured connection came to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {address}: {kind}")]
    Unreachable { address: SocketAddr, kind: io::ErrorKind },
    #[error("handshake with {address} failed: {}", .refusal.as_str())]
    Refused { address: SocketAddr, refusal: Refusal },
    #[error("the proxy at {address} did not lead to its application: {reason}")]
    Application { address: SocketAddr, reason: &'static str },
    #[error("the TLS of the application at {address} failed: {reason}")]
    ApplicationTls { address: SocketAddr, reason: &'static str },
    #[error("{address} has no proxy, and policy allows no plaintext")]
    PlaintextDenied { address: SocketAddr },
    #[error("the mesh does not federate with trust domain {0}")]
    NotFederated(String),
    #[error("this proxy has no valid certificate")]
    NotReady,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("the tunnel closed before it was used: {0}")]
    Closed(Arc<str>),
}

impl ConnectError {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { refusal, .. } => refusal.as_str(),
            Self::NotFederated(_) => "trust_domain_not_federated",
            Self::Application { reason, .. } | Self::ApplicationTls { reason, .. } => reason,
            Self::PlaintextDenied { .. } => "plaintext_denied",
            Self::NotReady => NOT_READY,
            Self::Unavailable(Unavailable::Abandoned) => "shutting_down",
            Self::Unavailable(Unavailable::Unsettled) => "tunnel_unsettled",
            Self::Closed(_) => "tunnel_closed",
        }
    }
}

impl Handshaker {
    /// The receiver is for [`serve`], on the handshake thread.
    pub fn new() -> (Self, Requests) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Requests(receiver))
    }

    pub async fn connect(&self, address: SocketAddr, expected: SpiffeId) -> Result<Secured, ConnectError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Wanted { address, expected, reply }).map_err(|_| Unavailable::Abandoned)?;
        answer.await.map_err(|_| Unavailable::Abandoned)?
    }
}

/// Connections that workers wait for.
pub struct Requests(mpsc::UnboundedReceiver<Wanted>);

/// Makes the connections that workers ask for, until none can ask any more.
pub async fn serve(mut requests: Requests, tls: Arc<MeshTls>, ledger: Arc<Ledger>, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.in_flight));
    while let Some(Wanted { address, expected, reply }) = requests.0.recv().await {
        let (tls, ledger, places) = (tls.clone(), ledger.clone(), places.clone());
        tokio::spawn(async move {
            // Held up here, those who wait for unreachable peers hold up nobody who asks for another.
            let _place = places.acquire().await;
            // Whoever asked may have given up.
            let _ = reply.send(connect(address, expected, &tls, &ledger, limits.timeout).await);
        });
    }
}

async fn connect(
    address: SocketAddr,
    expected: SpiffeId,
    tls: &MeshTls,
    ledger: &Ledger,
    timeout: Duration,
) -> Result<Secured, ConnectError> {
    // Whoever answered could not be believed: nobody is called.
    if !tls.knows(expected.trust_domain()) {
        return Err(ConnectError::NotFederated(expected.trust_domain().to_owned()));
    }
    let unreachable = |kind| ConnectError::Unreachable { address, kind };
    let socket = match time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(socket) => socket.map_err(|error| unreachable(error.kind()))?,
        Err(_) => return Err(unreachable(io::ErrorKind::TimedOut)),
    };
    tune(&socket);
    let peer = expected.to_string();
    let epoch = tls.epoch();
    let Connecting { config, server_name, recorder } =
        tls.connect(vec![expected], true).map_err(|_| ConnectError::NotReady)?;
    let own = tls.current().ok_or(ConnectError::NotReady)?;
    let begun = Instant::now();
    let handshake = TlsConnector::from(config).connect(server_name, socket);
    let secured = match time::timeout(timeout, handshake).await {
        Ok(Ok(stream)) => {
            let (socket, tls) = stream.into_inner();
            finish(socket, tls.into(), recorder, &own, address, epoch)
        }
        Ok(Err(error)) => Err(Refusal::of_io(&error, &recorder)),
        Err(_) => Err(Refusal::TimedOut),
    };
    match &secured {
        Ok(secured) => ledger.handshake(Direction::Outbound, &secured.posture, begun.elapsed()),
        Err(refusal) => ledger.client_refused(&peer, refusal.as_str()),
    }
    secured.map_err(|refusal| ConnectError::Refused { address, refusal })
}

/// Accepts connections on the tunnel port and delivers those whose peer proved who it is.
pub async fn listen(
    listener: TcpListener,
    tls: Arc<MeshTls>,
    ledger: Arc<Ledger>,
    limits: Limits,
    deliver: impl Fn(Secured) + Clone + Send + 'static,
) {
    let gate = Gate::new(Bounds { total: limits.in_flight, per_source: limits.per_source });
    loop {
        let (socket, remote) = accept(&listener).await;
        let remote = canonical(remote);
        let mut pass = gate.enter(remote.ip());
        let (tls, ledger, deliver) = (tls.clone(), ledger.clone(), deliver.clone());
        tokio::spawn(async move {
            let secured = tokio::select! {
                biased;
                _ = &mut pass.evicted => Err(CROWDED_OUT),
                secured = secure(socket, remote, &tls, limits.timeout) => secured,
            };
            match secured {
                Ok((secured, took)) => {
                    ledger.handshake(Direction::Inbound, &secured.posture, took);
                    deliver(secured);
                }
                Err(reason) => {
                    debug!(%remote, reason, "handshake refused");
                    ledger.server_refused(remote.ip(), reason);
                }
            }
        });
    }
}

async fn secure(
    socket: TcpStream,
    remote: SocketAddr,
    tls: &MeshTls,
    timeout: Duration,
) -> Result<(Secured, Duration), &'static str> {
    tune(&socket);
    let epoch = tls.epoch();
    let Accepting { config, recorder } = tls.accept(ClientAuth::Required).map_err(|_| NOT_READY)?;
    let own = tls.current().ok_or(NOT_READY)?;
    let begun = Instant::now();
    let secured = match time::timeout(timeout, TlsAcceptor::from(config).accept(socket)).await {
        Ok(Ok(stream)) => {
            let (socket, tls) = stream.into_inner();
            finish(socket, tls.into(), recorder, &own, remote, epoch)
        }
        Ok(Err(error)) => Err(Refusal::of_io(&error, &recorder)),
        Err(_) => Err(Refusal::TimedOut),
    };
    secured.map(|secured| (secured, begun.elapsed())).map_err(Refusal::as_str)
}

/// Reads from a finished handshake what it came to, and frees its socket from this thread.
fn finish(
    socket: TcpStream,
    tls: rustls::Connection,
    recorder: Recorder,
    own: &Leaf,
    remote: SocketAddr,
    epoch: u64,
) -> Result<Secured, Refusal> {
    let posture = recorder.posture(&tls).ok_or(Refusal::Other)?;
    let certificate = tls.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
    let peer = Leaf::parse(certificate).map_err(|_| Refusal::MalformedCertificate)?;
    // The one that was presented, which is not the one of the moment where a companion stood in for it.
    let own = recorder.presented().map_or(own.not_after, |presented| presented.not_after);
    let expires = own.min(peer.not_after);
    let socket = socket.into_std().map_err(|_| Refusal::Io)?;
    Ok(Secured { socket, tls, posture, recorder, expires, remote, epoch })
}

/// The next connection. A failure to accept is the machine's trouble, not the listener's: when it is out
/// of files or memory, waiting a little is all that can be done.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What every socket to another machine gets: no delay, and an end when the other machine has vanished.
pub fn tune(socket: &TcpStream) {
    // A failure means that the connection is already gone; the handshake will say so.
    let _ = socket.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_keepalive(&keepalive);
    // Keep-alive does not run while bytes are unacknowledged.
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(60)));
}
