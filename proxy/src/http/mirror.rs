//! Copies of requests for backends whose answers nobody sees.

use std::{sync::Arc, time::Duration};

use http::{Request, Version, request::Parts};
use http_body_util::BodyExt;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};
use tracing::debug;

use super::{
    attempt::{Attempts, copy},
    body::Body,
    message,
};
use crate::{
    directory::{Backend, Subject},
    requests::Request as Seen,
    route::{Filters, Target},
    worker::Worker,
};

/// What of a body is kept for copies. A request with more, or with a body of unknown size, is not mirrored:
/// nobody may have to wait for it.
pub const KEPT: u64 = 64 * 1024;

/// How long a copy and its answer may take: nobody waits for either, and who never answers must not keep them
/// for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends copies to `backends`, as what they speak, without making anybody wait.
pub fn send(
    worker: &Arc<Worker>,
    backends: Vec<Backend>,
    parts: &Parts,
    body: &Body,
    target: &Target,
    client: Version,
) {
    for backend in backends {
        let Some(body) = body.again() else {
            worker.shared.requests.not_mirrored("body_too_large");
            continue;
        };
        // Copies have places of their own: however slow who gets them is, they take none of those of requests.
        let Ok(place) = worker.mirrors.clone().try_acquire_owned() else {
            worker.shared.requests.not_mirrored("too_many_copies");
            continue;
        };
        let Some(request) = copy(&Request::from_parts(parts.clone(), body)) else { continue };
        tokio::spawn(one(worker.clone(), backend, request, target.clone(), client, place));
    }
}

async fn one(
    worker: Arc<Worker>,
    backend: Backend,
    request: Request<Body>,
    target: Target,
    client: Version,
    _place: OwnedSemaphorePermit,
) {
    let Ok(answer) = worker.shared.directory.resolve(&Subject::Backend(backend)).await else {
        return worker.shared.requests.not_mirrored("discovery_unavailable");
    };
    let http2 = message::speaks_http2(answer.protocol(), client, false);
    let (mut parts, body) = request.into_parts();
    message::prepare(&mut parts, &target, http2, false);
    let until = Instant::now() + PATIENCE;
    let attempts = Attempts {
        worker: &worker,
        answer: &answer,
        http2,
        leaves: false,
        retry: None,
        until: Some(until),
        each: None,
    };
    let mut seen = Seen::copy(&worker.shared.requests, Instant::now());
    match attempts.run(parts, body, &mut seen).await {
        Ok(answered) => {
            worker.shared.requests.mirrored();
            // Read to its end, so that the connection can be kept, and none of it is kept.
            let mut body = answered.response.into_body();
            let read = async {
                while let Some(frame) = body.frame().await {
                    if frame.is_err() {
                        return false;
                    }
                }
                true
            };
            if time::timeout_at(until, read).await == Ok(true) {
                worker.upstreams.give_back(answered.taken);
            }
        }
        Err(failure) => {
            debug!(reason = failure.reason, "copy not answered");
            worker.shared.requests.not_mirrored(failure.reason);
        }
    }
}

/// Who gets a copy of the next request.
pub fn chosen(filters: [&Filters; 2]) -> Vec<Backend> {
    filters
        .iter()
        .flat_map(|filters| &filters.mirrors)
        .filter_map(|mirror| mirror.choose(&mut rand::rng()))
        .cloned()
        .collect()
}
