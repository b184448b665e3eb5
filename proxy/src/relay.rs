//! Carries bytes between two ends until both have finished: a socket and a tunnelled stream, or two
//! sockets. Half-closes travel; a reset travels; nothing is buffered while nothing moves.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::scratch;

/// One end of a relay.
pub trait End: Unpin {
    /// The next bytes that came in; `None` when the other side will send no more.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
    /// `bytes` that came in have been passed on: the other side may send that many more.
    fn release(&mut self, bytes: usize);
    /// Sends all of `data`, consuming it bit by bit.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>>;
    /// Says that no more will be sent.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends everything at once and lets the other side see that it was no regular end.
    fn abort(&mut self);
}

/// Relays between `near`, the application, and `far`, the world. `moved` sees all that goes by, and whether
/// it goes outward.
pub struct Relay<N, F, M> {
    near: N,
    far: F,
    outward: Way,
    inward: Way,
    moved: M,
}

#[derive(Debug)]
enum Way {
    Receiving,
    Sending(Bytes, usize),
    Finishing,
    Done,
}

impl<N: End, F: End, M> Relay<N, F, M> {
    pub fn new(near: N, far: F, moved: M) -> Self {
        Self { near, far, outward: Way::Receiving, inward: Way::Receiving, moved }
    }
}

impl<N: End, F: End, M: Fn(bool, &Bytes) + Unpin> Future for Relay<N, F, M> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { near, far, outward, inward, moved } = &mut *self;
        let out = outward.poll(cx, near, far, |data| moved(true, data));
        let back = inward.poll(cx, far, near, |data| moved(false, data));
        match (out, back) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                near.abort();
                far.abort();
                Poll::Ready(Err(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl End,
        to: &mut impl End,
        moved: impl Fn(&Bytes),
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Receiving => match ready!(from.poll_recv(cx))? {
                    Some(data) if data.is_empty() => {}
                    Some(data) => {
                        moved(&data);
                        let length = data.len();
                        *self = Self::Sending(data, length);
                    }
                    None => *self = Self::Finishing,
                },
                Self::Sending(data, length) => {
                    ready!(to.poll_send(cx, data))?;
                    from.release(*length);
                    *self = Self::Receiving;
                }
                Self::Finishing => {
                    ready!(to.poll_finish(cx))?;
                    *self = Self::Done;
                }
                Self::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

// === impl End for TcpStream ===

impl End for TcpStream {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        scratch::with(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(self).poll_read(cx, &mut buf))?;
            let read = buf.filled();
            Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
        })
    }

    fn release(&mut self, _: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            let sent = ready!(Pin::new(&mut *self).poll_write(cx, data))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = data.split_to(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(self).poll_shutdown(cx)) {
            // The other side has gone already: there is nobody left to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }

    fn abort(&mut self) {
        // A zero linger makes the close a reset, which is what the other end would have seen.
        let _ = socket2::SockRef::from(&*self).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// A stream inside a tunnel.
pub struct Tunnelled {
    send: SendStream<Bytes>,
    recv: Inbound,
}

/// The receiving half exists once the other proxy has accepted; sending need not wait for that.
enum Inbound {
    Awaited(ResponseFuture),
    Open(RecvStream),
}

impl Tunnelled {
    /// The side that asked for the stream.
    pub fn asked(response: ResponseFuture, send: SendStream<Bytes>) -> Self {
        Self { send, recv: Inbound::Awaited(response) }
    }

    /// The side that was asked.
    pub fn accepted(recv: RecvStream, send: SendStream<Bytes>) -> Self {
        Self { send, recv: Inbound::Open(recv) }
    }
}

impl End for Tunnelled {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            match &mut self.recv {
                Inbound::Awaited(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(broken)?;
                    if !response.status().is_success() {
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::ConnectionRefused,
                            Refused(response.status()),
                        )));
                    }
                    self.recv = Inbound::Open(response.into_body());
                }
                Inbound::Open(recv) => {
                    return Poll::Ready(match ready!(recv.poll_data(cx)) {
                        Some(Ok(data)) => Ok(Some(data)),
                        // The peer was done and did not want the rest: an end, not a failure.
                        Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Ok(None),
                        Some(Err(error)) => Err(broken(error)),
                        None => Ok(None),
                    });
                }
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        if let Inbound::Open(recv) = &mut self.recv {
            // Fails only for more than was received, which the relay never releases.
            let _ = recv.flow_control().release_capacity(bytes);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            // Reserve what is about to be sent and nothing ahead: capacity held by idle streams would
            // starve all others of the connection's window.
            self.send.reserve_capacity(data.len());
            let capacity = match self.send.capacity() {
                0 => match ready!(self.send.poll_capacity(cx)) {
                    Some(capacity) => capacity.map_err(broken)?,
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                capacity => capacity,
            };
            if capacity > 0 {
                let part = data.split_to(capacity.min(data.len()));
                self.send.send_data(part, false).map_err(broken)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }

    fn abort(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// The other proxy answered the CONNECT with a refusal.
#[derive(Debug, thiserror::Error)]
#[error("the peer's proxy refused the connection with status {0}")]
pub struct Refused(pub http::StatusCode);
