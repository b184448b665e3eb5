//! The trust bundle as a ConfigMap in each namespace that needs it: made, repaired when somebody changes
//! it, taken away when it is needed no more. While all is as it should be, nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use trellis_api::names::{CA, MANAGED_BY, MANAGER, TRUST_BUNDLE_KEY, TRUST_CONFIG_MAP};
use trellis_telemetry::{
    Gauge, Registry,
    health::Health,
    shutdown::{Shutdown, requested},
};

use super::CONDITION;
use trellis_election::Role;

/// Writes under way at once.
const CONCURRENCY: usize = 4;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A wake-up that finds nothing to do, for a moment at which nothing is due.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The namespaces that need the bundle, once they are known.
type Wanted = watch::Receiver<Option<BTreeSet<String>>>;

/// Publishes into namespaces.
pub struct ConfigMaps {
    client: Client,
    own_namespace: String,
    wanted: Wanted,
    pem: watch::Receiver<String>,
    roles: watch::Receiver<Role>,
    health: Health,
    published: Gauge,
    plan: Plan,
}

/// What is there and what has to be done; knows no API.
struct Plan {
    pem: String,
    found: BTreeMap<String, Found>,
    /// A list that is not complete yet.
    listing: BTreeMap<String, Found>,
    listed: bool,
    failures: BTreeMap<String, Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    right: bool,
    ours: bool,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    delay: Duration,
    retry_at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Apply(String),
    Delete(String),
}

impl ConfigMaps {
    pub fn new(
        client: Client,
        own_namespace: &str,
        pem: watch::Receiver<String>,
        wanted: Wanted,
        roles: watch::Receiver<Role>,
        health: Health,
        registry: &Registry,
    ) -> Self {
        let published = registry
            .gauge("trellis_ca_bundle_namespaces", "Namespaces that hold the trust bundle as it must be.")
            .with(&[]);
        let plan = Plan {
            pem: pem.borrow().clone(),
            found: BTreeMap::new(),
            listing: BTreeMap::new(),
            listed: false,
            failures: BTreeMap::new(),
        };
        Self { client, own_namespace: own_namespace.to_owned(), wanted, pem, roles, health, published, plan }
    }

    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        // One name: so the right to read ConfigMaps can be limited to it.
        let only = watcher::Config::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
        let mut events = watcher(Api::<ConfigMap>::all(self.client.clone()), only).default_backoff().boxed();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let pem = self.pem.borrow_and_update().clone();
            self.plan.change_to(pem);
            // Two that write at once could write two bundles.
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            let retry_at = match wanted {
                Some(wanted) => self.settle(&wanted, leads).await,
                None => None,
            };
            let retry_at = retry_at.unwrap_or_else(|| Instant::now() + NEVER);
            tokio::select! {
                () = &mut stop => return,
                event = events.next() => match event {
                    Some(Ok(event)) => self.plan.observe(event),
                    Some(Err(error)) => {
                        tracing::error!(%error, "cannot watch the ConfigMaps {TRUST_CONFIG_MAP}; trying again");
                    }
                    None => return,
                },
                changed = self.wanted.changed() => if changed.is_err() { return },
                changed = self.pem.changed() => if changed.is_err() { return },
                changed = self.roles.changed() => if changed.is_err() { return },
                () = sleep_until(retry_at) => {}
            }
        }
    }

    /// Does what is due if this replica leads, and tells when to try again what failed.
    async fn settle(&mut self, wanted: &BTreeSet<String>, leads: bool) -> Option<Instant> {
        if !self.plan.listed {
            return None;
        }
        let due = if leads { self.plan.due(wanted, Instant::now()) } else { Vec::new() };
        let (client, pem) = (&self.client, self.plan.pem.as_str());
        let done: Vec<_> = stream::iter(due)
            .map(|action| async move {
                let result = perform(client, pem, &action).await;
                (action, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (action, result) in done {
            match (&action, &result) {
                (Action::Apply(namespace), Ok(())) => tracing::info!(namespace, "published the trust bundle"),
                (Action::Delete(namespace), Ok(())) => tracing::info!(namespace, "removed the trust bundle"),
                (_, Err(error)) => {
                    tracing::error!(?action, %error, "cannot publish the trust bundle; trying again");
                }
            }
            self.plan.performed(&action, result.is_ok(), Instant::now());
        }
        self.published.set(self.plan.right(wanted) as f64);
        if self.plan.is_right(&self.own_namespace) {
            self.health.set(CONDITION, Ok(()));
        }
        if leads { self.plan.retry_at() } else { None }
    }
}

impl Plan {
    /// What held the former bundle is right no more.
    fn change_to(&mut self, pem: String) {
        if self.pem == pem {
            return;
        }
        self.pem = pem;
        for found in self.found.values_mut().chain(self.listing.values_mut()) {
            found.right = false;
        }
        self.failures.clear();
    }

    fn observe(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(object) => {
                if let Some((namespace, found)) = judge(&object, &self.pem) {
                    self.listing.insert(namespace, found);
                }
            }
            Event::InitDone => {
                self.found = std::mem::take(&mut self.listing);
                self.listed = true;
            }
            Event::Apply(object) => {
                if let Some((namespace, found)) = judge(&object, &self.pem) {
                    self.found.insert(namespace, found);
                }
            }
            Event::Delete(object) => {
                if let Some((namespace, _)) = judge(&object, &self.pem) {
                    self.found.remove(&namespace);
                }
            }
        }
    }

    fn due(&mut self, wanted: &BTreeSet<String>, now: Instant) -> Vec<Action> {
        self.failures.retain(|namespace, _| wanted.contains(namespace) || self.found.contains_key(namespace));
        let missing = wanted.iter().filter(|namespace| !self.is_right(namespace)).cloned().map(Action::Apply);
        // What is not marked as ours may be somebody's.
        let excess = self
            .found
            .iter()
            .filter(|(namespace, found)| found.ours && !wanted.contains(*namespace))
            .map(|(namespace, _)| Action::Delete(namespace.clone()));
        missing
            .chain(excess)
            .filter(|action| {
                self.failures.get(action.namespace()).is_none_or(|failure| failure.retry_at <= now)
            })
            .collect()
    }

    fn performed(&mut self, action: &Action, succeeded: bool, now: Instant) {
        let namespace = action.namespace();
        if !succeeded {
            let delay =
                self.failures.get(namespace).map_or(FIRST_DELAY, |last| last.delay * 2).min(LONGEST_DELAY);
            self.failures.insert(namespace.to_owned(), Failure { delay, retry_at: now + delay });
            return;
        }
        self.failures.remove(namespace);
        // The watch will say so too, later.
        match action {
            Action::Apply(_) => self.found.insert(namespace.to_owned(), Found { right: true, ours: true }),
            Action::Delete(_) => self.found.remove(namespace),
        };
    }

    fn is_right(&self, namespace: &str) -> bool {
        self.found.get(namespace).is_some_and(|found| found.right)
    }

    fn right(&self, wanted: &BTreeSet<String>) -> u32 {
        let right = wanted.iter().filter(|namespace| self.is_right(namespace)).count();
        u32::try_from(right).unwrap_or(u32::MAX)
    }

    fn retry_at(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.retry_at).min()
    }
}

