//! What the server answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};

use crate::{
    Asked, FakeApi, Fate, Judge,
    form::Form,
    path::Path,
    selector::{Selector, parameter},
    watching,
};

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl FakeApi {
    pub(crate) async fn judged(&self, request: Request<Body>, judge: &Judge) -> Answer {
        let asked = Asked {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            metadata: Form::of(request.headers()) == Form::Metadata,
        };
        match judge(&asked) {
            Fate::Pass => self.answer(request).await,
            Fate::Wait(time) => {
                tokio::time::sleep(time).await;
                self.answer(request).await
            }
            Fate::Late(time) => {
                let answer = self.answer(request).await;
                tokio::time::sleep(time).await;
                answer
            }
            Fate::Refuse(code) => status(code, reason(code)),
            Fate::Deny(code) => {
                self.answer(request).await;
                status(code, reason(code))
            }
            Fate::Expire => reply(
                StatusCode::OK,
                &json!({ "type": "ERROR", "object": {
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "reason": "Expired", "message": "fake: Expired", "code": StatusCode::GONE.as_u16(),
                } }),
            ),
            Fate::Vanish => std::future::pending().await,
            Fate::Lose => {
                self.answer(request).await;
                std::future::pending().await
            }
        }
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let body = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
        {
            let mut state = self.0.state.lock();
            state.requests += 1;
            if state.closed.iter().any(|closed| path.starts_with(closed.as_str())) {
                return status(StatusCode::FORBIDDEN, "Forbidden");
            }
            if parts.method != Method::GET {
                state.writes.push((parts.method.clone(), path.clone()));
                if state.forbidden.contains(&path) {
                    return status(StatusCode::FORBIDDEN, "Forbidden");
                }
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
            Method::POST => self.post(&path, body()),
            Method::PATCH if is_merge(&parts) => self.merge(&path, &body()),
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
            Method::DELETE => self.delete(&path, &body()),
            Method::GET if query.contains("watch=true") => {
                self.watch(&path, &query, Form::of(&parts.headers))
            }
            Method::GET => match self.get(&path) {
                Some(object) => reply(StatusCode::OK, &Form::of(&parts.headers).shown(&object)),
                None => match Path::of(&path) {
                    Some(collection) if collection.name.is_none() => {
                        self.list(&collection, &query, Form::of(&parts.headers))
                    }
                    _ => status(StatusCode::NOT_FOUND, "NotFound"),
                },
            },
            _ => status(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn post(&self, folder: &str, mut object: Value) -> Answer {
        let path = format!("{folder}/{}", object["metadata"]["name"].as_str().unwrap());
        if self.get(&path).is_some() {
            return status(StatusCode::CONFLICT, "AlreadyExists");
        }
        self.dress(&mut object);
        self.put(&path, object);
        reply(StatusCode::CREATED, &self.get(&path).unwrap())
    }

    /// As an API server does: only over the version that was read.
    fn replace(&self, path: &str, mut object: Value) -> Answer {
        let Some(before) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        if object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        if !keeps(&before, &object) {
            return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
        }
        for field in ["uid", "creationTimestamp", "generation"] {
            if !before["metadata"][field].is_null() {
                object["metadata"][field] = before["metadata"][field].clone();
            }
        }
        count_generation(&before, &mut object);
        self.put(path, object);
        reply(StatusCode::OK, &self.get(path).unwrap())
    }

    /// What is there stays, but for what the body holds; of a status, only over the version that was read.
    fn merge(&self, path: &str, body: &Value) -> Answer {
        let (path, part) = match path.strip_suffix("/status") {
            Some(path) => (path, Some("status")),
            None => (path, None),
        };
        let Some(before) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        let read = &body["metadata"]["resourceVersion"];
        if (part.is_some() || !read.is_null()) && *read != before["metadata"]["resourceVersion"] {
            return status(StatusCode::CONFLICT, "Conflict");
        }
        let mut object = before.clone();
        match part {
            Some(part) => {
                let mut inner = object[part].take();
                merge_into(&mut inner, &body[part]);
                object[part] = inner;
            }
            None => merge_into(&mut object, body),
        }
        if !keeps(&before, &object) {
            return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
        }
        if object == before {
            return reply(StatusCode::OK, &object);
        }
        count_generation(&before, &mut object);
        self.put(path, object);
        reply(StatusCode::OK, &self.get(path).unwrap())
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

    fn delete(&self, path: &str, options: &Value) -> Answer {
        let Some(object) = self.get(path) else { return status(StatusCode::NOT_FOUND, "NotFound") };
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return status(StatusCode::CONFLICT, "Conflict");
            }
        }
        self.remove(path);
        status(StatusCode::OK, "Success")
    }

    fn watch(&self, path: &str, query: &str, form: Form) -> Answer {
        let since = parameter(query, "resourceVersion").unwrap().parse().unwrap();
        let selector = Selector::of(query);
        let lines = watching::changes(self.0.clone(), path.to_owned(), selector, form, since);
        let body = StreamBody::new(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))));
        Response::new(body.boxed_unsync())
    }
}

/// Another spec is another generation.
pub(crate) fn count_generation(before: &Value, after: &mut Value) {
    if let Some(generation) = before["metadata"]["generation"].as_i64()
        && before["spec"] != after["spec"]
    {
        after["metadata"]["generation"] = json!(generation + 1);
    }
}

/// What may never change of a Secret does not.
fn keeps(before: &Value, after: &Value) -> bool {
    let same = |field: &str| before[field] == after[field];
    before["kind"] != "Secret"
        || same("type") && (before["immutable"] != true || same("data") && same("immutable"))
}

/// RFC 7386.
fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge_into(&mut target[name], value);
        }
    }
}

fn is_merge(parts: &http::request::Parts) -> bool {
    parts.headers.get("content-type").is_some_and(|kind| kind == "application/merge-patch+json")
}

fn is_subresource(path: &str) -> bool {
    path.ends_with("/approval") || path.contains("requests/") && path.ends_with("/status")
}

pub(crate) fn reply(code: StatusCode, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response
}

pub(crate) fn reason(code: StatusCode) -> &'static str {
    match code {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::GONE => "Expired",
        _ => "InternalError",
    }
}

pub(crate) fn status(code: StatusCode, reason: &str) -> Answer {
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
