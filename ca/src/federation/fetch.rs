//! Fetches one bundle: one request over TLS 1.3, bounded in time and size, to whoever proves to be the
//! endpoint. Redirections are not followed: where a bundle comes from is the operator's to say.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use trellis_channel::client::{DialError, Dialer, connect_tcp};
use trellis_pki::{
    bundle::Bundle,
    clock::Clock,
    jwks::{self, Document, DocumentError, MAX_DOCUMENT},
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
    web,
};

use super::partner::{How, Partner, Url};

/// From the dial to the last byte.
const PATIENCE: Duration = Duration::from_secs(15);

/// The file with the authorities that endpoints of profile web are believed by, read anew each time.
#[derive(Clone, Debug)]
pub struct WebRoots(pub PathBuf);

#[derive(Debug, Error)]
pub enum FetchError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("the authorities of profile web in {path}: {reason}; see --federation-web-roots")]
    Roots { path: String, reason: String },
    #[error("TLS with {authority} failed: {reason}")]
    Tls { authority: String, reason: String },
    #[error("the request failed: {0}")]
    Http(String),
    #[error("the endpoint answered {0} instead of 200; check the path of endpoint")]
    Status(StatusCode),
    #[error("the answer was not whole, or larger than {MAX_DOCUMENT} bytes: {0}")]
    Body(String),
    #[error("the document is refused: {0}")]
    Document(#[from] DocumentError),
    #[error("the document is refused: {0}")]
    Refused(String),
    #[error("no document within {} s", PATIENCE.as_secs())]
    TimedOut,
}

impl FetchError {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dial(DialError::Handshake { .. }) | Self::Tls { .. } => "tls",
            Self::Dial(_) => "unreachable",
            Self::Roots { .. } => "web_roots",
            Self::Http(_) | Self::Body(_) => "http",
            Self::Status(_) => "http_status",
            Self::Document(_) => "bad_document",
            Self::Refused(_) => "refused",
            Self::TimedOut => "timed_out",
        }
    }
}

/// `bundle` is what is believed of the partner so far.
pub async fn fetch(
    partner: &Partner,
    bundle: Option<Bundle>,
    roots: &WebRoots,
    clock: &Arc<dyn Clock>,
) -> Result<Document, FetchError> {
    let body = timeout(PATIENCE, async {
        match (&partner.how, bundle) {
            (How::Spiffe { server, bootstrap }, bundle) => {
                let bundle = bundle.unwrap_or_else(|| bootstrap.bundle.clone());
                by_identity(&partner.endpoint, server, bundle, clock).await
            }
            (How::Web, _) => by_name(&partner.endpoint, roots, clock).await,
        }
    });
    let body = body.await.map_err(|_| FetchError::TimedOut)??;
    Ok(jwks::read(&partner.trust_domain, &body)?)
}

/// The endpoint is who it says by the bundle of its own trust domain, and by nothing else.
async fn by_identity(
    url: &Url,
    server: &SpiffeId,
    bundle: Bundle,
    clock: &Arc<dyn Clock>,
) -> Result<Bytes, FetchError> {
    let policy = Policy { key_exchange: Ladder::Prefer, signatures: Ladder::Prefer };
    let tls = MeshTls::new(policy, server.trust_domain(), clock.clone()).with_alpn(&[b"http/1.1"]);
    tls.trust(bundle).map_err(|error| FetchError::Refused(error.to_string()))?;
    let stream = Dialer::new(Arc::new(tls), server.clone(), false).dial(&url.address).await?;
    ask(stream, url).await
}

/// The endpoint is who it says by a certificate for its host name.
async fn by_name(url: &Url, roots: &WebRoots, clock: &Arc<dyn Clock>) -> Result<Bytes, FetchError> {
    let path = roots.0.clone();
    let wrong = |reason: String| FetchError::Roots { path: roots.0.display().to_string(), reason };
    let read = spawn_blocking(move || std::fs::read(path)).await;
    let pem = read.map_err(|error| wrong(error.to_string()))?.map_err(|error| wrong(error.to_string()))?;
    let config = web::client(&pem, clock.clone()).map_err(|error| wrong(error.to_string()))?;
    let failed = |reason: String| FetchError::Tls { authority: url.authority.clone(), reason };
    let name = ServerName::try_from(url.host.clone()).map_err(|error| failed(error.to_string()))?;
    let tcp = connect_tcp(&url.address).await?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    ask(stream.map_err(|error| failed(error.to_string()))?, url).await
}

async fn ask<S>(stream: S, url: &Url) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the request, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(&url.path)
        .header(header::HOST, &url.authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| FetchError::Body(error.to_string()))
}
