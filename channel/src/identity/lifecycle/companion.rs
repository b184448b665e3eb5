//! The second certificate of a workload with a dual identity: obtained once trust says from which anchor,
//! renewed in a rhythm of its own, and dropped when it is wanted no more. Without it the workload lives on,
//! so nothing waits for it, and it is asked for until it comes.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use trellis_api::proto::ca::Trusted;
use trellis_pki::{
    algorithm::Algorithm,
    clock::rfc3339,
    csr,
    identity::Identity,
    key::PrivateKey,
    renewal::{Renewal, Step},
    tls::MeshTls,
};
use trellis_telemetry::{Counter, Family, Gauge, Registry};

use super::{GLANCE, IdentityTask, Lifecycle, SHORTEST_PAUSE};
use crate::identity::issue::{Issue, IssueError, Issued};

const ALGORITHM: Algorithm = Algorithm::EcdsaP256;

/// A key, and what the CA made of it.
type Obtained = (PrivateKey, Issued);

pub(super) struct Companion {
    /// The workload's own word, if it has one.
    choice: Option<bool>,
    /// The anchor that companions are issued from by now; empty where there is none.
    issuing: String,
    /// Whether those that do not say so themselves hold one.
    dual: bool,
    /// There while one is wanted.
    renewal: Option<Renewal>,
    attempt: Option<BoxFuture<'static, Result<Obtained, IssueError>>>,
    renewals: Family<Counter>,
    expiry: Family<Gauge>,
}

impl Companion {
    pub(super) fn new(choice: Option<bool>, registry: &Registry) -> Self {
        Self {
            choice,
            issuing: String::new(),
            dual: false,
            renewal: None,
            attempt: None,
            renewals: registry.counter(
                "trellis_identity_companion_renewals_total",
                "Companion certificates asked for, by result and by the reason of a failure.",
            ),
            expiry: registry.gauge(
                "trellis_identity_companion_expiry_timestamp_seconds",
                "When the companion certificate in use ends, in seconds since 1970; 0 without one.",
            ),
        }
    }

    /// Wants a companion, or none, by what holds now.
    pub(super) fn heed(&mut self, trusted: &Trusted, lifecycle: &Lifecycle) {
        self.issuing.clone_from(&trusted.companion);
        self.dual = trusted.dual;
        self.review(lifecycle);
    }

    /// The same by what was heard before: policy may be another by now.
    fn review(&mut self, lifecycle: &Lifecycle) {
        let dual = self.choice.unwrap_or(self.dual);
        let obstacle = obstacle(&self.issuing, lifecycle);
        match (&self.renewal, dual && obstacle.is_none()) {
            (None, true) => self.renewal = Some(Renewal::patient(lifecycle.jitter)),
            (Some(_), false) => {
                tracing::info!(
                    workload = lifecycle.name,
                    reason = obstacle.unwrap_or("the workload is to have one identity"),
                    "the companion certificate is dropped"
                );
                self.renewal = None;
                self.attempt = None;
                self.expiry.with(&[]).set(0.0);
                lifecycle.tls.drop_companion();
            }
            (None, false) if dual => {
                tracing::debug!(workload = lifecycle.name, reason = obstacle, "no companion certificate");
            }
            _ => {}
        }
    }

    /// Plans a renewal if the companion is not what the CA issues by now.
    pub(super) fn catch_up(&mut self, earliest: Duration, latest: Duration, lifecycle: &Lifecycle) {
        let Some(renewal) = &mut self.renewal else { return };
        match lifecycle.tls.companion_anchor() {
            Some(anchor) if *anchor == *self.issuing => {}
            Some(_) => renewal.renew_between(earliest, latest, lifecycle.clock.now()),
            // It fell with its anchor: whoever needs it is not served until there is another one.
            None if self.attempt.is_none() => renewal.renew_now(),
            None => {}
        }
    }

    pub(super) fn renew_now(&mut self) {
        if let Some(renewal) = &mut self.renewal {
            renewal.renew_now();
        }
    }

