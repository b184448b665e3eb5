//! One request: what routes say about it, who answers it, and what the client gets to see.

use std::{borrow::Cow, convert::Infallible, pin::Pin, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::upgrade::{self, OnUpgrade};
use tokio::time::Instant;
use tracing::debug;

use super::{
    answer::Failure,
    attempt::{Answered, Attempts},
    body::{Body, End, Watcher, deadline},
    context::{Context, Way},
    message, mirror,
    stall::{Stall, Stalls},
    upgrade::carry,
    upstream::{Taken, Upstreams},
    websocket::Leaving,
};
use crate::{
    account::Account,
    directory::{Answer, Backend, NoAnswer, Subject},
    requests::Request as Seen,
    route::{Choice, Filters, Found, Matched, Target},
};

/// Why a request is refused of which it is not certain where it ends.
const IN_DOUBT: &str = "ambiguous_framing";

/// Why a request is not waited for any longer.
const SLOW_BODY: &str = "slow_body";

pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Forwards a request. There is always an answer, if only one of ours. `held` is given back with its end.
pub fn answer(
    context: Arc<Context>,
    mut request: Request<Body>,
    stalls: Option<Stalls>,
    held: impl Send + 'static,
) -> Answering {
    Box::pin(async move {
        let held = (context.enter(), held);
        let mut seen = Seen::begin(&context.worker.shared.requests, Instant::now());
        follow(&context, &mut request, &mut seen);
        let (grpc, version) = (grpc_only(request.method(), request.headers()), request.version());
        let Ok(place) = context.worker.requests.clone().try_acquire_owned() else {
            let failure = Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_requests",
                "this proxy carries as many requests as it may; try again",
            );
            seen.failed(&failure);
            return Ok(failure.answer(&grpc));
        };
        let taking = stalls.as_ref().map(|stalls| stalls.taking.clone());
        let sending = stalls.filter(|_| request.body().is_passed()).and_then(|stalls| stalls.sending);
        let outcome = {
            // Lent, since whoever is given a future keeps room for it twice.
            let running = run(&context, request, &mut seen);
            tokio::pin!(running);
            in_time(sending, running).await
        };
        Ok(match outcome {
            Ok(Outcome::Answered(answered, near)) => {
                let taking = taking.filter(|_| version == Version::HTTP_2);
                finish(&context, *answered, version, near, taking, seen, (place, held))
            }
            Ok(Outcome::Own(response)) => {
                seen.status(response.status());
                seen.ended(End::Complete);
                response
            }
            Err(failure) => {
                debug!(address = %context.address, reason = failure.reason, detail = %failure.detail,
                    "request not answered by an application");
                seen.failed(&failure);
                let mut response = failure.answer(&grpc);
                if [IN_DOUBT, SLOW_BODY].contains(&failure.reason) {
                    // What follows is not read as a request.
                    context.worker.shared.requests.refused(failure.reason);
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        })
    })
}

/// Lets those who want to hear of it hear of a request.
fn follow(context: &Context, request: &mut Request<Body>, seen: &mut Seen) {
    let (tracer, word) = (&context.worker.shared.requests.tracer, context.word());
    let open = match tracer.reads(word) {
        true => tracer.request(request.headers_mut(), word, &mut rand::rng()),
        false => None,
    };
    seen.follow(open, |now| Account::of(request, context.client(), open, now));
    if let Some(sent) = seen.sent() {
        request.body_mut().count(sent);
    }
}

/// What comes of a request whose client sends it in time. Once its answer has begun, the two of them may talk
/// as slowly as they want.
async fn in_time(
    sending: Option<Stall>,
    run: Pin<&mut impl Future<Output = Result<Outcome, Failure>>>,
) -> Result<Outcome, Failure> {
    let Some(sending) = sending else { return run.await };
    tokio::select! {
        biased;
        outcome = run => outcome,
        () = sending.over() => {
            let detail = "the client did not send the rest of the request's body";
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, SLOW_BODY, detail))
        }
    }
}

enum Outcome {
    /// With the client's side, where both leave HTTP.
    Answered(Box<Answered>, Option<OnUpgrade>),
    /// What a route says to answer.
    Own(Response<Body>),
}

