//! A TLS byte stream made for HTTP/2 over it: writes are gathered as plaintext and sealed once per turn
//! of the connection, so that many streams share one TLS record and one system call; reads go through
//! the thread's shared buffer.
//!
//! The price is that `flush` does nothing. Whoever drives the connection must call [`Drain::poll`] after
//! each turn, and does so through [`Driven`].

use std::{
    future::Future,
    io::{self, BufRead, IoSlice, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustls::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::scratch;

/// Plaintext that may wait for the end of the turn.
const GATHER: usize = 256 * 1024;
/// Plaintext of one record of TLS.
const RECORD: usize = 16 * 1024;

/// The stream that HTTP/2 reads and writes.
pub struct Transport(Arc<Mutex<Inner>>);

/// Sends what was gathered.
pub struct Drain(Arc<Mutex<Inner>>);

struct Inner {
    socket: TcpStream,
    tls: Connection,
    /// Plaintext of this turn, not yet sealed: less than a record, once it was written to.
    gathered: Vec<u8>,
    /// Plaintext that was sealed since the socket last took everything.
    sealed: usize,
    /// Ciphertext that was read and did not fit the reader.
    unread: Option<Unread>,
    ended: bool,
    closed: bool,
    /// Why TLS broke, which HTTP/2 only passes on as words.
    failure: Option<rustls::Error>,
}

struct Unread {
    buffer: scratch::Lent,
    from: usize,
    to: usize,
}

/// Wraps a connection whose handshake is complete.
pub fn new(socket: TcpStream, mut tls: Connection) -> (Transport, Drain) {
    tls.set_buffer_limit(None);
    let inner = Arc::new(Mutex::new(Inner {
        socket,
        tls,
        gathered: Vec::new(),
        sealed: 0,
        unread: None,
        ended: false,
        closed: false,
        failure: None,
    }));
    (Transport(inner.clone()), Drain(inner))
}

/// A future that polls a connection and then sends what it wrote.
pub struct Driven<C> {
    pub connection: C,
    pub drain: Drain,
}

impl<C: Future + Unpin> Future for Driven<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let turn = Pin::new(&mut self.connection).poll(cx);
        // A failure to send shows at the connection's next read or write.
        let _ = self.drain.poll(cx);
        turn
    }
}

// === impl Drain ===

impl Drain {
    /// Seals what was gathered and sends what the socket takes; pending while some is left.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }

    /// Ends the socket by a reset.
    pub fn abort(&self) {
        let _ = socket2::SockRef::from(&self.0.lock().socket).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Why TLS broke, if it did.
    pub fn failure(&self) -> Option<rustls::Error> {
        self.0.lock().failure.clone()
    }
}

// === impl Inner ===

impl Inner {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            // Without a limit, the writer takes everything; once TLS has broken it takes nothing, and only
            // our alert is still to be sent.
            let _ = self.tls.writer().write_all(&self.gathered);
            self.sealed += self.gathered.len();
            scratch::put_back(std::mem::take(&mut self.gathered));
        }
        while self.tls.wants_write() {
            let mut sink = Ready { socket: &mut self.socket, cx };
            match self.tls.write_tls(&mut sink) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.sealed = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes plaintext for the end of the turn. What fills records is sealed where it lies.
    fn gather(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        let written = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let total = self.gathered.len() + written;
        if self.gathered.capacity() == 0 {
            self.gathered = scratch::take();
        }
        if total < RECORD {
            bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
            return written;
        }
        let mut whole = total - total % RECORD;
        self.sealed += whole;
        let mut pieces = Vec::with_capacity(1 + bufs.len());
        let mut rest = scratch::take();
        for piece in [self.gathered.as_slice()].into_iter().chain(bufs.iter().map(|buf| &**buf)) {
            let (now, later) = piece.split_at(whole.min(piece.len()));
            if !now.is_empty() {
                pieces.push(IoSlice::new(now));
            }
            whole -= now.len();
            rest.extend_from_slice(later);
        }
        let (mut writer, mut left) = (self.tls.writer(), pieces.as_mut_slice());
        // Once TLS has broken the writer takes nothing, which shows at the next look at the socket.
        while let Ok(taken @ 1..) = writer.write_vectored(left) {
            IoSlice::advance_slices(&mut left, taken);
        }
        self.gathered.clear();
        scratch::put_back(std::mem::replace(&mut self.gathered, rest));
        written
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.opened(buf)? || self.ended {
                return Poll::Ready(Ok(()));
            }
            let mut unread = match self.unread.take() {
                Some(unread) => unread,
                None => {
                    let mut buffer = scratch::lend();
                    let mut bytes = ReadBuf::new(&mut buffer);
                    ready!(Pin::new(&mut self.socket).poll_read(cx, &mut bytes))?;
                    let to = bytes.filled().len();
                    if to == 0 {
                        self.end()?;
                        continue;
                    }
                    Unread { buffer, from: 0, to }
                }
            };
            unread.from += self.open(&unread.buffer[unread.from..unread.to], buf)?;
            if unread.from < unread.to {
                self.unread = Some(unread);
            }
        }
    }

