//! HBONE: HTTP/2 CONNECT over an established mutual TLS connection. The client side opens streams on a
//! tunnel, the server side accepts them; what a stream carries is the relay's business.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h2::{Ping, PingPong, client, server};
use http::{Method, Request, StatusCode, Uri, Version};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time,
};
use tracing::debug;
use trellis_pki::{posture::Posture, refusal::Refusal};

use crate::{
    alarm::Alarms,
    handshake::Secured,
    ledger::Direction,
    relay::Tunnelled,
    roster,
    seldom::Seldom,
    standing::{POLICY, SILENT, fallen, taken},
    trace::{
        self, Open,
        context::{Said, TRACEPARENT},
    },
    transport::{self, Drain, Driven, Transport},
    worker::Shared,
};

#[cfg(test)]
mod silence;

const STREAM_WINDOW: u32 = 512 * 1024;
/// As much as all streams together may have: one whose reader stalls takes nothing from the others.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
const FRAME: u32 = 64 * 1024;
const HEADER_LIST: u32 = 16 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// Streams on one tunnel; a client that needs more opens another tunnel.
pub const STREAMS: u32 = 128;
/// A client must have spoken HTTP/2 by then.
const PREFACE: Duration = Duration::from_secs(10);
/// A tunnel that nobody uses has gone by then, whether or not its peer took leave.
const GOODBYE: Duration = Duration::from_secs(60);
/// An unanswered ping after this long means that the peer is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The client side of a tunnel, for as long as it may take new streams.
pub struct Tunnel {
    send: client::SendRequest<Bytes>,
    state: Arc<State>,
    pub peer: Arc<Peer>,
}

/// What a tunnel rests on.
pub struct Peer {
    pub row: Arc<crate::ledger::Row>,
    pub flow: Arc<crate::ledger::Flow>,
    /// Neither end's certificate is older than this.
    pub expires: SystemTime,
    /// The state of our own identity and trust when the tunnel was made.
    pub epoch: u64,
    pub posture: Posture,
}

#[derive(Default)]
struct State {
    streams: AtomicUsize,
    closed: AtomicBool,
    /// A first stream came or the last one went, or one was cut.
    changed: Notify,
    /// A stream was cut since the connection broke.
    cut: AtomicBool,
    /// What it rests on is trusted no more: it will end.
    falling: watch::Sender<bool>,
}

/// Holds a place on a tunnel for as long as its stream lives.
pub struct Place(Arc<State>);

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the tunnel closed: {0}")]
    Closed(#[from] h2::Error),
    #[error("the peer did not accept the tunnel ({})", .0.as_str())]
    Refused(Refusal),
    #[error("the peer ended the tunnel before it was used")]
    Ended,
    #[error("the peer allows no stream on its tunnels")]
    NoStreams,
    #[error("the tunnel's address {0} makes no CONNECT authority: {1}")]
    Authority(SocketAddr, http::Error),
}

// === the client side ===

