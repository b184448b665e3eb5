//! The Kubernetes API as a source.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use tokio::time::Instant;
use trellis_api::source::{Change, Selection, Sight, Watched};

use crate::problem::{Place, Problem, Severity};

/// Objects per answer while the state is listed.
const PAGE_SIZE: u32 = 500;
/// A watch that works may be silent for hours. One that fails is tried again at least this often.
const RETRIED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub(crate) struct Kubernetes {
    client: Client,
    failures: Arc<Mutex<Failures>>,
}

/// The last failure of each watch, by what is watched, and when it was.
type Failures = BTreeMap<String, (Problem, Instant)>;

/// What it means that the cluster does not serve a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    Problem,
    /// That there is no object of it yet.
    Empty,
}

impl Kubernetes {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, failures: Arc::default() }
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.failures
            .lock()
            .values()
            .filter(|(_, at)| is_recent(*at))
            .map(|(problem, _)| problem.clone())
            .collect()
    }

    pub(crate) fn watch<K: Watched>(&self, absence: Absence) -> BoxStream<'static, Change<K>> {
        let api = Api::<K>::all(self.client.clone());
        let listing = Listing::new(&self.failures, absence, None);
        listing.follow(api, watcher::Config::default()).filter_map(async |sight| sight.seen()).boxed()
    }

    pub(crate) fn watch_in<K>(&self, selection: Selection) -> BoxStream<'static, Sight<K>>
    where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &selection.namespace);
        let mut configuration = watcher::Config::default();
        if let Some(fields) = selection.fields {
            configuration = configuration.fields(fields);
        }
        Listing::new(&self.failures, Absence::Problem, Some(selection.namespace)).follow(api, configuration)
    }
}

/// What was listed so far, until the list is complete.
struct Listing<K> {
    failures: Arc<Mutex<Failures>>,
    listed: Vec<Arc<K>>,
    absence: Absence,
    /// The only one that is looked at.
    namespace: Option<String>,
    /// That there is nothing to be seen was said.
    closed: bool,
}

impl<K: Watched> Listing<K> {
    fn new(failures: &Arc<Mutex<Failures>>, absence: Absence, namespace: Option<String>) -> Self {
        Self { failures: failures.clone(), listed: Vec::new(), absence, namespace, closed: false }
    }

    /// Should kube ever end the stream, the last state stays in force.
    fn follow(mut self, api: Api<K>, configuration: watcher::Config) -> BoxStream<'static, Sight<K>> {
        let events = watcher(api, configuration.page_size(PAGE_SIZE)).default_backoff();
        events.filter_map(move |event| std::future::ready(self.take(event))).chain(stream::pending()).boxed()
    }

    fn take(&mut self, event: Result<Event<K>, watcher::Error>) -> Option<Sight<K>> {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                return match code(&error) {
                    Some(404) if self.absence == Absence::Empty => self.is_absent(),
                    Some(403) if self.namespace.is_some() => self.is_forbidden(),
                    _ => {
                        self.failed(&error);
                        None
                    }
                };
            }
        };
        match event {
            // Begins every attempt, even one that then fails: it says nothing about success.
            Event::Init => {
                self.listed.clear();
                return None;
            }
            Event::InitApply(object) => {
                self.listed.push(slim(object));
                return None;
            }
            _ => self.works(),
        }
        match event {
            Event::InitDone => Some(Sight::Seen(Change::Reset(std::mem::take(&mut self.listed)))),
            Event::Apply(object) => Some(Sight::Seen(Change::Applied(slim(object)))),
            Event::Delete(object) => Some(Sight::Seen(Change::Deleted(slim(object)))),
            Event::Init | Event::InitApply(_) => None,
        }
    }

    fn is_forbidden(&mut self) -> Option<Sight<K>> {
        self.failures.lock().remove(&self.name());
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        tracing::warn!(kind = %self.name(), "may not be read; whoever refers to it is told so");
        Some(Sight::Forbidden)
    }

    fn is_absent(&mut self) -> Option<Sight<K>> {
        self.failures.lock().remove(&self.name());
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        tracing::info!(kind = %name::<K>(), "the cluster does not serve this kind, so nothing of it is there yet");
        Some(Sight::Seen(Change::Reset(Vec::new())))
    }

    fn works(&mut self) {
        self.closed = false;
        if self.failures.lock().remove(&self.name()).is_some() {
            tracing::info!(kind = %self.name(), "the watch works again");
        }
    }

    /// What is watched, by which its failures are told apart.
    fn name(&self) -> String {
        match &self.namespace {
            None => name::<K>(),
            Some(namespace) => format!("{} in namespace {namespace}", name::<K>()),
        }
    }

    /// Logged when it changes, not at every attempt.
    fn failed(&self, error: &watcher::Error) {
        let place = Place::Watch { api_version: K::api_version(&()).into(), kind: K::kind(&()).into() };
        let problem = Problem { place, field: None, message: explain::<K>(error), severity: Severity::Error };
        let last = self.failures.lock().insert(self.name(), (problem.clone(), Instant::now()));
        if !last.is_some_and(|(last, at)| last == problem && is_recent(at)) {
            problem.log();
        }
    }
}

fn is_recent(failure: Instant) -> bool {
    failure.elapsed() < RETRIED_WITHIN
}

fn name<K: Watched>() -> String {
    format!("{} {}", K::api_version(&()), K::kind(&()))
}

fn explain<K: Watched>(error: &watcher::Error) -> String {
    let remedy = match code(error) {
        Some(401) => "; the token or certificate of this client is not accepted".to_owned(),
        Some(403) => format!(
            "; allow list and watch of {} in the API group {:?} to this ServiceAccount",
            K::plural(&()),
            K::group(&())
        ),
        Some(404) => format!("; the cluster does not serve {}: install its definition", name::<K>()),
        _ => String::new(),
    };
    format!("{error}{remedy}; the last good state stays in force, and this is tried again")
}

/// The HTTP status of the API server's answer, if there was one.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Managed fields are most of many objects, and nobody here reads them.
fn slim<K: Watched>(mut object: K) -> Arc<K> {
    object.meta_mut().managed_fields = None;
    Arc::new(object)
}
