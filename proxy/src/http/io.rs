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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::rest::Rest;
use crate::{
    ledger::Flow,
    relay::{Begun, End, Tunnelled},
    scratch,
    sealed::{Metered, Stream},
};

/// The client's side, of which the first bytes were read to see what it speaks.
pub struct Near {
    first: Bytes,
    socket: TokioIo<Metered>,
    rest: Arc<Rest>,
}

/// The other side: a stream of a tunnel, or a socket where there is none. All that goes by is counted.
pub struct Far {
    kind: Kind,
    flow: Arc<Flow>,
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
    Tls(Box<TokioIo<TlsStream<TokioIo<Far>>>>),
}

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
    pub fn tunnel(stream: Tunnelled, flow: Arc<Flow>) -> Self {
        Self { kind: Kind::Tunnel { stream: Box::new(stream), unread: Bytes::new() }, flow }
    }

    pub fn plain(socket: TcpStream, flow: Arc<Flow>) -> Self {
        Self { kind: Kind::Plain(socket), flow }
    }

    /// The same in TLS, whose bytes are counted beneath it from now on in `flow`.
    pub fn sealed(mut stream: TlsStream<TokioIo<Self>>, flow: Arc<Flow>) -> Self {
        stream.get_mut().0.inner_mut().flow = flow.clone();
        Self { kind: Kind::Tls(Box::new(TokioIo::new(stream))), flow }
    }

    /// As an end of a relay, with what was read and not used, and where it is counted.
    pub fn into_end(self, read: Bytes) -> (Begun<FarEnd>, Arc<Flow>) {
        let (read, end): (_, FarEnd) = match self.kind {
            Kind::Tunnel { stream, unread } => (together(read, unread), stream),
            Kind::Plain(socket) => (read, Box::new(socket)),
            Kind::Tls(stream) => (read, Box::new(Stream(stream.into_inner()))),
        };
        (Begun::new(read, end), self.flow)
    }
}

fn together(first: Bytes, second: Bytes) -> Bytes {
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
                flow.add(false, read);
                Poll::Ready(Ok(()))
            }
            Kind::Plain(socket) => {
                let read = scratch::with(|scratch| {
                    let most = scratch.len().min(buf.remaining());
                    let mut bytes = ReadBuf::new(&mut scratch[..most]);
                    ready!(Pin::new(socket).poll_read(cx, &mut bytes))?;
                    buf.put_slice(bytes.filled());
                    Poll::Ready(io::Result::Ok(bytes.filled().len()))
                });
                flow.add(false, ready!(read)?);
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
        flow.add(true, written);
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
