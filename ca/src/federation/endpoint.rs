//! Serves our trust bundle to other trust domains, over TLS by our own identity or by a certificate of the
//! web, to whoever asks: what it holds is what every peer is shown anyway.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, header::HeaderValue};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use trellis_channel::{
    admission::{Bounds, Gate},
    handshakes::{Direction, Handshakes},
    server::{CROWDED_OUT, NOT_READY},
};
use trellis_pki::{
    clock::Clock,
    jwks, lives,
    policy::{Ladder, Policy},
    record::Recorder,
    refusal::Refusal,
    tls::{ClientAuth, MeshTls},
    web,
};
use trellis_telemetry::{
    Counter, Family, Gauge, Registry,
    shutdown::{Shutdown, requested},
};

use zeroize::Zeroizing;

use crate::trust::Authority;

/// Strangers come here; they must not fill the process.
const BOUNDS: Bounds = Bounds { total: 128, per_source: 16 };
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(10);
/// Of a whole connection: it is there for one small document.
const AGE: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 16 * 1024;
/// How often the certificate that somebody else renews is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// After a failure to accept, which is the machine's trouble.
const PAUSE: Duration = Duration::from_millis(50);

/// The bundle endpoint. Clones are the same.
#[derive(Clone)]
pub struct Endpoint {
    shown: Shown,
    authority: Authority,
    hint: Duration,
    handshakes: Handshakes,
    requests: Family<Counter>,
    expiry: Family<Gauge>,
}

/// What the endpoint proves to be.
#[derive(Clone)]
pub enum Shown {
    /// The CA, by its own identity.
    Identity(Arc<MeshTls>),
    /// A host, by tls.crt and tls.key in this folder. They are read for each connection, so that whoever
    /// renews them has nobody to tell.
    Web(PathBuf, Arc<dyn Clock>),
}

/// One handshake that is about to begin.
struct Begun {
    config: Arc<ServerConfig>,
    recorder: Recorder,
}

impl Shown {
    pub fn identity(tls: &MeshTls) -> Self {
        let policy = Policy { key_exchange: Ladder::Prefer, signatures: Ladder::Prefer };
        Self::Identity(Arc::new(tls.under(policy).with_alpn(&[b"http/1.1"])))
    }

    /// When the certificate that somebody else renews ends, in seconds since 1970.
    async fn end(&self) -> Option<f64> {
        let Self::Web(folder, _) = self else { return None };
        let path = folder.join("tls.crt");
        let certificates = spawn_blocking(move || std::fs::read(path)).await.ok()?.ok()?;
        let (_, end) = *lives(&certificates).first()?;
        Some(end.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
    }

    async fn begin(&self) -> Result<Begun, String> {
        match self {
            Self::Identity(tls) => {
                let accepting = tls.accept(ClientAuth::None).map_err(|error| error.to_string())?;
                Ok(Begun { config: accepting.config, recorder: accepting.recorder })
            }
            Self::Web(folder, clock) => {
                let (folder, clock) = (folder.clone(), clock.clone());
                let read = move || {
                    let file = |name: &str| {
                        let path = folder.join(name);
                        std::fs::read(&path)
                            .map(Zeroizing::new)
                            .map_err(|e| format!("{}: {e}", path.display()))
                    };
                    web::server(&file("tls.crt")?, &file("tls.key")?, clock)
                        .map_err(|error| error.to_string())
                };
                let config = spawn_blocking(read).await.map_err(|error| error.to_string())??;
                Ok(Begun { config, recorder: Recorder::default() })
            }
        }
    }
}

impl Endpoint {
    /// `hint` is how often others are to ask.
    pub fn new(shown: Shown, authority: Authority, hint: Duration, registry: &Registry) -> Self {
        Self {
            shown,
            authority,
            hint,
            handshakes: Handshakes::new(registry),
            requests: registry.counter(
                "trellis_ca_bundle_requests_total",
                "Requests to the bundle endpoint, by the status of the answer.",
            ),
            expiry: registry.gauge(
                "trellis_ca_bundle_certificate_expiry_timestamp_seconds",
                "When the certificate for a host name of the bundle endpoint ends, in seconds since 1970.",
            ),
        }
    }

    /// Serves until asked to stop.
    pub async fn serve(self, tcp: TcpListener, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let gate = Gate::new(BOUNDS);
        let mut connections = JoinSet::new();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut stop => return,
                _ = looks.tick() => {
                    if let Some(end) = self.shown.end().await {
                        self.expiry.with(&[]).set(end);
                    }
                    continue;
                }
                accepted = tcp.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the bundle endpoint");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let mut pass = gate.enter(remote.ip());
            let endpoint = self.clone();
            connections.spawn(async move {
                tokio::select! {
                    biased;
                    _ = &mut pass.evicted => endpoint.handshakes.refused(Direction::Inbound, CROWDED_OUT),
                    () = endpoint.connection(stream, remote) => {}
                }
            });
        }
    }

    async fn connection(&self, stream: TcpStream, remote: SocketAddr) {
        let begun = match self.shown.begin().await {
            Ok(begun) => begun,
            Err(error) => {
                tracing::warn!(%error, "the bundle endpoint has nothing to prove itself with");
                return self.handshakes.refused(Direction::Inbound, NOT_READY);
            }
        };
        let began = Instant::now();
        let accepted = timeout(HANDSHAKE, TlsAcceptor::from(begun.config).accept(stream)).await;
        let refusal = match accepted {
            Ok(Ok(stream)) => {
                if let Some(posture) = begun.recorder.posture(stream.get_ref().1) {
                    self.handshakes.completed(Direction::Inbound, &posture, began.elapsed());
                }
                let answer = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(&request)) });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .max_buf_size(MAX_HEAD)
                    .serve_connection(TokioIo::new(stream), answer);
                if let Ok(Err(error)) = timeout(AGE, connection).await {
                    tracing::debug!(%remote, %error, "a connection to the bundle endpoint broke");
                }
                return;
            }
            Ok(Err(error)) => Refusal::of_io(&error, &begun.recorder),
            Err(_) => Refusal::TimedOut,
        };
        tracing::debug!(%remote, reason = refusal.as_str(), "no TLS with who came to the bundle endpoint");
        self.handshakes.refused(Direction::Inbound, refusal.as_str());
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => {
                let current = self.authority.current();
                let document = jwks::write(&current.bundle, current.state().anchors_revision, self.hint);
                (StatusCode::OK, document)
            }
            (_, "/") => (StatusCode::METHOD_NOT_ALLOWED, "{\"error\": \"use GET\"}\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "{\"error\": \"the bundle is at /\"}\n".to_owned()),
        };
        self.requests.with(&[("code", status.as_str())]).inc();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    }
}
