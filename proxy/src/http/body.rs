//! What a message carries on its way through: bytes that come in as they are sent on, or a few of our own.
//! What a request occupies is given back with the last byte of its answer.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{expect::Waiting, stall::Stall};

pub type BoxError = Box<dyn Error + Send + Sync>;

pub struct Body {
    kind: Kind,
    /// When it must be over.
    deadline: Option<Pin<Box<Sleep>>>,
    /// It may not be asked for anything before this is over.
    waiting: Option<Waiting>,
    /// Told how it ended.
    watcher: Option<Box<dyn Watcher>>,
    /// What a client of a gateway has to do so that it goes on.
    owed: Option<Owed>,
}

/// A client's part in a body.
enum Owed {
    /// It sends it.
    Sending(Stall),
    /// It takes it: so many bytes were handed out to it last.
    Taking(Stall, usize),
}

enum Kind {
    Empty,
    Own(Bytes),
    Passed(Incoming),
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    /// Whoever sent it broke off.
    Broken,
    /// Whoever was to get it went away.
    Abandoned,
    TimedOut,
}

/// Sees a body go by.
pub trait Watcher: Send {
    fn passed(&mut self, bytes: usize);
    /// The last thing that it hears.
    fn ended(&mut self, end: End);
}

/// Counts what goes by, and hands it on to whoever watched before.
struct Counting {
    bytes: Arc<AtomicU64>,
    watcher: Option<Box<dyn Watcher>>,
}

impl Watcher for Counting {
    fn passed(&mut self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if let Some(watcher) = &mut self.watcher {
            watcher.passed(bytes);
        }
    }

    fn ended(&mut self, end: End) {
        if let Some(watcher) = &mut self.watcher {
            watcher.ended(end);
        }
    }
}

/// The answer was not over in time.
#[derive(Debug, thiserror::Error)]
#[error("the route's time-out came before the end of the answer")]
pub struct TooLate;

impl Body {
    pub fn empty() -> Self {
        Kind::Empty.into()
    }

    pub fn own(bytes: impl Into<Bytes>) -> Self {
        Kind::Own(bytes.into()).into()
    }

    pub fn passed(incoming: Incoming) -> Self {
        match incoming.is_end_stream() {
            true => Kind::Empty.into(),
            false => Kind::Passed(incoming).into(),
        }
    }

    pub fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        self
    }

    pub fn watched(mut self, watcher: Box<dyn Watcher>) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Counts its bytes as they go by.
    pub fn count(&mut self, bytes: Arc<AtomicU64>) {
        if self.is_passed() {
            self.watcher = Some(Box::new(Counting { bytes, watcher: self.watcher.take() }));
        }
    }

    /// The client that it comes from may not let it wait for longer than this allows.
    pub fn sent_within(mut self, stall: Stall) -> Self {
        self.owed = Some(Owed::Sending(stall));
        self
    }

    /// Nor may the client that it goes to.
    pub fn taken_within(mut self, stall: Option<Stall>) -> Self {
        if let Some(stall) = stall.filter(|_| !self.is_empty()) {
            // Nobody asks for any of it while the client has no room.
            stall.waits(Instant::now());
            self.owed = Some(Owed::Taking(stall, 0));
        }
        self
    }

    pub fn wait(&mut self, waiting: Waiting) {
        self.waiting = Some(waiting);
    }

    /// Whether it comes in as it is sent on.
    pub fn is_passed(&self) -> bool {
        matches!(self.kind, Kind::Passed(_))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty)
    }

    /// Another one like it, where it is not being passed on.
    pub fn again(&self) -> Option<Self> {
        match &self.kind {
            Kind::Empty => Some(Self::empty()),
            Kind::Own(bytes) => Some(Self::own(bytes.clone())),
            Kind::Passed(_) => None,
        }
    }

    /// Takes it in whole, where it says that it has no more than `most` bytes.
    pub async fn gathered(mut self, most: u64) -> Result<Self, BoxError> {
        use http_body_util::BodyExt;
        // What tells its size has no trailers that could be lost.
        if let Kind::Passed(incoming) = &mut self.kind
            && incoming.size_hint().upper().is_some_and(|upper| upper <= most)
        {
            if let Some(Owed::Sending(stall)) = &self.owed {
                stall.waits(Instant::now());
            }
            let bytes = incoming.collect().await?.to_bytes();
            if let Some(watcher) = &mut self.watcher {
                watcher.passed(bytes.len());
            }
            self.owed = None;
            self.end(End::Complete);
            self.kind = Kind::Own(bytes);
        }
        Ok(self)
    }

    /// Somebody wants more of it.
    fn wanted(&mut self) {
        if let Some(Owed::Taking(stall, handed)) = &mut self.owed {
            stall.moves(Instant::now(), std::mem::take(handed));
        }
    }

    /// There is more of it, or there will be.
    fn came(&mut self, frame: &Poll<Option<Result<Frame<Bytes>, BoxError>>>) {
        let Some(owed) = &mut self.owed else { return };
        let bytes = match frame {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        match owed {
            Owed::Sending(stall) if frame.is_pending() => stall.waits(Instant::now()),
            Owed::Sending(stall) => stall.moves(Instant::now(), bytes),
            Owed::Taking(stall, handed) if bytes > 0 => {
                *handed = bytes;
                stall.waits(Instant::now());
            }
            Owed::Taking(..) => {}
        }
    }

    fn end(&mut self, end: End) {
        if let Some(mut watcher) = self.watcher.take() {
            watcher.ended(end);
        }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, deadline: None, waiting: None, watcher: None, owed: None }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(waiting) = &mut self.waiting {
            let wanted = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
            if let Err(unwanted) = wanted {
                self.kind = Kind::Empty;
                self.end(End::Abandoned);
                return Poll::Ready(Some(Err(unwanted.into())));
            }
        }
        self.wanted();
        let frame = match &mut self.kind {
            Kind::Empty => None,
            Kind::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
            }
            Kind::Passed(incoming) => {
                let frame = Pin::new(incoming).poll_frame(cx).map_err(BoxError::from);
                self.came(&frame);
                if let Poll::Ready(frame) = frame {
                    frame
                } else {
                    let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                    ready!(deadline.as_mut().poll(cx));
                    self.kind = Kind::Empty;
                    self.end(End::TimedOut);
                    return Poll::Ready(Some(Err(TooLate.into())));
                }
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(watcher), Some(data)) = (&mut self.watcher, frame.data_ref()) {
                    watcher.passed(data.len());
                }
                if self.is_end_stream() {
                    self.end(End::Complete);
                }
            }
            Some(Err(_)) => self.end(End::Broken),
            None => self.end(End::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Passed(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Passed(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body that is empty may never be asked for anything.
        let end = if self.is_end_stream() { End::Complete } else { End::Abandoned };
        self.end(end);
    }
}

/// The moment in which `limit` is over, where there is one.
pub fn deadline(now: Instant, limit: Option<Duration>) -> Option<Instant> {
    limit.and_then(|limit| now.checked_add(limit))
}
