//! Looks at one object: from what is remembered, and where something is to be done, from what the API server
//! says at this moment. Then it takes one step after the other, each over what was read, and says in the
//! status what came of it.

mod fresh;
mod read;
mod said;
mod step;
mod verify;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use kube::{Api, Client, api::DynamicObject};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use trellis_api::crypto::{Kind, MessageKind};
use trellis_pki::clock::Clock;

use crate::{
    herald::Herald,
    id::Id,
    index::{Dependency, Name},
    issuer::Issuer,
    kept::State,
    kinds::trade,
    ledger::{self, Ledger},
    lifecycle::{Blocked, Taken},
    queue::Outcome,
    sources::Obstacle,
    trade::{Decision, Look, Trade},
    trouble::Trouble,
    vault::Vault,
    view::{Access, Looked, View},
};

/// Steps of one turn, and fresh looks in it: more than any life needs, and less than forever.
const STEPS: usize = 24;
const LOOKS: usize = 4;
/// The longest that nobody looks at an object whose time will come: clocks may be set.
const LONGEST_REST: Duration = Duration::from_secs(6 * 60 * 60);
/// Operations that calculate at the same time.
const CALCULATING: usize = 2;

/// Who attends to objects.
pub(crate) struct Attendant {
    client: Client,
    vault: Vault,
    view: Arc<Mutex<View>>,
    clock: Arc<dyn Clock>,
    herald: Arc<dyn Herald>,
    ledger: Arc<dyn Ledger>,
    mesh: Option<Arc<dyn Issuer>>,
    turns: Semaphore,
}

/// What a turn has found out by itself.
#[derive(Default)]
struct Turn {
    /// Secrets of which nothing can be made, by uid and version, and how they stand therefore.
    unread: HashMap<(String, String), State>,
    /// Names that are somebody else's.
    taken: HashSet<String>,
}

impl Attendant {
    pub fn new(
        client: Client,
        vault: Vault,
        view: Arc<Mutex<View>>,
        clock: Arc<dyn Clock>,
        (herald, ledger): (Arc<dyn Herald>, Arc<dyn Ledger>),
        mesh: Option<Arc<dyn Issuer>>,
    ) -> Self {
        Self { client, vault, view, clock, herald, ledger, mesh, turns: Semaphore::new(CALCULATING) }
    }

    pub async fn attend(&self, id: &Id) -> Outcome {
        match self.turn(id).await {
            Ok(outcome) => outcome,
            Err(Trouble::Changed) => Outcome::Changed,
            Err(Trouble::Busy { asked, why }) => {
                tracing::info!(object = %id, why, "the Kubernetes API has no time; trying again");
                Outcome::Busy(asked)
            }
            Err(Trouble::Forbidden(why) | Trouble::Refused(why)) => {
                tracing::warn!(object = %id, why, "the Kubernetes API refuses; trying again");
                Outcome::Busy(None)
            }
        }
    }

    async fn turn(&self, id: &Id) -> Result<Outcome, Trouble> {
        let Some(look) = self.remembered(id) else { return Ok(Outcome::Rest(None)) };
        if id.kind == Kind::VerifySignature {
            return self.verify(look).await;
        }
        let Some(trade) = trade(id.kind) else { return Ok(Outcome::Rest(None)) };
        if matches!(look.looked, Looked::NotYet) {
            return Ok(Outcome::Rest(None));
        }
        let decision = trade.decide(&look, self.clock.now());
        // Before anything is said to be gone, it is looked for.
        let missing = trade.record(&look.object).missing(look.kept.iter().map(|kept| &**kept));
        if decision.course.step.is_none() && decision.course.blocked.is_none() && missing.is_empty() {
            self.watch_names(&look, &decision, trade);
            return self.conclude(trade, &look, &decision).await;
        }
        self.work(trade, id).await
    }

    /// What is remembered of an object. Nothing where it is gone, or not everything was seen yet.
    fn remembered(&self, id: &Id) -> Option<Look> {
        let mut view = self.view.lock();
        let Some(object) = view.object(id).cloned() else {
            view.depend(id, BTreeSet::new());
            return None;
        };
        let access = view.access(&id.namespace);
        if access == Access::Unknown || object.deleting {
            return None;
        }
        let asks = crate::kinds::asks(&object).unwrap_or_default();
        let mut on = view.dependencies(id, &asks);
        if id.kind != Kind::VerifySignature {
            // What is watched because its name is not ours stays so until a look says otherwise.
            on.extend(view.names_of(id));
        }
        view.depend(id, on);
        let closed = (access == Access::Closed)
            .then(|| Obstacle::NoAccess { namespace: id.namespace.to_string(), said: None });
        Some(Look {
            kept: view.kept(&object.uid).to_vec(),
            looked: view.resolve(id, &asks),
            dependants: view.made_from(id),
            taken: Taken::No,
            closed,
            object,
        })
    }

