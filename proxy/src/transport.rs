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
/// Writes of one turn from which on the next one waits for more.
const CROWD: usize = 4;
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
    /// How often something was gathered in this turn, whether that was often in the last one, and whether it has
    /// waited for more.
    writes: usize,
    crowded: bool,
    waited: bool,
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
        writes: 0,
        crowded: false,
        waited: false,
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
        self.drain.end_turn(cx, turn.is_ready());
        turn
    }
}

// === impl Drain ===

impl Drain {
    /// Seals what was gathered and sends what the socket takes; pending while some is left.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }

    /// The same at the end of a turn of the connection, which may be its `last`. Where the turn before had much to send,
    /// more is to come in this one from whoever is ready to say something: it goes along once they have had their turn,
    /// for which this one is taken again.
    pub fn end_turn(&self, cx: &mut Context<'_>, last: bool) {
        let mut inner = self.0.lock();
        if !last && inner.waits_for_more() {
            cx.waker().wake_by_ref();
            return;
        }
        // A failure to send shows at the connection's next read or write.
        let _ = inner.poll_drain(cx);
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

    /// Once at most for what was gathered first. Turns in which nothing was say nothing of the next one.
    fn waits_for_more(&mut self) -> bool {
        if self.gathered.is_empty() {
            return false;
        }
        self.waited = !self.waited && self.crowded;
        if !self.waited {
            self.crowded = self.writes >= CROWD;
            self.writes = 0;
        }
        self.waited
    }

    /// Takes plaintext for the end of the turn. What fills records is sealed where it lies.
    fn gather(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        let written = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        self.writes += 1;
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
        task::Wake,
    };

    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, pki_types::ServerName,
    };
    use tokio::{io::AsyncReadExt, net::TcpListener};
    use trellis_pki::{provider, public::KeyExchange};

    use super::*;

    /// Two ends of one connection in TLS, after their handshake.
    fn pair() -> (Connection, Connection) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["peer.example".to_owned()]).unwrap();
        let provider = provider::public(KeyExchange::Prefer);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], signing_key.into())
            .unwrap();
        let name = ServerName::try_from("peer.example").unwrap();
        let mut ends: (Connection, Connection) = (
            ClientConnection::new(Arc::new(client), name).unwrap().into(),
            ServerConnection::new(Arc::new(server)).unwrap().into(),
        );
        while ends.0.is_handshaking() || ends.1.is_handshaking() {
            carry(&mut ends.0, &mut ends.1);
            carry(&mut ends.1, &mut ends.0);
        }
        ends
    }

    fn carry(from: &mut Connection, to: &mut Connection) {
        let mut wire = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            to.read_tls(&mut wire).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn where_much_was_said_the_next_turn_waits_once_for_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let (tls, mut other) = pair();
        let (mut transport, drain) = new(socket, tls);
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        let mut say = |times: usize, last: bool| {
            for _ in 0..times {
                assert!(matches!(Pin::new(&mut transport).poll_write(&mut cx, b"word "), Poll::Ready(Ok(5))));
            }
            let before = woken.0.load(Relaxed);
            drain.end_turn(&mut cx, last);
            woken.0.load(Relaxed) - before
        };
        assert_eq!([say(1, false), say(1, false)], [0, 0], "little is sent at once");
        assert_eq!(say(CROWD, false), 0, "nothing says yet that more is to come");
        assert_eq!(say(1, false), 1, "it takes another turn");
        assert_eq!(say(2, false), 0, "but only one, and all goes at once");
        assert_eq!(say(1, false), 0, "there was little more");
        assert_eq!([say(CROWD, false), say(1, true)], [0, 0], "the last turn waits for nothing");
        let mut heard = Vec::new();
        let mut records = 0;
        while heard.len() < 5 * (2 + CROWD + 3 + 1 + CROWD + 1) {
            let mut head = [0; 5];
            peer.read_exact(&mut head).await.unwrap();
            let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            peer.read_exact(&mut record).await.unwrap();
            other.read_tls(&mut [&head[..], &record].concat().as_slice()).unwrap();
            let state = other.process_new_packets().unwrap();
            records += 1;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            other.reader().read_exact(&mut plain).unwrap();
            heard.extend(plain);
        }
        assert_eq!(records, 7, "a record for each turn that sent");
    }
}