/// Speaks HTTP/2 on a secured connection. The connection lives in a task of its own until it is idle for
/// `idle`, retired and unused, or broken.
pub async fn connect(
    shared: &Shared,
    secured: Secured,
    peer: Peer,
    idle: Duration,
) -> Result<Tunnel, OpenError> {
    let (shared, posture, address) = (shared.clone(), secured.posture, secured.remote);
    let socket = TcpStream::from_std(secured.socket).map_err(|_| OpenError::Refused(Refusal::Io))?;
    let (transport, drain) = transport::new(socket, secured.tls);
    let handshake = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(STREAMS as usize)
        // Applications that give up are no attack: as many resets as there may be streams.
        .max_concurrent_reset_streams(STREAMS as usize)
        .enable_push(false)
        .handshake::<_, Bytes>(transport);
    let recorder = secured.recorder;
    let (send, mut connection) = handshake.await.map_err(|_| OpenError::Ended)?;
    let state = Arc::new(State::default());
    let mut ping = connection.ping_pong();
    let mut driven = Driven { connection, drain };
    // In TLS 1.3 a client is done before the server has judged its certificate. An answered ping says
    // that the server took it: no byte of an application is risked on a tunnel that was refused.
    tokio::select! {
        _ = &mut driven => {
            // HTTP/2 only knows that the connection broke; TLS knows why.
            // Where TLS knows of nothing, the peer was about to change its certificate or to leave.
            return Err(match driven.drain.failure() {
                Some(error) => OpenError::Refused(Refusal::of(&error, &recorder)),
                None => OpenError::Ended,
            });
        }
        answered = answered(ping.as_mut()) => answered.map_err(OpenError::Refused)?,
    }
    if send.current_max_send_streams() == 0 {
        return Err(OpenError::NoStreams);
    }
    tokio::spawn({
        let (state, row, expires) = (state.clone(), peer.row.clone(), peer.expires);
        async move {
            let rests = shared.resting.enter(&posture);
            let counted = state.clone();
            let _enrolled = shared.roster.enrol(roster::Tunnel {
                direction: Direction::Outbound,
                address,
                row,
                since: shared.clock.now(),
                expires,
                streams: Box::new(move || counted.streams.load(Relaxed)),
            });
            let life = async {
                let unused = pin!(unused(&shared.alarms, &state.streams, &state.changed, idle));
                tokio::select! {
                    result = &mut driven => return result.err().map(|error| error.to_string()),
                    () = Seldom::new(unused) => state.closed.store(true, Relaxed),
                }
                // The pool drops the tunnel at its next sweep; with the last sender and stream gone the
                // connection says goodbye and ends.
                loop {
                    match time::timeout(GOODBYE, &mut driven).await {
                        Ok(result) => return result.err().map(|error| error.to_string()),
                        Err(_) if state.streams.load(Relaxed) == 0 => return None,
                        Err(_) => {}
                    }
                }
            };
            let fallen = fallen(&shared, Direction::Outbound, &posture, |reason| {
                let before = state.falling.send_replace(true);
                if reason == POLICY && !before {
                    shared.ledger.tunnel_ended(Direction::Outbound, POLICY);
                }
            });
            let judged = pin!(async {
                tokio::select! {
                    () = silent(&shared.alarms, &state, ping) => {
                        (Some("the peer no longer answers".to_owned()), Some(SILENT))
                    }
                    reason = fallen => (Some(reason.to_owned()), Some(reason).filter(|reason| *reason != POLICY)),
                }
            });
            let (reason, cut) = tokio::select! {
                reason = life => {
                    state.closed.store(true, Relaxed);
                    drop(rests);
                    (reason, cuts(&state).await.then(|| taken(&shared, Direction::Outbound, &posture)))
                }
                ended = Seldom::new(judged) => ended,
            };
            if let Some(cut) = cut {
                shared.ledger.tunnel_ended(Direction::Outbound, cut);
            }
            state.closed.store(true, Relaxed);
            debug!(reason, "tunnel closed");
        }
    });
    Ok(Tunnel { send, state, peer: Arc::new(peer) })
}

impl Tunnel {
    /// Whether one more stream fits.
    pub fn has_room(&self) -> bool {
        let room = self.send.current_max_send_streams().min(STREAMS as usize);
        self.state.streams.load(Relaxed) < room
    }

    /// Whether it is alive and rests on what we are now.
    pub fn is_current(&self, now: SystemTime, epoch: u64) -> bool {
        // A goodbye that has arrived shows in whether the next stream could be sent.
        let mut context = Context::from_waker(Waker::noop());
        let mut open = || matches!(self.send.clone().poll_ready(&mut context), Poll::Ready(Ok(())));
        !self.state.closed.load(Relaxed) && epoch == self.peer.epoch && now < self.peer.expires && open()
    }

    /// Takes a place, so that the tunnel stays while the stream is being opened.
    pub fn place(&self) -> Place {
        if self.state.streams.fetch_add(1, Relaxed) == 0 {
            self.state.changed.notify_one();
        }
        Place(self.state.clone())
    }

