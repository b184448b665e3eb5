//! The loop: what watches see goes into the view, whom it concerns into the queue, and from there a bounded
//! number at once to be attended to. Only while this replica leads.

use std::{collections::HashSet, sync::Arc, time::Duration};

use kube::Client;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use trellis_election::Role;
use trellis_pki::clock::Clock;
use trellis_telemetry::shutdown::{Shutdown, requested};

use crate::{
    attend::Attendant,
    herald::Herald,
    id::{Group, Id},
    issuer::Issuer,
    ledger::Ledger,
    metrics::Metrics,
    queue::{Outcome, Queue},
    reader::Reader,
    seal::marks,
    tally::Tally,
    vault::Vault,
    view::View,
    watch::Seen,
    watches::{Notice, Watches},
};

/// Objects that are attended to at the same time.
const CONCURRENCY: usize = 16;
/// What watches have seen and nobody has taken in yet.
const NOTICES: usize = 256;
const RETRY: Duration = Duration::from_secs(5);
/// What an object may take of that, with its turn among those that calculate. A request whose answer was lost takes
/// no place for longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps keys, secrets and signatures in Secrets, as objects of the nine kinds wish.
pub struct Custody {
    pub client: Client,
    /// The control plane's own.
    pub namespace: String,
    pub groups: Vec<Group>,
    pub clock: Arc<dyn Clock>,
    pub herald: Arc<dyn Herald>,
    pub ledger: Arc<dyn Ledger>,
    pub metrics: Metrics,
    pub roles: watch::Receiver<Role>,
    /// The CA of the mesh, which certificates can be issued by.
    pub mesh: Option<Arc<dyn Issuer>>,
}

impl Custody {
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = requested(shutdown) => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let mut roles = self.roles.clone();
        loop {
            if roles.wait_for(|role| matches!(role, Role::Leader { .. })).await.is_err() {
                return std::future::pending().await;
            }
            let deposed = async {
                if roles.wait_for(|role| !matches!(role, Role::Leader { .. })).await.is_err() {
                    // Nobody is left who could take the lead away.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = self.lead() => {}
                () = deposed => {}
            }
        }
    }

    /// Whoever leads begins with what the API server says, and knows nothing from before.
    async fn lead(&self) {
        let marks = loop {
            match marks(&self.client, &self.namespace).await {
                Ok(marks) => break marks,
                Err(why) => {
                    tracing::warn!(why, "there is no key for fingerprints; trying again");
                    sleep(RETRY).await;
                }
            }
        };
        let (sender, mut notices) = mpsc::channel(NOTICES);
        let view = Arc::new(Mutex::new(View::default()));
        let vault = Vault::new(self.client.clone(), marks.clone());
        let attendant = Attendant::new(
            self.client.clone(),
            vault.clone(),
            view.clone(),
            self.clock.clone(),
            (self.herald.clone(), self.ledger.clone()),
            self.mesh.clone(),
        );
        let mut anchors = self.mesh.as_ref().map(|mesh| mesh.anchors());
        if let Some(anchors) = &mut anchors {
            view.lock().mesh_seen(anchors.borrow_and_update().clone());
        }
        let mut work = Work {
            reader: Reader::new(self.client.clone(), vault, sender.clone()),
            watches: Watches::begin(self.client.clone(), marks, &self.groups, sender),
            queue: Queue::default(),
            running: JoinSet::new(),
            attendant: Arc::new(attendant),
            complete: false,
            groups: self.groups.clone(),
            metrics: self.metrics.clone(),
            view,
        };
        loop {
            work.begin();
            let next = work.next();
            let timer = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                // Who has no CA, or whose CA is gone, waits for the rest alone.
                let Some(anchors) = &mut anchors else { return std::future::pending().await };
                match anchors.changed().await {
                    Ok(()) => anchors.borrow_and_update().clone(),
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                anchors = changed => {
                    work.view.lock().mesh_seen(anchors);
                    work.act();
                }
                Some(done) = work.running.join_next(), if !work.running.is_empty() => {
                    if let Ok((id, outcome)) = done {
                        work.done(&id, outcome);
                    }
                }
                notice = notices.recv() => match notice {
                    Some(notice) => work.notice(notice),
                    // The watches hold the other end, so this cannot be.
                    None => return,
                },
                () = timer => {}
            }
        }
    }
}

struct Work {
    view: Arc<Mutex<View>>,
    queue: Queue<Id>,
    watches: Watches,
    reader: Reader,
    attendant: Arc<Attendant>,
    running: JoinSet<(Id, Outcome)>,
    groups: Vec<Group>,
    /// Whether everything was listed once.
    complete: bool,
    metrics: Metrics,
}

impl Drop for Work {
    /// Who does not lead any more says nothing of them.
    fn drop(&mut self) {
        self.metrics.standing(&Tally::default());
    }
}

