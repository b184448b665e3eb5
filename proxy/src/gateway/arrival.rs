//! A client that has arrived: over TLS, whose handshake happened on its own thread, or without.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tracing::debug;
use trellis_api::evidence::Class;
use trellis_pki::public::Negotiated;

use super::{
    CLIENT,
    bytes::carry,
    entrance::Entrance,
    listener::{Family, Kind, Listener},
    port::{Opening, Port},
    sources::Held,
};
use crate::{
    detect::begins_http2,
    handshake,
    http::{self, Context, Front, Pace},
    ledger::{self, Direction, Flow, Row},
    original::canonical,
    relay::{Begun, End},
    sealed::{Metered, Side},
    worker::Worker,
};

/// A client says something by then, or is cut off.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A client of a listener in which TLS begins.
pub struct Arrival {
    pub port: Port,
    pub listener: Arc<Listener>,
    pub socket: std::net::TcpStream,
    /// Read, and not used: of TLS that goes through.
    pub first: Bytes,
    /// As its greeting says.
    pub name: Option<String>,
    pub client: SocketAddr,
    /// Where TLS has ended here.
    pub secured: Option<Secured>,
    pub held: Held,
}

pub struct Secured {
    pub tls: rustls::Connection,
    pub negotiated: Negotiated,
    /// Who the client proved to be.
    pub proven: Option<String>,
    /// Why the class is weaker than it could be.
    pub weakness: Option<&'static str>,
}

/// Accepts clients that come without TLS, until the port is closed or the proxy drains.
pub async fn accept(worker: Arc<Worker>, opening: Opening) {
    let Opening { port, socket } = opening;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return debug!(port = port.number, %error, "cannot listen"),
    };
    let mut stage = worker.shared.stage.clone();
    loop {
        let (socket, remote) = tokio::select! {
            accepted = handshake::accept(&listener) => accepted,
            () = port.closed() => return,
            _ = stage.wait_for(|stage| stage.draining) => return,
        };
        let Ok(place) = worker.inbound.clone().try_acquire_owned() else {
            refused(&worker, "too_many_connections");
            continue;
        };
        handshake::tune(&socket);
        let (worker, port, open) = (worker.clone(), port.clone(), worker.open.enter());
        tokio::spawn(async move {
            let _held = (place, open);
            if let Err(reason) = plain(&worker, port, socket, canonical(remote)).await {
                debug!(%remote, reason, "connection refused");
                refused(&worker, reason);
            }
        });
    }
}

async fn plain(
    worker: &Arc<Worker>,
    port: Port,
    mut socket: TcpStream,
    remote: SocketAddr,
) -> Result<(), &'static str> {
    let mut first = BytesMut::new();
    let client = port.edge.proxied.client(&mut socket, &mut first, remote).await?;
    let _held = port.edge.sources.enter(client.ip()).ok_or(TOO_MANY)?;
    if port.now().denies_plaintext() {
        return Err("plaintext");
    }
    let ledger = &worker.shared.ledger;
    let row = |reason| ledger.plaintext(Direction::Inbound, CLIENT.to_owned(), reason);
    let flow = ledger.flow(Direction::Inbound, Class::Plaintext);
    if port.family == Family::Bytes {
        let listener = port.now().of("").cloned().ok_or("no_listener")?;
        let came = Came { row: row("tcp_listener"), flow, client };
        carry(worker, &port, &listener, None, came, Side::Plain(socket), first.freeze()).await;
        return Ok(());
    }
    let http2 = speaks_http2(&mut socket, &mut first).await?;
    let row = row("http_listener");
    let _open = row.opened();
    let serves = port.clone();
    let entrance = Entrance { port, listener: None, client, row };
    serve_http(worker, entrance, Side::Plain(socket), flow, first.freeze(), http2).await;
    if serves.now().denies_plaintext() {
        worker.shared.demands.plaintext_ended(Direction::Inbound, CLIENT);
    }
    Ok(())
}

/// What a connection of bytes came by.
pub struct Came {
    pub row: Arc<Row>,
    pub flow: Arc<Flow>,
    pub client: SocketAddr,
}

const TOO_MANY: &str = super::TOO_MANY;

/// Serves a client that came over TLS.
pub async fn serve(worker: Arc<Worker>, arrival: Arrival) {
    let _open = worker.open.enter();
    let Arrival { port, listener, socket, first, name, client, secured, held: _held } = arrival;
    let Ok(_place) = worker.inbound.clone().try_acquire_owned() else {
        return refused(&worker, "too_many_connections");
    };
    let socket = match TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return debug!(%client, %error, "connection lost"),
    };
    let ledger = &worker.shared.ledger;
    let Some(Secured { tls, negotiated, proven, weakness }) = secured else {
        let row = ledger.plaintext(Direction::Inbound, CLIENT.to_owned(), "tls_passed_through");
        let flow = ledger.flow(Direction::Inbound, Class::Plaintext);
        let (came, side) = (Came { row, flow, client }, Side::Plain(socket));
        return carry(&worker, &port, &listener, name.as_deref(), came, side, first).await;
    };
    let source = proven.map_or_else(|| CLIENT.to_owned(), |name| format!("client:{name}"));
    let class = ledger::class(negotiated.class);
    let row = ledger.outside(Direction::Inbound, source, &negotiated, weakness);
    let flow = ledger.flow(Direction::Inbound, class);
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let side = Side::sealed(socket, tls);
    match listener.kind {
        Kind::Https => {
            let _open = row.opened();
            let entrance = Entrance { port, listener: Some(listener), client, row };
            serve_http(&worker, entrance, side, flow, first, http2).await;
        }
        _ => {
            let came = Came { row, flow, client };
            carry(&worker, &port, &listener, name.as_deref(), came, side, first).await;
        }
    }
}

async fn serve_http(
    worker: &Arc<Worker>,
    entrance: Entrance,
    side: Side,
    flow: Arc<Flow>,
    first: Bytes,
    http2: bool,
) {
    let address = entrance.client;
    let context = Context::new(worker, Front::Listener(entrance), address);
    let near = http::Near::new(first.clone(), Metered::edge(side, flow, context.pace.clone(), first.len()));
    match http2 {
        true => Box::pin(http::http2(context, near)).await,
        false => Box::pin(http::http1(context, near)).await,
    }
}

/// Whether a client without TLS begins with HTTP/2, as its first bytes certainly tell.
async fn speaks_http2(socket: &mut TcpStream, first: &mut BytesMut) -> Result<bool, &'static str> {
    loop {
        if let Some(http2) = begins_http2(first) {
            return Ok(http2);
        }
        let more = time::timeout(SILENCE, std::future::poll_fn(|cx| socket.poll_recv(cx))).await;
        match more {
            Ok(Ok(Some(data))) => first.extend_from_slice(&data),
            Ok(_) if first.is_empty() => return Err("client_left"),
            Ok(_) => return Ok(false),
            Err(_) => return Err("silent_client"),
        }
    }
}

/// As an end of a relay.
pub fn end(side: Side, flow: Arc<Flow>, first: Bytes) -> Begun<Metered> {
    let metered = Metered::edge(side, flow, Pace::default(), first.len());
    Begun::new(first, metered)
}

pub fn refused(worker: &Worker, reason: &str) {
    // Whoever looks whether a port is open has not been refused anything.
    if reason != "client_left" {
        worker.shared.ledger.refused(Direction::Inbound, CLIENT.to_owned(), Class::Plaintext, reason);
    }
}