impl Action {
    fn namespace(&self) -> &str {
        match self {
            Self::Apply(namespace) | Self::Delete(namespace) => namespace,
        }
    }
}

/// The namespace of a ConfigMap of ours, and whether it is as it must be.
fn judge(object: &ConfigMap, pem: &str) -> Option<(String, Found)> {
    if object.metadata.name.as_deref() != Some(TRUST_CONFIG_MAP) {
        return None;
    }
    let ours = object
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|by| by == MANAGER);
    let held = object.data.as_ref().and_then(|data| data.get(TRUST_BUNDLE_KEY));
    let right = ours && held.is_some_and(|held| held == pem);
    Some((object.metadata.namespace.clone()?, Found { right, ours }))
}

async fn perform(client: &Client, pem: &str, action: &Action) -> Result<(), kube::Error> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), action.namespace());
    match action {
        Action::Apply(namespace) => {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": TRUST_CONFIG_MAP,
                    "namespace": namespace,
                    "labels": { MANAGED_BY: MANAGER },
                },
                "data": { TRUST_BUNDLE_KEY: pem },
            });
            api.patch(TRUST_CONFIG_MAP, &PatchParams::apply(CA).force(), &Patch::Apply(&object))
                .await
                .map(|_| ())
        }
        Action::Delete(_) => match api.delete(TRUST_CONFIG_MAP, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            result => result.map(|_| ()),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use trellis_fake_api::FakeApi;

    const PEM: &str = "the anchors";

    struct Publisher {
        api: FakeApi,
        wanted: watch::Sender<Option<BTreeSet<String>>>,
        health: Health,
        registry: Registry,
        pem: watch::Sender<String>,
        role: watch::Sender<Role>,
        _stop: watch::Sender<bool>,
    }

    fn set(namespaces: &[&str]) -> Option<BTreeSet<String>> {
        Some(namespaces.iter().map(ToString::to_string).collect())
    }

    fn path(namespace: &str) -> String {
        format!("/api/v1/namespaces/{namespace}/configmaps/{TRUST_CONFIG_MAP}")
    }

    fn object(namespace: &str, ours: bool, held: &str) -> Value {
        let labels = if ours { json!({ MANAGED_BY: MANAGER }) } else { json!({}) };
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": TRUST_CONFIG_MAP, "namespace": namespace, "labels": labels },
            "data": { TRUST_BUNDLE_KEY: held },
        })
    }

    fn publish(api: &FakeApi, wanted: Option<BTreeSet<String>>) -> Publisher {
        let (wanted, receiver) = watch::channel(wanted);
        let (health, registry) = (Health::new(&[CONDITION]), Registry::new());
        let (pem, pem_receiver) = watch::channel(PEM.to_owned());
        let (role, roles) = watch::channel(Role::Leader { term: 0 });
        let maps = ConfigMaps::new(
            api.client(),
            "trellis-system",
            pem_receiver,
            receiver,
            roles,
            health.clone(),
            &registry,
        );
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(maps.run(shutdown));
        Publisher { api: api.clone(), wanted, health, registry, pem, role, _stop: stop }
    }

    impl Publisher {
        async fn published(&self, namespaces: &[&str]) {
            let pem = self.pem.borrow().clone();
            let holds = |api: &FakeApi, namespace: &str| {
                api.get(&path(namespace)).is_some_and(|map| map["data"][TRUST_BUNDLE_KEY] == pem.as_str())
            };
            self.api.until("publish", |api| namespaces.iter().all(|namespace| holds(api, namespace))).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_bundle_comes_with_the_label_and_goes_with_it() {
        let publisher = publish(&FakeApi::new(), None);
        tokio::task::yield_now().await;
        assert_eq!(publisher.api.writes(), 0, "before the namespaces are known nothing is decided");
        assert!(!publisher.health.is_ready());

        publisher.wanted.send_replace(set(&["trellis-system", "shop"]));
        publisher.published(&["trellis-system", "shop"]).await;
        publisher.health.ready().await;
        let map = publisher.api.get(&path("shop")).unwrap();
        assert_eq!(map["metadata"]["labels"][MANAGED_BY], MANAGER);
        assert!(publisher.registry.prometheus().contains("trellis_ca_bundle_namespaces 2"));

        publisher.wanted.send_replace(set(&["trellis-system"]));
        publisher.api.until("removed", |api| api.get(&path("shop")).is_none()).await;
        assert!(publisher.api.get(&path("trellis-system")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_changed_or_deleted_is_repaired() {
        let publisher = publish(&FakeApi::new(), set(&["trellis-system", "shop"]));
        publisher.published(&["trellis-system", "shop"]).await;
        publisher.api.put(&path("shop"), object("shop", true, "another anchor"));
        publisher.published(&["shop"]).await;
        publisher.api.remove(&path("shop"));
        publisher.published(&["shop"]).await;
        publisher.api.put(&path("shop"), object("shop", false, PEM));
        let ours = |api: &FakeApi| {
            api.get(&path("shop")).is_some_and(|map| map["metadata"]["labels"][MANAGED_BY] == MANAGER)
        };
        publisher.api.until("the mark is back", ours).await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_bundle_goes_everywhere_and_only_the_leader_takes_it_there() {
        let publisher = publish(&FakeApi::new(), set(&["trellis-system", "shop"]));
        publisher.published(&["trellis-system", "shop"]).await;
        publisher.role.send_replace(Role::Follower { leader: None });
        let writes = publisher.api.writes();
        publisher.pem.send_replace("more anchors".to_owned());
        tokio::time::sleep(NEVER).await;
        assert_eq!(publisher.api.writes(), writes);
        publisher.role.send_replace(Role::Leader { term: 1 });
        publisher.published(&["trellis-system", "shop"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_right_is_not_written_again() {
        let api = FakeApi::new();
        for namespace in ["trellis-system", "shop"] {
            api.put(&path(namespace), object(namespace, true, PEM));
        }
        // Somebody's own, which happens to have the name.
        api.put(&path("elsewhere"), object("elsewhere", false, "private"));
        let publisher = publish(&api, set(&["trellis-system", "shop"]));
        publisher.health.ready().await;
        tokio::time::sleep(NEVER).await;
        assert_eq!(api.writes(), 0);
        assert!(api.get(&path("elsewhere")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_refuses_is_tried_again_and_holds_up_no_other() {
        let api = FakeApi::new();
        api.forbid(&path("broken"), true);
        let publisher = publish(&api, set(&["broken", "shop", "trellis-system"]));
        publisher.published(&["shop", "trellis-system"]).await;
        publisher.health.ready().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let attempts = api.writes() - 2;
        assert!((5..=20).contains(&attempts), "it backs off: {attempts} attempts in ten minutes");
        publisher.wanted.send_replace(set(&["broken", "shop", "trellis-system", "new"]));
        publisher.published(&["new"]).await;
        api.forbid(&path("broken"), false);
        tokio::time::sleep(LONGEST_DELAY).await;
        publisher.published(&["broken"]).await;
    }
}
