//! Asks for a renewal now. However many ask at once, one certificate is issued, and all are told.

use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

/// More callers than this at once are a mistake, not a need.
const MAX_WAITING: usize = 1_024;

/// Which certificate took the place of which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    pub identity: String,
    pub serial_before: Option<String>,
    pub serial_after: String,
    pub algorithm_before: Option<String>,
    pub algorithm_after: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RotateError {
    /// The certificate that was there before stays.
    #[error("no new certificate: {0}")]
    Failed(String),
    #[error("more than {MAX_WAITING} callers wait for a new certificate already")]
    TooMany,
    #[error("the process is stopping")]
    Stopped,
}

type Answer = Result<Rotated, RotateError>;

/// Triggers rotations. Clones trigger the same.
#[derive(Clone, Default)]
pub struct Rotator(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    wanted: Notify,
}

#[derive(Default)]
struct Waiting {
    callers: Vec<oneshot::Sender<Answer>>,
    stopped: bool,
}

impl Rotator {
    /// Renews at once, with a fresh key. Joins a renewal that is under way.
    pub async fn rotate_now(&self) -> Answer {
        let (caller, answer) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.stopped {
                return Err(RotateError::Stopped);
            }
            if waiting.callers.len() >= MAX_WAITING {
                return Err(RotateError::TooMany);
            }
            waiting.callers.push(caller);
        }
        self.0.wanted.notify_one();
        answer.await.unwrap_or(Err(RotateError::Stopped))
    }

    /// Resolves when somebody waits.
    pub(super) async fn wanted(&self) {
        loop {
            self.0.wanted.notified().await;
            if !self.0.waiting.lock().callers.is_empty() {
                return;
            }
        }
    }

    pub(super) fn answer(&self, answer: &Answer) {
        for caller in std::mem::take(&mut self.0.waiting.lock().callers) {
            // A caller that left needs no answer.
            let _ = caller.send(answer.clone());
        }
    }

    /// Nobody renews any more.
    pub(super) fn stop(&self) {
        let mut waiting = self.0.waiting.lock();
        waiting.stopped = true;
        waiting.callers.clear();
    }
}
