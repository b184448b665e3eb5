//! Fetches the bundles of all partners, on the one replica that leads, each when its time has come. What it
//! found is handed to the keeper of trust, which alone writes.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until},
};
use trellis_pki::{
    clock::{Clock, unix_seconds},
    foreign::Foreign,
    jwks::Document,
};
use trellis_telemetry::{
    Counter, Family, Gauge, Registry,
    shutdown::{Shutdown, requested},
};

use super::{
    fetch::{FetchError, WebRoots, fetch},
    held::{Held, merge},
    partner::{Partner, partners},
    schedule::Schedule,
};
use crate::trust::{
    Authority,
    object::{self, Known, Wishes},
};
use trellis_election::Role;

/// What was fetched since this replica leads, by trust domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fetched {
    pub bundles: BTreeMap<String, Held>,
    pub attempts: BTreeMap<String, Attempt>,
}

/// How the last attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Seconds since 1970.
    pub success: Option<u64>,
    pub error: Option<String>,
}

/// Everything that fetching depends on.
pub struct Fetcher {
    pub authority: Authority,
    pub wishes: Wishes,
    pub roles: watch::Receiver<Role>,
    pub roots: WebRoots,
    /// The shortest time between two fetches of one bundle.
    pub floor: Duration,
    pub clock: Arc<dyn Clock>,
    pub found: watch::Sender<Fetched>,
    pub metrics: Metrics,
}

impl Fetcher {
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let mut schedule = Schedule::new(self.floor);
        loop {
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            let wished = match &*self.wishes.borrow_and_update() {
                Known::NotYet => None,
                Known::Absent => Some(object::as_it_is(self.authority.current().state()).federation),
                Known::Wish(wish) => Some(wish.spec.federation.clone()),
            };
            let next = match wished.filter(|_| leads) {
                Some(wished) => {
                    let own = self.authority.current().bundle.trust_domain().to_owned();
                    tokio::select! {
                        () = &mut stop => return,
                        next = self.turn(&mut schedule, partners(&own, &wished).0) => next,
                    }
                }
                // Whoever leads now knows better; what was found before may be old when we lead again.
                None => {
                    schedule = Schedule::new(self.floor);
                    self.forget(&[]);
                    None
                }
            };
            let again = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = again => {}
                Ok(()) = self.wishes.changed() => {}
                Ok(()) = self.roles.changed() => {}
            }
        }
    }

    /// Fetches what is due, and says when the next is.
    async fn turn(&self, schedule: &mut Schedule, partners: Vec<Partner>) -> Option<Instant> {
        let terms = partners.iter().map(|one| (one.trust_domain.clone(), format!("{:?}", one.wish)));
        schedule.keep(&terms.collect(), Instant::now());
        self.forget(&partners);
        let due = schedule.due(Instant::now());
        let due: Vec<_> = partners.iter().filter(|one| due.contains(&one.trust_domain)).collect();
        let current = self.authority.current();
        let fetched = self.found.borrow().bundles.clone();
        let (held, _) = merge(&current.bundle, &current.state().foreign, &partners, &[], &fetched);
        let attempts = due.iter().map(|partner| async {
            let known = held.iter().find(|one| one.trust_domain == partner.trust_domain);
            let bundle = known.and_then(|known| known.bundle().ok());
            fetch(partner, bundle, &self.roots, &self.clock).await
        });
        let outcomes = join_all(attempts).await;
        for (partner, outcome) in due.into_iter().zip(outcomes) {
            let known = held.iter().find(|one| one.trust_domain == partner.trust_domain);
            let outcome = outcome.and_then(|document| self.accept(known, &document).map(|()| document));
            self.note(schedule, partner, outcome);
        }
        for (domain, stale) in schedule.stale(Instant::now()) {
            self.metrics.stale.with(&[("trust_domain", domain)]).set(f64::from(u8::from(stale)));
        }
        schedule.next()
    }

    /// Refuses what must not take the place of what is held.
    fn accept(&self, known: Option<&Held>, document: &Document) -> Result<(), FetchError> {
        let own = &self.authority.current().bundle;
        if let Some(why) = known.and_then(|known| known.outdates(document.sequence)) {
            return Err(FetchError::Refused(why));
        }
        Foreign::new(own, [document.bundle.clone()])
            .map_err(|error| FetchError::Refused(error.to_string()))?;
        Ok(())
    }

    fn note(&self, schedule: &mut Schedule, partner: &Partner, outcome: Result<Document, FetchError>) {
        let domain = partner.trust_domain.as_str();
        let result = outcome.as_ref().err().map_or("ok", FetchError::reason);
        self.metrics.fetches.with(&[("trust_domain", domain), ("result", result)]).inc();
        match outcome {
            Ok(document) => {
                schedule.succeeded(domain, document.refresh_hint, rand::random(), Instant::now());
                let now = u64::try_from(unix_seconds(self.clock.now())).unwrap_or_default();
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; times stay below 2^52")]
                self.metrics.success.with(&[("trust_domain", domain)]).set(now as f64);
                tracing::debug!(
                    trust_domain = domain,
                    sequence = document.sequence,
                    anchors = document.bundle.anchors().len(),
                    unusable = document.unusable,
                    "fetched the bundle of another trust domain"
                );
                let held = Held::new(partner, &document);
                self.found.send_modify(|found| {
                    found.bundles.insert(domain.to_owned(), held);
                    let attempt = Attempt { success: Some(now), error: None };
                    found.attempts.insert(domain.to_owned(), attempt);
                });
            }
            Err(error) => {
                schedule.failed(domain, rand::random(), Instant::now());
                tracing::warn!(trust_domain = domain, endpoint = partner.wish.endpoint, %error,
                    "cannot fetch the bundle of another trust domain; the last good one stays");
                self.found.send_modify(|found| {
                    found.attempts.entry(domain.to_owned()).or_default().error = Some(error.to_string());
                });
            }
        }
    }

    /// What is known of others than these.
    fn forget(&self, partners: &[Partner]) {
        let is_partner = |domain: &String| partners.iter().any(|one| one.trust_domain == *domain);
        self.found.send_if_modified(|found| {
            let gone: Vec<_> = found.attempts.keys().filter(|domain| !is_partner(domain)).cloned().collect();
            for domain in &gone {
                self.metrics.stale.with(&[("trust_domain", domain)]).set(0.0);
                found.attempts.remove(domain);
                found.bundles.remove(domain);
            }
            !gone.is_empty()
        });
    }
}

pub struct Metrics {
    fetches: Family<Counter>,
    success: Family<Gauge>,
    stale: Family<Gauge>,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            fetches: registry.counter(
                "trellis_ca_federation_fetches_total",
                "Fetches of other trust domains' bundles, by trust domain and result.",
            ),
            success: registry.gauge(
                "trellis_ca_federation_last_success_timestamp_seconds",
                "When the bundle of a trust domain was last fetched, in seconds since 1970.",
            ),
            stale: registry.gauge(
                "trellis_ca_federation_stale",
                "1 while the bundle of a trust domain could not be fetched for three times its interval.",
            ),
        }
    }
}
