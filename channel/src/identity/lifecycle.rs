//! Drives one identity through its life: the schedule says when, the CA says what, and this puts it into
//! the TLS configurations. At most one request is ever under way.

mod beside;
mod companion;
mod handing;
mod hearing;
mod metrics;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{sync::watch, time::sleep};
use trellis_api::proto::ca::{Holding, Trusted};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, rfc3339},
    csr,
    identity::Identity,
    key::PrivateKey,
    renewal::{Renewal, Step},
    tls::{InstallError, MeshTls},
};
use trellis_telemetry::{
    Registry,
    health::Health,
    shutdown::{Shutdown, requested},
};

use self::companion::Companion;
use super::{
    apart::Apart,
    bundle::{BundleError, BundleFile},
    issue::{Issue, IssueError},
    resting::Resting,
    rotation::{RotateError, Rotated, Rotator},
    trust::{Follower, Heard},
};
use crate::client::InvalidAddress;
pub use handing::Handed;
use handing::{Export, Handout};
use metrics::Metrics;

/// The health condition that holds while there is a valid certificate.
pub const CONDITION: &str = "identity";

/// How often the bundle file and the clock are looked at, whatever the schedule says: a machine that
/// slept must notice.
const GLANCE: Duration = Duration::from_secs(60);
/// How soon a certificate that is not what the CA wants by now is replaced, when the CA does not say.
const CATCH_UP: Duration = Duration::from_secs(10);
/// Keeps a schedule that wants to be asked again at once from spinning.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Why a process has no identity to start with.
#[derive(Debug, Error)]
pub enum BootstrapError {
    #[error("ca-address: {0}")]
    Address(InvalidAddress),
    #[error("bundle-file: {0}")]
    Bundle(BundleError),
    #[error("bundle-file: {0}")]
    Trust(InstallError),
    #[error("no certificate after {attempts} attempts: {last}")]
    GaveUp { attempts: u32, last: IssueError },
}

/// Everything that one identity's life depends on.
pub struct Lifecycle {
    /// Whose identity it is: NAMESPACE/NAME of the pod.
    pub name: String,
    pub trust_domain: String,
    pub algorithm: Algorithm,
    /// Whether the algorithm is this workload's own choice, which the CA's does not change.
    pub pinned: bool,
    /// Whether it holds a companion certificate as well: its own choice, or nothing where the mesh's holds.
    pub dual: Option<bool>,
    pub issue: Arc<dyn Issue>,
    /// None where trust only comes with each certificate.
    pub bundle: Option<BundleFile>,
    pub tls: Arc<MeshTls>,
    pub clock: Arc<dyn Clock>,
    pub health: Health,
    /// In `0..1`: where in the renewal window this process renews.
    pub jitter: f64,
    pub trust: TrustSource,
    /// The connections whose ends this identity is.
    pub resting: Resting,
}

/// How an identity hears of trust beside its certificates and the bundle file.
pub enum TrustSource {
    /// From the CA, over the network.
    Follow(Follower),
    /// From whoever holds the other end.
    Told(watch::Receiver<Heard>),
}

impl Lifecycle {
    /// Obtains the first certificate.
    pub async fn start(self, registry: &Registry) -> Result<IdentityTask, BootstrapError> {
        let companion = Companion::new(self.dual, registry);
        self.begin(Metrics::new(registry), companion, None).await
    }

