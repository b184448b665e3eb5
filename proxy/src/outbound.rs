//! From the application to the world: original destination, discovery's answer, and then either requests
//! that are forwarded one by one, or bytes that are carried to one endpoint. An endpoint that has a proxy
//! is reached through its tunnel or not at all.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{net::TcpStream, time};
use tracing::debug;
use trellis_api::{
    annotations::Verdict,
    evidence::{Class, OUTSIDE_MESH},
    proto::discovery::Protocol as Said,
};

use crate::{
    detect::Protocol,
    directory::{Answer, Followed, NoAnswer},
    hello::Greeting,
    http,
    ledger::Direction,
    original,
    reach::{self, Reached},
    relay::{Begun, End},
    worker::{self, BROKE, Tally, Worker},
};

mod sealed;

/// How long a client may be silent before its endpoint is reached, to hear whether that speaks first.
const SILENCE: Duration = Duration::from_millis(20);
/// How long a client that has begun may take to say what it speaks.
const UNCERTAIN: Duration = Duration::from_millis(100);
/// The same where it is said to speak HTTP, or where routes depend on it.
const EXPECTED: Duration = Duration::from_secs(10);
/// The same for the rest of a greeting of TLS.
const GREETING: Duration = Duration::from_secs(10);

/// What begins like a greeting of TLS, and is none.
const MALFORMED: &str = "malformed_client_hello";

/// What is left to do for a connection once it is known where it goes. It is apart, so that what it took to
/// find that out is not kept for as long as the connection lasts.
pub type Onward = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Finds out where a connection of the application goes.
pub async fn connection(worker: Arc<Worker>, socket: TcpStream) -> Option<Onward> {
    let worker = &worker;
    let Ok(destination) = original::destination(&socket) else { return dropped(socket) };
    let shared = &worker.shared;
    // Whoever connects to the proxy's own port would be led in a circle.
    if original::is_loopback(destination.ip()) && shared.rules.own_ports.contains(&destination.port()) {
        return dropped(socket);
    }
    let followed = match shared.directory.follow(&destination.into()).await {
        Ok(followed) => followed,
        Err(error) => {
            debug!(%destination, %error, "connection refused");
            let reason = match error {
                NoAnswer::Unavailable => "discovery_unavailable",
                NoAnswer::Full => "too_many_destinations",
            };
            reach::refuse(worker, "unverified:unknown".into(), reason);
            return dropped(socket);
        }
    };
    let answer = followed.now();
    if answer.is_outside() {
        drop(followed);
        return outside(worker, socket, destination).await;
    }
    let said = match shared.rules.opaque_ports.contains(destination.port()) {
        true => Said::Opaque,
        false => answer.protocol(),
    };
    let (routed, tls_routes) = (answer.has_http_routes(), answer.has_tls_routes());
    drop(answer);
    match said {
        // What is not read is not waited for.
        Said::ApplicationTls if tls_routes => expected(worker, socket, destination, followed).await,
        Said::Opaque | Said::ApplicationTls => {
            bytes(worker, socket, BytesMut::new(), destination, followed).await
        }
        Said::Detect if routed => expected(worker, socket, destination, followed).await,
        Said::Detect => detected(worker, socket, destination, followed).await,
        Said::Http1 | Said::Http2 | Said::WebSocket => expected(worker, socket, destination, followed).await,
    }
}

fn dropped(mut socket: TcpStream) -> Option<Onward> {
    socket.abort();
    None
}

/// What a client has said so far.
enum Heard {
    Speaks(Protocol),
    /// It began, and then it was not said what it is.
    Uncertain,
    Silent,
    /// It has nothing to say, and may still listen.
    Finished,
    Left,
}

/// Listens until it is certain what a client speaks, for `silence` at most to its first byte.
async fn hear(
    socket: &mut TcpStream,
    first: &mut BytesMut,
    silence: Option<Duration>,
    uncertain: Duration,
) -> Heard {
    loop {
        let patience = match first.is_empty() {
            true => silence,
            false => Some(uncertain),
        };
        let received = std::future::poll_fn(|cx| socket.poll_recv(cx));
        let received = match patience {
            Some(patience) => match time::timeout(patience, received).await {
                Ok(received) => received,
                Err(_) if first.is_empty() => return Heard::Silent,
                Err(_) => return Heard::Uncertain,
            },
            None => received.await,
        };
        match received {
            Ok(Some(data)) => first.extend_from_slice(&data),
            Ok(None) if first.is_empty() => return Heard::Finished,
            // Who has nothing more to say has said what it speaks.
            Ok(None) => return Heard::Uncertain,
            Err(_) => return Heard::Left,
        }
        if let Some(protocol) = Protocol::certain(first) {
            return Heard::Speaks(protocol);
        }
    }
}