async fn run(
    context: &Arc<Context>,
    mut request: Request<Body>,
    seen: &mut Seen,
) -> Result<Outcome, Failure> {
    let client = context.spoken(request.version(), request.headers());
    let leaving = Leaving::of(&mut request)?;
    let (mut parts, body) = request.into_parts();
    if !message::is_framed(&parts) {
        return Err(in_doubt());
    }
    context.complete(&mut parts)?;
    let target = Target::of(&parts, context.slashes()).map_err(|refusal| {
        Failure::new(StatusCode::BAD_REQUEST, refusal.as_str(), format!("the request is refused: {refusal}"))
    })?;
    let exchange = Exchange { context, target, client, leaving };
    let routes = match context.way(&exchange.target, seen)? {
        Way::Routed(routes) => routes,
        Way::Direct(answer) => return exchange.send(&answer, None, parts, body, seen).await,
    };
    match routes.find(&exchange.target, &parts.method, &parts.headers) {
        // Apart, so that a request without a route does not carry room for one.
        Found::Rule(matched) => Box::pin(exchange.routed(matched, parts, body, seen)).await,
        Found::NoHost => Err(not_found("no_route_for_host", "no route is for this host")),
        Found::NoMatch => Err(not_found("no_route", "no rule of any route holds for this request")),
    }
}

/// A request under way.
struct Exchange<'a> {
    context: &'a Arc<Context>,
    target: Target,
    client: Version,
    leaving: Option<Leaving>,
}

impl Exchange<'_> {
    /// As a rule says.
    async fn routed(
        mut self,
        matched: Matched<'_>,
        mut parts: Parts,
        mut body: Body,
        seen: &mut Seen,
    ) -> Result<Outcome, Failure> {
        let Matched { rule, prefix, invalid } = matched;
        seen.by(&rule.route.label);
        if let Some(invalid) = invalid {
            return Err(misconfigured(invalid.as_str()));
        }
        if let Some(own) = own_answer(&rule.filters, &parts, &self.target, prefix, self.context) {
            return Ok(Outcome::Own(own?));
        }
        let (backend, filters) = match rule.choose(&mut rand::rng()) {
            Choice::Backend(backend, filters) => (backend, filters),
            Choice::Invalid(why) => return Err(misconfigured(why.as_str())),
            Choice::Nobody => return Err(misconfigured("no backend of the rule has a weight")),
        };
        if let Some(own) = own_answer(filters, &parts, &self.target, prefix, self.context) {
            return Ok(Outcome::Own(own?));
        }
        let origins = [&rule.filters, filters]
            .map(|filters| filters.cors.as_ref().map(|cors| cors.allowed(&parts.headers)));
        for filters in [&rule.filters, filters] {
            self.change(filters, &mut parts, prefix)?;
        }
        let mirrors = mirror::chosen([&rule.filters, filters]);
        if !mirrors.is_empty() {
            body = body.gathered(mirror::KEPT).await.map_err(|_| client_left())?;
            mirror::send(&self.context.worker, mirrors, &parts, &body, &self.target, self.client);
        }
        let answer = self.backend(backend).await?;
        if self.context.is_gateway() {
            seen.towards(&answer);
        }
        let mut outcome = self.send(&answer, Some(rule), parts, body, seen).await?;
        if let Outcome::Answered(answered, _) = &mut outcome {
            let headers = answered.response.headers_mut();
            for (filters, origin) in [filters, &rule.filters].into_iter().zip(origins.into_iter().rev()) {
                if let (Some(cors), Some(origin)) = (&filters.cors, origin) {
                    cors.apply(origin, headers);
                }
                if let Some(change) = &filters.response {
                    change.apply(headers);
                }
            }
        }
        Ok(outcome)
    }

    fn change(&mut self, filters: &Filters, parts: &mut Parts, prefix: usize) -> Result<(), Failure> {
        if let Some(change) = &filters.request {
            change.apply(&mut parts.headers);
        }
        if let Some(rewrite) = &filters.rewrite {
            self.target = rewrite
                .apply(&self.target, prefix)
                .ok_or_else(|| misconfigured("the rewritten target is longer than one may be"))?;
        }
        Ok(())
    }

    async fn backend(&self, backend: &Backend) -> Result<Arc<Answer>, Failure> {
        let subject = Subject::Backend(backend.clone());
        let answer = self.context.worker.shared.directory.resolve(&subject).await.map_err(|error| {
            let reason = match error {
                NoAnswer::Unavailable => "discovery_unavailable",
                NoAnswer::Full => "too_many_destinations",
            };
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason, format!("{subject}: {error}"))
        })?;
        match answer.is_outside() {
            // It was there when the route was resolved.
            true => Err(misconfigured(&format!("there is no backend {subject}"))),
            false => Ok(answer),
        }
    }

    async fn send(
        self,
        answer: &Answer,
        rule: Option<&crate::route::Rule>,
        mut parts: Parts,
        body: Body,
        seen: &mut Seen,
    ) -> Result<Outcome, Failure> {
        let websocket = self.leaving.as_ref().is_some_and(Leaving::is_websocket);
        let http2 = message::speaks_http2(answer.protocol(), self.client, websocket);
        message::prepare(&mut parts, &self.target, http2, self.leaving.is_some());
        let expected = match self.leaving {
            Some(leaving) => leaving.ask(&mut parts, http2, body.is_empty(), &mut rand::rng())?,
            None => None,
        };
        let attempts = Attempts {
            worker: &self.context.worker,
            answer,
            http2,
            leaves: expected.is_some(),
            retry: rule.and_then(|rule| rule.retry.as_ref()),
            until: deadline(seen.began(), rule.and_then(|rule| rule.request_timeout)),
            each: rule.and_then(|rule| rule.backend_timeout),
        };
        let mut answered = attempts.run(parts, body, seen).await?;
        let near = match expected {
            Some(expected) => expected.heard(&mut answered.response)?,
            None if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS => return Err(unasked()),
            None => None,
        };
        Ok(Outcome::Answered(Box::new(answered), near))
    }
}

