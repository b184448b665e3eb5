//! A controller in front of an API server that fits into a test, with time that passes only when everything
//! rests.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use trellis_custody::{Custody, Deed, Group, Herald, Ledger, Metrics, Tone, Unrecorded};
use trellis_election::Role;
use trellis_fake_api::FakeApi;
use trellis_pki::clock::Clock;
use trellis_telemetry::Registry;

/// The group of the kinds.
pub const GROUP: &str = "crypto.trellis.dev";
pub const SYSTEM: &str = "trellis-system";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The time of day, as tokio's time goes by.
pub struct Passing {
    began: Instant,
    /// Seconds since 1970 at that moment.
    at: AtomicU64,
}

impl Passing {
    pub fn new() -> Self {
        Self { began: Instant::now(), at: AtomicU64::new(1_800_000_000) }
    }
}

impl Clock for Passing {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.at.load(Ordering::SeqCst)) + self.began.elapsed()
    }
}

/// What was said.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Said>>>);

/// What was put on record.
#[derive(Clone, Default)]
pub struct Recorded {
    all: Arc<Mutex<Vec<Value>>>,
    /// Whether there is no room for more.
    pub full: Arc<AtomicBool>,
}

impl Ledger for Recorded {
    fn room(&self) -> Result<(), Unrecorded> {
        if self.full.load(Ordering::SeqCst) { Err(Unrecorded("there is no room".to_owned())) } else { Ok(()) }
    }

    fn record(&self, deed: &Deed<'_>) -> Result<(), Unrecorded> {
        self.room()?;
        self.all.lock().push(json!({
            "act": deed.act.as_str(), "group": deed.group, "kind": deed.kind, "namespace": deed.namespace,
            "object": deed.object, "uid": deed.uid, "secret": deed.secret, "version": deed.version,
            "algorithm": deed.algorithm, "fingerprint": deed.fingerprint,
        }));
        Ok(())
    }
}

impl Recorded {
    pub fn all(&self) -> Vec<Value> {
        self.all.lock().clone()
    }

    /// Of one object, as `made 1`, without what was told more than once.
    pub fn of(&self, name: &str) -> Vec<String> {
        let all = self.all();
        let of = all.iter().filter(|deed| deed["object"] == name);
        let mut acts: Vec<String> = of
            .map(|deed| match deed["version"].as_u64() {
                Some(version) => format!("{} {version}", deed["act"].as_str().unwrap()),
                None => deed["act"].as_str().unwrap().to_owned(),
            })
            .collect();
        acts.dedup();
        acts
    }
}

pub struct Said {
    /// KIND/NAME
    pub about: String,
    pub tone: Tone,
    pub reason: &'static str,
    pub note: String,
}

impl Herald for Heard {
    fn say(&self, about: &ObjectReference, tone: Tone, reason: &'static str, note: &str) {
        let about = format!(
            "{}/{}",
            about.kind.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default()
        );
        self.0.lock().push(Said { about, tone, reason, note: note.to_owned() });
    }
}

pub struct Bed {
    /// Of all objects that are made and looked at here.
    pub group: &'static str,
    pub api: FakeApi,
    pub clock: Arc<Passing>,
    pub heard: Heard,
    pub recorded: Recorded,
    controllers: Vec<JoinHandle<()>>,
}

impl Bed {
    /// With one controller.
    pub fn new() -> Self {
        let mut bed = Self::idle();
        bed.lead(bed.api.client());
        bed
    }

    pub fn idle() -> Self {
        let (api, clock, heard) = (FakeApi::new(), Arc::new(Passing::new()), Heard::default());
        let recorded = Recorded::default();
        Self { group: GROUP, api, clock, heard, recorded, controllers: Vec::new() }
    }

    /// A controller that believes to lead.
    pub fn lead(&mut self, client: kube::Client) {
        let custody = self.custody(client);
        self.run(custody);
    }

    pub fn custody(&self, client: kube::Client) -> Custody {
        Custody {
            client,
            namespace: SYSTEM.to_owned(),
            groups: vec![Group::Trellis, Group::Qubesec],
            clock: self.clock.clone(),
            herald: Arc::new(self.heard.clone()),
            ledger: Arc::new(self.recorded.clone()),
            metrics: Metrics::new(&Registry::new()),
            roles: trellis_election::always(&Registry::new().gauge("leader", "").with(&[])),
            mesh: None,
        }
    }

    /// A controller whose role is told.
    pub fn candidate(&mut self, roles: watch::Receiver<Role>) {
        let custody = Custody { roles, ..self.custody(self.api.client()) };
        self.run(custody);
    }

    fn run(&mut self, custody: Custody) {
        self.controllers.push(tokio::spawn(async move {
            let (_stop, shutdown) = watch::channel(false);
            custody.run(shutdown).await;
        }));
    }

    /// All controllers die.
    pub fn kill(&mut self) {
        self.controllers.drain(..).for_each(|controller| controller.abort());
    }

    /// Of an object.
    pub fn path(&self, namespace: &str, kind: &str, name: &str) -> String {
        let plural = format!("{}s", kind.to_ascii_lowercase());
        format!("/apis/{}/v1/namespaces/{namespace}/{plural}/{name}", self.group)
    }

