//! Brings each open request of one kind to its clerk: while this replica leads, a bounded number at once,
//! and again after a while where something stood in the way.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use trellis_telemetry::shutdown::{Shutdown, requested};

use super::{Clerk, Look, kind::discover};
use trellis_election::Role;

/// Requests that are looked at together.
const CONCURRENCY: usize = 16;
/// Requests that are open together; more are found again by the next listing.
const OPEN: usize = 4_096;
const PAGE_SIZE: u32 = 500;
/// All requests are listed again this often, so that none is forgotten.
const LISTING: Duration = Duration::from_secs(600);
/// A cluster that does not know the kind may learn it with its next version.
const ABSENT: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(5);
/// From look to look, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After that, who asks is told that there will be no certificate.
const PATIENCE: Duration = Duration::from_secs(300);

/// Namespace, if the kind has any, and name.
type Key = (Option<String>, String);

/// Where requests of one kind come in.
pub struct Desk<C> {
    client: Client,
    clerk: Arc<C>,
    roles: watch::Receiver<Role>,
    turns: Arc<Semaphore>,
    open: HashSet<Key>,
    looks: JoinSet<Key>,
}

/// Why a watch ended.
enum Ended {
    NotLeading,
    ListAgain,
    /// The cluster no longer knows the kind in this version.
    Gone,
}

impl<C: Clerk> Desk<C> {
    pub fn new(client: Client, clerk: C, roles: watch::Receiver<Role>) -> Self {
        Self {
            client,
            clerk: Arc::new(clerk),
            roles,
            turns: Arc::new(Semaphore::new(CONCURRENCY)),
            open: HashSet::new(),
            looks: JoinSet::new(),
        }
    }

    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = requested(shutdown) => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let plural = self.clerk.plural();
        let mut said_absent = false;
        loop {
            if self.roles.wait_for(|role| matches!(role, Role::Leader { .. })).await.is_err() {
                return std::future::pending().await;
            }
            let pause = match discover(&self.client, plural).await {
                Ok(Some(kind)) => {
                    said_absent = false;
                    tracing::info!(kind = plural, version = kind.version, "answering requests");
                    match self.watch(&kind).await {
                        Ended::NotLeading => {
                            self.looks.abort_all();
                            while self.looks.join_next().await.is_some() {}
                            self.open.clear();
                            continue;
                        }
                        Ended::ListAgain => continue,
                        Ended::Gone => RETRY,
                    }
                }
                Ok(None) => {
                    if !std::mem::replace(&mut said_absent, true) {
                        tracing::info!(
                            kind = plural,
                            "this cluster has no such requests; looking again now and then"
                        );
                    }
                    ABSENT
                }
                Err(error) => {
                    tracing::warn!(kind = plural, %error, "cannot ask the cluster for its APIs; trying again");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn watch(&mut self, kind: &ApiResource) -> Ended {
        let api = Api::<DynamicObject>::all_with(self.client.clone(), kind);
        let configuration = watcher::Config::default().page_size(PAGE_SIZE);
        let mut events = watcher(api, configuration).default_backoff().boxed();
        let list_again = sleep(LISTING);
        tokio::pin!(list_again);
        loop {
            let event = tokio::select! {
                () = &mut list_again => return Ended::ListAgain,
                lost = self.roles.wait_for(|role| !matches!(role, Role::Leader { .. })) => {
                    drop(lost);
                    return Ended::NotLeading;
                }
                Some(done) = self.looks.join_next(), if !self.looks.is_empty() => {
                    if let Ok(key) = done {
                        self.open.remove(&key);
                    }
                    continue;
                }
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Apply(object) | Event::InitApply(object))) => self.take(kind, &object),
                Some(Ok(_)) => {}
                Some(Err(error)) if is_gone(&error) => return Ended::Gone,
                Some(Err(error)) => {
                    tracing::warn!(kind = kind.plural, %error, "cannot watch requests; trying again");
                }
                None => return Ended::ListAgain,
            }
        }
    }

    fn take(&mut self, kind: &ApiResource, object: &DynamicObject) {
        let Some(name) = object.meta().name.clone() else { return };
        if !self.clerk.is_open(object) || object.meta().deletion_timestamp.is_some() {
            return;
        }
        if self.open.len() >= OPEN {
            tracing::warn!(kind = kind.plural, open = OPEN, "too many open requests: some have to wait");
            return;
        }
        let key = (object.meta().namespace.clone(), name);
        if !self.open.insert(key.clone()) {
            return;
        }
        let api = match &key.0 {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
            None => Api::all_with(self.client.clone(), kind),
        };
        let (clerk, turns) = (self.clerk.clone(), self.turns.clone());
        self.looks.spawn(async move {
            attend(&*clerk, &api, &turns, &key.1).await;
            key
        });
    }
}

/// Looks at one request until nothing more is to be done about it.
async fn attend(clerk: &impl Clerk, api: &Api<DynamicObject>, turns: &Semaphore, name: &str) {
    let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let look = {
            let _turn = turns.acquire().await;
            look(clerk, api, name, began.elapsed()).await
        };
        let why = match look {
            Ok(Look::Done) => return,
            Ok(Look::Later(why)) => why,
            Err(error) => error.to_string(),
        };
        if began.elapsed() > PATIENCE * 2 {
            tracing::error!(kind = clerk.plural(), name, why, "cannot answer a request; it is left as it is");
            return;
        }
        tracing::debug!(kind = clerk.plural(), name, why, "a request waits");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// At the object as it is now: somebody else may have answered it.
async fn look(
    clerk: &impl Clerk,
    api: &Api<DynamicObject>,
    name: &str,
    waited: Duration,
) -> Result<Look, kube::Error> {
    let Some(object) = api.get_opt(name).await?.filter(|object| clerk.is_open(object)) else {
        return Ok(Look::Done);
    };
    match clerk.look(api, &object, waited).await? {
        Look::Later(why) if waited > PATIENCE => {
            clerk.give_up(api, &object, &why).await?;
            Ok(Look::Done)
        }
        look => Ok(look),
    }
}

fn is_gone(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    status.is_not_found()
}
