//! What the CA knows of the world: just enough of each pod, Service and namespace to decide who may be
//! called what, and who needs the trust bundle.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Namespace, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::RwLock;
use tokio::{sync::watch, task::JoinSet};
use trellis_api::{
    annotations::{DUAL_IDENTITY, Switch},
    names::{CA, DISCOVERY, ENABLED, GATEWAY, INJECT, INJECTED, PROXY_CONTAINER},
    source::{Change, Source},
};
use trellis_telemetry::health::Health;

use crate::names::{self, Names};

/// The health condition that holds once pods, Services and namespaces are known.
pub const CONDITION: &str = "source";

/// Namespace and name.
type Key = (String, String);

/// What matters of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub uid: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    /// It ran to its end and will not run again.
    pub finished: bool,
    pub address: Option<IpAddr>,
    /// Whether it is to hold a companion certificate; nothing where the mesh's default holds.
    pub dual_identity: Option<Switch>,
    /// Its proxy, or the service of ours that it is, works.
    works: bool,
    injected: bool,
}

/// The known world. Clones are the same.
#[derive(Clone)]
pub struct View(Arc<Inner>);

struct Inner {
    /// Namespace of the CA itself, which needs the bundle as well.
    own_namespace: String,
    state: RwLock<State>,
    /// Namespaces that need the bundle; none before all is known.
    meshed: watch::Sender<Option<BTreeSet<String>>>,
    /// Pods that hold an identity and work, as NAMESPACE/NAME; none before all is known.
    alive: watch::Sender<Option<BTreeSet<String>>>,
    health: Health,
}

#[derive(Default)]
struct State {
    pods: HashMap<Key, Arc<PodFacts>>,
    /// By namespace and name: the selector.
    services: HashMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    labelled: BTreeSet<String>,
    /// Pods per namespace that carry a proxy.
    injected: HashMap<String, usize>,
    known: Known,
}

#[derive(Clone, Copy, Default)]
struct Known {
    pods: bool,
    services: bool,
    namespaces: bool,
}

impl View {
    pub fn new(own_namespace: &str, health: Health) -> Self {
        Self(Arc::new(Inner {
            own_namespace: own_namespace.to_owned(),
            state: RwLock::default(),
            meshed: watch::Sender::new(None),
            alive: watch::Sender::new(None),
            health,
        }))
    }