    pub fn create(&self, kind: &str, name: &str, spec: Value) {
        self.create_in("shop", kind, name, spec);
    }

    pub fn create_in(&self, namespace: &str, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": format!("{}/v1", self.group), "kind": kind,
            "metadata": { "name": name, "namespace": namespace }, "spec": spec,
        });
        self.api.create(&self.path(namespace, kind, name), object);
    }

    pub fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.api.edit(&self.path("shop", kind, name), change);
    }

    pub fn object(&self, kind: &str, name: &str) -> Value {
        self.api.get(&self.path("shop", kind, name)).unwrap_or_default()
    }

    pub fn status(&self, kind: &str, name: &str) -> Value {
        self.object(kind, name)["status"].clone()
    }

    /// Waits until a status is as it should be.
    pub async fn until(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.until_in("shop", kind, name, what, holds).await
    }

    pub async fn until_in(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let at = self.path(namespace, kind, name);
        let seen = |api: &FakeApi| api.get(&at).is_some_and(|object| holds(&object["status"]));
        let waiting = self.api.within(PATIENCE, what, seen);
        tokio::pin!(waiting);
        waiting.await;
        self.api.get(&at).unwrap()["status"].clone()
    }

    pub async fn success(&self, kind: &str, name: &str) -> Value {
        self.word(kind, name, "Success").await
    }

    pub async fn word(&self, kind: &str, name: &str, word: &str) -> Value {
        let what = format!("{kind} {name} is {word}: {}", self.status(kind, name));
        self.until(kind, name, &what, |status| status["status"] == word).await
    }

    pub async fn reason(&self, kind: &str, name: &str, reason: &str) -> Value {
        let what = format!("{kind} {name} has the reason {reason}");
        self.until(kind, name, &what, |status| self::reason(status) == reason).await
    }

    pub fn secret(&self, name: &str) -> Value {
        self.api.get(&secret_path("shop", name)).unwrap_or_default()
    }

    pub fn delete_secret(&self, name: &str) {
        assert!(self.api.remove(&secret_path("shop", name)), "Secret {name} is not there");
    }

    pub fn has_secret(&self, name: &str) -> bool {
        self.api.get(&secret_path("shop", name)).is_some()
    }

    pub async fn secret_until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let at = secret_path("shop", name);
        self.api.within(PATIENCE, what, |api| api.get(&at).is_some_and(|secret| holds(&secret))).await;
        self.api.get(&at).unwrap()
    }

    pub async fn no_secret(&self, name: &str) {
        let at = secret_path("shop", name);
        self.api.within(PATIENCE, "the Secret goes", |api| api.get(&at).is_none()).await;
    }

    pub fn heard(&self, about: &str) -> Vec<&'static str> {
        let all = self.heard.0.lock();
        all.iter().filter(|said| said.about == about).map(|said| said.reason).collect()
    }

    /// Every reason that was ever given.
    pub fn all_heard(&self) -> BTreeSet<&'static str> {
        self.heard.0.lock().iter().map(|said| said.reason).collect()
    }

    pub fn notes(&self) -> Vec<String> {
        let all = self.heard.0.lock();
        all.iter()
            .map(|Said { about, tone, reason, note }| format!("{tone:?} {about} {reason}: {note}"))
            .collect()
    }

    /// Lets time pass, in which nothing may be written.
    pub async fn rests(&self, length: Duration) {
        // What was begun is done first.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = self.api.written();
        tokio::time::sleep(length).await;
        let after = self.api.written();
        assert_eq!(after.get(before.len()..), Some([].as_slice()), "something was written");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}

/// The reason of Ready.
pub fn reason(status: &Value) -> String {
    condition(status, "Ready")["reason"].as_str().unwrap_or_default().to_owned()
}

pub fn condition(status: &Value, type_: &str) -> Value {
    let all = status["conditions"].as_array();
    all.into_iter().flatten().find(|one| one["type"] == type_).cloned().unwrap_or_default()
}

pub fn bytes(secret: &Value, item: &str) -> Vec<u8> {
    STANDARD.decode(secret["data"][item].as_str().unwrap_or_default()).unwrap()
}

pub fn fingerprint(secret: &Value) -> String {
    annotation(secret, "crypto.trellis.dev/fingerprint")
}

pub fn annotation(object: &Value, name: &str) -> String {
    object["metadata"]["annotations"][name].as_str().unwrap_or_default().to_owned()
}

/// States of versions, as `1 Retired`.
pub fn versions(status: &Value) -> Vec<String> {
    let all = status["versions"].as_array().into_iter().flatten();
    all.map(|one| format!("{} {}", one["version"], one["state"].as_str().unwrap())).collect()
}

pub fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let mut at = object;
    for part in parent.split('/').filter(|part| !part.is_empty()) {
        at = &mut at[part];
    }
    match value {
        Value::Null => drop(at.as_object_mut().unwrap().remove(field)),
        value => at[field] = value,
    }
}

pub fn rotate(object: &mut Value, value: &str) {
    object["metadata"]["annotations"]["crypto.trellis.dev/rotate"] = json!(value);
}
