//! Connections to applications that requests share. One of HTTP/1 carries one request at a time and waits
//! for the next; one of HTTP/2 carries many. Each rests on a tunnel, and is of use for as long as that is.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::debug;
use trellis_api::evidence::Class;

use super::{
    body::Body,
    expect::Question,
    io::Far,
    settings::{self, Settings},
};
use crate::{
    application::{self, Held, Seal},
    directory::{ApplicationTls, Endpoint, Reach, Same},
    gateway::Proof,
    handshake::ConnectError,
    ledger::{Direction, Row},
    pool::Pool,
    reach,
    seldom::Seldom,
    trace::Open,
    tunnel::{Peer, Place},
    worker::{Shared as Common, Worker},
};

/// How long a connection of HTTP/1 is kept for the next request. Applications close theirs in their own
/// time, the shortest of those in wide use after five seconds; a request that meets that end is repeated.
pub const IDLE: Duration = Duration::from_secs(60);
/// The same for HTTP/2.
const IDLE_SHARED: Duration = Duration::from_secs(300);
/// Idle connections that are kept for one endpoint.
const KEPT: usize = 256;
/// Requests on one connection of HTTP/2: what applications are expected to allow at least. Where one allows
/// fewer, the rest wait their turn.
const STREAMS: usize = 100;
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for all of them: whoever does not read an answer must not hold up the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
const HEADER_LIST: u32 = 64 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// What one answer's head may take.
const HEAD: usize = 128 * 1024;

/// What is spoken behind the application's TLS.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// Whose connections are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    address: SocketAddr,
    reach: Reach,
    tls: Option<Same>,
    proof: Proof,
}

/// Of one address there are few: what else tells them apart is long, and looked at by each request.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

impl Key {
    fn new(worker: &Worker, endpoint: &Endpoint, tls: Option<&Arc<ApplicationTls>>) -> Self {
        let proof = tls.map_or(Proof::Needless, |_| worker.shared.proof.lock().clone());
        Self { address: endpoint.address, reach: endpoint.reach.clone(), tls: tls.cloned().map(Same), proof }
    }
}

/// What a connection rests on.
pub struct Connection {
    pub row: Arc<Row>,
    peer: Option<Arc<Peer>>,
    /// It takes no further request.
    retired: AtomicBool,
    open: AtomicUsize,
    /// Of HTTP/2.
    settings: OnceLock<Settings>,
}

impl Connection {
    fn is_current(&self, common: &Common) -> bool {
        let tunnel = |peer: &Arc<Peer>| {
            peer.epoch == common.tls.epoch()
                && common.clock.now() < peer.expires
                && common.demands.admits(Direction::Outbound, &peer.posture)
        };
        let plaintext =
            || self.row.class != Class::Plaintext || !common.demands.is_strict(Direction::Outbound);
        !self.retired.load(Relaxed) && self.peer.as_ref().map_or_else(plaintext, tunnel)
    }
}

#[derive(Clone, Default)]
pub struct Upstreams {
    /// Of each endpoint, in the order in which they were given back.
    idle: Arc<Mutex<HashMap<Key, VecDeque<Idle>>>>,
    shared: Pool<Key, Many, ConnectError>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    connection: Arc<Connection>,
    since: Instant,
}

struct Many {
    sender: http2::SendRequest<Body>,
    connection: Arc<Connection>,
    used: Mutex<Instant>,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The application is known to be there: what is said could not be said twice.
    pub certain: bool,
    /// How long it may have waited for this request: the longer, the likelier is its application to close
    /// it in this very moment.
    pub rested: Duration,
    /// The span that a connection is made within, where one has to be made.
    pub within: Option<&'a Open>,
}

/// A connection that one request has for itself, or its place on one that is shared.
pub struct Taken {
    key: Key,
    sender: Sender,
    pub connection: Arc<Connection>,
    /// It carried a request before: its application may be about to close it.
    pub reused: bool,
    question: Option<Question>,
    /// The application refused a request without hearing its body, so that there is no next one.
    pub unheard: bool,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Many { sender: http2::SendRequest<Body>, _in_hand: InHand },
}

/// One more request on a shared connection.
struct InHand(Arc<Connection>);

