//! One request: where it goes, who answers it, and what becomes of it when nobody does.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    upgrade::{self, OnUpgrade},
};
use tokio::time::Instant;
use tracing::debug;

use super::{
    answer::Failure,
    body::{Body, End, Watcher},
    context::Context,
    message,
    upgrade::carry,
    upstream::{SendError, Taken},
};
use crate::{
    balance::{self, Busy},
    directory::{Answer, Endpoint},
    requests::Request as Seen,
    worker::Worker,
};

pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Endpoints that are tried for one request.
const ATTEMPTS: usize = 3;
/// How often a request is repeated because a kept connection ended under it.
const REPEATS: usize = 3;

/// Forwards a request. There is always an answer, if only one of ours.
pub fn answer(context: Arc<Context>, request: Request<Incoming>) -> Answering {
    Box::pin(async move {
        let opened = context.worker.open.enter();
        let mut seen = Seen::begin(&context.worker.shared.requests, Instant::now());
        let Ok(place) = context.worker.requests.clone().try_acquire_owned() else {
            let failure = Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_requests",
                "this proxy carries as many requests as it may; try again",
            );
            let response = failure.answer(request.headers());
            seen.failed(&failure);
            return Ok(response);
        };
        let mut exchange = Exchange::new(&context, request);
        Ok(match exchange.run(&mut seen).await {
            Ok(answered) => exchange.finish(answered, seen, (place, opened)),
            Err(failure) => {
                debug!(address = %context.address, reason = failure.reason, detail = %failure.detail,
                    "request not answered by an application");
                seen.failed(&failure);
                failure.answer(&exchange.headers)
            }
        })
    })
}

/// A request under way.
struct Exchange<'a> {
    context: &'a Arc<Context>,
    request: Option<Request<Body>>,
    /// Of the request's, what an answer of ours depends on.
    headers: HeaderMap,
    client: Version,
    upgrade: Option<OnUpgrade>,
}

/// An answer, and what it holds.
struct Answered {
    response: Response<Incoming>,
    taken: Taken,
    busy: Busy,
}

impl<'a> Exchange<'a> {
    fn new(context: &'a Arc<Context>, mut request: Request<Incoming>) -> Self {
        let client = request.version();
        let upgrade = message::wants_upgrade(&request).then(|| upgrade::on(&mut request));
        let mut headers = HeaderMap::new();
        if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, kind.clone());
        }
        Self { context, request: Some(request.map(Body::passed)), headers, client, upgrade }
    }

    async fn run(&mut self, seen: &mut Seen) -> Result<Answered, Failure> {
        let answer = self.context.destination.now();
        seen.towards(&answer);
        self.balanced(&answer, seen).await
    }

    /// Tries endpoints until one answers.
    async fn balanced(&mut self, answer: &Answer, seen: &mut Seen) -> Result<Answered, Failure> {
        let endpoints = answer.endpoints();
        let Some(mut request) = self.request.take() else { return Err(gone()) };
        let http2 = message::speaks_http2(answer.protocol(), self.client);
        message::prepare(&mut request, http2, self.upgrade.is_some());
        let worker = &self.context.worker;
        // What cannot be said twice is only said to an application that is known to be there.
        let certain = !request.body().is_empty() || self.upgrade.is_some();
        let (mut tried, mut repeats) = (Vec::new(), 0);
        let mut last = None;
        while tried.len() < ATTEMPTS && repeats <= REPEATS {
            let picked = balance::pick(endpoints, &tried, Instant::now(), &mut rand::rng());
            let Some((index, endpoint)) = picked.and_then(|index| Some((index, endpoints.get(index)?)))
            else {
                break;
            };
            seen.at(endpoint);
            let busy = Busy::new(&endpoint.fitness);
            let mut taken = match connection(worker, endpoint, http2, certain).await {
                Ok(taken) => taken,
                Err(failure) => {
                    endpoint.fitness.failed(Instant::now());
                    debug!(endpoint = %endpoint.address, reason = failure.reason, "endpoint failed");
                    tried.push(index);
                    last = Some(failure);
                    continue;
                }
            };
            let copy = copy(&request, taken.reused);
            let began = Instant::now();
            match taken.send(request).await {
                Ok(response) => {
                    let now = Instant::now();
                    endpoint.fitness.answered(now.duration_since(began), now);
                    match response.status().is_server_error() {
                        true => drop(endpoint.fitness.failed(now)),
                        false => endpoint.fitness.succeeded(),
                    }
                    seen.class(taken.connection.class);
                    return Ok(Answered { response, taken, busy });
                }
                Err(error) => {
                    debug!(endpoint = %endpoint.address, error = %error.error, reason = error.reason, "no answer");
                    // The end of a kept connection says nothing about the application.
                    match taken.reused {
                        true => repeats += 1,
                        false => {
                            endpoint.fitness.failed(Instant::now());
                            tried.push(index);
                        }
                    }
                    let failure = failed(&error);
                    match again(error, copy) {
                        Some(repeated) => request = repeated,
                        None => return Err(failure),
                    }
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| no_endpoint(answer)))
    }

    /// The answer as the client gets it.
    fn finish(&mut self, answered: Answered, mut seen: Seen, held: impl Send + 'static) -> Response<Body> {
        let Answered { response, taken, busy } = answered;
        seen.status(response.status());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(near) = self.upgrade.take()
        {
            let mut response = response;
            let far = upgrade::on(&mut response);
            seen.ended(End::Complete);
            carry(near, far, self.context.worker.open.enter(), (taken, busy, held));
            return response.map(|_| Body::empty());
        }
        let (mut parts, incoming) = response.into_parts();
        message::strip(&mut parts.headers);
        let watcher = Ending {
            seen: Some(seen),
            taken: Some(taken),
            upstreams: self.context.worker.upstreams.clone(),
            _held: (busy, held),
        };
        Response::from_parts(parts, Body::passed(incoming).watched(Box::new(watcher)))
    }
}

