//! One connection of a client, served until it ends or the proxy drains.

use std::{convert::Infallible, sync::Arc};

use hyper::{Request, Response, body::Incoming, service::Service};
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tracing::debug;

use super::{
    body::Body,
    context::Context,
    forward::{self, Answering},
    io::Near,
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
    let mut stage = context.worker.shared.stage.clone();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(BUFFER).max_header_size(HEAD).auto_date_header(false).header_read_timeout(None);
    let address = context.address;
    let connection = builder.serve_connection(near, Forwarding(context)).with_upgrades();
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = drains(&mut stage) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        debug!(%address, %error, "connection of a client broke");
    }
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
    let address = context.address;
    let connection = builder.serve_connection(near, Forwarding(context));
    tokio::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = drains(&mut stage) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        debug!(%address, %error, "connection of a client broke");
    }
}

/// Resolves when the proxy drains.
async fn drains(stage: &mut watch::Receiver<Stage>) {
    // Without a sender the process is ending anyway.
    let _ = stage.wait_for(|stage| stage.draining).await;
}
