//! A Kubernetes API server that fits into a test: objects by path, created once, applied, patched over the
//! version that was read, deleted, listed in pages and watched by labels and fields, whole or their metadata
//! alone; every write is remembered, and any request can be made to fail. Only for tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on says where

mod answer;
mod fate;
mod form;
mod listing;
mod path;
mod selector;
mod store;
mod watching;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

pub use self::fate::{Asked, Fate, Judge};
use self::{store::Store, watching::Change};

/// Clones are the same server.
#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts changes, so that watches wake up.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: Store,
    changes: Vec<Change>,
    writes: Vec<(Method, String)>,
    requests: usize,
    /// How many objects lists and watches have sent, with all that is in them.
    sent: usize,
    /// The paths of watches that are open.
    watches: Vec<String>,
    reviews: Vec<Value>,
    /// The status of every TokenReview.
    review: Value,
    /// Paths whose writes are refused.
    forbidden: Vec<String>,
    /// Paths, and what is below them, that may not even be read.
    closed: Vec<String>,
    /// How many objects were made here, by which their uids differ.
    made: u64,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), version: watch::Sender::new(1) }))
    }
}

impl FakeApi {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn client(&self) -> kube::Client {
        self.client_judged(Box::new(|_| Fate::Pass))
    }

    /// A client each of whose requests is decided over.
    pub fn client_judged(&self, judge: Judge) -> kube::Client {
        let (api, judge) = (self.clone(), Arc::new(judge));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (api, judge) = (api.clone(), judge.clone());
            async move { Ok::<_, Infallible>(api.judged(request, &judge).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().objects.get(path).cloned()
    }

    /// What somebody else does.
    pub fn put(&self, path: &str, mut object: Value) {
        self.0.version.send_modify(|version| {
            *version += 1;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let mut state = self.0.state.lock();
            let before = state.objects.insert(path, object.clone());
            let change = Change { version: *version, path: path.to_owned(), before, after: Some(object) };
            state.changes.push(change);
        });
    }

    pub fn remove(&self, path: &str) -> bool {
        let Some(object) = self.0.state.lock().objects.remove(path) else { return false };
        self.0.version.send_modify(|version| {
            *version += 1;
            let before = Some(object);
            let change = Change { version: *version, path: path.to_owned(), before, after: None };
            self.0.state.lock().changes.push(change);
        });
        true
    }

    /// Creates it as a user does, who gives it neither uid nor generation.
    pub fn create(&self, path: &str, mut object: Value) {
        self.dress(&mut object);
        self.put(path, object);
    }

    /// Changes an object as a user does: what differs in its spec is another generation.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).unwrap_or_else(|| panic!("{path} is not there"));
        let before = object.clone();
        change(&mut object);
        answer::count_generation(&before, &mut object);
        self.put(path, object);
    }

    /// All objects below a path.
    pub fn under(&self, folder: &str) -> Vec<Value> {
        let state = self.0.state.lock();
        state.objects.under(folder).map(|(_, object)| object.clone()).collect()
    }

    /// Everything that objects below a path ever were, in order, and the version of each moment.
    pub fn history(&self, folder: &str, since: u64) -> Vec<(u64, String, Option<Value>)> {
        let state = self.0.state.lock();
        let from = state.changes.partition_point(|change| change.version <= since);
        let found = state.changes.iter().skip(from).filter(|change| change.path.starts_with(folder));
        found.map(|change| (change.version, change.path.clone(), change.after.clone())).collect()
    }

    /// Forgets what happened until now, which only those still need who watch from before.
    pub fn forget(&self) {
        self.0.state.lock().changes.clear();
    }

    /// The paths that were written to, in order.
    pub fn written(&self) -> Vec<String> {
        self.0.state.lock().writes.iter().map(|(_, path)| path.clone()).collect()
    }

    pub fn writes(&self) -> usize {
        self.0.state.lock().writes.len()
    }

    /// How many requests were made, reads included.
    pub fn requests(&self) -> usize {
        self.0.state.lock().requests
    }

    /// How many objects lists and watches have sent, with all that is in them.
    pub fn sent(&self) -> usize {
        self.0.state.lock().sent
    }

    /// The paths of all watches that are open.
    pub fn watches(&self) -> Vec<String> {
        self.0.state.lock().watches.clone()
    }

    pub fn forbid(&self, path: &str, forbidden: bool) {
        let mut state = self.0.state.lock();
        state.forbidden.retain(|known| known != path);
        if forbidden {
            state.forbidden.push(path.to_owned());
        }
    }

    /// Refuses every request for what is at or below a path.
    pub fn close(&self, path: &str, closed: bool) {
        let mut state = self.0.state.lock();
        state.closed.retain(|known| known != path);
        if closed {
            state.closed.push(path.to_owned());
        }
    }

    pub fn review_with(&self, status: Value) {
        self.0.state.lock().review = status;
    }

    /// The TokenReviews that were asked.
    pub fn reviews(&self) -> Vec<Value> {
        self.0.state.lock().reviews.clone()
    }

    /// Waits until a condition holds, which something must change.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if holds(self) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("never happened: {what}");
    }

    /// Waits until a condition holds, with the time that passes in between.
    pub async fn within(&self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) {
        assert!(self.happens(limit, holds).await, "did not happen within {limit:?}: {what}");
    }

    /// Whether a condition comes to hold in this time.
    pub async fn happens(&self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let mut version = self.0.version.subscribe();
        let waiting = async {
            while !holds(self) {
                let _ = version.changed().await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok() || holds(self)
    }

    /// Answers whoever connects, for programs that are no part of a test.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let (connection, _) = listener.accept().await?;
            let api = self.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let api = api.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = Body::from(body.collect().await?.to_bytes().to_vec());
                    Ok::<_, hyper::Error>(api.answer(Request::from_parts(parts, body)).await)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    }

    /// What an API server gives to what is new.
    fn dress(&self, object: &mut Value) {
        let mut state = self.0.state.lock();
        state.made += 1;
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", state.made));
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if meta["generation"].is_null() && !object["spec"].is_null() {
            object["metadata"]["generation"] = json!(1);
        }
    }
}
