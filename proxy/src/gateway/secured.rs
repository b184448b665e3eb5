//! Clients that begin with TLS, on the handshake thread: the name in a greeting chooses the listener, and the
//! listener whether TLS ends here or goes through.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;
use trellis_channel::{
    admission::{Bounds, Gate},
    server::CROWDED_OUT,
};
use trellis_pki::{clock::Clock, posture::Class, public};

use super::{
    TOO_MANY,
    arrival::{Arrival, Secured},
    listener::{Kind, Listener},
    port::{Opening, Port},
    sources::Held,
};
use crate::{
    handshake::{self, Limits},
    hello::Greeting,
    ledger::Ledger,
    original::canonical,
    outbound,
    relay::End,
    threads::Deliveries,
    worker::{Delivery, Stage},
};

/// A fatal alert, unrecognized_name: the last word to who asks for what is not here.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// How long that may take to be sent.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the handshake thread has for this.
#[derive(Clone)]
pub struct Thread {
    pub clock: Arc<dyn Clock>,
    pub ledger: Arc<Ledger>,
    pub stage: watch::Receiver<Stage>,
    pub deliveries: Deliveries,
}

/// Accepts on each port that is opened, until the proxy drains.
pub async fn secured(mut openings: mpsc::UnboundedReceiver<Opening>, thread: Thread) {
    let limits = Limits::default();
    // Two gates: who is a client is known only behind a balancer's header.
    let arrivals = Gate::new(Bounds { total: limits.in_flight, per_source: limits.in_flight });
    let handshakes = Gate::new(Bounds { total: limits.in_flight, per_source: limits.per_source });
    let mut stage = thread.stage.clone();
    loop {
        tokio::select! {
            Some(opening) = openings.recv() => {
                let gates = Gates { arrivals: arrivals.clone(), handshakes: handshakes.clone() };
                tokio::spawn(listen(opening, gates, limits, thread.clone()));
            }
            _ = stage.wait_for(|stage| stage.draining) => return,
        }
    }
}

#[derive(Clone)]
struct Gates {
    arrivals: Gate,
    handshakes: Gate,
}

async fn listen(opening: Opening, gates: Gates, limits: Limits, thread: Thread) {
    let Opening { port, socket } = opening;
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return debug!(port = port.number, %error, "cannot listen"),
    };
    let mut stage = thread.stage.clone();
    loop {
        let (socket, remote) = tokio::select! {
            accepted = handshake::accept(&listener) => accepted,
            () = port.closed() => return,
            _ = stage.wait_for(|stage| stage.draining) => return,
        };
        let (port, gates, thread) = (port.clone(), gates.clone(), thread.clone());
        tokio::spawn(async move {
            let remote = canonical(remote);
            let mut pass = gates.arrivals.enter(remote.ip());
            let arrived = tokio::select! {
                biased;
                _ = &mut pass.evicted => Err(CROWDED_OUT),
                arrived = time::timeout(limits.timeout, arrive(socket, remote, port, &gates, &thread)) => {
                    arrived.unwrap_or(Err("timed_out"))
                }
            };
            match arrived {
                Ok(arrival) => thread.deliveries.deliver(Delivery::Client(Box::new(arrival))),
                Err("client_left") => {}
                Err(reason) => {
                    debug!(%remote, reason, "handshake refused");
                    thread.ledger.client_turned_away(reason);
                }
            }
        });
    }
}

async fn arrive(
    mut socket: TcpStream,
    remote: SocketAddr,
    port: Port,
    gates: &Gates,
    thread: &Thread,
) -> Result<Arrival, &'static str> {
    handshake::tune(&socket);
    let mut first = BytesMut::new();
    let client = port.edge.proxied.client(&mut socket, &mut first, remote).await?;
    let held = port.edge.sources.enter(client.ip()).ok_or(TOO_MANY)?;
    let mut pass = gates.handshakes.enter(client.ip());
    tokio::select! {
        biased;
        _ = &mut pass.evicted => Err(CROWDED_OUT),
        greeted = greet(socket, first, client, port, held, thread) => greeted,
    }
}

async fn greet(
    mut socket: TcpStream,
    mut first: BytesMut,
    client: SocketAddr,
    port: Port,
    held: Held,
    thread: &Thread,
) -> Result<Arrival, &'static str> {
    let begun = Instant::now();
    let name = match outbound::greeting(&mut socket, &mut first).await {
        // Whoever looks whether a port is open says nothing at all.
        Err(_) if first.is_empty() => return Err("client_left"),
        // An address is no name, whoever sends it.
        greeting => greeting?.filter(|name| name.parse::<IpAddr>().is_err()),
    };
    let Some(listener) = port.now().named(name.as_deref()).cloned() else {
        // Where all TLS goes through it is not ours to speak it, be it to say goodbye.
        if port.now().ends_tls() {
            let _ = time::timeout(LAST_WORD, socket.write_all(&UNRECOGNIZED_NAME)).await;
        } else {
            socket.abort();
        }
        return Err("no_listener_for_name");
    };
    let first = first.freeze();
    if listener.kind == Kind::Passthrough {
        let socket = socket.into_std().map_err(|_| "io")?;
        return Ok(Arrival { port, listener, socket, first, name, client, secured: None, held });
    }
    let (socket, secured) = terminate(socket, first, name.as_deref(), &listener, thread).await?;
    thread.ledger.client_handshake(&secured.negotiated, secured.weakness, begun.elapsed());
    let secured = Some(secured);
    Ok(Arrival { port, listener, socket, first: Bytes::new(), name, client, secured, held })
}

async fn terminate(
    socket: TcpStream,
    first: Bytes,
    name: Option<&str>,
    listener: &Listener,
    thread: &Thread,
) -> Result<(std::net::TcpStream, Secured), &'static str> {
    let front = match &listener.front {
        Some(Ok(front)) if front.is_ready() => front,
        Some(Ok(_)) | None => return Err("listener_has_no_certificate"),
        Some(Err(_)) => return Err("listener_knows_no_clients"),
    };
    let modern = matches!(Greeting::read(&first), Greeting::Whole { modern: true, .. });
    let accepting = front.accept(&thread.clock, modern).map_err(|_| "listener_invalid")?;
    let begun = Begun { first, socket };
    let handshake = TlsAcceptor::from(accepting.config).accept(begun).await;
    let stream = handshake.map_err(|error| public::refusal(&error).as_str())?;
    let (Begun { first, socket }, tls) = stream.into_inner();
    // Two read the greeting, and must have read the same; nor can a client have said more than that before
    // it heard from us.
    let same = tls.server_name().map(str::to_ascii_lowercase) == name.map(str::to_ascii_lowercase);
    if !same || !first.is_empty() {
        return Err("malformed_client_hello");
    }
    let negotiated = accepting.notes.negotiated(&tls).ok_or("other")?;
    let weakness = match (negotiated.class, accepting.notes.offered_hybrid()) {
        (Class::Pq, _) => None,
        (Class::Hybrid, _) => Some("classical_signature"),
        (Class::Classical, Some(true)) => Some("hybrid_group_not_chosen"),
        (Class::Classical, _) => Some("peer_offered_no_hybrid_group"),
    };
    let proven = accepting.notes.client().map(ToOwned::to_owned);
    let socket = socket.into_std().map_err(|_| "io")?;
    Ok((socket, Secured { tls: tls.into(), negotiated, proven, weakness }))
}

/// A socket of which the first bytes were read.
struct Begun {
    first: Bytes,
    socket: TcpStream,
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