async fn connection(
    worker: &Arc<Worker>,
    endpoint: &Endpoint,
    http2: bool,
    certain: bool,
) -> Result<Taken, Failure> {
    let taken = match http2 {
        true => worker.upstreams.many(worker, endpoint).await,
        false => worker.upstreams.one(worker, endpoint, certain).await,
    };
    taken.map_err(|error| {
        let detail = format!("the application is not reached: {error}");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, error.reason(), detail)
    })
}

/// Gives back what a request occupied, and puts on record how it ended.
struct Ending<H> {
    seen: Option<Seen>,
    taken: Option<Taken>,
    upstreams: super::Upstreams,
    _held: H,
}

impl<H: Send> Watcher for Ending<H> {
    fn passed(&mut self, bytes: usize) {
        if let Some(seen) = &mut self.seen {
            seen.passed(bytes);
        }
    }

    fn ended(&mut self, end: End) {
        if let Some(mut seen) = self.seen.take() {
            seen.ended(end);
        }
        match self.taken.take() {
            Some(taken) if end == End::Complete => self.upstreams.give_back(taken),
            // Whatever is left of its answer goes with it.
            taken => drop(taken),
        }
    }
}

/// The same request, for the case that the connection that is kept for it turns out to have ended.
fn copy(request: &Request<Body>, reused: bool) -> Option<Request<Body>> {
    let repeatable = reused && request.method().is_idempotent();
    let body = repeatable.then(|| request.body().again()).flatten()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// What is sent next after a failure, if anything may be.
fn again(error: SendError, copy: Option<Request<Body>>) -> Option<Request<Body>> {
    match error.unsent {
        Some(request) => Some(*request),
        None if error.reason == "timed_out" || error.reason == "malformed_answer" => None,
        None => copy,
    }
}

fn failed(error: &SendError) -> Failure {
    let status = match error.unseen {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::BAD_GATEWAY,
    };
    Failure::new(status, error.reason, format!("the application gave no answer: {}", error.error))
}

fn no_endpoint(answer: &Answer) -> Failure {
    let whose = match answer {
        Answer::Service(service) => format!("no endpoint of Service {} is ready", service.backend),
        Answer::Workload(_) | Answer::Unknown => "nothing is there".to_owned(),
    };
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", whose)
}

/// Only if a request were forwarded twice.
fn gone() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "request_gone", "the request is gone")
}
