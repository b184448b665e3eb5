//! One connection of a client, served until it ends or the proxy drains.

use std::{
    convert::Infallible,
    error::Error,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, rt::Executor, service::Service};
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::time;
use tracing::debug;

use super::{
    body::Body,
    context::Context,
    forward::{self, Answering},
    io::Near,
    pace,
    rest::Rest,
    stall::{Stall, Stalls},
};
use crate::seldom::Seldom;

/// What one connection may take.
#[derive(Debug)]
pub struct Limits {
    /// Whether clients must come to the point: those of the mesh may, and their ends are seen.
    timed: bool,
    /// What one request's head may take, and all that is read ahead.
    head: usize,
    buffer: usize,
    /// Requests at a time on one connection of HTTP/2.
    streams: u32,
    stream_window: u32,
    connection_window: u32,
    send_buffer: usize,
}

impl Limits {
    pub fn timed(&self) -> bool {
        self.timed
    }

    /// Of an application, which is trusted not to harm itself.
    pub const MESH: Self = Self {
        timed: false,
        head: 64 * 1024,
        buffer: 128 * 1024,
        streams: 256,
        stream_window: 512 * 1024,
        connection_window: 4 * 1024 * 1024,
        send_buffer: 256 * 1024,
    };
    /// Of anybody.
    pub const EDGE: Self = Self {
        timed: true,
        head: 64 * 1024,
        buffer: 128 * 1024,
        streams: 100,
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
        send_buffer: 64 * 1024,
    };
}

/// How long a client may take for one request's head.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection of HTTP/1 is at rest before it is taken out of its server.
const REST: Duration = Duration::from_secs(1);

/// Answers requests by forwarding them.
struct Forwarding {
    context: Arc<Context>,
    rest: Arc<Rest>,
    /// Of HTTP/2.
    streams: Option<Streams>,
}

/// Runs the streams of one connection. One whose client does not take its answer is reset: the library asks
/// a body for more only once there is room for it, so that the body alone can end nothing.
#[derive(Clone)]
struct Streams {
    context: Arc<Context>,
    /// The one that is about to begin.
    next: Arc<Mutex<Option<Stall>>>,
}

impl Streams {
    fn next(&self, stalls: &Option<Stalls>) {
        *self.next.lock() = stalls.as_ref().map(|stalls| stalls.taking.clone());
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(taking) = self.next.lock().take() else {
            tokio::spawn(stream);
            return;
        };
        let context = self.context.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = taking.over() => slow_reader(&context),
            }
        });
    }
}

impl Service<Request<Incoming>> for Forwarding {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let mut request = request.map(Body::passed);
        let stalls = self.context.stalls(request.headers());
        if request.body().is_passed() {
            let (parts, mut body) = request.into_parts();
            if let Some(sending) = stalls.as_ref().and_then(|stalls| stalls.sending.as_ref()) {
                body = body.sent_within(sending.clone());
            }
            request = Request::from_parts(parts, body.watched(Box::new(self.rest.begin())));
        }
        if let Some(streams) = &self.streams {
            streams.next(&stalls);
        }
        forward::answer(self.context.clone(), request, stalls, self.rest.begin())
    }
}

/// Between its requests a connection is a socket that is waited for: thousands that do nothing cost little.
pub async fn http1(context: Arc<Context>, mut near: Near) {
    let timed = context.limits().timed;
    while let Some(rested) = Box::pin(awake(&context, near)).await {
        tokio::select! {
            woken = rested.wakes() => if woken.is_err() { return },
            () = context.ends() => return,
            () = context.pace.idle(), if timed => return,
        }
        near = rested;
    }
}

/// Serves a connection until it ends, or rests.
async fn awake(context: &Arc<Context>, near: Near) -> Option<Near> {
    let limits = context.limits();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(limits.buffer).max_header_size(limits.head).auto_date_header(false);
    match limits.timed {
        // The time itself is the pace's matter.
        true => builder.timer(context.pace.clone()).header_read_timeout(pace::IDLE),
        false => builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE),
    };
    let (rest, rests) = (near.rest(), near.can_rest());
    let service = Forwarding { context: context.clone(), rest: rest.clone(), streams: None };
    let mut connection = builder.serve_connection(near, service).with_upgrades();
    let mut draining = false;
    loop {
        let aside = pin!(aside(context, &rest, rests, draining));
        let aside = tokio::select! {
            biased;
            done = &mut connection => {
                if let Err(error) = done {
                    broke(context, &error);
                }
                return None;
            }
            aside = Seldom::new(aside) => aside,
        };
        match aside {
            Aside::Ends => {
                Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
            Aside::Stalled => {
                slow_reader(context);
                return None;
            }
            Aside::Rests => break,
        }
    }
    let parts = connection.into_parts()?;
    Some(parts.io.again(parts.read_buf))
}

/// What may happen beside a connection of HTTP/1.
enum Aside {
    /// It is to take no further request.
    Ends,
    /// Its client does not take what it asked for.
    Stalled,
    /// Nothing has moved for a while.
    Rests,
}

async fn aside(context: &Context, rest: &Rest, rests: bool, draining: bool) -> Aside {
    tokio::select! {
        () = context.ends(), if !draining => Aside::Ends,
        () = context.pace.stalled(), if context.limits().timed => Aside::Stalled,
        () = at_rest(rest), if rests && !draining => Aside::Rests,
        else => std::future::pending().await,
    }
}

async fn at_rest(rest: &Rest) {
    let mut moves = rest.moves();
    loop {
        time::sleep(REST).await;
        let now = rest.moves();
        if now == moves && rest.is_at_rest() {
            return;
        }
        moves = now;
    }
}

pub async fn http2(context: Arc<Context>, near: Near) {
    let limits = context.limits();
    let streams = Streams { context: context.clone(), next: Arc::default() };
    let mut builder = hyper::server::conn::http2::Builder::new(streams.clone());
    builder
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head as u32)
        .max_send_buf_size(limits.send_buffer)
        // WebSockets, which are all that is taken by it.
        .enable_connect_protocol()
        .auto_date_header(false);
    let service = Forwarding { context: context.clone(), rest: near.rest(), streams: Some(streams) };
    let connection = builder.serve_connection(near, service);
    tokio::pin!(connection);
    let aside = pin!(async {
        tokio::select! {
            () = context.pace.stalled(), if limits.timed => Aside::Stalled,
            () = context.ends() => Aside::Ends,
            () = context.pace.idle(), if limits.timed => Aside::Ends,
        }
    });
    let ended = tokio::select! {
        biased;
        done = connection.as_mut() => Some(done),
        aside = Seldom::new(aside) => match aside {
            Aside::Stalled => return slow_reader(&context),
            Aside::Ends | Aside::Rests => None,
        },
    };
    let done = match ended {
        Some(done) => done,
        None => {
            connection.as_mut().graceful_shutdown();
            // A client that answers nothing is not waited for once none of its requests is under way.
            tokio::select! {
                done = connection.as_mut() => done,
                () = context.pace.stalled(), if limits.timed => return slow_reader(&context),
                () = context.pace.over(), if limits.timed => return,
            }
        }
    };
    if let Err(error) = done {
        broke(&context, &error);
    }
}

/// A client does not take what it asked for.
fn slow_reader(context: &Context) {
    debug!(address = %context.address, "a client does not take its answer");
    context.worker.shared.requests.refused("slow_reader");
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
