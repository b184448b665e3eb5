//! Issuing keys in a PKCS#11 token: made there, used there, destroyed there. What calls into the module
//! are a few threads of its own, so that a token that hangs holds up nothing but itself.

mod desk;
mod module;
mod object;
mod pin;
mod signer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use trellis_pki::{algorithm::Algorithm, key::PublicKey, signer::Signer};
use trellis_telemetry::{
    Counter, Family, Gauge, Registry,
    health::Health,
    shutdown::{Shutdown, requested},
};

use self::{
    desk::{Desk, Done, Work},
    signer::TokenSigner,
};

/// The health condition that holds while the token answers.
pub const CONDITION: &str = "token";
/// Between two looks at a token that answered, and at one that did not.
const GLANCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Which token, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The PKCS#11 module, a shared library.
    pub module: PathBuf,
    pub label: String,
    pub pin_file: PathBuf,
}

/// Why the token did not do what it was asked for. None of the texts holds a PIN.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("{0}")]
    Setup(String),
    #[error("token-pin-file {file}: {reason}")]
    PinFile { file: String, reason: String },
    #[error(
        "the token {label:?} refused the PIN of {file}: correct the file; until it changes, the PIN is not tried \
         again, since a token locks after a few wrong ones"
    )]
    PinRefused { label: String, file: String },
    #[error(
        "the token {label:?} has locked its PIN: unlock it as its security officer, then write the PIN to {file} \
         anew"
    )]
    PinLocked { label: String, file: String },
    #[error("no token labelled {label:?} is there, only {found}: put it in, or correct --token-label")]
    Absent { label: String, found: String },
    #[error("{0} tokens are labelled {1:?}: give each its own label")]
    Ambiguous(usize, String),
    #[error("the token does not know {algorithm}: {reason}; choose an algorithm that it has")]
    Unsupported { algorithm: &'static str, reason: String },
    #[error(
        "the token holds no key with the ID {0}: put in the token that has it, or restore it from its backup"
    )]
    Missing(String),
    #[error("the token's answer to {what} is wrong: {reason}")]
    Faulty { what: &'static str, reason: String },
    #[error("the token failed to {what}: {reason}")]
    Failed { what: &'static str, reason: String },
    #[error("the token did not answer within {0:?}; it is asked again as soon as it does")]
    Silent(Duration),
    #[error("{0} requests wait for the token already: try again in a moment")]
    Busy(usize),
}

/// The token. Clones are the same.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    label: String,
    desk: Desk,
    standing: watch::Sender<Result<(), TokenError>>,
    metrics: Metrics,
}

impl Token {
    /// Nothing is asked of the module before the first use.
    pub fn new(spec: TokenSpec, registry: &Registry) -> Self {
        let label = spec.label.clone();
        let standing = watch::Sender::new(Err(TokenError::Setup("the token was not asked yet".to_owned())));
        Self(Arc::new(Inner { label, desk: Desk::open(spec), standing, metrics: Metrics::new(registry) }))
    }

    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// The public half of the key with this ID, made first if it is not there.
    pub async fn make(&self, id: &str, label: &str, algorithm: Algorithm) -> Result<PublicKey, TokenError> {
        let work = Work::Make { id: id.to_owned(), label: label.to_owned(), algorithm };
        match self.ask(work).await? {
            Done::Made(public) => Ok(public),
            _ => Err(TokenError::Faulty { what: "make a key", reason: "it is another answer".to_owned() }),
        }
    }

    /// Destroys both halves of a key; one that is gone already is fine.
    pub async fn destroy(&self, id: &str) -> Result<(), TokenError> {
        self.ask(Work::Destroy { id: id.to_owned() }).await.map(|_| ())
    }

    /// The key with this ID, which is only looked for when it signs.
    pub fn signer(&self, id: &str, public: PublicKey) -> Arc<dyn Signer> {
        Arc::new(TokenSigner::new(self.clone(), id, public))
    }

    /// Waits until the token answers, and tells why it does not.
    pub async fn ready(&self, health: &Health, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        while !self.look(health).await {
            tokio::select! {
                () = &mut stop => return,
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Looks at the token from time to time, so that its return is noticed by itself.
    pub async fn watch(self, health: Health, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let mut standing = self.0.standing.subscribe();
        loop {
            let pause = if self.look(&health).await { GLANCE } else { RETRY };
            standing.borrow_and_update();
            tokio::select! {
                () = &mut stop => return,
                () = sleep(pause) => {}
                Ok(()) = standing.changed() => {}
            }
        }
    }

    async fn look(&self, health: &Health) -> bool {
        let looked = self.ask(Work::Look).await.map(|_| ());
        health.set(CONDITION, looked.clone().map_err(|error| error.to_string()));
        looked.is_ok()
    }

    async fn ask(&self, work: Work) -> Result<Done, TokenError> {
        let this = self.clone();
        match spawn_blocking(move || this.ask_here(work)).await {
            Ok(done) => done,
            Err(error) => Err(TokenError::Setup(error.to_string())),
        }
    }

    /// Asks from a thread that may wait.
    fn ask_here(&self, work: Work) -> Result<Done, TokenError> {
        let what = work.what();
        let done = self.0.desk.ask(work);
        let outcome = if done.is_ok() { "ok" } else { "failed" };
        self.0.metrics.operations.with(&[("operation", what), ("outcome", outcome)]).inc();
        // These say nothing about the token as a whole.
        if let Err(TokenError::Busy(_) | TokenError::Unsupported { .. }) = &done {
            return done;
        }
        let standing = done.as_ref().map(|_| ()).map_err(Clone::clone);
        self.0.metrics.up.set(f64::from(u8::from(standing.is_ok())));
        self.0.standing.send_if_modified(|before| {
            let changed = *before != standing;
            *before = standing;
            changed
        });
        done
    }

    /// Signs, unless the token is known not to: then the reason comes at once, and nobody queues.
    fn sign(&self, id: &str, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        if let Err(error) = &*self.0.standing.borrow() {
            let untried =
                matches!(error, TokenError::Setup(_) | TokenError::Busy(_) | TokenError::Missing(_));
            if !untried {
                return Err(error.clone());
            }
        }
        match self.ask_here(Work::Sign { id: id.to_owned(), algorithm, message: message.to_vec() })? {
            Done::Signed(signature) => Ok(signature),
            _ => Err(TokenError::Faulty { what: "sign", reason: "it is another answer".to_owned() }),
        }
    }
}

struct Metrics {
    up: Gauge,
    operations: Family<Counter>,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            up: registry.gauge("trellis_ca_token_up", "1 while the PKCS#11 token answers.").with(&[]),
            operations: registry.counter(
                "trellis_ca_token_operations_total",
                "What the PKCS#11 token was asked for, by operation and outcome.",
            ),
        }
    }
}