/// What filters answer by themselves.
fn own_answer(
    filters: &Filters,
    parts: &Parts,
    target: &Target,
    prefix: usize,
    context: &Context,
) -> Option<Result<Response<Body>, Failure>> {
    if let Some(preflight) =
        filters.cors.as_ref().and_then(|cors| cors.preflight(&parts.method, &parts.headers))
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = preflight.status;
        *response.headers_mut() = preflight.headers;
        return Some(Ok(response));
    }
    let redirect = filters.redirect.as_ref()?;
    let Some(location) = redirect.location(target, prefix, context.entry()) else {
        return Some(Err(misconfigured("the redirect makes a location that no header can hold")));
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = redirect.status();
    response.headers_mut().insert(header::LOCATION, location);
    Some(Ok(response))
}

/// The answer as the client gets it.
fn finish(
    context: &Context,
    answered: Answered,
    version: Version,
    near: Option<OnUpgrade>,
    taking: Option<Stall>,
    mut seen: Seen,
    held: impl Send + 'static,
) -> Response<Body> {
    let Answered { mut response, taken, busy, until } = answered;
    seen.status(response.status());
    if let Some(near) = near {
        let far = upgrade::on(&mut response);
        seen.ended(End::Complete);
        carry(near, far, (context.worker.open.enter(), taken, busy, held));
        return response.map(|_| Body::empty());
    }
    let (mut parts, incoming) = response.into_parts();
    message::strip(&mut parts.headers);
    if taken.unheard && version < Version::HTTP_2 {
        // A body that comes all the same must not be taken for the next request.
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let watcher = Ending {
        seen: Some(seen),
        taken: Some(taken),
        upstreams: context.worker.upstreams.clone(),
        _held: (busy, held),
    };
    Response::from_parts(
        parts,
        Body::passed(incoming).until(until).taken_within(taking).watched(Box::new(watcher)),
    )
}

/// Gives back what a request occupied, and puts on record how it ended.
struct Ending<H> {
    seen: Option<Seen>,
    taken: Option<Taken>,
    upstreams: Upstreams,
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

/// Of a request's headers, what an answer of ours depends on. Who asks by a CONNECT would take an answer in
/// gRPC, which is always 200, for a connection.
fn grpc_only(method: &Method, headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if method != Method::CONNECT
        && super::answer::speaks_grpc(headers)
        && let Some(kind) = headers.get(header::CONTENT_TYPE)
    {
        kept.insert(header::CONTENT_TYPE, kind.clone());
    }
    kept
}

/// Whoever asked for nothing would take what follows for an answer.
fn unasked() -> Failure {
    let detail = "the application left HTTP although nobody asked it to";
    Failure::new(StatusCode::BAD_GATEWAY, "unexpected_upgrade", detail)
}

fn in_doubt() -> Failure {
    let detail = "the request is refused: its body is in another coding than chunked, or chunked twice";
    Failure::new(StatusCode::BAD_REQUEST, IN_DOUBT, detail)
}

/// Nobody will read it.
pub fn client_left() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "client_left", "the client did not send all of its request")
}

fn not_found(reason: &'static str, detail: &'static str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, reason, detail)
}

/// Only operators can mend it, who find the whole of it in the route's status and in `trellis diag`.
fn misconfigured(why: &str) -> Failure {
    let detail: Cow<'static, str> = format!("the route cannot be obeyed: {why}").into();
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "route_invalid", detail)
}