/// A connection of which nobody says what is spoken on it.
async fn detected(
    worker: &Arc<Worker>,
    mut socket: TcpStream,
    to: SocketAddr,
    followed: Followed,
) -> Option<Onward> {
    let mut first = BytesMut::new();
    match hear(&mut socket, &mut first, Some(SILENCE), UNCERTAIN).await {
        Heard::Speaks(protocol) if protocol.is_http() => {
            Some(requests(worker, socket, first.freeze(), protocol, to, followed))
        }
        Heard::Speaks(_) | Heard::Uncertain | Heard::Finished => {
            bytes(worker, socket, first, to, followed).await
        }
        // What most connections never do must not make them all larger.
        Heard::Silent => Box::pin(silent(worker, socket, to, followed)).await,
        Heard::Left => None,
    }
}

/// A client that says nothing: it may wait for its server to speak. The server is reached, and whoever
/// speaks first decides.
async fn silent(
    worker: &Arc<Worker>,
    mut socket: TcpStream,
    to: SocketAddr,
    followed: Followed,
) -> Option<Onward> {
    let answer = followed.now();
    if answer.has_tls_routes() {
        // Where it goes depends on what it says.
        return expected(worker, socket, to, followed).await;
    }
    let first = BytesMut::new();
    let (answer, mut first) = match routed(worker, &answer, &mut socket, first).await {
        Ok((routed, first)) => (routed.unwrap_or(answer), first),
        Err(reason) => return refused(worker, socket, to, reason),
    };
    if answer.tls().is_some() {
        return sealed::carry(worker, socket, first, to, &answer, Some(followed)).await;
    }
    let Some(mut reached) = reach::endpoint(worker, to, &answer, None).await else {
        return dropped(socket);
    };
    drop(answer);
    match first_word(&mut socket, &mut first, &mut reached).await {
        Heard::Speaks(protocol) if protocol.is_http() => {
            reached.leave();
            Some(requests(worker, socket, first.freeze(), protocol, to, followed))
        }
        Heard::Left => {
            reached.leave();
            None
        }
        _ => Some(reached.carry(worker, Begun::new(first.freeze(), socket), to, None)),
    }
}

/// What a client speaks that was silent so far; nothing certain, where its server is the first to speak.
async fn first_word(socket: &mut TcpStream, first: &mut BytesMut, reached: &mut Reached) -> Heard {
    tokio::select! {
        heard = hear(socket, first, None, UNCERTAIN) => heard,
        // Also its end, or its refusal, is an answer.
        () = reached.spoke() => Heard::Uncertain,
    }
}

/// A connection that is said to be HTTP. If it turns out not to be, it is carried as what it is.
async fn expected(
    worker: &Arc<Worker>,
    mut socket: TcpStream,
    to: SocketAddr,
    followed: Followed,
) -> Option<Onward> {
    let mut first = BytesMut::new();
    match hear(&mut socket, &mut first, None, EXPECTED).await {
        Heard::Speaks(protocol) if protocol.is_http() => {
            Some(requests(worker, socket, first.freeze(), protocol, to, followed))
        }
        // Who asks for nothing in HTTP is not answered.
        Heard::Finished | Heard::Left => None,
        _ => bytes(worker, socket, first, to, followed).await,
    }
}

/// Forwards requests one by one.
fn requests(
    worker: &Arc<Worker>,
    socket: TcpStream,
    first: Bytes,
    protocol: Protocol,
    address: SocketAddr,
    destination: Followed,
) -> Onward {
    worker.shared.ledger.protocol(Direction::Outbound, protocol);
    let context = http::Context::new(worker, http::Front::Destination(destination), address);
    let near = http::Near::new(first, socket);
    match protocol {
        Protocol::Http2 => Box::pin(http::http2(context, near)),
        _ => Box::pin(http::http1(context, near)),
    }
}

/// Carries bytes to one endpoint, of the backend that a route names if there is one.
async fn bytes(
    worker: &Arc<Worker>,
    mut socket: TcpStream,
    first: BytesMut,
    to: SocketAddr,
    followed: Followed,
) -> Option<Onward> {
    let answer = followed.now();
    // An answer of which nothing more is needed may be forgotten.
    drop(followed);
    let (answer, first) = match routed(worker, &answer, &mut socket, first).await {
        Ok((routed, first)) => (routed.unwrap_or(answer), first),
        Err(reason) => return refused(worker, socket, to, reason),
    };
    if answer.tls().is_some() {
        // What few connections need must not make them all larger.
        return Box::pin(sealed::carry(worker, socket, first, to, &answer, None)).await;
    }
    match reach::endpoint(worker, to, &answer, None).await {
        Some(reached) => Some(reached.carry(worker, Begun::new(first.freeze(), socket), to, None)),
        None => dropped(socket),
    }
}

