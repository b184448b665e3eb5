//! Who answers a request: endpoints are tried until one does, as often as that can do no harm.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode, header, request::Parts};
use hyper::{body::Incoming, ext::Protocol};
use rand::RngExt;
use tokio::time::{self, Instant};
use tracing::debug;

use super::{
    answer::Failure,
    body::{Body, deadline},
    forward::client_left,
    upstream::{IDLE, SendError, Taken, Wish},
};
use crate::{
    balance::Busy,
    directory::{Answer, ApplicationTls, Endpoint},
    requests::Request as Seen,
    route::rule::Retry,
    worker::Worker,
};

/// Endpoints that are tried for one request, and fail before they can have seen any of it.
const ATTEMPTS: usize = 3;
/// How often a request is repeated because a kept connection ended under it.
const REPEATS: usize = 3;
/// How long a connection may have waited that is to carry what cannot be said again. Applications that close
/// what is idle let it wait for longer.
const RESTED: Duration = Duration::from_secs(1);
/// What of a body is kept so that it can be sent again.
const KEPT: u64 = 64 * 1024;

/// How a request is to be tried.
pub struct Attempts<'a> {
    pub worker: &'a Arc<Worker>,
    pub answer: &'a Answer,
    pub http2: bool,
    /// It leaves HTTP if the application agrees.
    pub leaves: bool,
    pub retry: Option<&'a Retry>,
    /// When the whole must be over.
    pub until: Option<Instant>,
    /// How long each attempt may take.
    pub each: Option<Duration>,
}

/// An answer, and what it holds.
pub struct Answered {
    pub response: Response<Incoming>,
    pub taken: Taken,
    pub busy: Busy,
    /// When the body must be over.
    pub until: Option<Instant>,
}

/// What one attempt came to, where it was no answer to pass on.
struct Miss {
    failure: Failure,
    /// It may be tried anew, with this.
    request: Option<Request<Body>>,
    /// The endpoint had its chance.
    endpoint: bool,
}

