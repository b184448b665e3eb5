//! Carries bytes between two ends until both have finished: a socket and a tunnelled stream, or two
//! sockets. Half-closes travel; a reset travels; nothing is buffered while nothing moves.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{self, Sleep},
};

use crate::{
    ledger::{OpenConnection, Row},
    scratch,
};

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
    /// Whether small pieces that wait here cost more than their bytes.
    fn is_framed(&self) -> bool {
        false
    }
    /// Resolves when the other side has cut everything off, where that would not show otherwise.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
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
    failed: Option<io::Error>,
    /// How often something moved, and whether it went outward last.
    moves: u32,
    outward_last: bool,
}

enum Way {
    Receiving,
    Sending(Sending),
    Finishing,
    Done,
}

/// What was received and waits to be sent.
struct Sending {
    data: Bytes,
    length: usize,
    /// What came in meanwhile, from an end that would otherwise hold it in small pieces.
    more: BytesMut,
    ended: bool,
}

impl<N: End, F: End, M> Relay<N, F, M> {
    pub fn new(near: N, far: F, moved: M) -> Self {
        Self {
            near,
            far,
            outward: Way::Receiving,
            inward: Way::Receiving,
            moved,
            failed: None,
            moves: 0,
            outward_last: false,
        }
    }

    /// Changes whenever something moves.
    pub fn moves(&self) -> u32 {
        self.moves
    }

    /// Whether one side has ended, and the other has not.
    pub fn is_half(&self) -> bool {
        matches!(self.outward, Way::Done) != matches!(self.inward, Way::Done)
    }

    /// Finishes both ways in good order, if nothing is under way and nothing is owed to the client, who has an
    /// answer once its server had the last word.
    pub fn finish_at_rest(&mut self, server_is_near: bool) -> bool {
        let rests = matches!((&self.outward, &self.inward), (Way::Receiving, Way::Receiving));
        let owed = self.moves > 0 && self.outward_last != server_is_near;
        if !rests || owed {
            return false;
        }
        (self.outward, self.inward) = (Way::Finishing, Way::Finishing);
        true
    }
}

impl<N: End, F: End, M: Fn(bool, &Bytes) + Unpin> Future for Relay<N, F, M> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { near, far, outward, inward, moved, failed, moves, outward_last } = &mut *self;
        if let Some(error) = failed.take() {
            near.abort();
            far.abort();
            return Poll::Ready(Err(error));
        }
        let out = outward.poll(cx, near, far, |data| {
            (*moves, *outward_last) = (moves.wrapping_add(1), true);
            moved(true, data);
        });
        let back = inward.poll(cx, far, near, |data| {
            (*moves, *outward_last) = (moves.wrapping_add(1), false);
            moved(false, data);
        });
        let error = match (out, back) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => error,
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            // While one way is at rest, only this shows that the whole has been cut off.
            _ if outward.is_at_rest() || inward.is_at_rest() => match far.poll_gone(cx) {
                Poll::Ready(error) => error,
                Poll::Pending => return Poll::Pending,
            },
            _ => return Poll::Pending,
        };
        // What was handed on in this very turn gets one more turn to leave before everything is cut.
        *failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl End,
        to: &mut impl End,
        mut moved: impl FnMut(&Bytes),
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Receiving => match ready!(from.poll_recv(cx))? {
                    Some(data) if data.is_empty() => {}
                    Some(data) => {
                        moved(&data);
                        *self = Self::Sending(Sending::new(data));
                    }
                    None => *self = Self::Finishing,
                },
                Self::Sending(sending) => match to.poll_send(cx, &mut sending.data) {
                    Poll::Pending => {
                        sending.merge(cx, from, &mut moved)?;
                        return Poll::Pending;
                    }
                    Poll::Ready(sent) => {
                        sent?;
                        from.release(sending.length);
                        let (more, ended) = (sending.more.split().freeze(), sending.ended);
                        *self = match more.is_empty() {
                            false => Self::Sending(Sending { ended, ..Sending::new(more) }),
                            true if ended => Self::Finishing,
                            true => Self::Receiving,
                        };
                    }
                },
                Self::Finishing => {
                    ready!(to.poll_finish(cx))?;
                    *self = Self::Done;
                }
                Self::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        matches!(self, Self::Done | Self::Sending(_))
    }
}

impl Sending {
    fn new(data: Bytes) -> Self {
        Self { length: data.len(), data, more: BytesMut::new(), ended: false }
    }

