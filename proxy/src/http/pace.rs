//! How long a client may take to come to the point. A connection may rest for long between two requests, and
//! not in the middle of a request's head.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::stall::Stall;

/// From the first byte of a request's head to its last.
const HEAD: Duration = Duration::from_secs(30);
/// Until the first request.
const FIRST: Duration = Duration::from_secs(60);
/// Between two requests.
pub const IDLE: Duration = Duration::from_secs(3_600);

/// For the rest of a request's body, or with an answer that is not taken, where nothing else is said.
const STALL: Duration = Duration::from_secs(300);
/// What a client has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// The pace of one connection. Clones are the same.
#[derive(Clone)]
pub struct Pace(Arc<Inner>);

struct Inner {
    /// When the head began that is being waited for.
    begun: Mutex<Option<Instant>>,
    /// Heads that were waited for.
    heads: AtomicUsize,
    busy: watch::Sender<usize>,
    /// What is written, and not taken.
    untaken: Stall,
}

/// One more request that is under way.
pub struct Busy(Pace);

impl Default for Pace {
    fn default() -> Self {
        Self::new(STALL)
    }
}

impl Pace {
    /// `stall` is how long what is written may wait for the client.
    pub fn new(stall: Duration) -> Self {
        Self(Arc::new(Inner {
            begun: Mutex::default(),
            heads: AtomicUsize::new(0),
            busy: watch::Sender::new(0),
            untaken: Stall::new(stall),
        }))
    }

    /// The client takes no more at the moment.
    pub fn blocked(&self) {
        self.0.untaken.waits(Instant::now());
    }

    /// The client took so many bytes.
    pub fn took(&self, bytes: usize) {
        self.0.untaken.moves(Instant::now(), bytes);
    }

    /// Resolves when the client has let us wait for too long with what it asked for.
    pub async fn stalled(&self) {
        self.0.untaken.over().await;
    }

    /// Something came from the client.
    pub fn heard(&self) {
        self.0.begun.lock().get_or_insert_with(Instant::now);
    }

    pub fn enter(&self) -> Busy {
        self.0.heads.fetch_add(1, Relaxed);
        self.0.busy.send_modify(|busy| *busy += 1);
        Busy(self.clone())
    }

    /// Resolves when no request was under way for too long.
    pub async fn idle(&self) {
        self.quiet(|| self.patience()).await;
    }

    /// Resolves when a client that was told goodbye has had the time to take it.
    pub async fn over(&self) {
        self.quiet(|| GOODBYE).await;
    }

    async fn quiet(&self, patience: impl Fn() -> Duration) {
        let mut busy = self.0.busy.subscribe();
        loop {
            // The sender is here, so the channel stays open.
            let _ = busy.wait_for(|busy| *busy == 0).await;
            if time::timeout(patience(), busy.wait_for(|busy| *busy > 0)).await.is_err() {
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.0.heads.load(Relaxed) == 0 { FIRST } else { IDLE }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.send_modify(|busy| *busy -= 1);
    }
}

/// hyper asks for one timer a head, when it begins to wait for it.
impl Timer for Pace {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        *self.0.begun.lock() = None;
        let rest = Instant::now() + self.patience();
        Box::pin(Waiting { pace: self.clone(), rest, sleep: Box::pin(time::sleep_until(rest)) })
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(IDLE)
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

struct Waiting {
    pace: Pace,
    rest: Instant,
    sleep: Pin<Box<time::Sleep>>,
}

impl Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // It is polled whenever something came.
        let deadline = self.pace.0.begun.lock().map_or(self.rest, |begun| begun + HEAD);
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper::{
        Request, Response,
        body::Incoming,
        rt::{Read, ReadBufCursor, Write},
        service::service_fn,
    };
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    async fn passed(sleep: &mut Pin<Box<dyn Sleep>>, after: Duration) -> bool {
        time::advance(after).await;
        futures::poll!(sleep.as_mut()).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_rest_between_requests_and_not_within_one() {
        let pace = Pace::default();
        let mut first = pace.sleep(IDLE);
        assert!(!passed(&mut first, FIRST - Duration::from_secs(1)).await);
        assert!(passed(&mut first, Duration::from_secs(2)).await);
        drop(pace.enter());
        let mut second = pace.sleep(IDLE);
        assert!(!passed(&mut second, IDLE / 2).await);
        pace.heard();
        assert!(!passed(&mut second, HEAD / 2).await);
        // Dripping on does not help.
        pace.heard();
        assert!(passed(&mut second, HEAD).await);
        let mut third = pace.sleep(IDLE);
        assert!(!passed(&mut third, IDLE / 2).await, "what came before says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends() {
        let pace = Pace::default();
        let began = Instant::now();
        pace.idle().await;
        assert_eq!(began.elapsed(), FIRST);
        let busy = pace.enter();
        let idle = pace.idle();
        tokio::pin!(idle);
        time::advance(2 * IDLE).await;
        assert!(futures::poll!(&mut idle).is_pending(), "a request may take as long as it wants");
        drop(busy);
        let began = Instant::now();
        idle.await;
        assert_eq!(began.elapsed(), IDLE);
        let began = Instant::now();
        pace.over().await;
        assert_eq!(began.elapsed(), GOODBYE);
    }

    /// A client's stream, as the gateway listens to it.
    struct Heard(TokioIo<DuplexStream>, Pace);

    impl Read for Heard {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(cx, buf);
            if read.is_ready() {
                self.1.heard();
            }
            read
        }
    }

    impl Write for Heard {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hyper_keeps_this_pace() {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let (mut client, server) = tokio::io::duplex(4096);
        let pace = Pace::default();
        let heard = Heard(TokioIo::new(server), pace.clone());
        let serves = pace.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let _busy = serves.enter();
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(pace).header_read_timeout(IDLE);
        let served = tokio::spawn(builder.serve_connection(heard, service).into_future());
        let mut answer = [0; 1024];
        for _ in 0..2 {
            time::sleep(IDLE.min(FIRST) - Duration::from_secs(1)).await;
            client.write_all(REQUEST).await.unwrap();
            assert!(client.read(&mut answer).await.unwrap() > 0);
            time::sleep(IDLE / 2).await;
        }
        // A head that drips.
        let began = Instant::now();
        for byte in REQUEST {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            time::sleep(Duration::from_secs(5)).await;
        }
        assert!(served.await.unwrap().is_err_and(|error| error.is_timeout()));
        assert!(began.elapsed() <= HEAD + Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
