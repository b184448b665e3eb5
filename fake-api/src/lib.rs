//! A Kubernetes API server that fits into a test: objects by path, created once, applied, deleted, listed
//! and watched; every write is remembered. Only for tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on says where

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

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
    objects: BTreeMap<String, Value>,
    events: Vec<(u64, String, Value)>,
    writes: Vec<(Method, String)>,
    reviews: Vec<Value>,
    /// The status of every TokenReview.
    review: Value,
    /// Paths whose writes are refused.
    forbidden: Vec<String>,
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
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().objects.get(path).cloned()
    }

    /// What somebody else does.
    pub fn put(&self, path: &str, mut object: Value) {
        let known = self.get(path).is_some();
        self.0.version.send_modify(|version| {
            *version += 1;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let kind = if known { "MODIFIED" } else { "ADDED" };
            let mut state = self.0.state.lock();
            state.events.push((*version, path.to_owned(), json!({ "type": kind, "object": object })));
            state.objects.insert(path.to_owned(), object);
        });
    }

    pub fn remove(&self, path: &str) -> bool {
        let Some(object) = self.0.state.lock().objects.remove(path) else { return false };
        self.0.version.send_modify(|version| {
            *version += 1;
            let event = (*version, path.to_owned(), json!({ "type": "DELETED", "object": object }));
            self.0.state.lock().events.push(event);
        });
        true
    }

    /// All objects below a path.
    pub fn under(&self, folder: &str) -> Vec<Value> {
        let state = self.0.state.lock();
        let found = state.objects.iter().filter(|(path, _)| path.starts_with(folder));
        found.map(|(_, object)| object.clone()).collect()
    }

    /// The paths that were written to, in order.
    pub fn written(&self) -> Vec<String> {
        self.0.state.lock().writes.iter().map(|(_, path)| path.clone()).collect()
    }

    pub fn writes(&self) -> usize {
        self.0.state.lock().writes.len()
    }

    pub fn forbid(&self, path: &str, forbidden: bool) {
        let mut state = self.0.state.lock();
        state.forbidden.retain(|known| known != path);
        if forbidden {
            state.forbidden.push(path.to_owned());
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

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let body = || serde_json::from_slice::<Value>(&body).unwrap();
        if parts.method != Method::GET {
            let mut state = self.0.state.lock();
            state.writes.push((parts.method.clone(), path.clone()));
            if state.forbidden.contains(&path) {
                return status(StatusCode::FORBIDDEN, "Forbidden");
            }
        }
        match parts.method {
            Method::POST if path.ends_with("/tokenreviews") => {
                let mut review = body();
                let mut state = self.0.state.lock();
                state.reviews.push(review["spec"].clone());
                review["status"] = state.review.clone();
                reply(StatusCode::CREATED, &review)
            }
            Method::POST => self.create(&path, body()),
            Method::PATCH if path.contains("/events/") => self.merge(&path, &body()),
            Method::PATCH if path.ends_with("/status") && is_merge(&parts) => {
                self.merge_status(&path, &body())
            }
            Method::PATCH if is_subresource(&path) => {
                assert!(query.contains("force=true") && query.contains("fieldManager=trellis-"), "{query}");
                self.apply_status(&path, &body())
            }
            Method::PUT => self.replace(&path, body()),
            Method::PATCH => {
                assert!(query.contains("force=true") && query.contains("fieldManager=trellis-"), "{query}");
                let mut object = body();
                let before = self.get(&path);
                if let Some(Value::Object(data)) = before.map(|mut before| before["data"].take()) {
                    for (key, value) in data {
                        if object["data"].get(&key).is_none() {
                            object["data"][key] = value;
                        }
                    }
                }
                self.put(&path, object.clone());
                reply(StatusCode::OK, &object)
            }
            Method::DELETE if self.remove(&path) => status(StatusCode::OK, "Success"),
            Method::GET if query.contains("watch=true") => self.watch(&path, &query),
            Method::GET if path == "/api/v1/configmaps" => {
                assert!(query.contains("fieldSelector=metadata.name%3Dtrellis-trust"), "{query}");
                self.list(&path, "ConfigMapList")
            }
            Method::GET if path.ends_with("requests") => self.list(&path, "List"),
            Method::GET => match self.get(&path) {
                Some(object) => reply(StatusCode::OK, &object),
                None => status(StatusCode::NOT_FOUND, "NotFound"),
            },
            _ => status(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn create(&self, folder: &str, object: Value) -> Answer {
        let path = format!("{folder}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.get(&path).is_some() {
            return status(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.put(&path, object);
        reply(StatusCode::CREATED, &self.get(&path).unwrap())
    }

    /// As an API server does: only over the version that was read.
    fn replace(&self, path: &str, object: Value) -> Answer {
        let Some(before) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        if object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        self.put(path, object);
        reply(StatusCode::OK, &self.get(path).unwrap())
    }

    /// What is there stays, but for what the body holds.
    fn merge(&self, path: &str, body: &Value) -> Answer {
        let Some(mut object) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        for (key, value) in body.as_object().unwrap() {
            object[key] = value.clone();
        }
        self.put(path, object.clone());
        reply(StatusCode::OK, &object)
    }

    /// As an API server does: only over the version that was read.
    fn merge_status(&self, path: &str, body: &Value) -> Answer {
        let path = path.rsplit_once('/').unwrap().0;
        let Some(mut object) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        if body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        object["status"] = body["status"].clone();
        self.put(path, object.clone());
        reply(StatusCode::OK, &object)
    }

    /// A server-side apply of a subresource: conditions by type, and only of the object that is meant.
    fn apply_status(&self, path: &str, body: &Value) -> Answer {
        let path = path.rsplit_once('/').unwrap().0;
        let Some(mut object) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        if body["metadata"]["uid"] != object["metadata"]["uid"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        for (key, value) in body["status"].as_object().unwrap() {
            let known = object["status"][key].as_array().cloned().unwrap_or_default();
            object["status"][key] = match value {
                Value::Array(new) => known.into_iter().chain(new.iter().cloned()).collect(),
                other => other.clone(),
            };
        }
        self.put(path, object.clone());
        reply(StatusCode::OK, &object)
    }

    fn list(&self, path: &str, kind: &str) -> Answer {
        let version = self.0.version.borrow().to_string();
        let items: Vec<Value> = self
            .0
            .state
            .lock()
            .objects
            .iter()
            .filter(|(at, _)| is_of(at, path))
            .map(|(_, object)| object.clone())
            .collect();
        let list = json!({
            "kind": kind, "apiVersion": "v1",
            "metadata": { "resourceVersion": version }, "items": items,
        });
        reply(StatusCode::OK, &list)
    }

    fn watch(&self, path: &str, query: &str) -> Answer {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let since: u64 = since.unwrap().parse().unwrap();
        let lines = events(self.0.clone(), path.to_owned(), since);
        let body = StreamBody::new(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))));
        Response::new(body.boxed_unsync())
    }
}

/// Whether an object is of the kind that a path lists, in whatever namespace.
fn is_of(object: &str, listed: &str) -> bool {
    let kind = listed.rsplit('/').next().unwrap();
    object.contains(&format!("/{kind}/"))
}

fn is_merge(parts: &http::request::Parts) -> bool {
    parts.headers.get("content-type").is_some_and(|kind| kind == "application/merge-patch+json")
}

fn is_subresource(path: &str) -> bool {
    path.ends_with("/approval") || path.contains("requests/") && path.ends_with("/status")
}

fn events(inner: Arc<Inner>, listed: String, since: u64) -> impl Stream<Item = Bytes> + Send {
    let version = inner.version.subscribe();
    stream::unfold((inner, version, since), move |(inner, mut version, since)| {
        let listed = listed.clone();
        async move {
            loop {
                version.borrow_and_update();
                let next = inner
                    .state
                    .lock()
                    .events
                    .iter()
                    .find(|(at, path, _)| *at > since && is_of(path, &listed))
                    .cloned();
                if let Some((at, _, event)) = next {
                    return Some((Bytes::from(format!("{event}\n")), (inner, version, at)));
                }
                version.changed().await.ok()?;
            }
        }
    })
}

fn reply(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response
}

fn status(code: StatusCode, reason: &str) -> Answer {
    let success = code.is_success();
    reply(
        code,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": if success { "Success" } else { "Failure" },
            "reason": reason, "message": format!("fake: {reason}"), "code": code.as_u16(),
        }),
    )
}
