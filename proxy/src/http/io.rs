//! The two connections that a request goes by, as hyper reads and writes them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::rest::Rest;
use crate::{
    ledger::Flow,
    relay::{Begun, End, Tunnelled},
    scratch,
    sealed::{self, Metered},
};

/// The client's side, of which the first bytes were read to see what it speaks.
pub struct Near {
    first: Bytes,
    socket: TokioIo<Metered>,
    rest: Arc<Rest>,
}

/// The other side: a stream of a tunnel, or a socket where there is none. All that goes by is counted, once
/// it is the application's.
pub struct Far {
    kind: Kind,
    flow: Option<Arc<Flow>>,
}

/// The same, out of HTTP.
pub type FarEnd = Box<dyn End + Send>;

enum Kind {
    Tunnel {
        stream: Box<Tunnelled>,
        unread: Bytes,
    },
    Plain(TcpStream),
    /// The application's own TLS, over one of the others.
    Tls(Box<TokioIo<Sealed>>),
}

/// The application's own TLS, whose handshake is complete.
pub type Sealed = TlsStream<TokioIo<Far>>;

impl Near {
    pub fn new(first: Bytes, socket: impl Into<Metered>) -> Self {
        Self { first, socket: TokioIo::new(socket.into()), rest: Arc::default() }
    }

    /// The same connection, with what was read and not used, as if it were new.
    pub fn again(self, read: Bytes) -> Self {
        Self { first: together(read, self.first), socket: self.socket, rest: Arc::default() }
    }

    /// What is known of how busy it is.
    pub fn rest(&self) -> Arc<Rest> {
        self.rest.clone()
    }

    /// Whether it can be waited for without a server of HTTP.
    pub fn can_rest(&self) -> bool {
        self.socket.inner().plain().is_some()
    }

    /// Resolves when there is something to read, were it the end.
    pub async fn wakes(&self) -> io::Result<()> {
        match self.socket.inner().plain() {
            Some(socket) if self.first.is_empty() => socket.readable().await,
            _ => Ok(()),
        }
    }

    /// As an end of a relay, with what was read and not used.
    pub fn into_end(self, read: Bytes) -> Begun<Metered> {
        Begun::new(together(read, self.first), self.socket.into_inner())
    }
}

impl Far {
    pub fn tunnel(stream: Tunnelled) -> Self {
        Self { kind: Kind::Tunnel { stream: Box::new(stream), unread: Bytes::new() }, flow: None }
    }

    pub fn plain(socket: TcpStream) -> Self {
        Self { kind: Kind::Plain(socket), flow: None }
    }

    pub fn sealed(stream: Sealed) -> Self {
        Self { kind: Kind::Tls(Box::new(TokioIo::new(stream))), flow: None }
    }

    /// The same, counted in `flow` from now on: of TLS what is beneath it.
    pub fn counted(mut self, flow: Arc<Flow>) -> Self {
        *self.flow() = Some(flow);
        self
    }

    /// As an end of a relay, with what was read and not used. Where it was counted here, that is the relay's
    /// matter from now on.
    pub fn into_end(mut self) -> (Bytes, FarEnd, Option<Arc<Flow>>) {
        let flow = self.flow().take();
        let (read, end): (_, FarEnd) = match self.kind {
            Kind::Tunnel { stream, unread } => (unread, stream),
            Kind::Plain(socket) => (Bytes::new(), Box::new(socket)),
            Kind::Tls(stream) => (Bytes::new(), Box::new(stream.into_inner())),
        };
        (read, end, flow)
    }

