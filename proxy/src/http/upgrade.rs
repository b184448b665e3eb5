//! A connection that stops speaking HTTP, such as a WebSocket: from then on bytes are carried.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};
use tracing::debug;

use super::io::{Far, FarEnd, Near, together};
use crate::{
    ledger::Flow,
    relay::{Begun, End, Relay},
    scratch, sealed,
};

/// How long a stream of HTTP/2 may be at rest of which one side has ended.
const HALF: Duration = Duration::from_secs(300);
/// What a stream of HTTP/2 is handed at once: the library keeps up to four of them.
const PIECE: usize = 16 * 1024;
/// What is taken of it while the other side takes nothing. Small pieces that wait in the library cost more than
/// their bytes, and too many of them the connection with all that is on it.
const MERGED: usize = 64 * 1024;

/// Carries bytes between the two once both have left HTTP. `held` is given back when that is over.
pub fn carry(near: OnUpgrade, far: OnUpgrade, held: impl Send + 'static) {
    tokio::spawn(async move {
        let _held = held;
        let (near, far) = match tokio::try_join!(near, far) {
            Ok((near, far)) => (near, far),
            Err(error) => return debug!(%error, "no upgrade, although the application agreed"),
        };
        let (near, far) = (near_end(near), far_end(far));
        let streamed = near.streamed || far.streamed;
        // Once it is taken apart, nobody else counts what goes by.
        let relay = Relay::new(near.end, far.end, |outward, data: &Bytes| {
            if let Some(flow) = &far.flow {
                flow.add(outward, data.len());
            }
        });
        if let Err(error) = relayed(relay, streamed).await {
            debug!(%error, "upgraded connection broke");
        }
    });
}

/// Carries to the end. One side of a stream of HTTP/2 may have been cut off without showing that, and of the
/// other nothing more may ever come.
async fn relayed<N: End, F: End, M: Fn(bool, &Bytes) + Unpin>(
    mut relay: Relay<N, F, M>,
    streamed: bool,
) -> io::Result<()> {
    if !streamed {
        return relay.await;
    }
    loop {
        let (before, half) = (relay.moves(), relay.is_half());
        tokio::select! {
            biased;
            done = &mut relay => return done,
            () = time::sleep(HALF) => {}
        }
        if half && relay.moves() == before {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

struct Side {
    end: FarEnd,
    /// Where what goes by is to be counted, where nobody else does.
    flow: Option<Arc<Flow>>,
    /// It is a stream of HTTP/2.
    streamed: bool,
}

fn near_end(upgraded: Upgraded) -> Side {
    match upgraded.downcast::<Near>() {
        Ok(parts) => Side { end: Box::new(parts.io.into_end(parts.read_buf)), flow: None, streamed: false },
        Err(upgraded) => stream(upgraded),
    }
}

fn far_end(upgraded: Upgraded) -> Side {
    match upgraded.downcast::<Far>() {
        Ok(parts) => {
            let (unread, end, flow) = parts.io.into_end();
            let end = Begun::new(together(parts.read_buf, unread), end);
            Side { end: Box::new(end), flow, streamed: false }
        }
        // The connection beneath it counts.
        Err(upgraded) => stream(upgraded),
    }
}

fn stream(upgraded: Upgraded) -> Side {
    Side { end: Box::new(Stream::new(TokioIo::new(upgraded))), flow: None, streamed: true }
}

/// A stream of HTTP/2 out of its server, or its client.
struct Stream<S> {
    stream: S,
    /// Taken, and not yet passed on.
    held: usize,
    /// Nothing more was read.
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    fn new(stream: S) -> Self {
        Self { stream, held: 0, ended: false }
    }

    /// An end, unless it was a reset: to who reads, the library shows both as the same, and to who writes it
    /// tells, a turn later.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.ended {
            self.ended = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(None)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> End for Stream<S> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.ended {
            return self.poll_end(cx);
        }
        let mut scratch = scratch::lend();
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        match buf.filled() {
            [] => self.poll_end(cx),
            read => {
                self.held += read.len();
                Poll::Ready(Ok(Some(Bytes::copy_from_slice(read))))
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    fn is_framed(&self) -> bool {
        self.held < MERGED
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        while !data.is_empty() {
            let piece = data.len().min(PIECE);
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &data[..piece]))?;
            let _ = data.split_to(sent);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        sealed::finish(&mut self.stream, cx)
    }

    /// All that the library can do is to end it.
    fn abort(&mut self) {}
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Both applications, and what carries between them.
    fn carried() -> (DuplexStream, DuplexStream, impl Future<Output = io::Result<()>>) {
        let ((near, inner), (far, outer)) = (duplex(1024), duplex(1024));
        let relay = Relay::new(Stream::new(inner), Stream::new(outer), |_: bool, _: &Bytes| {});
        (near, far, relayed(relay, true))
    }

    #[tokio::test(start_paused = true)]
    async fn a_websocket_may_say_nothing_for_days() {
        let (mut near, mut far, relay) = carried();
        tokio::pin!(relay);
        assert!(poll!(&mut relay).is_pending());
        for _ in 0..3 {
            tokio::select! {
                ended = &mut relay => panic!("{ended:?}"),
                () = time::sleep(24 * 12 * HALF) => {}
            }
            near.write_all(b"there?").await.unwrap();
            let mut heard = [0; 6];
            tokio::select! {
                ended = &mut relay => panic!("{ended:?}"),
                read = far.read_exact(&mut heard) => assert!(read.is_ok()),
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_waits_in_one_piece_of_some_size() {
        let ((mut near, inner), (outer, _far)) = (duplex(8), duplex(1));
        let mut relay = Relay::new(Stream::new(inner), Stream::new(outer), |_: bool, _: &Bytes| {});
        let filling = async {
            let mut sent = 0;
            loop {
                if let Poll::Ready(written) = poll!(std::pin::pin!(near.write(b"tiny"))) {
                    sent += written.unwrap();
                    continue;
                }
                let before = relay.moves();
                assert!(poll!(&mut relay).is_pending());
                if relay.moves() == before {
                    return sent;
                }
            }
        };
        let sent = tokio::task::unconstrained(filling).await;
        assert!((MERGED..=MERGED + 16).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_one_lasts_while_something_comes() {
        let (mut near, mut far, relay) = carried();
        tokio::pin!(relay);
        near.shutdown().await.unwrap();
        let mut heard = [0; 1];
        for _ in 0..10 {
            far.write_all(b"x").await.unwrap();
            tokio::select! {
                ended = &mut relay => panic!("{ended:?}"),
                read = near.read_exact(&mut heard) => assert!(read.is_ok()),
            }
            tokio::select! {
                ended = &mut relay => panic!("{ended:?}"),
                () = time::sleep(HALF / 2) => {}
            }
        }
        let begun = time::Instant::now();
        assert_eq!(relay.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() <= 2 * HALF, "{:?}", begun.elapsed());
    }
}
