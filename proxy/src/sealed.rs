//! A client's side of a connection, in TLS or not, as everybody wants it: to hyper a stream, to a relay an end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use rustls::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    http::Pace,
    ledger::Flow,
    relay::End,
    transport::{self, Drain, Transport},
};

/// What is read at once.
const READ: usize = 16 * 1024;

pub enum Side {
    Plain(TcpStream),
    Tls(Box<Sealed>),
}

/// A connection in TLS whose handshake is complete.
pub struct Sealed {
    transport: Transport,
    drain: Drain,
}

/// A client's side whose bytes are counted, where they cross a wire.
pub struct Metered {
    side: Side,
    flow: Option<Arc<Flow>>,
    pace: Option<Pace>,
}

impl Side {
    pub fn sealed(socket: TcpStream, tls: Connection) -> Self {
        let (transport, drain) = transport::new(socket, tls);
        Self::Tls(Box::new(Sealed { transport, drain }))
    }
}

impl Metered {
    /// The side of a client of a gateway, of which `first` bytes were read before.
    pub fn edge(side: Side, flow: Arc<Flow>, pace: Pace, first: usize) -> Self {
        let metered = Self { side, flow: Some(flow), pace: Some(pace) };
        metered.read(first);
        metered
    }

    /// The socket, where nothing is between it and what is said.
    pub fn plain(&self) -> Option<&TcpStream> {
        match &self.side {
            Side::Plain(socket) => Some(socket),
            Side::Tls(_) => None,
        }
    }

    fn read(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(flow) = &self.flow {
            flow.add(false, bytes);
        }
        if let Some(pace) = &self.pace {
            pace.heard();
        }
    }

    /// What a client took of what was written, if it takes any.
    fn took(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let bytes = match &written {
            Poll::Ready(Ok(bytes)) => *bytes,
            _ => 0,
        };
        self.heard(written.is_ready(), bytes);
        self.wrote(bytes);
        written
    }

    fn heard(&self, taken: bool, bytes: usize) {
        match &self.pace {
            Some(pace) if taken => pace.took(bytes),
            Some(pace) => pace.blocked(),
            None => {}
        }
    }

    fn wrote(&self, bytes: usize) {
        if let Some(flow) = &self.flow {
            flow.add(true, bytes);
        }
    }
}

/// The application's, whose bytes are counted where they leave.
impl From<TcpStream> for Metered {
    fn from(socket: TcpStream) -> Self {
        Self { side: Side::Plain(socket), flow: None, pace: None }
    }
}

// === as a stream ===

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.side).poll_read(cx, buf))?;
        self.read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.side).poll_write(cx, buf);
        self.took(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.side).poll_write_vectored(cx, bufs);
        self.took(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.side).poll_flush(cx);
        self.heard(flushed.is_ready(), 0);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(cx)
    }
}

impl AsyncRead for Side {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(sealed) => Pin::new(&mut sealed.transport).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Side {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(sealed) => Pin::new(&mut sealed.transport).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(sealed) => Pin::new(&mut sealed.transport).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(sealed) => sealed.drain.poll(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(sealed) => Pin::new(&mut sealed.transport).poll_shutdown(cx),
        }
    }
}

// === as an end ===

impl End for Metered {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let received = ready!(self.side.poll_recv(cx))?;
        self.read(received.as_ref().map_or(0, Bytes::len));
        Poll::Ready(Ok(received))
    }

    fn release(&mut self, bytes: usize) {
        self.side.release(bytes);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        let before = data.len();
        let sent = self.side.poll_send(cx, data);
        self.wrote(before - data.len());
        sent
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.side.poll_finish(cx)
    }

    fn abort(&mut self) {
        self.side.abort();
    }
}

impl End for Side {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(cx),
            Self::Tls(sealed) => recv(&mut sealed.transport, cx),
        }
    }

    fn release(&mut self, _: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_send(cx, data),
            Self::Tls(sealed) => {
                ready!(send(&mut sealed.transport, cx, data))?;
                sealed.drain.poll(cx)
            }
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_finish(cx),
            Self::Tls(sealed) => finish(&mut sealed.transport, cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Plain(socket) => socket.abort(),
            // Without a close_notify, its end is seen to be none.
            Self::Tls(sealed) => sealed.drain.abort(),
        }
    }
}

fn recv(from: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
    let mut data = BytesMut::zeroed(READ);
    let mut buf = ReadBuf::new(&mut data);
    ready!(Pin::new(from).poll_read(cx, &mut buf))?;
    let read = buf.filled().len();
    data.truncate(read);
    Poll::Ready(Ok((read > 0).then(|| data.freeze())))
}

pub fn send(
    to: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    data: &mut Bytes,
) -> Poll<io::Result<()>> {
    while !data.is_empty() {
        let sent = ready!(Pin::new(&mut *to).poll_write(cx, data))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let _ = data.split_to(sent);
    }
    Poll::Ready(Ok(()))
}

pub fn finish(to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(Pin::new(to).poll_shutdown(cx)) {
        // The other side has gone already: there is nobody left to tell.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
        other => Poll::Ready(other),
    }
}