    async fn begin(
        mut self,
        metrics: Metrics,
        companion: Companion,
        handout: Option<Handout>,
    ) -> Result<IdentityTask, BootstrapError> {
        self.health.set(CONDITION, Err("there is no certificate yet".to_owned()));
        let mut revision = 0;
        if let Some(file) = &mut self.bundle {
            let published = file.first().await.map_err(BootstrapError::Bundle)?;
            let (path, anchors) = (file.path().display(), published.bundle.anchors().len());
            tracing::info!(%path, anchors, revision = published.revision, "read the trust bundle");
            self.tls.trust(published.bundle).map_err(BootstrapError::Trust)?;
            revision = published.revision.unwrap_or_default();
        }
        let renewal = Renewal::new(self.jitter);
        let mut task = IdentityTask {
            lifecycle: self,
            renewal,
            companion,
            metrics,
            rotator: Rotator::default(),
            not_after: None,
            anchors: BTreeSet::new(),
            revision,
            issuing: String::new(),
            holding: watch::Sender::default(),
            heard: watch::Sender::default(),
            beside: watch::Sender::default().subscribe(),
            handout,
        };
        task.first().await?;
        Ok(task)
    }
}

/// Keeps an identity valid.
pub struct IdentityTask {
    lifecycle: Lifecycle,
    renewal: Renewal,
    companion: Companion,
    metrics: Metrics,
    rotator: Rotator,
    not_after: Option<SystemTime>,
    /// Fingerprints of the anchors that came with the certificate, one of which issued it.
    anchors: BTreeSet<String>,
    /// The newest revision of trust that is applied here.
    revision: u64,
    /// The anchor that the CA issues from by now; empty until it said so.
    issuing: String,
    holding: watch::Sender<Holding>,
    /// What the CA said last, where this follows it.
    heard: watch::Sender<Heard>,
    /// What another identity of the same pod holds.
    beside: watch::Receiver<Option<Holding>>,
    /// Where the certificate goes with its key, if it is not for this process.
    handout: Option<Handout>,
}

/// What came of a request: an identity, what it is believed by, what else holds, and what is handed out.
type Obtained = (Identity, Bundle, Trusted, Option<Export>);
/// A request that is under way.
type Attempt = BoxFuture<'static, Result<Obtained, IssueError>>;

impl IdentityTask {
    /// Triggers renewals once the task runs.
    pub fn rotator(&self) -> Rotator {
        self.rotator.clone()
    }

    /// What is really held, at each change of it.
    pub fn holding(&self) -> watch::Receiver<Holding> {
        self.holding.subscribe()
    }