fn refused(worker: &Worker, socket: TcpStream, to: SocketAddr, reason: &str) -> Option<Onward> {
    debug!(destination = %to, reason, "connection refused");
    reach::refuse(worker, "unverified:unknown".into(), reason);
    dropped(socket)
}

/// What a route says about a connection of bytes, if there is one.
async fn routed(
    worker: &Worker,
    answer: &Answer,
    socket: &mut TcpStream,
    mut first: BytesMut,
) -> Result<(Option<Arc<Answer>>, BytesMut), &'static str> {
    let Answer::Service(service) = answer else { return Ok((None, first)) };
    let Some(routes) = service.routes.as_ref().filter(|routes| routes.has_bytes()) else {
        return Ok((None, first));
    };
    let route = match routes.has_tls() && first.starts_with(&[22]) {
        true => routes.tls(greeting(socket, &mut first).await?.as_deref()),
        false => routes.tcp(),
    };
    Ok((Some(reach::routed(worker, route).await?), first))
}

/// Reads a greeting of TLS to its end, and the name in it.
pub async fn greeting(socket: &mut TcpStream, first: &mut BytesMut) -> Result<Option<String>, &'static str> {
    loop {
        match Greeting::read(first) {
            Greeting::Whole { name, .. } => return Ok(name),
            Greeting::Broken => return Err(MALFORMED),
            Greeting::Incomplete => {}
        }
        let more = time::timeout(GREETING, std::future::poll_fn(|cx| socket.poll_recv(cx))).await;
        match more {
            Ok(Ok(Some(data))) => first.extend_from_slice(&data),
            Ok(_) => return Err(MALFORMED),
            Err(_) => return Err("slow_client_hello"),
        }
    }
}

/// Connects to what the mesh does not know, as it is, and counts that.
async fn outside(worker: &Arc<Worker>, mut socket: TcpStream, address: SocketAddr) -> Option<Onward> {
    let ledger = &worker.shared.ledger;
    let peer = "unverified:outside";
    let mut first = BytesMut::new();
    if let Err(reason) = may_leave(worker, &mut socket, &mut first, address).await {
        debug!(%address, reason, "not let out");
        reach::refuse(worker, peer.to_owned(), reason);
        return dropped(socket);
    }
    let far = match worker::dial(address).await {
        Ok(far) => far,
        Err(error) => {
            debug!(%address, %error, "cannot connect");
            reach::refuse(worker, peer.to_owned(), "unreachable");
            return dropped(socket);
        }
    };
    let row = ledger.plaintext(Direction::Outbound, peer.to_owned(), OUTSIDE_MESH);
    let open = row.opened();
    let mut account = ledger.audience().connection(Direction::Outbound, &row);
    if let Some(account) = &mut account {
        account.to(address);
    }
    let flow = ledger.flow(Direction::Outbound, Class::Plaintext);
    let (near, tally) = (Begun::new(first.freeze(), socket), Tally::of(&flow, account.as_deref()));
    let carried = worker::carry(worker, Direction::Outbound, address.port(), tally, near, far, None);
    Some(Box::pin(async move {
        let _open = open;
        if let Err(error) = carried.await {
            debug!(%address, %error, "connection broke");
            if let Some(account) = &mut account {
                account.broke(BROKE);
            }
        }
    }))
}

/// Whether the application may reach an address outside of the mesh. Where that depends on a name, it is the
/// one that a client of TLS asks for; what is sent in plaintext names nobody for certain.
async fn may_leave(
    worker: &Worker,
    socket: &mut TcpStream,
    first: &mut BytesMut,
    to: SocketAddr,
) -> Result<(), &'static str> {
    let egress = &worker.shared.rules.egress;
    match egress.of_address(to.ip(), to.port()) {
        Verdict::Allowed => Ok(()),
        Verdict::Denied => Err("egress_denied"),
        Verdict::ByName => match greeting(socket, first).await {
            Ok(Some(name)) if egress.of_name(&name, to.port()) => Ok(()),
            Ok(_) | Err(_) => Err("egress_denied"),
        },
    }
}
