//! A small HTTP/1 server for metrics, health and administration: exact paths, no request bodies, and
//! limits on everything that a stranger can send. An answer is whole, or comes bit by bit for as long as it
//! is listened to.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

pub use ::http::StatusCode;
use ::http::{
    HeaderMap, Method, Request,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    prometheus,
    registry::Registry,
    shutdown::{self, Shutdown},
};

mod query;

pub use self::query::Query;

/// Connections at one time. Beyond it the oldest is closed rather than the newest refused: whoever holds
/// connections open must not keep a probe out.
const MAX_CONNECTIONS: usize = 128;
/// From the end of one request to the end of the head of the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a whole connection, so that a reader who never reads cannot hold a response in memory. One that is
/// answered bit by bit lasts.
const MAX_AGE: Duration = Duration::from_secs(300);
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// How long open requests may take to finish after the process was asked to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// What a handler answers.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Response {
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into() }
    }

    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    pub fn html(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "text/html; charset=utf-8", body)
    }

    /// 200 with the value as JSON; 500 with the reason if it cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new(StatusCode::OK, "application/json", body),
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// An answer that comes bit by bit.
pub type Bits = UnsyncBoxBody<Bytes, Infallible>;

enum Answer {
    Whole(Response),
    Bits(&'static str, Bits),
}

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Handler = Arc<dyn Fn(Query) -> Answering + Send + Sync>;

/// Which path is answered by what.
#[derive(Clone, Default)]
pub struct Routes(BTreeMap<&'static str, Vec<(Method, Handler)>>);

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn get(self, path: &'static str, handler: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        self.on(Method::GET, path, at_once(handler))
    }

    /// For what depends on the query, and may take its time.
    #[must_use]
    pub fn ask<F>(self, path: &'static str, handler: impl Fn(Query) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let handler = move |query| -> Answering {
            let answering = handler(query);
            Box::pin(async move { Answer::Whole(answering.await) })
        };
        self.on(Method::GET, path, Arc::new(handler))
    }

    /// For what is answered bit by bit, for as long as somebody listens. How many may listen is for the
    /// handler to say.
    #[must_use]
    pub fn follow(
        self,
        path: &'static str,
        content_type: &'static str,
        handler: impl Fn(Query) -> Result<Bits, Response> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |query| -> Answering {
            let answer = match handler(query) {
                Ok(bits) => Answer::Bits(content_type, bits),
                Err(response) => Answer::Whole(response),
            };
            Box::pin(std::future::ready(answer))
        };
        self.on(Method::GET, path, Arc::new(handler))
    }

    /// For what changes something. A request body is not read. A browser's request from a page of
    /// another origin is refused.
    #[must_use]
    pub fn post(self, path: &'static str, handler: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        self.on(Method::POST, path, at_once(handler))
    }

    /// All routes of both; of a path and method in both, the other's.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        for (path, methods) in other.0 {
            for (method, handler) in methods {
                self = self.on(method, path, handler);
            }
        }
        self
    }

    fn on(mut self, method: Method, path: &'static str, handler: Handler) -> Self {
        let methods = self.0.entry(path).or_default();
        methods.retain(|(known, _)| *known != method);
        methods.push((method, handler));
        self
    }

    async fn answer(&self, request: &Request<Incoming>) -> hyper::Response<Bits> {
        let (method, uri) = (request.method(), request.uri());
        let Some(methods) = self.0.get(uri.path()) else {
            let known: String = self.0.keys().map(|path| format!("{path}\n")).collect();
            return encode(Response::text(
                StatusCode::NOT_FOUND,
                format!("nothing here; there is:\n{known}"),
            ));
        };
        // hyper leaves the body out of the answer to HEAD by itself.
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        let Some((_, handler)) = methods.iter().find(|(method, _)| method == wanted) else {
            let allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
            let allowed = allowed.join(", ");
            let mut response =
                encode(Response::text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n")));
            if let Ok(value) = HeaderValue::from_str(&allowed) {
                response.headers_mut().insert(ALLOW, value);
            }
            return response;
        };
        if *wanted != Method::GET && is_cross_origin(request.headers()) {
            return encode(Response::text(
                StatusCode::FORBIDDEN,
                "a page of another origin may not do this\n",
            ));
        }
        match handler(Query::parse(uri.query().unwrap_or_default())).await {
            Answer::Whole(response) => encode(response),
            Answer::Bits(content_type, bits) => encoded(StatusCode::OK, content_type, bits),
        }
    }
}

fn at_once(handler: impl Fn() -> Response + Send + Sync + 'static) -> Handler {
    Arc::new(move |_| Box::pin(std::future::ready(Answer::Whole(handler()))))
}

/// `/metrics` in the Prometheus text format.
pub fn metrics_routes(registry: &Registry) -> Routes {
    let registry = registry.clone();
    Routes::new().get("/metrics", move || {
        Response::new(StatusCode::OK, prometheus::CONTENT_TYPE, registry.prometheus())
    })
}

/// Listens on an address. `[::]` takes IPv4 as well, and means `0.0.0.0` where there is no IPv6.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match listen(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && !has_ipv6() => {
            tracing::debug!(%error, "no IPv6 here");
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
    .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Serves until the process is asked to stop, then finishes the requests it has.
pub async fn serve(listener: TcpListener, routes: Routes, stop: Shutdown) {
    let routes = Arc::new(routes);
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            () = shutdown::requested(stop.clone()) => break,
            stream = accept(&listener) => stream,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        oldest_first.retain(|connection| !connection.is_finished());
        while oldest_first.len() >= MAX_CONNECTIONS {
            if let Some(oldest) = oldest_first.pop_front() {
                oldest.abort();
            }
        }
        oldest_first.push_back(connections.spawn(connection(stream, routes.clone(), stop.clone())));
    }
    drop(listener);
    // What has not finished by then is dropped with the set.
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of file descriptors, for one: what is open must close first.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Arc<Routes>, stop: Shutdown) {
    let lasts = Arc::new(AtomicBool::new(false));
    let followed = lasts.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (routes, followed) = (routes.clone(), followed.clone());
        async move {
            let response = routes.answer(&request).await;
            followed.store(response.extensions().get::<Lasting>().is_some(), Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = shutdown::requested(stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    let mut served = std::pin::pin!(served);
    loop {
        match timeout(MAX_AGE, served.as_mut()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return tracing::debug!(%error, "an HTTP connection ended early"),
            Err(_) if lasts.load(Relaxed) => {}
            Err(_) => return tracing::debug!("an HTTP connection reached its greatest age"),
        }
    }
}

/// Marks an answer that comes bit by bit.
#[derive(Clone, Copy)]
struct Lasting;

fn encode(response: Response) -> hyper::Response<Bits> {
    let Response { status, content_type, body } = response;
    let mut whole = encoded(status, content_type, Full::new(body).boxed_unsync());
    whole.extensions_mut().remove::<Lasting>();
    whole
}

fn encoded(status: StatusCode, content_type: &str, body: Bits) -> hyper::Response<Bits> {
    let mut encoded = hyper::Response::new(body);
    *encoded.status_mut() = status;
    encoded.extensions_mut().insert(Lasting);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        encoded.headers_mut().insert(CONTENT_TYPE, value);
    }
    // All of it describes this moment.
    encoded.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    encoded
}

/// Whether a browser says that this comes from a page that we did not serve.
fn is_cross_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_none() || origin != host
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Those who wait to be accepted; the kernel takes less where it is told to.
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into()))
        .is_ok()
}

#[cfg(test)]
mod tests;