impl InHand {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.open.fetch_add(1, Relaxed);
        Self(connection.clone())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Upstreams {
    /// A connection for a request in HTTP/1.
    pub async fn one(
        &self,
        worker: &Arc<Worker>,
        endpoint: &Endpoint,
        tls: Option<&Arc<ApplicationTls>>,
        wish: Wish<'_>,
    ) -> Result<Taken, ConnectError> {
        let key = Key::new(worker, endpoint, tls);
        if let Some(idle) = self.take(&key, &worker.shared, wish.rested) {
            let Idle { sender, connection, .. } = idle;
            return Ok(Taken::new(key, Sender::One(sender), connection, true));
        }
        // Apart, so that a request that finds a connection does not carry room for the making of one.
        Box::pin(self.make_one(worker, endpoint, tls, wish, key)).await
    }

    async fn make_one(
        &self,
        worker: &Arc<Worker>,
        endpoint: &Endpoint,
        tls: Option<&Arc<ApplicationTls>>,
        wish: Wish<'_>,
        key: Key,
    ) -> Result<Taken, ConnectError> {
        let seal = tls.map(|tls| Seal { tls, protocol: Some(HTTP1) });
        let (far, connection, held) = dial(worker, endpoint, seal, wish.certain, wish.within).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD);
        let (sender, driven) = builder.handshake(far).await.map_err(closed)?;
        tokio::spawn(self.clone().drive(key.clone(), connection.clone(), held, driven.with_upgrades()));
        Ok(Taken::new(key, Sender::One(sender), connection, false))
    }

    /// A place for a request in HTTP/2.
    pub async fn many(
        &self,
        worker: &Arc<Worker>,
        endpoint: &Endpoint,
        tls: Option<&Arc<ApplicationTls>>,
        within: Option<&Open>,
    ) -> Result<Taken, ConnectError> {
        let key = Key::new(worker, endpoint, tls);
        let made = std::sync::atomic::AtomicBool::new(false);
        let place = |many: &Many| {
            (many.connection.open.load(Relaxed) < STREAMS).then(|| {
                *many.used.lock() = Instant::now();
                (many.sender.clone(), InHand::new(&many.connection))
            })
        };
        let keep = |many: &Many| !many.sender.is_closed() && many.connection.is_current(&worker.shared);
        let make = || {
            made.store(true, Relaxed);
            let (upstreams, worker, key) = (self.clone(), worker.clone(), key.clone());
            let (endpoint, within) = (Endpoint::clone(endpoint), within.copied());
            async move { upstreams.make(worker, key, endpoint, within.as_ref()).await }
        };
        let (sender, in_hand) = self.shared.get(&key, keep, place, make).await?;
        let connection = in_hand.0.clone();
        let reused = !made.into_inner();
        Ok(Taken::new(key, Sender::Many { sender, _in_hand: in_hand }, connection, reused))
    }

    async fn make(
        self,
        worker: Arc<Worker>,
        key: Key,
        endpoint: Endpoint,
        within: Option<&Open>,
    ) -> Result<Many, ConnectError> {
        let seal = key.tls.as_ref().map(|Same(tls)| Seal { tls, protocol: Some(HTTP2) });
        let (far, connection, held) = dial(&worker, &endpoint, seal, true, within).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_reset_streams(STREAMS);
        let (far, settings) = settings::heard(far);
        // Nobody else has it yet.
        let _ = connection.settings.set(settings);
        let (sender, driven) = builder.handshake(far).await.map_err(closed)?;
        tokio::spawn(self.drive(key, connection.clone(), held, driven));
        Ok(Many { sender, connection, used: Mutex::new(Instant::now()) })
    }

