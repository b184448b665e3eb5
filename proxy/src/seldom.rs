//! Futures that hardly ever have anything to say, beside one that is polled for every message. Polled with it
//! each time they would cost more than the message itself.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Polls what is within only when that asked for it, whatever else wakes the task.
pub struct Seldom<F> {
    bell: Arc<Bell>,
    /// The bell as a waker, which is made once.
    waker: Waker,
    within: F,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl<F: Future + Unpin> Seldom<F> {
    pub fn new(within: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: bell.clone().into(), bell, within }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // In this order: who rings from now on wakes this task.
        self.bell.task.register(cx.waker());
        if !self.bell.rung.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let Self { waker, within, .. } = &mut *self;
        Pin::new(within).poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_asks_and_at_no_other_time() {
        let (notify, polls) = (Notify::new(), Cell::new(0));
        let mut notified = std::pin::pin!(notify.notified());
        let mut seldom = Seldom::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            notified.as_mut().poll(cx)
        }));
        for _ in 0..10 {
            assert!(futures::poll!(&mut seldom).is_pending());
        }
        assert_eq!(polls.get(), 1);
        notify.notify_waiters();
        seldom.await;
        assert_eq!(polls.get(), 2);
    }

    #[tokio::test]
    async fn who_rings_from_another_thread_is_heard() {
        for _ in 0..200 {
            let (ring, rung) = tokio::sync::oneshot::channel::<()>();
            let other = std::thread::spawn(move || ring.send(()));
            Seldom::new(rung).await.unwrap();
            other.join().unwrap().unwrap();
        }
    }
}
