//! What this proxy demands of connections at this moment: what policies say, and what it was started with
//! where they say nothing. It serves nobody before it knows them; what is known holds while discovery is
//! away. A change counts from the very next handshake; connections that none like them could begin any more
//! are ended by whoever carries them.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};
use trellis_api::{
    annotations::Plaintext,
    diag::Demand,
    proto::discovery::{self as wire, demand::Level},
};
use trellis_pki::{
    policy::{Ladder, Policy},
    posture::Posture,
    tls::MeshTls,
};
use trellis_telemetry::{Counter, Family, Gauge, Registry, health::Health};

use crate::{
    account,
    directory::{Answer, Directory, PodName, Subject},
    ledger::Direction,
};

/// The condition that holds once policies are known.
pub const CONDITION: &str = "policy";

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];
/// The source of what no policy says.
const STARTED: &str = "start";

/// What is demanded in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    pub ladders: Policy,
    pub plaintext: Plaintext,
}

/// What is demanded, as it changes. Clones are the same.
#[derive(Clone)]
pub struct Demands(Arc<Inner>);

struct Inner {
    /// What was installed for this serves handshakes in both directions.
    base: Arc<MeshTls>,
    tls: [Arc<MeshTls>; 2],
    started: [Side; 2],
    /// Tells that something is another demand now.
    changes: watch::Sender<u64>,
    known: watch::Sender<bool>,
    strict: [watch::Sender<bool>; 2],
    described: Mutex<Vec<Demand>>,
    shown: Family<Gauge>,
    plaintext_ended: Family<Counter>,
}

impl Demands {
    /// As the proxy was `started`, inbound and outbound.
    pub fn new(base: &Arc<MeshTls>, started: [Side; 2], registry: &Registry) -> Self {
        let demands = Self(Arc::new(Inner {
            base: base.clone(),
            tls: started.map(|side| Arc::new(base.under(side.ladders).federated())),
            started,
            changes: watch::Sender::new(0),
            known: watch::Sender::new(false),
            strict: started.map(|side| watch::Sender::new(side.plaintext == Plaintext::Strict)),
            described: Mutex::default(),
            shown: registry
                .gauge(
                    "trellis_policy",
                    "What is demanded of connections, by the policy that says so; 1 for each.",
                )
                .open_labels(&["source"]),
            plaintext_ended: registry
                .counter(
                    "trellis_plaintext_ended_total",
                    "Connections in plaintext that ended because policy came to be strict.",
                )
                .open_labels(&["peer"]),
        }));
        demands.hold(&wire::Policy::default());
        demands
    }

    /// What handshakes of a direction are made by.
    pub fn tls(&self, direction: Direction) -> &Arc<MeshTls> {
        &self.0.tls[direction as usize]
    }

    /// Whether a connection with this posture may go on.
    pub fn admits(&self, direction: Direction, posture: &Posture) -> bool {
        self.tls(direction).policy().admits(posture)
    }

    pub fn is_strict(&self, direction: Direction) -> bool {
        *self.0.strict[direction as usize].borrow()
    }

    /// Turns true when plaintext is not to be.
    pub fn strict(&self, direction: Direction) -> watch::Receiver<bool> {
        self.0.strict[direction as usize].subscribe()
    }

    /// Resolves when plaintext has not been allowed for `grace`: what has not ended by then is cut.
    pub async fn strict_for(&self, direction: Direction, grace: Duration) {
        let mut strict = self.strict(direction);
        loop {
            if strict.wait_for(|strict| *strict).await.is_err() {
                return std::future::pending().await;
            }
            let over = Instant::now() + grace;
            tokio::select! {
                () = sleep_until(over) => return,
                _ = strict.wait_for(|strict| !*strict) => {}
            }
        }
    }

    /// Changes with every demand.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Turns true once policies are known.
    pub fn known(&self) -> watch::Receiver<bool> {
        self.0.known.subscribe()
    }

    /// What is demanded now, and by whom.
    pub fn describe(&self) -> Vec<Demand> {
        self.0.described.lock().clone()
    }

    pub fn plaintext_ended(&self, direction: Direction, peer: &str) {
        self.0.plaintext_ended.with(&[("direction", direction.as_str()), ("peer", peer)]).inc();
    }

    /// Demands what policies say from now on.
    pub fn hold(&self, policy: &wire::Policy) {
        let none = wire::Demands::default();
        let said = [policy.inbound.as_ref(), policy.outbound.as_ref()].map(|one| one.unwrap_or(&none));
        let mut shown = Vec::new();
        let mut sides = self.0.started;
        for ((side, said), direction) in sides.iter_mut().zip(said).zip(DIRECTIONS) {
            let mut show = |field: &str, level: &str, said: &Option<wire::Demand>| {
                let source = said.as_ref().map_or(STARTED, |demand| demand.source.as_str());
                let (field, level, source) = (field.to_owned(), level.to_owned(), source.to_owned());
                shown.push(Demand { direction: account::as_said(direction), field, level, source });
            };
            side.ladders.key_exchange = ladder(&said.key_exchange, side.ladders.key_exchange);
            show("key_exchange", side.ladders.key_exchange.as_str(), &said.key_exchange);
            side.ladders.signatures = ladder(&said.signatures, side.ladders.signatures);
            show("signatures", side.ladders.signatures.as_str(), &said.signatures);
            side.plaintext = plaintext(&said.plaintext, side.plaintext);
            show("plaintext", side.plaintext.as_str(), &said.plaintext);
        }
        // First what is made by it, then those who look at what was made before.
        self.0.base.serve_under(&sides.map(|side| side.ladders));
        for (tls, side) in self.0.tls.iter().zip(sides) {
            tls.demand(side.ladders);
        }
        for (strict, side) in self.0.strict.iter().zip(sides) {
            let now = side.plaintext == Plaintext::Strict;
            strict.send_if_modified(|strict| std::mem::replace(strict, now) != now);
        }
        self.0.changes.send_modify(|changes| *changes += 1);
        self.0.shown.replace(shown.iter().map(|demand| {
            let Demand { direction, field, level, source } = demand;
            let labels = vec![
                ("direction", direction.as_str()),
                ("field", field.as_str()),
                ("level", level.as_str()),
                ("source", source.as_str()),
            ];
            (labels, 1.0)
        }));
        *self.0.described.lock() = shown;
    }