    pub fn opener(&self) -> Opener {
        Opener { send: self.send.clone(), state: self.state.clone(), row: self.peer.row.clone() }
    }
}

/// Opens one stream.
pub struct Opener {
    send: client::SendRequest<Bytes>,
    state: Arc<State>,
    row: Arc<crate::ledger::Row>,
}

impl Opener {
    /// Asks the peer's proxy for a stream to `target`. Returns without waiting for its answer: what the
    /// application says first may travel at once.
    ///
    /// The trace that it is opened within goes along.
    pub async fn open(self, target: SocketAddr, within: Option<&Open>) -> Result<Tunnelled, OpenError> {
        let request = connect_request(target, within).map_err(|error| OpenError::Authority(target, error))?;
        let mut send = match self.send.ready().await {
            Ok(send) => send,
            Err(error) => {
                self.state.closed.store(true, Relaxed);
                return Err(error.into());
            }
        };
        let (response, stream) = send.send_request(request, false)?;
        Ok(Tunnelled::asked(response, stream, self.row))
    }
}

impl Place {
    /// The stream broke, and its end was none that either side had asked for.
    pub fn cut(&self) {
        self.0.cut.store(true, Relaxed);
        self.0.changed.notify_one();
    }

    /// Turns true when the tunnel is to end soon.
    pub fn falling(&self) -> watch::Receiver<bool> {
        self.0.falling.subscribe()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            self.0.changed.notify_one();
        }
    }
}

fn connect_request(target: SocketAddr, within: Option<&Open>) -> Result<Request<()>, http::Error> {
    let authority = Uri::builder().authority(target.to_string()).build()?;
    let mut request =
        Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(authority).body(())?;
    if let Some(header) = within.and_then(|open| open.context.header()) {
        request.headers_mut().insert(TRACEPARENT, header);
    }
    Ok(request)
}

async fn answered(ping: Option<&mut PingPong>) -> Result<(), Refusal> {
    let Some(ping) = ping else { return Ok(()) };
    match time::timeout(PREFACE, ping.ping(Ping::opaque())).await {
        Ok(Ok(_)) => Ok(()),
        // The connection knows better why it broke, and says so.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(Refusal::TimedOut),
    }
}

/// Whether a connection that has ended took streams along. Those that were over by then only have to be put
/// away, which they may not have been yet.
async fn cuts(state: &State) -> bool {
    state.cut.store(false, Relaxed);
    while state.streams.load(Relaxed) > 0 && !state.cut.load(Relaxed) {
        state.changed.notified().await;
    }
    state.cut.load(Relaxed)
}

/// Ends once no stream has used a tunnel for `idle`: one that is open uses it, whether or not it says anything.
/// `changed` tells when their number did.
pub async fn unused(alarms: &Alarms, streams: &AtomicUsize, changed: &Notify, idle: Duration) {
    loop {
        let changed = changed.notified();
        if streams.load(Relaxed) > 0 {
            changed.await;
        } else if alarms.timeout(idle, changed).await.is_err() && streams.load(Relaxed) == 0 {
            return;
        }
    }
}

