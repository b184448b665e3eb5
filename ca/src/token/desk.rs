//! The threads that call into the module, and the queue before them: bounded in number, in length and in
//! how long anybody waits.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use trellis_pki::{algorithm::Algorithm, key::PublicKey};

use super::{TokenError, TokenSpec, module::Module};

/// Sessions that the token is asked to keep, and threads that use them.
const SESSIONS: usize = 4;
/// Requests that wait at once; each belongs to somebody who waits as well.
const QUEUE: usize = 64;
/// The longest that anybody waits. An ML-DSA signature takes a token some milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the token is asked for.
#[derive(Debug)]
pub enum Work {
    Look,
    Make { id: String, label: String, algorithm: Algorithm },
    Sign { id: String, algorithm: Algorithm, message: Vec<u8> },
    Destroy { id: String },
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    Looked,
    Made(PublicKey),
    Signed(Vec<u8>),
    Destroyed,
}

type Answer = Result<Done, TokenError>;

struct Job {
    work: Work,
    until: Instant,
    answer: SyncSender<Answer>,
}

/// Where work is handed in. Dropping it closes the module.
pub struct Desk {
    /// There until it is dropped.
    jobs: Option<SyncSender<Job>>,
    waiting: Arc<AtomicUsize>,
    failure: Option<String>,
    /// Ends when no thread is left.
    left: Mutex<Receiver<Infallible>>,
}

impl Desk {
    pub fn open(spec: TokenSpec) -> Self {
        let (jobs, queue) = sync_channel(QUEUE);
        let (queue, module) = (Arc::new(Mutex::new(queue)), Arc::new(Module::new(spec)));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (here, left) = sync_channel(0);
        let mut failure = None;
        for number in 0..SESSIONS {
            let (queue, module, waiting) = (queue.clone(), module.clone(), waiting.clone());
            let here = here.clone();
            let thread = thread::Builder::new().name(format!("token-{number}"));
            let work = move || {
                work_off(&queue, &module, &waiting);
                if let Some(module) = Arc::into_inner(module) {
                    module.close();
                }
                drop(here);
            };
            if let Err(error) = thread.spawn(work) {
                failure = Some(error.to_string());
            }
        }
        Self { jobs: Some(jobs), waiting, failure, left: Mutex::new(left) }
    }

    /// Blocks until there is an answer, or until it is too late for one.
    pub fn ask(&self, work: Work) -> Answer {
        if let Some(failure) = &self.failure {
            return Err(TokenError::Setup(format!("no thread for the token: {failure}")));
        }
        let (answer, answered) = sync_channel(1);
        let job = Job { work, until: Instant::now() + PATIENCE, answer };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.jobs.as_ref().is_none_or(|jobs| jobs.try_send(job).is_err()) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(TokenError::Busy(self.waiting.load(Ordering::Relaxed)));
        }
        match answered.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(TokenError::Silent(PATIENCE))
            }
        }
    }
}

impl Drop for Desk {
    /// Nobody may be inside the module when the process ends: what the module's own library does then takes
    /// its memory from under them.
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.left.get_mut().recv_timeout(PATIENCE);
    }
}

fn work_off(queue: &Mutex<Receiver<Job>>, module: &Module, waiting: &AtomicUsize) {
    loop {
        let next = queue.lock().recv();
        let Ok(job) = next else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        // Whoever asked has gone: it would be work for nobody, before those who still wait.
        if Instant::now() > job.until {
            continue;
        }
        let done = module.perform(&job.work);
        let _ = job.answer.send(done);
    }
}

impl Work {
    /// For logs and metrics.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Make { .. } => "make",
            Self::Sign { .. } => "sign",
            Self::Destroy { .. } => "destroy",
        }
    }
}