impl Attempts<'_> {
    pub async fn run(&self, parts: Parts, body: Body, seen: &mut Seen) -> Result<Answered, Failure> {
        if let Some(why) = self.answer.tls().and_then(|tls| tls.invalid()) {
            let why = format!("the application cannot be spoken to in TLS: {why}");
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "backend_tls_invalid", why));
        }
        let body = match self.retry {
            Some(_) => body.gathered(KEPT).await.map_err(|_| client_left())?,
            None => body,
        };
        let mut request = Request::from_parts(parts, body);
        if self.http2 || !request.body().is_passed() {
            // Who has the body already, or is not waited for, is not asked whether he wants it.
            request.headers_mut().remove(header::EXPECT);
        }
        let endpoints = self.answer.endpoints();
        self.budget(|budget| budget.sent(Instant::now()));
        let (mut tried, mut failures, mut repeats, mut retries) = (Vec::new(), 0, 0, 0);
        loop {
            let mut picked = self.answer.pick(&tried, Instant::now(), &mut rand::rng());
            if picked.is_none() && !tried.is_empty() && retries > 0 {
                // A retry may also go where the request was before.
                tried.clear();
                picked = self.answer.pick(&tried, Instant::now(), &mut rand::rng());
            }
            let Some((index, endpoint)) = picked.and_then(|index| Some((index, endpoints.get(index)?)))
            else {
                return Err(no_endpoint(self.answer));
            };
            seen.at(endpoint);
            let more = self.retry.is_some_and(|retry| retries < retry.attempts);
            let miss = match self.once(endpoint, request, more, repeats > 0, seen).await {
                Ok(answered) => return Ok(answered),
                Err(miss) => miss,
            };
            debug!(endpoint = %endpoint.address, reason = miss.failure.reason, detail = %miss.failure.detail,
                "an attempt failed");
            let Some(again) = miss.request else { return Err(miss.failure) };
            request = again;
            if !miss.endpoint {
                repeats += 1;
            } else {
                tried.push(index);
                match self.retry.filter(|_| more) {
                    Some(retry) => {
                        retries += 1;
                        self.pause(retry, retries).await;
                    }
                    None => failures += 1,
                }
            }
            let over = failures == ATTEMPTS.min(endpoints.len()) || repeats > REPEATS;
            if over || self.until.is_some_and(|until| until <= Instant::now()) {
                return Err(miss.failure);
            }
        }
    }

    /// One attempt at one endpoint.
    async fn once(
        &self,
        endpoint: &Endpoint,
        request: Request<Body>,
        more: bool,
        fresh: bool,
        seen: &mut Seen,
    ) -> Result<Answered, Miss> {
        let busy = Busy::new(&endpoint.fitness);
        let until = match (self.until, deadline(Instant::now(), self.each)) {
            (Some(whole), Some(each)) => Some(whole.min(each)),
            (whole, each) => whole.or(each),
        };
        // What cannot be said twice is only said to an application that is known to be there.
        let certain = !request.body().is_empty() || self.leaves;
        let idempotent = is_idempotent(&request);
        let rested = match idempotent {
            _ if fresh => Duration::ZERO,
            true => IDLE,
            false => RESTED,
        };
        let connected = {
            let wish = Wish { certain, rested, within: seen.span() };
            let connecting = pin!(connection(self.worker, endpoint, self.answer.tls(), self.http2, wish));
            in_time(until, connecting).await
        };
        let mut taken = match connected {
            Some(Ok(taken)) => taken,
            Some(Err(failure)) => {
                endpoint.fitness.failed(Instant::now());
                return Err(Miss { failure, request: Some(request), endpoint: true });
            }
            None => return Err(Miss { failure: self.late(), request: None, endpoint: true }),
        };
        if self.leaves && self.http2 && !self.takes_websockets(&taken, until).await {
            let detail = "the application speaks HTTP/2, and does not take WebSockets in it (RFC 8441)";
            let failure = Failure::new(StatusCode::BAD_GATEWAY, "no_websockets_in_http2", detail);
            return Err(Miss { failure, request: None, endpoint: false });
        }
        let repeatable = taken.reused && idempotent;
        let copy = (repeatable || more).then(|| copy(&request)).flatten();
        let began = Instant::now();
        let sent = {
            let sending = pin!(taken.send(request));
            in_time(until, sending).await
        };
        let now = Instant::now();
        match sent {
            Some(Ok(response)) => {
                endpoint.fitness.answered(now.duration_since(began), now);
                match response.status().is_server_error() {
                    true => _ = endpoint.fitness.failed(now),
                    false => endpoint.fitness.succeeded(),
                }
                seen.over(&taken.connection.row, taken.reused);
                match copy.filter(|_| more && self.retries(response.status(), now)) {
                    Some(copy) => {
                        let failure = Failure::new(response.status(), "retried", "the application failed");
                        Err(Miss { failure, request: Some(copy), endpoint: true })
                    }
                    None => Ok(Answered { response, taken, busy, until }),
                }
            }
            Some(Err(error)) => {
                // The end of a kept connection says nothing about the application.
                let endpoint_failed = !taken.reused;
                if endpoint_failed {
                    endpoint.fitness.failed(now);
                }
                let failure = failed(&error);
                let retried = more && self.budget(|budget| budget.allows(now)).unwrap_or(true);
                let request = match error.unsent {
                    Some(request) => Some(*request),
                    None if error.unseen || repeatable || retried => copy,
                    None => None,
                };
                Err(Miss { failure, request, endpoint: endpoint_failed })
            }
            None => {
                endpoint.fitness.failed(now);
                let request = copy.filter(|_| more && self.retries(StatusCode::GATEWAY_TIMEOUT, now));
                Err(Miss { failure: self.late(), request, endpoint: true })
            }
        }
    }

    /// Apart, so that no other request carries room for it.
    async fn takes_websockets(&self, taken: &Taken, until: Option<Instant>) -> bool {
        in_time(until, Box::pin(taken.takes_websockets()).as_mut()).await.unwrap_or(false)
    }

    /// Whether an answer with this status is one to try again after.
    fn retries(&self, status: StatusCode, now: Instant) -> bool {
        self.retry.is_some_and(|retry| retry.codes.contains(&status))
            && self.budget(|budget| budget.allows(now)).unwrap_or(true)
    }

    fn budget<T>(&self, ask: impl FnOnce(&crate::budget::Budget) -> T) -> Option<T> {
        match self.answer {
            Answer::Service(service) => Some(ask(&service.budget)),
            Answer::Workload(_) | Answer::Gateway(_) | Answer::Policy(_) | Answer::Unknown => None,
        }
    }

    /// Longer each time, and not the same for all who failed together.
    async fn pause(&self, retry: &Retry, times: u32) {
        if !retry.backoff.is_zero() {
            let most = retry.backoff.saturating_mul(1 << (times - 1).min(6));
            let share = rand::rng().random_range(0.5..1.0);
            time::sleep(most.mul_f64(share)).await;
        }
    }

    fn late(&self) -> Failure {
        let whole = self.until.is_some_and(|until| until <= Instant::now());
        let (reason, detail) = match whole {
            true => ("request_timed_out", "the route's time-out for the request is over"),
            false => ("backend_timed_out", "the route's time-out for the backend is over"),
        };
        Failure::new(StatusCode::GATEWAY_TIMEOUT, reason, detail)
    }
}

async fn connection(
    worker: &Arc<Worker>,
    endpoint: &Endpoint,
    tls: Option<&Arc<ApplicationTls>>,
    http2: bool,
    wish: Wish<'_>,
) -> Result<Taken, Failure> {
    let taken = match http2 {
        true => worker.upstreams.many(worker, endpoint, tls, wish.within).await,
        false => worker.upstreams.one(worker, endpoint, tls, wish).await,
    };
    taken.map_err(|error| {
        let detail = format!("the application is not reached: {error}");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, error.reason(), detail)
    })
}

/// The future is lent, since whoever is given one keeps room for it twice.
async fn in_time<T>(until: Option<Instant>, future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match until {
        Some(until) => time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

/// The same request, where its body can be sent again.
pub fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().again()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        copy.extensions_mut().insert(protocol.clone());
    }
    Some(copy)
}

/// Whether it can do no harm to ask twice. A WebSocket is asked for by a GET, if not in HTTP/2.
fn is_idempotent(request: &Request<Body>) -> bool {
    request.method().is_idempotent() || request.extensions().get::<Protocol>().is_some()
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
        Answer::Workload(_) | Answer::Gateway(_) | Answer::Policy(_) | Answer::Unknown => {
            "nothing is there".to_owned()
        }
    };
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", whose)
}