impl Work {
    /// Reads and attends to as many as may be.
    fn begin(&mut self) {
        self.reader.read();
        self.metrics.waiting(self.queue.len());
        if let Some(tally) = self.view.lock().tally() {
            self.metrics.standing(tally);
        }
        if !self.complete {
            return;
        }
        while self.running.len() < CONCURRENCY
            && let Some(id) = self.queue.take(Instant::now())
        {
            let attendant = self.attendant.clone();
            let duration = self.metrics.began();
            self.running.spawn(async move {
                let outcome = timeout(PATIENCE, attendant.attend(&id)).await.unwrap_or_else(|_| {
                    tracing::warn!(object = %id, ?PATIENCE, "an answer of the API server does not come; trying again");
                    Outcome::Busy(None)
                });
                duration.ended(id.kind, outcome);
                (id, outcome)
            });
        }
    }

    /// When to [`Self::begin`] again, though nothing happens. What there is no room for waits for that.
    fn next(&self) -> Option<Instant> {
        let attend = self.queue.next().filter(|_| self.running.len() < CONCURRENCY);
        attend.into_iter().chain(self.reader.next()).min()
    }

    fn done(&mut self, id: &Id, outcome: Outcome) {
        self.queue.done(id, outcome, Instant::now(), rand::random());
        if self.view.lock().object(id).is_none() && outcome == Outcome::Rest(None) {
            self.queue.forget(id);
        }
        self.act();
    }

    fn notice(&mut self, notice: Notice) {
        self.take_in(notice);
        self.act();
        if !self.complete && self.view.lock().is_complete(&self.groups) {
            self.complete = true;
            let all: Vec<Id> = self.view.lock().all().cloned().collect();
            tracing::info!(objects = all.len(), "keeping keys and secrets");
            all.into_iter().for_each(|id| self.queue.add(id));
        }
    }

    /// On all that has come of changes.
    fn act(&mut self) {
        let mut view = self.view.lock();
        let news = view.news();
        for difference in news.differences {
            difference.end.iter().for_each(|name| self.reader.end(name));
            difference.begin.into_iter().for_each(|name| self.reader.begin(name));
        }
        self.reader.found().into_iter().for_each(|(name, seen)| view.named_seen(&name, seen));
        self.watches.tidy();
        self.reader.tidy();
        let concerned = news.concerned.into_iter().chain(view.news().concerned);
        concerned.for_each(|id| self.queue.add(id));
    }

    fn take_in(&mut self, notice: Notice) {
        let view = self.view.clone();
        let mut view = view.lock();
        match notice {
            Notice::Objects(group, kind, seen) => {
                match seen {
                    Seen::All(objects) => {
                        // Whoever did not see it go sees that it is not there.
                        for gone in view.objects_listed(group, kind, objects) {
                            self.attendant.told_gone(&gone, view.kept(&gone.uid));
                        }
                    }
                    Seen::Applied(object) => view.object_seen(object),
                    Seen::Gone(object) => {
                        // It is looked at once more, so that what was watched for it is not any more.
                        view.object_gone(&object.id);
                        self.attendant.told_gone(&object, view.kept(&object.uid));
                    }
                    Seen::Closed => {
                        tracing::error!(kind = kind.as_str(), group = group.as_str(), "may not be looked at");
                        view.objects_listed(group, kind, Vec::new());
                    }
                    Seen::Unknown => {
                        tracing::warn!(
                            kind = kind.as_str(),
                            group = group.as_str(),
                            "is not served by this cluster"
                        );
                        view.objects_listed(group, kind, Vec::new());
                    }
                }
                let wanted: HashSet<String> = view.namespaces().cloned().collect();
                for left in self.watches.keep_namespaces(&wanted) {
                    view.left(&left);
                }
            }
            Notice::Secrets(namespace, seen) => match seen {
                Seen::All(all) => {
                    let kept = all.into_iter().filter_map(|(_, kept)| kept).collect();
                    view.secrets_listed(&namespace, kept)
                }
                Seen::Applied((_, Some(kept))) => view.secret_seen(kept),
                Seen::Applied((name, None)) => view.secret_gone(&namespace, &name, None),
                Seen::Gone((name, kept)) => {
                    view.secret_gone(&namespace, &name, kept.as_ref().map(|kept| kept.uid.as_str()))
                }
                Seen::Closed | Seen::Unknown => view.closed(&namespace),
            },
            Notice::Names(place, seen) => self.reader.told(&place, seen),
            Notice::Read(reading, answer) => self.reader.answered(reading, answer),
            Notice::Grants(seen) => match seen {
                Seen::All(all) => view.grants_listed(all),
                Seen::Applied(grant) => view.grant_seen(grant),
                Seen::Gone(grant) => view.grant_gone(&grant),
                Seen::Closed | Seen::Unknown => view.grants_listed(Vec::new()),
            },
            Notice::Access(seen) => match seen {
                Seen::All(all) => all.iter().for_each(|namespace| self.nudge(namespace)),
                Seen::Applied(namespace) | Seen::Gone(namespace) => self.nudge(&namespace),
                Seen::Closed | Seen::Unknown => {}
            },
        }
    }

    /// Rights of a namespace have changed.
    fn nudge(&mut self, namespace: &str) {
        self.watches.nudge(namespace);
        self.reader.nudge(namespace);
    }
}
