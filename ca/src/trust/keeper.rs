//! Takes the steps: on the one replica that leads, whenever a wish, a member or the store has changed.
//! Every step is one write over the state that it was decided on, so a leader that has lost its place
//! without knowing changes nothing, and a replica that dies anywhere leaves a state to go on from.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use trellis_api::trust::{TrustDomainSpec, TrustDomainStatus};
use trellis_pki::clock::{Clock, unix_seconds};
use trellis_telemetry::{
    Counter, Family, Gauge, Registry,
    shutdown::{Shutdown, requested},
};

use super::{
    authority::{Authority, Current},
    ends::Ends,
    machine::{self, Bounds, Verdict},
    members::Members,
    object::{self, Known, Wishes},
    renewal::{self, Life},
    signing::{OutsideCa, Signing},
    state::TrustState,
    status,
    step::Step,
    store::{Making, Read, Store, StoreError},
};
use crate::{
    audit::{Audit, Event},
    federation::{self, Fetched, Held},
};
use trellis_election::Role;

/// Members that confirm together are looked at together.
const GATHER: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(2);
/// A look that nothing has called for, so that nothing missed stays missed.
const GLANCE: Duration = Duration::from_secs(30);

/// Everything that steps depend on.
pub struct Keeper {
    pub store: Store,
    pub authority: Authority,
    pub making: Making,
    pub lasting: Lasting,
    pub outside: OutsideCa,
    pub signing: Mutex<Signing>,
    pub bounds: Bounds,
    pub members: Members,
    pub wishes: Wishes,
    pub roles: watch::Receiver<Role>,
    /// What was fetched of other trust domains.
    pub fetched: watch::Receiver<Fetched>,
    pub seen: Seen,
    /// Whether the world is known: before that, nobody seems to be alive.
    pub known: Box<dyn Fn() -> bool + Send + Sync>,
    pub clock: Arc<dyn Clock>,
    pub status: watch::Sender<TrustDomainStatus>,
    pub audit: Audit,
    pub metrics: Metrics,
}

/// Since when this replica has seen a rotation, by the clock that nobody sets. One that takes over waits again
/// at worst, and never trusts the clock of another one.
#[derive(Default)]
pub struct Seen(Mutex<Option<(u32, Instant)>>);

impl Seen {
    /// For how many seconds.
    fn shown(&self, state: &TrustState) -> u64 {
        let Some(rotation) = &state.rotation else { return 0 };
        let mut seen = self.0.lock();
        let (_, since) = match *seen {
            Some(seen) if seen.0 == rotation.number => seen,
            _ => *seen.insert((rotation.number, Instant::now())),
        };
        since.elapsed().as_secs()
    }
}

/// What an issuing certificate has to be good for.
#[derive(Clone, Debug)]
pub struct Lasting {
    /// What names of Services end with.
    pub service_domain: String,
    /// How long leaves live.
    pub leaf: Duration,
}

#[derive(Debug, Error)]
pub(super) enum TurnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    State(String),
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The state changed; there may be more to do.
    Took,
    Rests,
}

