//! One connection of a client, served until it ends or the proxy drains.

use std::{convert::Infallible, sync::Arc};

use hyper::{Request, Response, body::Incoming, service::Service};
use hyper_util::rt::TokioExecutor;
use tracing::debug;

use super::{
    body::Body,
    context::Context,
    forward::{self, Answering},
    io::Near,
    pace,
};

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

/// Answers requests by forwarding them.
#[derive(Clone)]
struct Forwarding(Arc<Context>);

impl Service<Request<Incoming>> for Forwarding {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        forward::answer(self.0.clone(), request)
    }
}

pub async fn http1(context: Arc<Context>, near: Near) {
    let (address, limits) = (context.address, context.limits());
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(limits.buffer).max_header_size(limits.head).auto_date_header(false);
    match limits.timed {
        // The time itself is the pace's matter.
        true => builder.timer(context.pace.clone()).header_read_timeout(pace::IDLE),
        false => builder.header_read_timeout(None),
    };
    let connection = builder.serve_connection(near, Forwarding(context.clone())).with_upgrades();
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = context.ends() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        debug!(%address, %error, "connection of a client broke");
    }
}

pub async fn http2(context: Arc<Context>, near: Near) {
    let (address, limits) = (context.address, context.limits());
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head as u32)
        .max_send_buf_size(limits.send_buffer)
        .auto_date_header(false);
    let connection = builder.serve_connection(near, Forwarding(context.clone()));
    tokio::pin!(connection);
    let ended = tokio::select! {
        done = connection.as_mut() => Some(done),
        () = context.ends() => None,
        () = context.pace.idle(), if limits.timed => None,
    };
    let done = match ended {
        Some(done) => done,
        None => {
            connection.as_mut().graceful_shutdown();
            // A client that answers nothing is not waited for once none of its requests is under way.
            tokio::select! {
                done = connection.as_mut() => done,
                () = context.pace.over(), if limits.timed => return,
            }
        }
    };
    if let Err(error) = done {
        debug!(%address, %error, "connection of a client broke");
    }
}
