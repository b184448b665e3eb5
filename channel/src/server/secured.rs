//! A connection that is through with its handshake: who is at its other end, and how long that stands.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use trellis_pki::{credential::Standing, tls::MeshTls};
use trellis_telemetry::{Counter, Family};

use super::Peer;
use crate::{
    admission::{Gate, Pass},
    identity::Rests,
};

/// Reason of a connection that rests on an anchor which is trusted no more.
pub const ANCHOR_REMOVED: &str = "anchor_removed";

/// So many connections that fall together come back within a second, and more within longer.
const RETURNS_PER_SECOND: usize = 100;

/// A connection whose peer has been identified. It breaks when the peer's certificate ends.
pub struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    expiry: Option<Pin<Box<Sleep>>>,
    place: Pass,
    connections: Gate,
    newcomer: Newcomer,
    over: Option<Over>,
    tls: Arc<MeshTls>,
    /// Of our own trust, when the peer was last judged by it.
    epoch: u64,
    epochs: watch::Receiver<u64>,
    ends: Family<Counter>,
    _rests: Rests,
}

/// What a connection is made of.
pub(super) struct Parts {
    pub stream: TlsStream<TcpStream>,
    pub peer: Peer,
    /// Until the peer's certificate ends.
    pub left: Option<Duration>,
    pub place: Pass,
    pub connections: Gate,
    pub newcomer: Pass,
    pub tls: Arc<MeshTls>,
    pub epochs: watch::Receiver<u64>,
    pub ends: Family<Counter>,
    pub rests: Rests,
}

/// A connection's place among those that have not been served yet. While all places are taken, nobody is
/// accepted: so what waits to be served costs the memory of few connections, however many there are.
#[derive(Clone)]
pub struct Newcomer(Arc<Mutex<Option<Pass>>>);

impl Newcomer {
    /// Gives the place to the next, when the first answer is there.
    pub fn served(&self) {
        self.0.lock().take();
    }
}

/// Why a connection may no longer be used.
#[derive(Clone, Copy, Debug, Error)]
pub(super) enum Over {
    #[error("a newer one took its place")]
    CrowdedOut,
    #[error("the peer's certificate has expired")]
    Expired,
    #[error("the peer is denied")]
    Denied,
}

impl Secured {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { stream, peer, left, place, connections, newcomer, tls, epochs, ends, rests } = parts;
        Self {
            stream,
            peer,
            expiry: left.map(|left| Box::pin(sleep(left))),
            place,
            connections,
            newcomer: Newcomer(Arc::new(Mutex::new(Some(newcomer)))),
            over: None,
            epoch: tls.epoch(),
            tls,
            epochs,
            ends,
            _rests: rests,
        }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whoever serves the connection says by it that it has.
    pub fn newcomer(&self) -> Newcomer {
        self.newcomer.clone()
    }

    /// Resolves when the connection should be ended in good order: the peer's certificate, or the one that
    /// was shown to it, rests on an anchor which is trusted no more. Many that fall together do not come
    /// back together.
    pub fn falls(&self) -> impl Future<Output = ()> + Send + use<> {
        let (tls, posture, remote) = (self.tls.clone(), self.peer.posture.clone(), self.peer.remote);
        let (mut epochs, connections) = (self.epochs.clone(), self.connections.clone());
        let ended = self.ends.clone();
        async move {
            let has_fallen = || tls.standing(&posture) == Standing::AnchorRemoved;
            loop {
                while !has_fallen() {
                    if epochs.changed().await.is_err() {
                        // The listener is gone, and its connections are about to be.
                        return pending().await;
                    }
                }
                sleep(spread(connections.len(), rand::random())).await;
                // It may have come back: a rotation can be rolled back.
                if has_fallen() {
                    break;
                }
            }
            ended.with(&[("reason", ANCHOR_REMOVED)]).inc();
            let peer = posture.peer.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(peer, %remote, "ending a connection that rests on an anchor which was removed");
        }
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
            if Pin::new(&mut self.place.evicted).poll(cx).is_ready() {
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

/// How long one of `open` connections stays, where `turn` is in `0..1`.
fn spread(open: usize, turn: f64) -> Duration {
    let seconds = u32::try_from(open / RETURNS_PER_SECOND).unwrap_or(u32::MAX).max(1);
    Duration::from_secs(seconds.into()).mul_f64(turn)
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
