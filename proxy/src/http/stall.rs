//! How long a client may keep a gateway waiting in the middle of a request: for more of its body, and with an
//! answer that it does not take. An application that says nothing for hours is no matter of its client's, so
//! only the time counts in which there is something to come or to go.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use super::answer::speaks_grpc;

/// Bytes for which a client is given a second back: who is slow goes on for ever, and who drips does not.
const PACE: usize = 512;
/// How often at most it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Clones are the same.
#[derive(Clone, Debug)]
pub struct Stall(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is left of the patience.
    left: Duration,
    /// Since when the client is waited for, if it is.
    since: Option<Instant>,
}

/// What one request may wait for: its client sending it, and taking its answer.
#[derive(Clone, Debug)]
pub struct Stalls {
    /// Nothing, where the two may talk as slowly as they want from the beginning.
    pub sending: Option<Stall>,
    pub taking: Stall,
}

impl Stalls {
    /// In gRPC a call is a conversation: its client may have to wait for something to say, and its application
    /// answers nothing before it has.
    pub fn new(patience: Duration, headers: &HeaderMap) -> Self {
        let sending = (!speaks_grpc(headers)).then(|| Stall::new(patience));
        Self { sending, taking: Stall::new(patience) }
    }
}

impl Stall {
    pub fn new(patience: Duration) -> Self {
        Self(Arc::new(Inner { patience, state: Mutex::new(State { left: patience, since: None }) }))
    }

    /// It is the client's turn.
    pub fn waits(&self, now: Instant) {
        self.0.state.lock().since.get_or_insert(now);
    }

    /// The client did its part, of so many bytes.
    pub fn moves(&self, now: Instant, bytes: usize) {
        let mut state = self.0.state.lock();
        let waited = state.since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        let earned = Duration::from_secs_f64(bytes as f64 / PACE as f64);
        state.left = state.left.saturating_sub(waited).saturating_add(earned).min(self.0.patience);
    }

    /// When it could be over at the earliest; nothing where it is.
    fn ends(&self, now: Instant) -> Option<Instant> {
        let state = self.0.state.lock();
        let end = state.since.unwrap_or(now) + state.left;
        (state.since.is_none() || end > now).then_some(end)
    }

    /// Resolves when the client was waited for too long.
    pub async fn over(&self) {
        loop {
            let now = Instant::now();
            let Some(end) = self.ends(now) else { return };
            time::sleep_until(end.max(now + LOOK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(300);

    /// How long a client lasts that does its part, of so many bytes, every `pause`.
    async fn lasts(pause: Duration, bytes: usize) -> Option<Duration> {
        let (stall, began) = (Stall::new(PATIENCE), Instant::now());
        let goes_on = async {
            loop {
                stall.waits(Instant::now());
                time::sleep(pause).await;
                stall.moves(Instant::now(), bytes);
            }
        };
        tokio::select! {
            () = goes_on => None,
            () = stall.over() => Some(began.elapsed()),
            () = time::sleep(100 * PATIENCE) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_goes_on_and_who_drips_does_not() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(10 * second, PACE * 10).await, None, "it keeps pace");
        assert_eq!(lasts(PATIENCE - second, PACE * 300).await, None, "a pause is no stall");
        let dripped = lasts(5 * second, 1).await.expect("it goes on for ever");
        assert!(dripped < PATIENCE + 6 * second, "{dripped:?}");
        let silent = lasts(2 * PATIENCE, 1 << 20).await.expect("it goes on for ever");
        assert!(silent <= PATIENCE + second, "{silent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_the_clients_does_not_count() {
        let stall = Stall::new(PATIENCE);
        let over = stall.over();
        tokio::pin!(over);
        for _ in 0..10 {
            stall.waits(Instant::now());
            time::sleep(Duration::from_secs(20)).await;
            stall.moves(Instant::now(), 0);
            // The application thinks.
            time::sleep(24 * 12 * PATIENCE).await;
            assert!(futures::poll!(&mut over).is_pending());
        }
        stall.waits(Instant::now());
        let began = Instant::now();
        over.await;
        assert_eq!(began.elapsed(), Duration::from_secs(100));
    }
}