    /// Feeds ciphertext to TLS and moves what opens into `buf`, until either is used up.
    fn open(&mut self, ciphertext: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut rest = ciphertext;
        while !rest.is_empty() {
            if self.tls.read_tls(&mut rest)? == 0 {
                // After close_notify nothing more is read.
                self.ended = true;
                return Ok(ciphertext.len());
            }
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => return Err(self.broken(error)),
            };
            if state.plaintext_bytes_to_read() > 0 {
                self.opened(buf)?;
                if buf.remaining() == 0 {
                    break;
                }
            }
        }
        Ok(ciphertext.len() - rest.len())
    }

    /// Moves opened plaintext into `buf`; says whether `buf` now holds something.
    fn opened(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buf.remaining() > 0 {
            let mut reader = self.tls.reader();
            // Copied from where it lies: to be read into, the whole of `buf` would have to be cleared first.
            let used = match reader.fill_buf() {
                Ok([]) => {
                    self.ended = true;
                    break;
                }
                Ok(plaintext) => {
                    let fits = plaintext.len().min(buf.remaining());
                    buf.put_slice(&plaintext[..fits]);
                    fits
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            reader.consume(used);
        }
        Ok(!buf.filled().is_empty())
    }

    fn broken(&mut self, error: rustls::Error) -> io::Error {
        self.failure = Some(error.clone());
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// The peer closed its socket: an end only if it said so in TLS before.
    fn end(&mut self) -> io::Result<()> {
        self.tls.read_tls(&mut io::empty())?;
        if let Err(error) = self.tls.process_new_packets() {
            return Err(self.broken(error));
        }
        self.ended = true;
        match self.tls.reader().read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

// === impl Transport ===

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        // What was sealed and not yet taken by the socket counts as well: a peer that does not read must
        // find an end to what we keep for it.
        if inner.sealed >= GATHER || (inner.sealed == 0 && inner.tls.wants_write()) {
            ready!(inner.poll_drain(cx))?;
        }
        Poll::Ready(Ok(inner.gather(bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !inner.closed {
            inner.closed = true;
            // What was gathered goes out before the close_notify.
            let gathered = std::mem::take(&mut inner.gathered);
            inner.tls.writer().write_all(&gathered)?;
            inner.tls.send_close_notify();
        }
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }
}

/// The socket as a blocking-style writer that says `WouldBlock` and leaves a waker behind.
struct Ready<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Ready<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = Pin::new(&mut *self.socket);
        let written = match bufs {
            // The kernel has less to do for one record that is sent than for one of a list.
            [one] => socket.poll_write(self.cx, one),
            many => socket.poll_write_vectored(self.cx, many),
        };
        match written {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
