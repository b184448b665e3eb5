//! Does what [`Rotation`] says: keeps the serving certificate, publishes its CA, swaps what is served.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher::watch_object};
use tokio::time::{Instant, sleep};
use trellis_api::names;
use trellis_pki::{
    clock::{Clock, rfc3339},
    serving::{ServingCertificate, ServingError, serving_certificate},
};
use trellis_telemetry::{
    health::Health,
    shutdown::{Shutdown, requested},
};

use crate::{
    certificate::{Certificates, Rotation, Step, VALIDITY},
    metrics::Metrics,
    serving::Serving,
    store::{Kept, Store, StoreError},
    trust::{Configurations, Trust, TrustError},
};

/// The health conditions: a valid certificate is served, and API servers are told its CA.
pub const CERTIFICATE: &str = "certificate";
pub const TRUST: &str = "trust";

/// Between two writings of the bundle: somebody else may be writing it too.
const PUBLISHING: Duration = Duration::from_secs(5);
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

pub struct Keeper {
    store: Store,
    trust: Trust,
    clock: Arc<dyn Clock>,
    /// What the certificate is for.
    dns_names: Vec<String>,
    serving: Arc<Serving>,
    health: Health,
    metrics: Metrics,
    rotation: Rotation,
    last_published: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the serving certificate cannot be made: {0}")]
    Serving(#[from] ServingError),
}

impl Keeper {
    pub fn new(
        store: Store,
        trust: Trust,
        clock: Arc<dyn Clock>,
        dns_names: Vec<String>,
        serving: Arc<Serving>,
        health: Health,
        metrics: Metrics,
    ) -> Self {
        let rotation = Rotation::default();
        Self { store, trust, clock, dns_names, serving, health, metrics, rotation, last_published: None }
    }

    /// Keeps the certificate until the process is asked to stop.
    pub async fn run(mut self, stop: Shutdown) {
        let mut changes = self.changes();
        let mut retry = SHORTEST_RETRY;
        loop {
            let wait = match self.turn().await {
                Ok(wait) => {
                    retry = SHORTEST_RETRY;
                    wait
                }
                Err(error) => {
                    tracing::warn!(%error, retry_seconds = retry.as_secs(), "cannot keep the serving certificate");
                    if matches!(error, KeeperError::Trust(_)) {
                        self.health.set(TRUST, Err(error.to_string()));
                    } else {
                        self.health.set(CERTIFICATE, Err(error.to_string()));
                    }
                    let wait = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    wait
                }
            };
            tokio::select! {
                () = requested(stop.clone()) => return,
                () = sleep(wait) => {}
                Some(()) = changes.next() => {}
            }
        }
    }

    /// Acts until there is nothing to do, and says for how long.
    pub async fn turn(&mut self) -> Result<Duration, KeeperError> {
        loop {
            let kept = self.store.load().await?;
            if let Some(certificates) = &kept.certificates {
                self.serve(&certificates.current)?;
            }
            let published = self.trust.published().await?;
            self.report(kept.certificates.as_ref(), published.as_deref());
            let step = self.rotation.step(kept.certificates.as_ref(), published.as_deref(), self.clock.now());
            match step {
                Step::Wait(wait) => return Ok(wait),
                Step::Publish => {
                    let Some(certificates) = &kept.certificates else { continue };
                    if let Some(wait) = self.pause_before_publishing() {
                        return Ok(wait);
                    }
                    self.trust.publish(&certificates.bundle()).await?;
                    tracing::info!("published the CA of the webhook's certificate");
                }
                Step::Create | Step::Stage | Step::Promote | Step::Retire => self.rewrite(kept, step).await?,
            }
        }
    }

    async fn rewrite(&self, mut kept: Kept, step: Step) -> Result<(), KeeperError> {
        let changed = match (step, kept.certificates.take()) {
            (Step::Stage, Some(certificates)) => certificates.staged(self.make()?),
            (Step::Promote, Some(certificates)) => certificates.promoted(),
            (Step::Retire, Some(certificates)) => certificates.retired(),
            _ => Certificates::first(self.make()?),
        };
        // If another replica was faster, the next look shows what it wrote.
        if self.store.save(kept, &changed).await? {
            tracing::info!(
                ?step,
                ends = rfc3339(changed.current.not_after),
                "the serving certificate moves on"
            );
        }
        Ok(())
    }

    fn make(&self) -> Result<ServingCertificate, ServingError> {
        serving_certificate(&self.dns_names, self.clock.now(), VALIDITY)
    }

    fn serve(&self, certificate: &ServingCertificate) -> Result<(), ServingError> {
        if self.serving.install(certificate)? {
            tracing::info!(ends = rfc3339(certificate.not_after), "serving another certificate");
        }
        let ends = certificate.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.certificate_expires(ends.as_secs());
        Ok(())
    }

    fn report(&self, kept: Option<&Certificates>, published: Option<&str>) {
        let Some(kept) = kept else { return };
        let is_valid = self.clock.now() < kept.current.not_after;
        let ended = || format!("it ended {}", rfc3339(kept.current.not_after));
        self.health.set(CERTIFICATE, if is_valid { Ok(()) } else { Err(ended()) });
        let trust = match published {
            Some(bundle) if bundle.contains(kept.current.ca_pem.trim_end()) => Ok(()),
            Some(_) => Err("API servers are not told the CA of what is served yet".to_owned()),
            None => Err(format!(
                "there is no webhook configuration {}, or it has no webhook; install the chart",
                names::WEBHOOK_CONFIGURATION
            )),
        };
        self.health.set(TRUST, trust);
    }

    /// Whoever else writes the bundle shall not be answered at every word.
    fn pause_before_publishing(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let since = self.last_published.map(|at| now.duration_since(at));
        let wait = since.and_then(|since| PUBLISHING.checked_sub(since)).filter(|wait| !wait.is_zero());
        if wait.is_some() {
            tracing::warn!("somebody else changes the webhook's caBundle; it is repaired in a moment");
        } else {
            self.last_published = Some(now);
        }
        wait
    }

    /// Something may have changed. What it is, is read anew.
    fn changes(&self) -> impl Stream<Item = ()> + Send + Unpin + use<> {
        let secret = match &self.store {
            Store::Secret { api, .. } => watch_object::<Secret>(api.as_ref().clone(), names::WEBHOOK_SECRET)
                .default_backoff()
                .map(|_| ())
                .boxed(),
            Store::Folder(_) => stream::pending().boxed(),
        };
        let webhook = match &self.trust {
            Trust::Webhook(of) => {
                let Configurations { mutating, validating } = &**of;
                let name = names::WEBHOOK_CONFIGURATION;
                let mutating = watch_object(mutating.clone(), name).default_backoff().map(|_| ());
                let validating = watch_object(validating.clone(), name).default_backoff().map(|_| ());
                stream::select(mutating, validating).boxed()
            }
            Trust::Folder(_) => stream::pending().boxed(),
        };
        stream::select(secret, webhook)
    }
}
