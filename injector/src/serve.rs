//! The webhook's listener: TLS, HTTP/2 or HTTP/1.1, and a bound on everything that a stranger in the
//! cluster can hold open. An API server is few callers with few connections; whoever has many is not
//! one.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use trellis_telemetry::{
    health::Health,
    shutdown::{Shutdown, requested},
};

use crate::{serving, webhook::Webhook};

/// The health condition that ends when the process is asked to stop.
pub const CONDITION: &str = "serving";

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
const STREAMS: u32 = 128;
const LARGEST_HEADERS: u32 = 16 * 1024;
/// How long new connections are taken after the process was asked to stop: whoever routes to it learns
/// of its end later than it does.
const LINGER: Duration = Duration::from_secs(5);
/// For what is under way after that.
const DRAIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Connections at one time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub total: usize,
    pub per_source: usize,
    /// How long new connections are taken after the process was asked to stop: `LINGER` but in tests.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 1024, per_source: 128, linger: LINGER }
    }
}

/// Serves until the process is asked to stop, and then a little longer.
pub async fn serve(
    tcp: TcpListener,
    tls: Arc<ServerConfig>,
    webhook: Arc<Webhook>,
    limits: Limits,
    health: Health,
    stop: Shutdown,
) {
    health.set(CONDITION, Ok(()));
    let (drain, drained) = watch::channel(false);
    let server = Arc::new(Server { tls: TlsAcceptor::from(tls), webhook, drain: drained });
    let seats = Seats::new(limits);
    let mut connections = JoinSet::new();
    let end = async {
        requested(stop).await;
        health.set(CONDITION, Err("asked to stop".to_owned()));
        sleep(limits.linger).await;
    };
    tokio::pin!(end);
    loop {
        let (stream, remote) = tokio::select! {
            () = &mut end => break,
            accepted = accept(&tcp) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match seats.take(remote.ip()) {
            Some(seat) => {
                let server = server.clone();
                connections.spawn(async move {
                    server.connection(stream).await;
                    drop(seat);
                });
            }
            None => server.webhook.metrics.handshake_refused("crowded_out"),
        }
    }
    drop(tcp);
    drain.send_replace(true);
    // What has not ended by then is dropped with the set.
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept(tcp: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match tcp.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                // Out of descriptors, for one: others have to end first.
                tracing::warn!(%error, "cannot accept a connection; trying again");
                sleep(PAUSE).await;
            }
        }
    }
}

struct Server {
    tls: TlsAcceptor,
    webhook: Arc<Webhook>,
    /// Connections end after what they have under way.
    drain: watch::Receiver<bool>,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let metrics = &self.webhook.metrics;
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return metrics.handshake_refused(serving::reason(&error)),
            Err(_) => return metrics.handshake_refused("timed_out"),
        };
        metrics.handshake(stream.get_ref().1);
        if let Err(error) = self.http(stream).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn http(&self, stream: TlsStream<TcpStream>) -> hyper::Result<()> {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        let webhook = &self.webhook;
        let service = service_fn(move |request: http::Request<Incoming>| {
            let webhook = webhook.clone();
            async move { Ok::<_, Infallible>(webhook.answer(request).await) }
        });
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_ANSWER)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(LARGEST_HEADERS);
            let connection = builder.serve_connection(stream, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = &mut connection => return ended,
                () = requested(self.drain.clone()) => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .max_buf_size(LARGEST_HEADERS as usize);
            let connection = builder.serve_connection(stream, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = &mut connection => return ended,
                () = requested(self.drain.clone()) => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}

/// Who is connected how often.
#[derive(Clone)]
struct Seats {
    limits: Limits,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Given back when dropped.
struct Seat {
    taken: Arc<Mutex<Taken>>,
    source: IpAddr,
}

impl Seats {
    fn new(limits: Limits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    fn take(&self, source: IpAddr) -> Option<Seat> {
        let source = source.to_canonical();
        let mut taken = self.taken.lock();
        if taken.total >= self.limits.total {
            return None;
        }
        let own = taken.by_source.entry(source).or_default();
        if *own >= self.limits.per_source {
            return None;
        }
        *own += 1;
        taken.total += 1;
        Some(Seat { taken: self.taken.clone(), source })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(own) = taken.by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_seat() {
        let seats = Seats::new(Limits { total: 3, per_source: 2, linger: LINGER });
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let first = seats.take(a).unwrap();
        let second = seats.take(mapped).unwrap();
        assert!(seats.take(a).is_none());
        let third = seats.take(b).unwrap();
        assert!(seats.take(b).is_none());
        drop(first);
        assert!(seats.take(b).is_some());
        drop((second, third));
        assert!(seats.taken.lock().by_source.is_empty());
        assert_eq!(seats.taken.lock().total, 0);
    }
}