impl Keeper {
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let mut members = self.members.changes();
        let mut revision = self.authority.revision();
        let mut answers = self.outside.answers();
        loop {
            answers.borrow_and_update();
            members.borrow_and_update();
            revision.borrow_and_update();
            self.wishes.borrow_and_update();
            self.fetched.borrow_and_update();
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            let again = match self.turn(leads).await {
                Ok(Turn::Took) => continue,
                Ok(Turn::Rests) => self.glance(),
                Err(error) => {
                    tracing::error!(%error, "trust stays as it is; trying again");
                    self.metrics.failed.with(&[]).inc();
                    RETRY
                }
            };
            let again = Instant::now() + again;
            let again = sleep_until(self.outside.again().map_or(again, |sooner| sooner.min(again)));
            tokio::select! {
                () = &mut stop => return,
                () = again => {}
                Ok(()) = members.changed() => {}
                Ok(()) = revision.changed() => {}
                Ok(()) = answers.changed() => {}
                Ok(()) = self.wishes.changed() => {}
                Ok(()) = self.roles.changed() => {}
                Ok(()) = self.fetched.changed() => {}
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn turn(&self, leads: bool) -> Result<Turn, TurnError> {
        let current = self.authority.current();
        self.metrics.reflect(&current);
        let wish = match &*self.wishes.borrow() {
            Known::NotYet => return Ok(Turn::Rests),
            Known::Absent => None,
            Known::Wish(wish) => Some(wish.clone()),
        };
        if !(self.known)() {
            return Ok(Turn::Rests);
        }
        let wished =
            wish.as_ref().map_or_else(|| object::as_it_is(current.state()), |wish| wish.spec.clone());
        let wished = wished.renewed(&current.state().renewed);
        let shown = self.seen.shown(current.state());
        let verdict = self
            .members
            .read(|census| machine::decide(&wished, &self.bounds, current.state(), census, shown));
        let generation = wish.map_or(0, |wish| wish.generation);
        let (foreign, federation) = self.federation(&wished, &current);
        self.show(&wished, generation, &current, &verdict, federation);
        if !leads {
            return Ok(Turn::Rests);
        }
        if foreign != current.state().foreign {
            return self.take(&current, Step::Federate(foreign), None).await;
        }
        if !matches!(verdict, Verdict::Begin { .. }) {
            *self.signing.lock() = Signing::Idle;
        }
        match verdict {
            Verdict::Begin { of, kind, cut_off } => self.begin(&current, &wished, of, kind, cut_off).await,
            Verdict::Take { step, cut_off } => self.take(&current, step, cut_off).await,
            Verdict::Settled if let Some(step) = self.renewal(&wished, &current) => {
                self.take(&current, step, None).await
            }
            _ if !current.state().doomed.is_empty() => self.bury(&current).await,
            _ => Ok(Turn::Rests),
        }
    }

    /// The fresh key that is due, if one is.
    fn renewal(&self, wished: &TrustDomainSpec, current: &Current) -> Option<Step> {
        let life = |of| current.issuer(of).map(|issuer| Life::of(issuer.anchor()));
        renewal::due(wished, current.state(), life, self.lasting.leaf, self.now())
    }

    /// What is to be held of other trust domains, and what is to be said of them.
    fn federation(&self, wished: &TrustDomainSpec, current: &Current) -> (Vec<Held>, status::Federation) {
        let fetched = self.fetched.borrow();
        let (partners, mut faults) = federation::partners(current.bundle.trust_domain(), &wished.federation);
        let (held, wrong) = federation::merge(
            &current.bundle,
            &current.state().foreign,
            &partners,
            &faults,
            &fetched.bundles,
        );
        faults.extend(wrong);
        let statuses = federation::statuses(&held, &partners, &faults, &fetched);
        let condition = federation::condition(&statuses, &faults);
        (held, status::Federation { statuses, condition })
    }

    /// How long nothing needs to be looked at unless something calls for it.
    fn glance(&self) -> Duration {
        let current = self.authority.current();
        let rotation = current.state().rotation.as_ref();
        let shown = self.seen.shown(current.state());
        match rotation.map_or(0, |rotation| rotation.unpublished(&self.bounds, shown)) {
            0 => GLANCE,
            left => GLANCE.min(Duration::from_secs(left)),
        }
    }

    pub(super) async fn take(
        &self,
        current: &Current,
        step: Step,
        cut_off: Option<Vec<String>>,
    ) -> Result<Turn, TurnError> {
        let word = step.word();
        let state = current.state().after(step, self.now(), cut_off.clone());
        self.write(current, current.vault.with(state), word, cut_off).await
    }

    pub(super) async fn write(
        &self,
        current: &Current,
        vault: super::vault::Vault,
        step: &'static str,
        cut_off: Option<Vec<String>>,
    ) -> Result<Turn, TurnError> {
        let rotation = vault.state.rotation.as_ref().or(current.state().rotation.as_ref());
        let (number, phase) = rotation.map(|rotation| (rotation.number, rotation.phase.as_str())).unzip();
        let revision = vault.state.revision;
        let written = self.store.write(&vault, Some(&current.version)).await?;
        let read = match written {
            Some(version) => {
                tracing::info!(step, number, phase, revision, "trust moved on");
                if let Some(cut_off) = &cut_off {
                    tracing::warn!(step, number, cut_off = cut_off.join(", "), "the step was forced");
                }
                self.metrics.steps.with(&[("step", step)]).inc();
                self.record(step, number, phase, &vault.state, cut_off);
                Read { vault, version }
            }
            // Somebody else wrote first: what they wrote is looked at before anything else is done.
            None => self.store.load().await?.ok_or_else(|| {
                TurnError::State(format!("{} is gone; restore it from a backup", self.store))
            })?,
        };
        self.authority.take(read).map_err(TurnError::State)?;
        Ok(Turn::Took)
    }

    /// What has happened is recorded if it can be; it cannot be taken back.
    fn record(
        &self,
        step: &str,
        number: Option<u32>,
        phase: Option<&str>,
        state: &TrustState,
        cut_off: Option<Vec<String>>,
    ) {
        let fields = json!({
            "step": step,
            "rotation": number,
            "phase": phase,
            "revision": state.revision,
            "issuing": state.issuing,
            "companion": state.companion,
            "anchors": state.trusted().map(|anchor| anchor.fingerprint.as_str()).collect::<Vec<_>>(),
            "leaf": state.leaf,
            "dual": state.dual.then_some(true),
            "denied": state.denied,
            "foreign": foreign(state),
            "cutOff": cut_off,
        });
        if let Err(error) = self.audit.record(Event::Trust, fields) {
            tracing::error!(%error, step, "a change of trust was not recorded");
        }
    }

    fn show(
        &self,
        wished: &TrustDomainSpec,
        generation: i64,
        current: &Current,
        verdict: &Verdict,
        federation: status::Federation,
    ) {
        let now = self.now();
        self.status.send_if_modified(|before| {
            let status = self.members.read(|census| {
                let signing = self.signing.lock();
                status::of(
                    wished,
                    &self.bounds,
                    self.lasting.leaf,
                    generation,
                    current,
                    census,
                    (verdict, &signing),
                    federation,
                    before,
                    now,
                )
            });
            let changed = *before != status;
            *before = status;
            changed
        });
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(unix_seconds(self.clock.now())).unwrap_or_default()
    }
}

/// The anchors of each other trust domain, for the record.
fn foreign(state: &TrustState) -> Option<Vec<serde_json::Value>> {
    let one = |held: &Held| {
        let bundle = held.bundle().ok();
        let anchors = bundle.iter().flat_map(|bundle| bundle.anchors());
        json!({
            "trustDomain": held.trust_domain,
            "sequence": held.sequence,
            "anchors": anchors.map(|anchor| anchor.fingerprint().to_string()).collect::<Vec<_>>(),
        })
    };
    (!state.foreign.is_empty()).then(|| state.foreign.iter().map(one).collect())
}

/// Reads the store again whenever it may have changed, for replicas that do not write it themselves.
pub async fn follow(store: Store, authority: Authority, shutdown: Shutdown) {
    let Store::Secret(secret) = &store else { return };
    let mut changes = secret.changes();
    let stop = requested(shutdown);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            change = futures::StreamExt::next(&mut changes) => if change.is_none() { return },
        }
        let taken = match store.load().await {
            Ok(Some(read)) => authority.take(read),
            Ok(None) => Err(format!("{store} is gone; this replica goes on with what it has")),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = taken {
            tracing::error!(%error, "trust in use stays");
        }
    }
}

pub struct Metrics {
    steps: Family<Counter>,
    failed: Family<Counter>,
    unsigned: Family<Counter>,
    revision: Gauge,
    rotating: Gauge,
    ends: Ends,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            steps: registry
                .counter("trellis_ca_trust_steps_total", "Steps of rotations and other changes of trust."),
            failed: registry.counter(
                "trellis_ca_trust_failures_total",
                "Changes of trust that failed and are tried again.",
            ),
            unsigned: registry.counter(
                "trellis_ca_issuing_unsigned_total",
                "Times that a new issuing key got no certificate, by reason.",
            ),
            revision: registry.gauge("trellis_ca_trust_revision", "The revision of trust in use.").with(&[]),
            rotating: registry
                .gauge("trellis_ca_trust_rotating", "1 while an anchor takes the place of another.")
                .with(&[]),
            ends: Ends::new(registry),
        }
    }

    pub(super) fn refused(&self, signing: &Signing) {
        self.unsigned.with(&[("reason", signing.reason())]).inc();
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; revisions stay far below 2^52")]
    fn reflect(&self, current: &Current) {
        self.revision.set(current.state().revision as f64);
        self.rotating.set(f64::from(u8::from(current.state().rotation.is_some())));
        self.ends.reflect(current);
    }
}