    /// Follows the source for as long as the returned tasks live.
    pub fn follow(&self, source: &impl Source) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (view, mut pods) = (self.clone(), source.watch::<Pod>());
        tasks.spawn(async move {
            while let Some(change) = pods.next().await {
                view.update(|state| state.pods_changed(change));
            }
        });
        let (view, mut services) = (self.clone(), source.watch::<Service>());
        tasks.spawn(async move {
            while let Some(change) = services.next().await {
                view.update(|state| state.services_changed(change));
            }
        });
        let (view, mut namespaces) = (self.clone(), source.watch::<Namespace>());
        tasks.spawn(async move {
            while let Some(change) = namespaces.next().await {
                view.update(|state| state.namespaces_changed(change));
            }
        });
        tasks
    }

    /// A view that knows these pods, and no Services.
    #[cfg(test)]
    pub fn knowing(pods: Vec<Arc<Pod>>) -> Self {
        let view = Self::new("trellis-system", Health::new(&[CONDITION]));
        view.update(|state| state.services_changed(Change::Reset(vec![])));
        view.update(|state| state.namespaces_changed(Change::Reset(vec![])));
        view.update(|state| state.pods_changed(Change::Reset(pods)));
        view
    }

    #[cfg(test)]
    pub fn learn(&self, pod: Arc<Pod>) {
        self.update(|state| state.pods_changed(Change::Applied(pod)));
    }

    /// Whether everything has been seen once.
    pub fn is_known(&self) -> bool {
        self.0.state.read().known.all()
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<PodFacts>> {
        self.0.state.read().pods.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The DNS names of a pod with these labels.
    pub fn names(&self, namespace: &str, cluster_domain: &str, labels: &BTreeMap<String, String>) -> Names {
        let state = self.0.state.read();
        let services = state.services.get(namespace).into_iter().flatten();
        names::of(
            namespace,
            cluster_domain,
            labels,
            services.map(|(name, selector)| (name.as_str(), selector)),
        )
    }

    /// The namespaces that need the trust bundle, as they change: those with the label, those where pods
    /// carry a proxy all the same, and the CA's own. `None` until all is known.
    pub fn meshed(&self) -> watch::Receiver<Option<BTreeSet<String>>> {
        self.0.meshed.subscribe()
    }

    /// The pods that live by an identity of ours, as they change. `None` until all is known.
    pub fn alive(&self) -> watch::Receiver<Option<BTreeSet<String>>> {
        self.0.alive.subscribe()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state.write();
        change(&mut state);
        if !state.known.all() {
            return;
        }
        let meshed = state.meshed(&self.0.own_namespace);
        let alive = state.alive(&self.0.own_namespace);
        drop(state);
        self.0.health.set(CONDITION, Ok(()));
        replace(&self.0.meshed, meshed);
        replace(&self.0.alive, alive);
    }
}

/// Says so only if something changed.
fn replace(told: &watch::Sender<Option<BTreeSet<String>>>, now: BTreeSet<String>) {
    told.send_if_modified(|before| {
        let changed = before.as_ref() != Some(&now);
        if changed {
            *before = Some(now);
        }
        changed
    });
}

impl State {
    fn pods_changed(&mut self, change: Change<Pod>) {
        match change {
            Change::Reset(pods) => {
                self.pods.clear();
                self.injected.clear();
                for pod in pods {
                    self.put_pod(&pod);
                }
                self.known.pods = true;
            }
            Change::Applied(pod) => self.put_pod(&pod),
            Change::Deleted(pod) => self.drop_pod(&key(&pod.metadata)),
        }
    }

    fn put_pod(&mut self, pod: &Pod) {
        let key = key(&pod.metadata);
        self.drop_pod(&key);
        let facts = facts(pod);
        if facts.injected {
            *self.injected.entry(key.0.clone()).or_default() += 1;
        }
        self.pods.insert(key, Arc::new(facts));
    }

    fn drop_pod(&mut self, key: &Key) {
        let Some(facts) = self.pods.remove(key) else { return };
        if facts.injected
            && let Some(count) = self.injected.get_mut(&key.0)
        {
            *count -= 1;
            if *count == 0 {
                self.injected.remove(&key.0);
            }
        }
    }

    fn services_changed(&mut self, change: Change<Service>) {
        match change {
            Change::Reset(services) => {
                self.services.clear();
                for service in services {
                    self.put_service(&service);
                }
                self.known.services = true;
            }
            Change::Applied(service) => self.put_service(&service),
            Change::Deleted(service) => {
                let (namespace, name) = key(&service.metadata);
                if let Some(services) = self.services.get_mut(&namespace) {
                    services.remove(&name);
                    if services.is_empty() {
                        self.services.remove(&namespace);
                    }
                }
            }
        }
    }

    fn put_service(&mut self, service: &Service) {
        let (namespace, name) = key(&service.metadata);
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        self.services.entry(namespace).or_default().insert(name, selector);
    }

    fn namespaces_changed(&mut self, change: Change<Namespace>) {
        match change {
            Change::Reset(namespaces) => {
                self.labelled.clear();
                for namespace in namespaces {
                    self.put_namespace(&namespace);
                }
                self.known.namespaces = true;
            }
            Change::Applied(namespace) => self.put_namespace(&namespace),
            Change::Deleted(namespace) => {
                self.labelled.remove(&key(&namespace.metadata).1);
            }
        }
    }

    fn put_namespace(&mut self, namespace: &Namespace) {
        let name = key(&namespace.metadata).1;
        let labels = namespace.metadata.labels.as_ref();
        let enabled = labels.and_then(|labels| labels.get(INJECT)).is_some_and(|value| value == ENABLED);
        // Nothing can be created in a namespace that is going away.
        if enabled && namespace.metadata.deletion_timestamp.is_none() {
            self.labelled.insert(name);
        } else {
            self.labelled.remove(&name);
        }
    }

    fn alive(&self, own: &str) -> BTreeSet<String> {
        let alive = self.pods.iter().filter(|((namespace, _), pod)| {
            let service = namespace == own && [CA, DISCOVERY].contains(&pod.service_account.as_str());
            pod.works && !pod.finished && (pod.injected || service)
        });
        alive.map(|((namespace, name), _)| format!("{namespace}/{name}")).collect()
    }

    fn meshed(&self, own: &str) -> BTreeSet<String> {
        let mut meshed = self.labelled.clone();
        meshed.extend(self.injected.keys().cloned());
        meshed.insert(own.to_owned());
        meshed
    }
}

impl Known {
    fn all(self) -> bool {
        self.pods && self.services && self.namespaces
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn facts(pod: &Pod) -> PodFacts {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let annotations = pod.metadata.annotations.as_ref();
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    PodFacts {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        service_account: account.filter(|name| !name.is_empty()).unwrap_or("default").to_owned(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        address: address.and_then(|address| address.parse().ok()),
        // The injector has copied its namespace's word here. What cannot be read wants nothing weaker.
        dual_identity: annotations
            .and_then(|annotations| annotations.get(DUAL_IDENTITY))
            .map(|value| value.parse().unwrap_or(Switch::Disabled)),
        works: works(pod),
        injected: annotations
            .is_some_and(|annotations| [INJECTED, GATEWAY].iter().any(|one| annotations.contains_key(*one))),
    }
}

/// Whether the proxy of a pod works; where the kubelet says nothing of one, whether the pod does.
fn works(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let proxy = status.init_container_statuses.iter().flatten().find(|one| one.name == PROXY_CONTAINER);
    match proxy {
        Some(proxy) => proxy.ready,
        None => {
            let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
            ready.is_some_and(|condition| condition.status == "True")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": { "namespace": "shop", "name": name, "uid": format!("uid-{name}") },
            "spec": { "containers": [] },
        });
        for (pointer, value) in more.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            if pod.pointer(parent).is_none() {
                pod[parent.trim_start_matches('/')] = json!({});
            }
            pod.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn namespace(name: &str, label: Option<&str>) -> Arc<Namespace> {
        let labels = label.map_or(json!({}), |value| json!({ INJECT: value }));
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap())
    }

    fn known(view: &View) {
        view.update(|state| state.pods_changed(Change::Reset(vec![])));
        view.update(|state| state.services_changed(Change::Reset(vec![])));
        view.update(|state| state.namespaces_changed(Change::Reset(vec![])));
    }

    fn meshed(view: &View) -> Option<Vec<String>> {
        view.meshed().borrow().as_ref().map(|set| set.iter().cloned().collect())
    }

    fn view() -> View {
        View::new("trellis-system", Health::new(&[CONDITION]))
    }

    #[test]
    fn nothing_is_decided_before_everything_is_known() {
        let view = view();
        view.update(|state| state.pods_changed(Change::Reset(vec![pod("a", json!({}))])));
        view.update(|state| state.services_changed(Change::Reset(vec![])));
        assert!(!view.is_known() && meshed(&view).is_none() && !view.0.health.is_ready());
        view.update(|state| state.namespaces_changed(Change::Reset(vec![])));
        assert!(view.is_known() && view.0.health.is_ready());
        assert_eq!(meshed(&view), Some(vec!["trellis-system".to_owned()]));
    }

    #[test]
    fn a_namespace_needs_the_bundle_for_its_label_or_for_its_pods() {
        let view = view();
        known(&view);
        let apply = |namespace| view.update(|state| state.namespaces_changed(Change::Applied(namespace)));
        apply(namespace("shop", Some("enabled")));
        apply(namespace("off", Some("disabled")));
        apply(namespace("plain", None));
        assert_eq!(meshed(&view).unwrap(), ["shop", "trellis-system"]);

        // A pod that opted in by itself.
        apply(namespace("shop", None));
        assert_eq!(meshed(&view).unwrap(), ["trellis-system"]);
        let injected = pod("a", json!({ "/metadata/annotations": { INJECTED: "0.1.0" } }));
        view.update(|state| state.pods_changed(Change::Applied(injected.clone())));
        view.update(|state| state.pods_changed(Change::Applied(injected.clone())));
        assert_eq!(meshed(&view).unwrap(), ["shop", "trellis-system"]);
        view.update(|state| state.pods_changed(Change::Deleted(injected)));
        assert_eq!(meshed(&view).unwrap(), ["trellis-system"]);

        // A gateway's pod, which nobody injects.
        let gateway = pod("b", json!({ "/metadata/annotations": { GATEWAY: "edge" } }));
        view.update(|state| state.pods_changed(Change::Applied(gateway)));
        assert_eq!(meshed(&view).unwrap(), ["shop", "trellis-system"]);
    }

    #[test]
    fn a_namespace_that_goes_away_gets_nothing_more() {
        let view = view();
        known(&view);
        let mut leaving = (*namespace("shop", Some("enabled"))).clone();
        view.update(|state| state.namespaces_changed(Change::Applied(Arc::new(leaving.clone()))));
        leaving.metadata = serde_json::from_value(json!({
            "name": "shop", "labels": { INJECT: "enabled" }, "deletionTimestamp": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        view.update(|state| state.namespaces_changed(Change::Applied(Arc::new(leaving))));
        assert_eq!(meshed(&view).unwrap(), ["trellis-system"]);
    }

    #[test]
    fn of_a_pod_is_kept_what_decides() {
        let view = view();
        let named =
            pod("a", json!({ "/spec/serviceAccountName": "orders", "/metadata/labels": { "app": "x" } }));
        let finished = pod("b", json!({ "/status/phase": "Succeeded" }));
        view.update(|state| state.pods_changed(Change::Reset(vec![named, finished])));
        let a = view.pod("shop", "a").unwrap();
        assert_eq!((a.uid.as_str(), a.service_account.as_str(), a.finished), ("uid-a", "orders", false));
        let b = view.pod("shop", "b").unwrap();
        assert_eq!((b.service_account.as_str(), b.finished), ("default", true));
        assert!(view.pod("other", "a").is_none());
    }
}
