//! Where the certificate of a pending key comes from, and what stands in its way.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::openbao::OpenBao;

const FIRST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// How it stands with the pending key, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signing {
    #[default]
    Idle,
    /// Somebody has to sign the request.
    Awaits,
    /// What came back cannot be used.
    Refused(String),
    /// Who signs cannot be asked, or will not.
    Unavailable(String),
    /// The key is in a token that does not do what it should.
    Key(String),
}

impl Signing {
    /// For conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Idle => "Rotating",
            Self::Awaits => "AwaitingSignature",
            Self::Refused(_) => "CertificateRefused",
            Self::Unavailable(_) => "UpstreamUnavailable",
            Self::Key(_) => "KeyUnavailable",
        }
    }
}

/// The outside CA that is asked over the network. The answer is waited for in a task of its own: a
/// denial does not wait for somebody else's server. Clones are the same.
#[derive(Clone)]
pub struct OutsideCa {
    server: Option<Arc<OpenBao>>,
    asked: Arc<Mutex<Option<Asked>>>,
    answers: watch::Sender<()>,
}

struct Asked {
    request: String,
    failures: u32,
    state: State,
}

enum State {
    Asking,
    Failed { signing: Signing, again: Instant },
    Answered(String),
}

/// What is known of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// PEM.
    Chain(String),
    NotYet(Signing),
}

impl OutsideCa {
    pub fn new(server: Option<OpenBao>) -> Self {
        Self { server: server.map(Arc::new), asked: Arc::default(), answers: watch::Sender::new(()) }
    }

    /// Changes with every answer.
    pub fn answers(&self) -> watch::Receiver<()> {
        self.answers.subscribe()
    }

    /// When to ask again, if that was put off.
    pub fn again(&self) -> Option<Instant> {
        match self.asked.lock().as_ref()?.state {
            State::Failed { again, .. } => Some(again),
            _ => None,
        }
    }

    /// Asks for a certificate over `request`, unless that is being done.
    pub fn ask(&self, request: &str) -> Answer {
        let Some(server) = &self.server else {
            return Answer::NotYet(Signing::Unavailable(
                "issuing.signedBy is openbao, and the CA was started without --openbao-address: give it, or sign \
                 by import"
                    .to_owned(),
            ));
        };
        let mut asked = self.asked.lock();
        let (failures, shown) = match asked.as_ref().filter(|asked| asked.request == request) {
            None => (0, Signing::Awaits),
            Some(Asked { state: State::Answered(chain), .. }) => return Answer::Chain(chain.clone()),
            Some(Asked { state: State::Asking, .. }) => return Answer::NotYet(Signing::Awaits),
            Some(Asked { state: State::Failed { signing, again }, .. }) if Instant::now() < *again => {
                return Answer::NotYet(signing.clone());
            }
            // What went wrong is shown until something else is known.
            Some(Asked { state: State::Failed { signing, .. }, failures, .. }) => {
                (*failures, signing.clone())
            }
        };
        *asked = Some(Asked { request: request.to_owned(), failures, state: State::Asking });
        let (this, server, request) = (self.clone(), server.clone(), request.to_owned());
        tokio::spawn(async move {
            let answered = server.sign(&request).await;
            match answered {
                Ok(chain) => this.set(&request, |asked| asked.state = State::Answered(chain)),
                Err(error) => {
                    tracing::warn!(%error, "the outside CA did not sign; trying again");
                    this.fail(&request, Signing::Unavailable(error.to_string()));
                }
            }
        });
        Answer::NotYet(shown)
    }

    /// What was answered is of no use: another certificate is asked for, after a while.
    pub fn refuse(&self, request: &str, why: &str) {
        self.fail(request, Signing::Refused(why.to_owned()));
    }

    fn fail(&self, request: &str, signing: Signing) {
        self.set(request, |asked| {
            asked.failures += 1;
            let delay = FIRST_DELAY * 2_u32.saturating_pow(asked.failures.min(10) - 1);
            asked.state = State::Failed { signing, again: Instant::now() + delay.min(LONGEST_DELAY) };
        });
    }

    fn set(&self, request: &str, change: impl FnOnce(&mut Asked)) {
        if let Some(asked) = self.asked.lock().as_mut().filter(|asked| asked.request == request) {
            change(asked);
        }
        self.answers.send_replace(());
    }
}