    /// Asks what is demanded of `pod`, and holds to it for as long as the directory is there.
    pub async fn follow(self, directory: Directory, pod: PodName, health: Health) {
        let subject = Subject::Pod(pod);
        let mut followed = loop {
            match directory.follow(&subject).await {
                Ok(followed) => break followed,
                Err(error) => warn!(%subject, %error, "what policies demand is not known yet"),
            }
        };
        let mut held: Option<wire::Policy> = None;
        loop {
            match &*followed.now() {
                Answer::Policy(policy) => {
                    if held.as_ref() != Some(policy) {
                        self.hold(policy);
                        info!(?policy, "policies are known");
                        held = Some(policy.clone());
                    }
                    health.set(CONDITION, Ok(()));
                    self.0.known.send_replace(true);
                }
                // The pod is not there yet, or not any more: what was known last holds.
                _ if held.is_none() => health.set(
                    CONDITION,
                    Err(format!("discovery does not know {subject} as a pod of this ServiceAccount yet")),
                ),
                _ => {}
            }
            if !followed.changed().await {
                return;
            }
        }
    }
}

fn ladder(said: &Option<wire::Demand>, started: Ladder) -> Ladder {
    match said.as_ref().map(|demand| Level::try_from(demand.level)) {
        None | Some(Ok(Level::Unspecified)) => started,
        Some(Ok(Level::Classical)) => Ladder::Classical,
        Some(Ok(Level::Prefer)) => Ladder::Prefer,
        // What a later version asks for is not less.
        Some(Ok(Level::Require | Level::Permissive | Level::Strict) | Err(_)) => Ladder::Require,
    }
}

fn plaintext(said: &Option<wire::Demand>, started: Plaintext) -> Plaintext {
    match said.as_ref().map(|demand| Level::try_from(demand.level)) {
        None | Some(Ok(Level::Unspecified)) => started,
        Some(Ok(Level::Permissive)) => Plaintext::Permissive,
        Some(Ok(Level::Strict | Level::Classical | Level::Prefer | Level::Require) | Err(_)) => {
            Plaintext::Strict
        }
    }
}

#[cfg(test)]
mod tests {
    use trellis_pki::clock::SystemClock;

    use super::*;

    fn demand(level: i32) -> Option<wire::Demand> {
        Some(wire::Demand { level, source: "shop/web".into() })
    }

    #[test]
    fn what_is_not_said_is_as_it_was_and_what_is_not_known_is_the_strictest() {
        for (level, expected) in [
            (Level::Unspecified.into(), Ladder::Prefer),
            (Level::Classical.into(), Ladder::Classical),
            (Level::Prefer.into(), Ladder::Prefer),
            (Level::Require.into(), Ladder::Require),
            (Level::Strict.into(), Ladder::Require),
            (77, Ladder::Require),
        ] {
            assert_eq!(ladder(&demand(level), Ladder::Prefer), expected, "{level}");
        }
        assert_eq!(ladder(&None, Ladder::Classical), Ladder::Classical);
        for (level, expected) in [
            (Level::Unspecified.into(), Plaintext::Permissive),
            (Level::Permissive.into(), Plaintext::Permissive),
            (Level::Strict.into(), Plaintext::Strict),
            (Level::Prefer.into(), Plaintext::Strict),
            (77, Plaintext::Strict),
        ] {
            assert_eq!(plaintext(&demand(level), Plaintext::Permissive), expected, "{level}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_holds_at_once_and_its_end_brings_back_how_the_proxy_was_started() {
        let base = Arc::new(MeshTls::new(Policy::default(), "cluster.local", Arc::new(SystemClock)));
        let demands = Demands::new(&base, [Side::default(); 2], &Registry::new());
        let mut changes = demands.changes();
        let grace = Duration::from_secs(25);
        let inbound = wire::Demands {
            key_exchange: demand(Level::Prefer.into()),
            signatures: demand(Level::Classical.into()),
            plaintext: demand(Level::Strict.into()),
        };
        demands.hold(&wire::Policy { inbound: Some(inbound), outbound: None });
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
        let [inbound, outbound] = DIRECTIONS.map(|direction| demands.tls(direction).policy());
        assert_eq!((inbound.key_exchange, inbound.signatures), (Ladder::Prefer, Ladder::Classical));
        assert_eq!(outbound, Policy::default());
        assert!(demands.is_strict(Direction::Inbound) && !demands.is_strict(Direction::Outbound));
        // What is installed is good for either direction, and what refuses is told.
        assert_eq!((base.policy().signatures, base.refuses_classical()), (Ladder::Prefer, true));
        demands.strict_for(Direction::Inbound, grace).await;
        demands.hold(&wire::Policy::default());
        assert_eq!(demands.tls(Direction::Inbound).policy(), Policy::default());
        assert!(!demands.is_strict(Direction::Inbound));
        let strict = demands.strict_for(Direction::Inbound, grace);
        assert!(tokio::time::timeout(Duration::from_secs(3_600), strict).await.is_err());
    }
}