    /// Takes steps until there is none.
    async fn work(&self, trade: &'static dyn Trade, id: &Id) -> Result<Outcome, Trouble> {
        // Nothing is made or destroyed that could not be told.
        self.ledger.room()?;
        let (mut turn, mut looks, mut fresh) = (Turn::default(), 0, None);
        for _ in 0..STEPS {
            let mut look = match fresh.take() {
                Some(look) => look,
                None if looks == LOOKS => return Err(Trouble::Changed),
                None => {
                    looks += 1;
                    match self.look(trade, id, &turn).await {
                        Ok(Some(look)) => look,
                        Ok(None) => return Ok(Outcome::Rest(None)),
                        Err(Trouble::Forbidden(said)) => return self.forbidden(trade, id, said).await,
                        Err(trouble) => return Err(trouble),
                    }
                }
            };
            if matches!(look.looked, Looked::NotYet) {
                return Ok(Outcome::Rest(None));
            }
            let mut decision = trade.decide(&look, self.clock.now());
            let Some(step) = decision.course.step.take() else {
                self.watch_names(&look, &decision, trade);
                return self.conclude(trade, &look, &decision).await;
            };
            match self.take(trade, &mut look, &decision, step, &mut turn).await {
                Ok(()) => fresh = Some(look),
                // Somebody was there in between; what is true now is found out by looking.
                Err(step::Stopped::Trouble(Trouble::Changed)) => {}
                Err(step::Stopped::Obstacle(obstacle)) => {
                    decision.obstacle = Some(obstacle);
                    return self.conclude(trade, &look, &decision).await;
                }
                Err(step::Stopped::Conflict(name)) => {
                    decision.course.blocked = Some(Blocked::Conflict { name });
                    self.watch_names(&look, &decision, trade);
                    return self.conclude(trade, &look, &decision).await;
                }
                Err(step::Stopped::Trouble(Trouble::Forbidden(said))) => {
                    return self.forbidden(trade, id, said).await;
                }
                Err(step::Stopped::Trouble(Trouble::Refused(why))) => {
                    decision.obstacle = Some(Obstacle::Refused { why });
                    self.conclude(trade, &look, &decision).await?;
                    return Ok(Outcome::Busy(None));
                }
                Err(step::Stopped::Trouble(trouble)) => return Err(trouble),
            }
        }
        Err(Trouble::Changed)
    }

    async fn forbidden(&self, trade: &dyn Trade, id: &Id, said: String) -> Result<Outcome, Trouble> {
        let look = {
            let view = self.view.lock();
            let Some(object) = view.object(id).cloned() else { return Ok(Outcome::Rest(None)) };
            let closed = Obstacle::NoAccess { namespace: id.namespace.to_string(), said: Some(said) };
            Look {
                kept: Vec::new(),
                taken: Taken::No,
                looked: Looked::Found(Vec::new()),
                closed: Some(closed),
                dependants: Vec::new(),
                object,
            }
        };
        let decision = trade.decide(&look, self.clock.now());
        self.conclude(trade, &look, &decision).await?;
        Ok(Outcome::Busy(None))
    }

    /// While a name is somebody else's, or what was there is lost, it is looked at by that name: whoever makes
    /// way, or puts a backup there, need not tell.
    fn watch_names(&self, look: &Look, decision: &Decision, trade: &dyn Trade) {
        let id = &look.object.id;
        let name = match &decision.course.blocked {
            Some(Blocked::Conflict { name } | Blocked::NotAdopted { name, .. }) => Some(name.clone()),
            Some(Blocked::Lost { .. }) => trade.secret(&look.object),
            _ => None,
        };
        let asks = crate::kinds::asks(&look.object).unwrap_or_default();
        let mut view = self.view.lock();
        let mut on = view.dependencies(id, &asks);
        let namespace = id.namespace.to_string();
        on.extend(name.map(|name| Dependency::Named(Name { kind: MessageKind::Secret, namespace, name })));
        view.depend(id, on);
    }

    /// Writes the status, if it is another.
    async fn conclude(
        &self,
        trade: &dyn Trade,
        look: &Look,
        decision: &Decision,
    ) -> Result<Outcome, Trouble> {
        let now = self.clock.now();
        let status = match (trade.status(look, decision, None, now), &decision.course.active) {
            (Some(status), _) => Some(status),
            (None, Some(active)) => {
                let (_, content) = self.load(active).await?;
                trade.status(look, decision, Some(&content), now)
            }
            (None, None) => None,
        };
        if let Some(status) = status {
            let (before, after) = (said::parsed(&look.object.status()), said::parsed(&status));
            ledger::told(&*self.ledger, &look.object, (&before, &after), &look.kept)?;
            self.write(&look.object, status).await?;
        }
        let wake = decision.course.wake.map(|at| at.duration_since(now).unwrap_or_default());
        Ok(Outcome::Rest(wake.map(|wake| wake.min(LONGEST_REST).max(Duration::from_secs(1)))))
    }

    fn objects(&self, id: &Id) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &id.namespace, &id.kind.resource(id.group.as_str()))
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }
}