#[cfg(test)]
mod tests {
    use trellis_api::trust::{Issuing, KeyAlgorithm, Part};

    use super::*;
    use crate::trust::state::Anchor;

    #[tokio::test(start_paused = true)]
    async fn a_rotation_is_as_old_as_this_replica_has_seen_it_whatever_another_ones_clock_said() {
        let anchor = |name: &str, generation| Anchor {
            fingerprint: name.to_owned(),
            kind: Issuing::own(KeyAlgorithm::MlDsa65, generation),
            certificate: String::new(),
            token: None,
            parents: String::new(),
        };
        let settled = TrustState::new(anchor("old", 1));
        let begin = |at| settled.after(Step::Begin { of: Part::Issuing, anchor: anchor("new", 2) }, at, None);
        // By clocks that are a day behind, and a day ahead.
        for (mut state, seen) in [(begin(1_000), Seen::default()), (begin(u64::MAX), Seen::default())] {
            assert_eq!((seen.shown(&settled), seen.shown(&state)), (0, 0));
            tokio::time::advance(Duration::from_secs(600)).await;
            assert_eq!(seen.shown(&state), 600);
            // The next one is counted anew, and so is this one by who takes over.
            assert_eq!(Seen::default().shown(&state), 0);
            state.rotation.as_mut().unwrap().number += 1;
            assert_eq!(seen.shown(&state), 0);
        }
    }
}