    /// Does what the schedule says now, and tells how long there is nothing to do.
    pub(super) fn advance(&mut self, lifecycle: &Lifecycle) -> Duration {
        self.review(lifecycle);
        let Some(renewal) = &mut self.renewal else { return GLANCE };
        while self.attempt.is_none() {
            match renewal.poll(lifecycle.clock.now()) {
                Step::Renew => self.attempt = Some(ask(lifecycle.issue.clone())),
                Step::Check { expires_in } => tracing::info!(
                    workload = lifecycle.name,
                    expires_in_hours = expires_in.as_secs_f64() / 3600.0,
                    "checked the companion certificate"
                ),
                Step::Sleep(pause) => return pause.clamp(SHORTEST_PAUSE, GLANCE),
                // A patient schedule does not.
                Step::GiveUp => return GLANCE,
            }
        }
        GLANCE
    }

    /// Resolves when the request that is under way does, and never if there is none.
    pub(super) async fn under_way(&mut self) -> Result<Obtained, IssueError> {
        let outcome = match &mut self.attempt {
            Some(attempt) => attempt.await,
            None => std::future::pending().await,
        };
        self.attempt = None;
        outcome
    }
}

impl IdentityTask {
    pub(super) fn settle_companion(&mut self, outcome: Result<Obtained, IssueError>) {
        let result = outcome.and_then(|obtained| self.install_companion(obtained));
        let now = self.lifecycle.clock.now();
        let (result, reason) = match result {
            Ok(()) => ("ok", ""),
            Err(error) => {
                tracing::error!(
                    workload = self.lifecycle.name, %error,
                    "no new companion certificate; one that is in use stays"
                );
                if let Some(renewal) = &mut self.companion.renewal {
                    renewal.failed(now);
                }
                ("failed", error.reason())
            }
        };
        self.companion.renewals.with(&[("result", result), ("reason", reason)]).inc();
        self.tell();
    }

    fn install_companion(&mut self, (key, issued): Obtained) -> Result<(), IssueError> {
        let refused = |reason: String| IssueError::Answer(reason);
        if issued.trusted.revision < self.revision {
            return Err(refused(format!(
                "it is of trust revision {}, and revision {} is in use already: that CA is behind",
                issued.trusted.revision, self.revision
            )));
        }
        if issued.trusted.revision > self.revision {
            self.hear(&issued.trusted);
        }
        // What was heard may have changed whether there is to be one.
        let Some(renewal) = &mut self.companion.renewal else { return Ok(()) };
        let (tls, now) = (&self.lifecycle.tls, self.lifecycle.clock.now());
        let bundle =
            tls.bundle().ok_or_else(|| refused("there is no trust bundle to judge it by".to_owned()))?;
        let identity = Identity::new(key, issued.leaf, &bundle, ALGORITHM, now)
            .map_err(|error| refused(error.to_string()))?;
        if **identity.anchor() != *self.companion.issuing {
            return Err(refused(format!(
                "the companion certificate chains to the anchor {}, and {} issues companions",
                identity.anchor(),
                self.companion.issuing
            )));
        }
        let leaf = identity.leaf().clone();
        tls.install_companion(identity).map_err(|error| refused(error.to_string()))?;
        renewal.issued(leaf.not_before, leaf.not_after, now);
        let end = leaf.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.companion.expiry.with(&[]).set(end.as_secs_f64());
        tracing::info!(
            workload = self.lifecycle.name,
            identity = %leaf.identity,
            serial = leaf.serial,
            algorithm = leaf.algorithm.name(),
            not_after = rfc3339(leaf.not_after),
            "new companion certificate in use, for peers that cannot verify ML-DSA"
        );
        Ok(())
    }
}

/// Why a workload that is to have a companion has none.
fn obstacle(issuing: &str, lifecycle: &Lifecycle) -> Option<&'static str> {
    let presents_classical = |tls: &MeshTls| tls.policy().allows(ALGORITHM);
    match () {
        () if issuing.is_empty() => Some("the mesh has no companion anchor"),
        () if !presents_classical(&lifecycle.tls) => Some("its policy requires post-quantum signatures"),
        () if !lifecycle.algorithm.is_post_quantum() => Some("its own certificate is classical already"),
        () => None,
    }
}

fn ask(issue: Arc<dyn Issue>) -> BoxFuture<'static, Result<Obtained, IssueError>> {
    Box::pin(async move {
        let key = PrivateKey::generate(ALGORITHM).map_err(|error| IssueError::Key(error.to_string()))?;
        let csr = csr::make(&key).map_err(|error| IssueError::Key(error.to_string()))?;
        let issued = issue.issue_companion(csr).await?;
        Ok((key, issued))
    })
}
