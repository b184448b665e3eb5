//! What an identity does about trust: takes what the CA says, unless something newer is known, renews a
//! certificate that is not what the CA issues by now, and says what is really held.

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet};
use trellis_api::proto::ca::{Holding, Trusted};
use trellis_pki::{
    bundle::Bundle,
    clock::unix_seconds,
    credential::{Denials, Denied},
    foreign::Foreign,
};

use super::{IdentityTask, TrustSource, beside::older, fingerprints};
use crate::identity::{issue::IssueError, trust::Heard};

const LONGEST_SPREAD: Duration = Duration::from_secs(60 * 60);

impl IdentityTask {
    /// What is heard from now on. The tasks that come with it end the hearing when they are dropped.
    pub(super) fn listen(&mut self) -> (watch::Receiver<Heard>, JoinSet<()>) {
        let (sender, receiver) = (self.heard.clone(), self.heard.subscribe());
        let mut tasks = JoinSet::new();
        match std::mem::replace(&mut self.lifecycle.trust, TrustSource::Told(receiver.clone())) {
            TrustSource::Told(mut told) => {
                told.mark_changed();
                (told, tasks)
            }
            TrustSource::Follow(follower) => {
                tasks.spawn(follower.run(sender, self.holding.subscribe(), self.lifecycle.jitter));
                (receiver, tasks)
            }
        }
    }

    /// Applies what the CA says, unless something newer is applied already.
    pub(super) fn hear(&mut self, trusted: &Trusted) {
        if trusted.revision < self.revision {
            tracing::warn!(
                revision = trusted.revision,
                applied = self.revision,
                "heard of trust from before; it changes nothing"
            );
            return;
        }
        if let Err(error) = self.apply(trusted) {
            tracing::error!(%error, revision = trusted.revision, "trust in use stays");
        }
        let spread = Duration::from_secs(trusted.spread_seconds.into()).min(LONGEST_SPREAD);
        self.catch_up(Duration::ZERO, spread);
        self.tell();
    }

    fn apply(&mut self, trusted: &Trusted) -> Result<(), IssueError> {
        let refused = |error: &dyn std::fmt::Display| IssueError::Answer(error.to_string());
        let tls = &self.lifecycle.tls;
        let bundle = Bundle::from_der(&self.lifecycle.trust_domain, trusted.anchors.iter().cloned())
            .map_err(|error| refused(&error))?;
        if tls.bundle().is_none_or(|held| held.fingerprint() != bundle.fingerprint()) {
            tracing::info!(
                revision = trusted.revision,
                anchors = bundle.anchors().len(),
                fingerprint = bundle.fingerprint(),
                "the trust bundle changed"
            );
            self.anchors = fingerprints(&bundle);
            tls.trust(bundle).map_err(|error| refused(&error))?;
        }
        self.heed(trusted)
    }

    /// Applies everything but the anchors.
    pub(super) fn heed(&mut self, trusted: &Trusted) -> Result<(), IssueError> {
        let refused = |error: &dyn std::fmt::Display| IssueError::Answer(error.to_string());
        let denied =
            trusted.denied.iter().map(|denied| denied.parse::<Denied>()).collect::<Result<Vec<_>, _>>();
        let denials =
            Denials::new(denied.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
        if denials != self.lifecycle.tls.denials() {
            tracing::warn!(denied = trusted.denied.join(", "), "who is denied has changed");
            self.lifecycle.tls.deny(denials);
        }
        self.federate(trusted)?;
        if !self.lifecycle.pinned && !trusted.leaf_algorithm.is_empty() {
            self.lifecycle.algorithm = trusted.leaf_algorithm.parse().map_err(|error| refused(&error))?;
        }
        self.issuing.clone_from(&trusted.issuing);
        self.companion.heed(trusted, &self.lifecycle);
        self.revision = trusted.revision;
        Ok(())
    }

    /// Believes what the CA says of other trust domains, beside our own anchors.
    fn federate(&self, trusted: &Trusted) -> Result<(), IssueError> {
        let tls = &self.lifecycle.tls;
        let Some(own) = tls.bundle() else { return Ok(()) };
        let bundles = trusted.foreign.iter().map(|one| (one.trust_domain.as_str(), one.anchors.clone()));
        let foreign =
            Foreign::from_der(&own, bundles).map_err(|error| IssueError::Answer(error.to_string()))?;
        if foreign != tls.foreign() {
            let domains: Vec<_> = foreign.bundles().map(|bundle| bundle.trust_domain()).collect();
            tracing::info!(
                revision = trusted.revision,
                trust_domains = domains.join(", "),
                "what is trusted of other trust domains changed"
            );
            tls.federate(foreign);
        }
        Ok(())
    }

    /// Plans a renewal if the certificate is not what the CA issues by now.
    pub(super) fn catch_up(&mut self, earliest: Duration, latest: Duration) {
        let tls = &self.lifecycle.tls;
        let (Some(anchor), Some(leaf)) = (tls.anchor(), tls.current()) else { return };
        let wanted = self.issuing.is_empty() || *anchor == *self.issuing;
        if !wanted || leaf.algorithm != self.lifecycle.algorithm {
            self.renewal.renew_between(earliest, latest, self.lifecycle.clock.now());
        }
        self.companion.catch_up(earliest, latest, &self.lifecycle);
    }

    /// Says what is held, if that has changed.
    pub(super) fn tell(&self) {
        let tls = &self.lifecycle.tls;
        let bundle = tls.bundle();
        let anchors = bundle.iter().flat_map(|bundle| bundle.anchors());
        let leaf = tls.current();
        let holding = Holding {
            pod: self.lifecycle.name.clone(),
            revision: self.revision,
            anchors: anchors.map(|anchor| anchor.fingerprint().to_string()).collect(),
            leaf_anchor: tls.anchor().map(|anchor| anchor.to_string()).unwrap_or_default(),
            leaf_not_after: leaf.as_ref().map_or(0, |leaf| unix_seconds(leaf.not_after)),
            leaf_algorithm: leaf.map(|leaf| leaf.algorithm.to_string()).unwrap_or_default(),
            refuses_classical: tls.refuses_classical(),
            companion_anchor: tls.companion_anchor().map(|anchor| anchor.to_string()).unwrap_or_default(),
            companion_not_after: tls.companion().map_or(0, |leaf| unix_seconds(leaf.not_after)),
            draining: self.lifecycle.resting.fallen(bundle.as_deref(), &tls.foreign()),
        };
        let holding = match &*self.beside.borrow() {
            Some(beside) => older(holding, beside, &self.issuing),
            None => holding,
        };
        self.holding.send_if_modified(|told| {
            let changed = *told != holding;
            *told = holding;
            changed
        });
    }
}