    fn take(&self, key: &Key, common: &Common, rested: Duration) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        let waiting = idle.get_mut(key)?;
        let is_fresh = |one: &Idle| now.duration_since(one.since) < rested;
        // The one that was used last is the likeliest to be alive.
        while let Some(one) = waiting.back().is_some_and(is_fresh).then(|| waiting.pop_back()).flatten() {
            if !one.sender.is_closed() && one.connection.is_current(common) {
                match one.sender.is_ready() {
                    true => return Some(one),
                    // Its last answer is over, and it has not yet been told.
                    false => {
                        let ready = waiting.iter().rposition(|other| {
                            other.sender.is_ready() && is_fresh(other) && other.connection.is_current(common)
                        });
                        let other = ready.and_then(|ready| waiting.remove(ready));
                        waiting.push_back(one);
                        return other;
                    }
                }
            }
        }
        None
    }

    /// Keeps a connection whose answer is over for the next request.
    pub fn give_back(&self, taken: Taken) {
        let Taken { key, sender: Sender::One(sender), connection, unheard, .. } = taken else { return };
        if unheard || sender.is_closed() || connection.retired.load(Relaxed) {
            return;
        }
        let mut idle = self.idle.lock();
        let waiting = idle.entry(key).or_default();
        // The one that has waited longest is of least use: were it kept instead, requests that take none which
        // has rested would each make a connection that nobody keeps.
        if waiting.len() >= KEPT {
            waiting.pop_front();
        }
        waiting.push_back(Idle { sender, connection, since: Instant::now() });
    }

    /// Closes what waited in vain, and what is no longer of use.
    pub fn sweep(&self, common: &Common) {
        let now = Instant::now();
        self.idle.lock().retain(|_, waiting| {
            waiting.retain(|one| {
                now.duration_since(one.since) < IDLE
                    && !one.sender.is_closed()
                    && one.connection.is_current(common)
            });
            !waiting.is_empty()
        });
        self.shared.sweep(|many| {
            let busy = many.connection.open.load(Relaxed) > 0;
            (busy || now.duration_since(*many.used.lock()) < IDLE_SHARED)
                && !many.sender.is_closed()
                && many.connection.is_current(common)
        });
    }

    /// Moves a connection until it ends. Once its tunnel is to fall, it takes no further request.
    async fn drive(
        self,
        key: Key,
        connection: Arc<Connection>,
        held: Held,
        driven: impl Future<Output = hyper::Result<()>>,
    ) {
        let mut driven = pin!(driven);
        let mut falling = held.place.as_ref().map(Place::falling);
        let fell = async {
            let fell = match &mut falling {
                Some(falling) => falling.wait_for(|falling| *falling).await.is_ok(),
                None => false,
            };
            if !fell {
                // Without a tunnel, or with one that is gone, the connection sees its end itself.
                std::future::pending::<()>().await;
            }
        };
        let fell = pin!(fell);
        let done = tokio::select! {
            biased;
            done = &mut driven => done,
            () = Seldom::new(fell) => {
                connection.retired.store(true, Relaxed);
                if let Some(waiting) = self.idle.lock().get_mut(&key) {
                    waiting.retain(|one| !Arc::ptr_eq(&one.connection, &connection));
                }
                self.shared.sweep(|many| !Arc::ptr_eq(&many.connection, &connection));
                driven.await
            }
        };
        connection.retired.store(true, Relaxed);
        if let Err(error) = done {
            debug!(address = %key.address, %error, "connection to the application broke");
            if let Some(place) = &held.place {
                place.cut();
            }
        }
    }
}

impl Taken {
    fn new(key: Key, sender: Sender, connection: Arc<Connection>, reused: bool) -> Self {
        Self { key, sender, connection, reused, question: None, unheard: false }
    }

    /// Whether its application takes WebSockets in HTTP/2.
    pub async fn takes_websockets(&self) -> bool {
        match self.connection.settings.get() {
            Some(settings) => settings.take_websockets().await,
            None => false,
        }
    }

    /// Sends a request. Of a failure one can say whether the application can have seen any of it.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.sender {
            Sender::One(sender) => {
                self.question = Question::ask(&mut request);
                sender.try_send_request(request).await
            }
            Sender::Many { sender, .. } => sender.try_send_request(request).await,
        };
        if let (Ok(response), Some(question)) = (&sent, &self.question) {
            self.unheard = question.answered(response.status());
        }
        sent.map_err(SendError::of)
    }
}

/// Why a request has no answer.
pub struct SendError {
    /// The request as it was, where none of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
    pub reason: &'static str,
    /// The application saw nothing of it, whatever was sent.
    pub unseen: bool,
    pub error: hyper::Error,
}

impl SendError {
    fn of(mut error: TrySendError<Request<Body>>) -> Self {
        let unsent = error.take_message().map(Box::new);
        let error = error.into_error();
        let (reason, unseen) = judge(&error);
        Self { unseen: unseen || unsent.is_some(), unsent, reason, error }
    }
}

/// What went wrong, and whether that was before the application.
fn judge(error: &hyper::Error) -> (&'static str, bool) {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(reason) = inner.downcast_ref::<io::Error>().and_then(reach::refused_by_peer) {
            return (reason, true);
        }
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
                return ("stream_refused", true);
            }
            if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
                return ("connection_ended", true);
            }
        }
        source = inner.source();
    }
    match () {
        () if error.is_timeout() => ("timed_out", false),
        () if error.is_parse() => ("malformed_answer", false),
        () if error.is_canceled() || error.is_closed() => ("connection_ended", false),
        () => ("connection_broke", false),
    }
}

/// The connection under HTTP.
async fn dial(
    worker: &Worker,
    endpoint: &Endpoint,
    seal: Option<Seal<'_>>,
    certain: bool,
    within: Option<&Open>,
) -> Result<(Far, Arc<Connection>, Held), ConnectError> {
    let application::Connection { far, flow, row, peer, held } =
        application::connect(worker, endpoint, seal, certain, within).await?;
    let (retired, open) = (AtomicBool::new(false), AtomicUsize::new(0));
    let connection = Connection { row, peer, retired, open, settings: OnceLock::new() };
    Ok((far.counted(flow), Arc::new(connection), held))
}

fn closed(error: hyper::Error) -> ConnectError {
    ConnectError::Closed(error.to_string().into())
}