    /// Renews until the process stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let (mut heard, _following) = self.listen();
        let mut ends = self.lifecycle.resting.ends();
        let rotator = self.rotator.clone();
        let mut attempt: Option<Attempt> = None;
        loop {
            let pause = self.advance(&mut attempt).await.min(self.companion.advance(&self.lifecycle));
            // Policy may refuse something else by now, which nobody says.
            self.tell();
            tokio::select! {
                biased;
                () = &mut stop => break,
                outcome = under_way(&mut attempt) => {
                    attempt = None;
                    self.settle(outcome);
                }
                outcome = self.companion.under_way() => self.settle_companion(outcome),
                () = rotator.wanted(), if attempt.is_none() => {
                    tracing::info!(workload = self.lifecycle.name, "asked for a new certificate");
                    self.renewal.renew_now();
                    self.companion.renew_now();
                }
                Ok(()) = heard.changed() => {
                    let trusted = heard.borrow_and_update().clone();
                    if let Some(trusted) = trusted {
                        self.hear(&trusted);
                    }
                }
                Ok(()) = ends.changed() => {
                    ends.borrow_and_update();
                    self.tell();
                }
                Ok(()) = self.beside.changed() => {
                    self.beside.borrow_and_update();
                    self.tell();
                }
                () = sleep(pause) => self.follow_bundle().await,
            }
        }
        self.rotator.stop();
        if self.handout.is_some() {
            self.metrics.ended();
        }
    }

    /// The start: one attempt after the other, until one succeeds or the schedule gives up.
    async fn first(&mut self) -> Result<(), BootstrapError> {
        let mut attempts = 0;
        let mut last = IssueError::Answer("nobody asked".to_owned());
        loop {
            match self.renewal.poll(self.lifecycle.clock.now()) {
                Step::Renew => {
                    attempts += 1;
                    let outcome = self.begin().await.await;
                    match outcome.and_then(|issued| self.install(issued)) {
                        Ok(_) => return Ok(()),
                        Err(error) => {
                            tracing::error!(workload = self.lifecycle.name, attempt = attempts, %error, "no certificate");
                            self.failed(&error);
                            last = error;
                        }
                    }
                }
                Step::Check { .. } => {}
                Step::Sleep(pause) => sleep(pause).await,
                Step::GiveUp => return Err(BootstrapError::GaveUp { attempts, last }),
            }
        }
    }

    /// Does what the schedule says now, and tells how long there is nothing to do.
    async fn advance(&mut self, attempt: &mut Option<Attempt>) -> Duration {
        let now = self.lifecycle.clock.now();
        let left = self.not_after.map(|end| end.duration_since(now).unwrap_or_default());
        self.reflect(left);
        let mut pause = left.filter(|left| !left.is_zero()).unwrap_or(GLANCE).min(GLANCE);
        while attempt.is_none() {
            match self.renewal.poll(now) {
                Step::Renew => *attempt = Some(self.begin().await),
                Step::Check { expires_in } => self.log_expiry(expires_in),
                Step::Sleep(wanted) => {
                    pause = pause.min(wanted);
                    break;
                }
                // Only a process that never had a certificate gives up.
                Step::GiveUp => break,
            }
        }
        pause.max(SHORTEST_PAUSE)
    }

    /// A request with a fresh key, checked against the newest bundle.
    async fn begin(&mut self) -> Attempt {
        self.follow_bundle().await;
        let issue = self.lifecycle.issue.clone();
        let clock = self.lifecycle.clock.clone();
        let trust_domain = self.lifecycle.trust_domain.clone();
        let algorithm = self.lifecycle.algorithm;
        let exports = self.handout.is_some();
        Box::pin(async move {
            let key = PrivateKey::generate(algorithm).map_err(|error| IssueError::Key(error.to_string()))?;
            let csr = csr::make(&key).map_err(|error| IssueError::Key(error.to_string()))?;
            let issued = issue.issue(csr).await?;
            let now = clock.now();
            if let Some(apart) = Apart::of(&issued.leaf, now) {
                tracing::warn!("{apart}");
            }
            let export = exports.then(|| Export::of(&key, &issued.leaf)).transpose()?;
            let refused = |reason: String| IssueError::Answer(reason);
            let bundle = Bundle::from_der(&trust_domain, issued.trusted.anchors.iter().cloned())
                .map_err(|error| refused(error.to_string()))?;
            let identity = Identity::new(key, issued.leaf, &bundle, algorithm, now)
                .map_err(|error| refused(error.to_string()))?;
            Ok((identity, bundle, issued.trusted, export))
        })
    }

    fn settle(&mut self, outcome: Result<Obtained, IssueError>) {
        let answer = match outcome.and_then(|issued| self.install(issued)) {
            Ok(rotated) => Ok(rotated),
            Err(error) => {
                let expires_in_hours = self.not_after.map(|end| hours(end, self.lifecycle.clock.now()));
                tracing::error!(
                    workload = self.lifecycle.name, %error, expires_in_hours,
                    "renewal failed; the certificate in use stays"
                );
                self.failed(&error);
                Err(RotateError::Failed(error.to_string()))
            }
        };
        self.rotator.answer(&answer);
    }

    fn install(&mut self, (identity, bundle, trusted, export): Obtained) -> Result<Rotated, IssueError> {
        if trusted.revision < self.revision {
            return Err(IssueError::Answer(format!(
                "it is of trust revision {}, and revision {} is in use already: that CA is behind",
                trusted.revision, self.revision
            )));
        }
        let before = self.lifecycle.tls.current();
        let now = self.lifecycle.clock.now();
        let leaf = identity.leaf().clone();
        let anchors = fingerprints(&bundle);
        self.lifecycle
            .tls
            .install(identity, bundle)
            .map_err(|error| IssueError::Answer(error.to_string()))?;
        self.anchors = anchors;
        self.heed(&trusted)?;
        self.renewal.issued(leaf.not_before, leaf.not_after, now);
        self.not_after = Some(leaf.not_after);
        self.metrics.issued(&leaf);
        tracing::info!(
            workload = self.lifecycle.name,
            identity = %leaf.identity,
            serial = leaf.serial,
            serial_before = before.as_ref().map(|leaf| leaf.serial.as_str()),
            algorithm = leaf.algorithm.name(),
            not_after = rfc3339(leaf.not_after),
            expires_in_hours = hours(leaf.not_after, now),
            "new certificate in use"
        );
        self.reflect(leaf.not_after.duration_since(now).ok());
        self.catch_up(CATCH_UP, 2 * CATCH_UP);
        self.hand_over(export, &leaf);
        self.tell();
        Ok(Rotated {
            identity: leaf.identity.to_string(),
            serial_before: before.as_ref().map(|leaf| leaf.serial.clone()),
            serial_after: leaf.serial.clone(),
            algorithm_before: before.as_ref().map(|leaf| leaf.algorithm.name().to_owned()),
            algorithm_after: leaf.algorithm.name().to_owned(),
        })
    }

    fn failed(&mut self, error: &IssueError) {
        self.renewal.failed(self.lifecycle.clock.now());
        self.metrics.failed(error.reason());
    }

    /// Trusts what the bundle file says, if it changed.
    async fn follow_bundle(&mut self) {
        let Some(file) = &mut self.lifecycle.bundle else { return };
        match file.changed().await {
            Ok(None) => {}
            Ok(Some(published)) if published.revision.is_some_and(|revision| revision < self.revision) => {
                tracing::debug!(
                    revision = published.revision,
                    "the trust bundle in the file is one from before"
                );
            }
            Ok(Some(published)) => {
                let bundle = published.bundle;
                tracing::info!(
                    path = %file.path().display(),
                    anchors = bundle.anchors().len(),
                    fingerprint = bundle.fingerprint(),
                    "the trust bundle changed"
                );
                let anchors = fingerprints(&bundle);
                self.revision = published.revision.unwrap_or(self.revision);
                if let Err(error) = self.lifecycle.tls.trust(bundle) {
                    tracing::error!(%error, "the trust bundle in use stays");
                } else if !self.anchors.is_empty() && self.anchors.is_disjoint(&anchors) {
                    // Whoever reads the same bundle will refuse a certificate of an anchor that is gone.
                    tracing::warn!(
                        "no anchor that the certificate came with is trusted any more; renewing it"
                    );
                    self.anchors = anchors;
                    self.renewal.renew_now();
                }
                self.tell();
            }
            Err(error) => tracing::error!(%error, "the trust bundle in use stays"),
        }
    }

    /// Ready for as long as the certificate is valid.
    fn reflect(&self, left: Option<Duration>) {
        let state = match left {
            None => Err("there is no certificate yet".to_owned()),
            Some(Duration::ZERO) => Err("the certificate has expired".to_owned()),
            Some(_) => Ok(()),
        };
        self.lifecycle.health.set(CONDITION, state);
    }

    fn log_expiry(&self, expires_in: Duration) {
        tracing::info!(
            workload = self.lifecycle.name,
            expires_in_hours = expires_in.as_secs_f64() / 3600.0,
            not_after = self.not_after.map(rfc3339),
            "checked the certificate"
        );
    }
}

/// Resolves when the request that is under way does, and never if there is none.
async fn under_way(attempt: &mut Option<Attempt>) -> Result<Obtained, IssueError> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

fn fingerprints(bundle: &Bundle) -> BTreeSet<String> {
    bundle.anchors().iter().map(|anchor| anchor.fingerprint().to_string()).collect()
}

fn hours(end: SystemTime, now: SystemTime) -> f64 {
    end.duration_since(now).unwrap_or_default().as_secs_f64() / 3600.0
}
