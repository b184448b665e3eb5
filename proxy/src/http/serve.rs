//! One connection of a client, served until it ends or the proxy drains.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use hyper::{Request, Response, body::Incoming, service::Service};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::debug;

use super::{
    body::Body,
    context::Context,
    forward::{self, Answering},
    io::Near,
    rest::Rest,
};
use crate::worker::Stage;

/// What one request's head may take, and all that is read ahead.
const HEAD: usize = 64 * 1024;
const BUFFER: usize = 128 * 1024;
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;

/// How long a client may take for one request's head.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection of HTTP/1 is at rest before it is taken out of its server.
const REST: Duration = Duration::from_secs(1);

/// Answers requests by forwarding them.
struct Forwarding {
    context: Arc<Context>,
    rest: Arc<Rest>,
}

impl Service<Request<Incoming>> for Forwarding {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let mut request = request.map(Body::passed);
        if request.body().is_passed() {
            let (parts, body) = request.into_parts();
            request = Request::from_parts(parts, body.watched(Box::new(self.rest.begin())));
        }
        forward::answer(self.context.clone(), request, self.rest.begin())
    }
}

/// Between its requests a connection is a socket that is waited for: thousands that do nothing cost little.
pub async fn http1(context: Arc<Context>, mut near: Near) {
    let mut stage = context.worker.shared.stage.clone();
    while let Some(rested) = Box::pin(awake(&context, near, &mut stage)).await {
        tokio::select! {
            woken = rested.wakes() => if woken.is_err() { return },
            () = drains(&mut stage) => return,
        }
        near = rested;
    }
}

/// Serves a connection until it ends, or rests.
async fn awake(context: &Arc<Context>, near: Near, stage: &mut watch::Receiver<Stage>) -> Option<Near> {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .max_buf_size(BUFFER)
        .max_header_size(HEAD)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    let rest = near.rest();
    let service = Forwarding { context: context.clone(), rest: rest.clone() };
    let mut connection = builder.serve_connection(near, service).with_upgrades();
    let mut look = Box::pin(time::sleep(REST));
    let (mut moves, mut draining) = (rest.moves(), false);
    loop {
        tokio::select! {
            done = &mut connection => {
                if let Err(error) = done {
                    broke(context, &error);
                }
                return None;
            }
            () = drains(stage), if !draining => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
            () = &mut look, if !draining => {
                let now = rest.moves();
                if now == moves && rest.is_at_rest() {
                    break;
                }
                moves = now;
                look.as_mut().reset(Instant::now() + REST);
            }
        }
    }
    let parts = connection.into_parts()?;
    Some(parts.io.again(parts.read_buf))
}

pub async fn http2(context: Arc<Context>, near: Near) {
    let mut stage = context.worker.shared.stage.clone();
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false);
    let service = Forwarding { context: context.clone(), rest: near.rest() };
    let connection = builder.serve_connection(near, service);
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = drains(&mut stage) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        broke(&context, &error);
    }
}

/// Puts on record why a connection ended, where that was the client's doing.
fn broke(context: &Context, error: &hyper::Error) {
    debug!(address = %context.address, %error, "connection of a client broke");
    if let Some(reason) = refusal(error) {
        context.worker.shared.requests.refused(reason);
    }
}

/// Why a client was not served any longer; nothing where it just left.
fn refusal(error: &hyper::Error) -> Option<&'static str> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            return (!error.is_remote() && !error.is_io()).then(|| match error.reason() {
                Some(h2::Reason::ENHANCE_YOUR_CALM) => "flood",
                Some(h2::Reason::FLOW_CONTROL_ERROR) => "flow_control",
                Some(h2::Reason::COMPRESSION_ERROR) => "compression",
                Some(h2::Reason::FRAME_SIZE_ERROR) => "frame_size",
                _ => "protocol",
            });
        }
        source = inner.source();
    }
    match () {
        () if error.is_timeout() => Some("slow_head"),
        () if error.is_parse_too_large() => Some("head_too_large"),
        () if error.is_parse() => Some("malformed"),
        () => None,
    }
}

/// Resolves when the proxy drains.
async fn drains(stage: &mut watch::Receiver<Stage>) {
    // Without a sender the process is ending anyway.
    let _ = stage.wait_for(|stage| stage.draining).await;
}