/// Ends when the peer stops answering pings while streams wait for it. Without this, a peer whose node
/// died would hold them until TCP gives up.
async fn silent(alarms: &Alarms, state: &State, ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        alarms.sleep(PING_EVERY).await;
        if state.streams.load(Relaxed) == 0 {
            continue;
        }
        match alarms.timeout(PING_TIMEOUT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection itself reports its own end.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

// === the server side ===

/// One stream that a peer asks for.
pub struct Asked {
    pub target: Target,
    /// The trace that the peer opens it within.
    pub within: Option<trace::context::Context>,
    recv: h2::RecvStream,
    respond: server::SendResponse<Bytes>,
}

/// Where a peer wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Address(SocketAddr),
    /// Not a CONNECT to an address and port.
    Invalid(&'static str),
}

/// Why a peer's connection became no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("the peer did not begin HTTP/2 in time")]
    Silent,
}

/// The server side of a tunnel.
pub struct Accepted {
    connection: server::Connection<Transport, Bytes>,
    drain: Drain,
}

pub async fn accept(secured: Secured) -> Result<Accepted, AcceptError> {
    let socket = TcpStream::from_std(secured.socket)?;
    let (transport, drain) = transport::new(socket, secured.tls);
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .max_concurrent_reset_streams(STREAMS as usize)
        .max_pending_accept_reset_streams(STREAMS as usize)
        .handshake::<_, Bytes>(transport);
    tokio::pin!(handshake);
    let handshake = poll_fn(|cx| {
        let result = std::future::Future::poll(handshake.as_mut(), cx);
        let _ = drain.poll(cx);
        result
    });
    match time::timeout(PREFACE, handshake).await {
        Ok(connection) => Ok(Accepted { connection: connection?, drain }),
        Err(_) => Err(AcceptError::Silent),
    }
}

impl Accepted {
    /// The next stream; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Result<Asked, h2::Error>> {
        let Self { connection, drain } = self;
        let accepted = poll_fn(|cx| {
            let turn = connection.poll_accept(cx);
            drain.end_turn(cx, turn.is_ready());
            turn
        });
        let (request, respond) = match accepted.await? {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        let target = target(&request);
        let within = match Said::of(request.headers()) {
            Said::Context(context) => Some(context),
            Said::Nothing | Said::Malformed => None,
        };
        Some(Ok(Asked { target, within, recv: request.into_body(), respond }))
    }

    /// Takes no further stream and ends with the last one.
    pub fn retire(&mut self) {
        self.connection.graceful_shutdown();
    }
}

impl Asked {
    pub fn accept(mut self) -> Result<Tunnelled, h2::Error> {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::OK;
        let send = self.respond.send_response(response, false)?;
        Ok(Tunnelled::accepted(self.recv, send))
    }

    pub fn refuse(mut self, status: StatusCode) {
        let mut response = http::Response::new(());
        *response.status_mut() = status;
        // A peer that has gone already needs no answer.
        let _ = self.respond.send_response(response, true);
    }
}

fn target<B>(request: &Request<B>) -> Target {
    if request.method() != Method::CONNECT {
        return Target::Invalid("method_not_connect");
    }
    if request.extensions().get::<h2::ext::Protocol>().is_some() {
        return Target::Invalid("extended_connect");
    }
    let Some(authority) = request.uri().authority() else {
        return Target::Invalid("no_authority");
    };
    match authority.as_str().parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Target::Address(address),
        _ => Target::Invalid("authority_not_address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    #[test]
    fn only_connect_to_an_address_and_port_is_a_target() {
        let cases = [
            (Method::CONNECT, "10.0.0.1:80", Target::Address("10.0.0.1:80".parse().unwrap())),
            (Method::CONNECT, "[fd00::1]:80", Target::Address("[fd00::1]:80".parse().unwrap())),
            (Method::CONNECT, "10.0.0.1:0", Target::Invalid("authority_not_address")),
            (Method::CONNECT, "example.org:80", Target::Invalid("authority_not_address")),
            (Method::CONNECT, "user@10.0.0.1:80", Target::Invalid("authority_not_address")),
            (Method::GET, "http://10.0.0.1:80/", Target::Invalid("method_not_connect")),
        ];
        for (method, uri, expected) in cases {
            assert_eq!(target(&request(method, uri)), expected, "{uri}");
        }
    }

    #[test]
    fn a_request_carries_the_target_as_its_authority() {
        let built = connect_request("[fd00::1]:8080".parse().unwrap(), None).unwrap();
        assert_eq!(built.uri().authority().unwrap().as_str(), "[fd00::1]:8080");
        assert_eq!(target(&built), Target::Address("[fd00::1]:8080".parse().unwrap()));
    }
}
