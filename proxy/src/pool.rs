//! Keeps what is dear to make, one set per key, and makes a missing one only once however many ask for
//! it at the same time. The lock is never held while something is being made.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub struct Pool<K, T, E> {
    slots: Arc<Mutex<HashMap<K, Slot<T, E>>>>,
}

struct Slot<T, E> {
    ready: Vec<T>,
    /// Present while one is being made: those who wait for it.
    waiting: Option<Vec<oneshot::Sender<Result<(), E>>>>,
}

/// Why there is none although nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The task that was making it is gone; only a shutting-down runtime does that.
    #[error("the proxy is shutting down")]
    Abandoned,
    /// Whatever was made was of no use by the time it was there.
    #[error("what was made did not last until it was used")]
    Unsettled,
}

/// How often one caller waits for a making before it gives up.
const MAKINGS: usize = 8;

impl<K, T, E> Clone for Pool<K, T, E> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone() }
    }
}

impl<K, T, E> Default for Pool<K, T, E> {
    fn default() -> Self {
        Self { slots: Arc::default() }
    }
}

impl<K, T, E> Pool<K, T, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + 'static,
    E: Clone + From<Unavailable> + Send + 'static,
{
    /// Takes from one that is ready, or waits for one to be made. What `keep` denies is dropped first.
    pub async fn get<R, F>(
        &self,
        key: &K,
        keep: impl Fn(&T) -> bool,
        take: impl Fn(&T) -> Option<R>,
        make: impl Fn() -> F,
    ) -> Result<R, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        for _ in 0..MAKINGS {
            let made = {
                let mut slots = self.slots.lock();
                let slot =
                    slots.entry(key.clone()).or_insert_with(|| Slot { ready: Vec::new(), waiting: None });
                slot.ready.retain(|one| keep(one));
                if let Some(taken) = slot.ready.iter().find_map(&take) {
                    return Ok(taken);
                }
                let (done, made) = oneshot::channel();
                match &mut slot.waiting {
                    Some(waiting) => waiting.push(done),
                    none => {
                        *none = Some(vec![done]);
                        self.spawn(key.clone(), make());
                    }
                }
                made
            };
            made.await.unwrap_or_else(|_| Err(Unavailable::Abandoned.into()))?;
        }
        Err(Unavailable::Unsettled.into())
    }

    /// Drops what `keep` denies, and keys that hold nothing.
    pub fn sweep(&self, keep: impl Fn(&T) -> bool) {
        self.slots.lock().retain(|_, slot| {
            slot.ready.retain(|one| keep(one));
            !slot.ready.is_empty() || slot.waiting.is_some()
        });
    }

    /// The making is a task of its own: it goes on when the first who asked gives up.
    fn spawn<F>(&self, key: K, make: F)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut making = Making { slots: self.slots.clone(), key, unfinished: true };
        tokio::spawn(async move {
            let result = make.await;
            let waiting = {
                let slots = making.slots.clone();
                let mut slots = slots.lock();
                making.unfinished = false;
                let Some(slot) = slots.get_mut(&making.key) else { return };
                let result = result.map(|one| slot.ready.push(one));
                slot.waiting.take().map(|waiting| (waiting, result))
            };
            if let Some((waiting, result)) = waiting {
                for one in waiting {
                    // Whoever gave up does not listen.
                    let _ = one.send(result.clone());
                }
            }
        });
    }
}

/// Opens the slot again when the making ended without a result, so that the next one may try.
struct Making<K: Eq + Hash, T, E> {
    slots: Arc<Mutex<HashMap<K, Slot<T, E>>>>,
    key: K,
    unfinished: bool,
}

impl<K: Eq + Hash, T, E> Drop for Making<K, T, E> {
    fn drop(&mut self) {
        if !self.unfinished {
            return;
        }
        if let Some(slot) = self.slots.lock().get_mut(&self.key) {
            slot.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Failure {
        Unavailable(Unavailable),
        Refused,
    }

    impl From<Unavailable> for Failure {
        fn from(why: Unavailable) -> Self {
            Self::Unavailable(why)
        }
    }

    type Numbers = Pool<&'static str, usize, Failure>;

    #[tokio::test]
    async fn a_hundred_who_ask_at_once_cost_one_making() {
        let pool = Numbers::default();
        let (made, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let asked = join_all((0..100).map(|_| {
            pool.get(
                &"peer",
                |_| true,
                |one| Some(*one),
                || {
                    let (made, gate) = (made.clone(), gate.clone());
                    async move {
                        gate.notified().await;
                        Ok(made.fetch_add(1, SeqCst))
                    }
                },
            )
        }));
        gate.notify_one();
        assert!(asked.await.iter().all(|got| *got == Ok(0)));
        assert_eq!(made.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failure_reaches_all_who_wait_and_the_next_one_tries_again() {
        let pool = Numbers::default();
        let refuse = || async { Err(Failure::Refused) };
        let asked = join_all((0..3).map(|_| pool.get(&"peer", |_| true, |one| Some(*one), refuse)));
        assert!(asked.await.iter().all(|got| *got == Err(Failure::Refused)));
        let got = pool.get(&"peer", |_| true, |one| Some(*one), || async { Ok(7) }).await;
        assert_eq!(got, Ok(7));
    }

    #[tokio::test]
    async fn the_making_goes_on_when_the_first_who_asked_gives_up() {
        let pool = Numbers::default();
        let gate = Arc::new(Notify::new());
        let make = || {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(1)
            }
        };
        let first = pool.get(&"peer", |_| true, |one| Some(*one), make);
        assert!(futures::poll!(std::pin::pin!(first)).is_pending());
        gate.notify_one();
        let second = pool.get(&"peer", |_| true, |one| Some(*one), || async { Ok(2) });
        assert_eq!(second.await, Ok(1));
    }

    #[tokio::test]
    async fn what_never_lasts_is_not_made_for_ever() {
        let (pool, made) = (Numbers::default(), Arc::new(AtomicUsize::new(0)));
        let make = || {
            let made = made.clone();
            async move { Ok(made.fetch_add(1, SeqCst)) }
        };
        let got = pool.get(&"peer", |_| false, |one| Some(*one), make).await;
        assert_eq!(got, Err(Failure::Unavailable(Unavailable::Unsettled)));
        assert_eq!(made.load(SeqCst), MAKINGS);
    }

    #[tokio::test]
    async fn what_is_no_longer_kept_is_made_anew_and_swept() {
        let pool = Numbers::default();
        let get = |keep: fn(&usize) -> bool, new| {
            let pool = pool.clone();
            async move { pool.get(&"peer", keep, |one| Some(*one), || async move { Ok(new) }).await }
        };
        assert_eq!(get(|_| true, 1).await, Ok(1));
        assert_eq!(get(|one| *one > 1, 2).await, Ok(2));
        pool.sweep(|_| false);
        assert!(pool.slots.lock().is_empty());
    }
}