    /// While the one side takes nothing, keeps taking small pieces off the other. Their window bounds how
    /// much that can be: none of it is released before it was sent.
    fn merge(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl End,
        mut moved: impl FnMut(&Bytes),
    ) -> io::Result<()> {
        while from.is_framed() && !self.ended {
            match from.poll_recv(cx)? {
                Poll::Ready(Some(data)) => {
                    moved(&data);
                    self.more.extend_from_slice(&data);
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

// === impl End for TcpStream ===

impl End for TcpStream {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut scratch = scratch::lend();
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(self).poll_read(cx, &mut buf))?;
        let read = buf.filled();
        Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
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

impl<E: End + ?Sized> End for Box<E> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        (**self).poll_recv(cx)
    }

    fn release(&mut self, bytes: usize) {
        (**self).release(bytes);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        (**self).poll_send(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_finish(cx)
    }

    fn is_framed(&self) -> bool {
        (**self).is_framed()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_gone(cx)
    }

    fn abort(&mut self) {
        (**self).abort();
    }
}

// === an end of which something was read already ===

/// An end of which the first bytes were read by somebody else.
pub struct Begun<E> {
    first: Bytes,
    end: E,
}

impl<E: End> Begun<E> {
    pub fn new(first: Bytes, end: E) -> Self {
        Self { first, end }
    }
}

impl<E: End> End for Begun<E> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        self.end.poll_recv(cx)
    }

    fn release(&mut self, bytes: usize) {
        self.end.release(bytes);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        self.end.poll_send(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end.poll_finish(cx)
    }

    fn is_framed(&self) -> bool {
        self.first.is_empty() && self.end.is_framed()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.end.poll_gone(cx)
    }

    fn abort(&mut self) {
        self.end.abort();
    }
}

// === a stream inside a tunnel ===

/// A stream inside a tunnel.
pub struct Tunnelled {
    send: SendStream<Bytes>,
    recv: Inbound,
    /// Where the connection is counted once the other proxy has accepted it.
    row: Option<Arc<Row>>,
    _counted: Option<OpenConnection>,
}

/// The receiving half exists once the other proxy has accepted; sending need not wait for that.
enum Inbound {
    Awaited(ResponseFuture, Pin<Box<Sleep>>),
    Open(RecvStream),
}

/// How long the other proxy may take to reach its application.
const ANSWER: Duration = Duration::from_secs(15);

impl Tunnelled {
    /// The side that asked for the stream, which is counted in `row` when it was accepted.
    pub fn asked(response: ResponseFuture, send: SendStream<Bytes>, row: Arc<Row>) -> Self {
        let recv = Inbound::Awaited(response, Box::pin(time::sleep(ANSWER)));
        Self { send, recv, row: Some(row), _counted: None }
    }

    /// The side that was asked.
    pub fn accepted(recv: RecvStream, send: SendStream<Bytes>) -> Self {
        Self { send, recv: Inbound::Open(recv), row: None, _counted: None }
    }
}

impl Tunnelled {
    /// Ready once the other proxy has accepted the stream.
    pub fn poll_accepted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_open(cx).map_ok(|_| ())
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut RecvStream>> {
        if let Inbound::Awaited(response, patience) = &mut self.recv {
            let Poll::Ready(response) = Pin::new(response).poll(cx) else {
                ready!(patience.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Unanswered)));
            };
            let response = response.map_err(broken)?;
            if !response.status().is_success() {
                let refused = Refused(response.status());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, refused)));
            }
            self._counted = self.row.take().map(|row| row.opened());
            self.recv = Inbound::Open(response.into_body());
        }
        match &mut self.recv {
            Inbound::Open(recv) => Poll::Ready(Ok(recv)),
            Inbound::Awaited(..) => Poll::Pending,
        }
    }

    /// How much of `wanted` bytes may be sent now.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        // Reserve what is about to be sent and nothing ahead: capacity held by idle streams would
        // starve all others of the connection's window.
        self.send.reserve_capacity(wanted);
        let capacity = match self.send.capacity() {
            0 => match ready!(self.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            capacity => capacity,
        };
        Poll::Ready(Ok(capacity.min(wanted)))
    }

    /// Sends what there was room for.
    pub fn send(&mut self, data: Bytes) -> io::Result<()> {
        self.send.send_data(data, false).map_err(broken)
    }
}

impl End for Tunnelled {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let recv = ready!(self.poll_open(cx))?;
        Poll::Ready(match ready!(recv.poll_data(cx)) {
            Some(Ok(data)) => Ok(Some(data)),
            // The peer was done and did not want the rest: an end, not a failure.
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => Ok(None),
            Some(Err(error)) => Err(broken(error)),
            None => Ok(None),
        })
    }

    fn release(&mut self, bytes: usize) {
        if let Inbound::Open(recv) = &mut self.recv {
            // Fails only for more than was received, which the relay never releases.
            let _ = recv.flow_control().release_capacity(bytes);
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            let room = ready!(self.poll_room(cx, data.len()))?;
            if room > 0 {
                self.send(data.split_to(room))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }

    fn is_framed(&self) -> bool {
        matches!(self.recv, Inbound::Open(_))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(broken(reason.into())),
            Poll::Ready(Err(error)) => Poll::Ready(broken(error)),
            Poll::Pending => Poll::Pending,
        }
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

/// The other proxy did not say in time whether it reached its application.
#[derive(Debug, thiserror::Error)]
#[error("the peer's proxy did not answer within {ANSWER:?}")]
pub struct Unanswered;

/// The other proxy answered the CONNECT with a refusal.
#[derive(Debug, thiserror::Error)]
#[error("the peer's proxy refused the connection with status {0}")]
pub struct Refused(pub http::StatusCode);

impl Refused {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self.0 {
            http::StatusCode::SERVICE_UNAVAILABLE => "peer_unavailable",
            http::StatusCode::FORBIDDEN => "peer_forbade",
            _ => "peer_refused",
        }
    }
}