    fn flow(&mut self) -> &mut Option<Arc<Flow>> {
        match &mut self.kind {
            Kind::Tls(stream) => stream.inner_mut().get_mut().0.inner_mut().flow(),
            Kind::Tunnel { .. } | Kind::Plain(_) => &mut self.flow,
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &mut self.kind {
            Kind::Tunnel { stream, .. } => stream.poll_gone(cx),
            Kind::Plain(socket) => socket.poll_gone(cx),
            Kind::Tls(stream) => stream.inner_mut().poll_gone(cx),
        }
    }

    fn abort(&mut self) {
        match &mut self.kind {
            Kind::Tunnel { stream, .. } => stream.abort(),
            Kind::Plain(socket) => socket.abort(),
            Kind::Tls(stream) => stream.inner_mut().abort(),
        }
    }
}

fn count(flow: &Option<Arc<Flow>>, sent: bool, bytes: usize) {
    if let Some(flow) = flow {
        flow.add(sent, bytes);
    }
}

pub fn together(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        // One that is empty would still hold the buffer that it was read into.
        (true, true) => Bytes::new(),
        (false, true) => first,
        (true, false) => second,
        _ => {
            let mut both = BytesMut::with_capacity(first.len() + second.len());
            both.put(first);
            both.put(second);
            both.freeze()
        }
    }
}

/// Moves what fits, and says how much that was.
fn fill(buf: &mut ReadBufCursor<'_>, from: &mut Bytes) -> usize {
    let length = from.len().min(buf.remaining());
    buf.put_slice(&from[..length]);
    from.advance(length);
    length
}

// === impl Near ===

impl Read for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            self.rest.read();
            fill(&mut buf, &mut self.first);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_ready() {
            self.rest.read();
        }
        read
    }
}

impl Write for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.rest.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.rest.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

// === impl Far ===

impl Read for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { kind, flow } = &mut *self;
        match kind {
            Kind::Tunnel { stream, unread } => {
                while unread.is_empty() {
                    match ready!(stream.poll_recv(cx))? {
                        Some(data) => *unread = data,
                        None => return Poll::Ready(Ok(())),
                    }
                }
                let read = fill(&mut buf, unread);
                stream.release(read);
                count(flow, false, read);
                Poll::Ready(Ok(()))
            }
            Kind::Plain(socket) => {
                let mut scratch = scratch::lend();
                let most = scratch.len().min(buf.remaining());
                let mut bytes = ReadBuf::new(&mut scratch[..most]);
                ready!(Pin::new(socket).poll_read(cx, &mut bytes))?;
                buf.put_slice(bytes.filled());
                count(flow, false, bytes.filled().len());
                Poll::Ready(Ok(()))
            }
            Kind::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl Write for Far {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { kind, flow } = &mut *self;
        let written = match kind {
            Kind::Tunnel { stream, .. } => {
                let wanted = bufs.iter().map(|buf| buf.len()).sum();
                if wanted == 0 {
                    return Poll::Ready(Ok(0));
                }
                let room = ready!(stream.poll_room(cx, wanted))?;
                // One frame, however many pieces it was in.
                let mut data = BytesMut::with_capacity(room);
                for buf in bufs {
                    let part = buf.len().min(room - data.len());
                    data.extend_from_slice(&buf[..part]);
                }
                stream.send(data.freeze())?;
                room
            }
            Kind::Plain(socket) => ready!(Pin::new(socket).poll_write_vectored(cx, bufs))?,
            Kind::Tls(stream) => return Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        };
        count(flow, true, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tunnel { .. } | Kind::Plain(_) => Poll::Ready(Ok(())),
            Kind::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tunnel { stream, .. } => stream.poll_finish(cx),
            Kind::Plain(socket) => socket.poll_finish(cx),
            Kind::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

// === TLS of the application's own, out of HTTP ===

impl End for Sealed {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        // Copied from where it was opened: nothing is set aside for what has not come.
        let data = ready!(Pin::new(&mut *self).poll_fill_buf(cx))?;
        let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
        Pin::new(self).consume(data.as_ref().map_or(0, Bytes::len));
        Poll::Ready(Ok(data))
    }

    fn release(&mut self, _: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        ready!(sealed::send(self, cx, data))?;
        Pin::new(self).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sealed::finish(self, cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.get_mut().0.inner_mut().poll_gone(cx)
    }

    fn abort(&mut self) {
        // Without a close_notify, its end is seen to be none.
        self.get_mut().0.inner_mut().abort();
    }
}
