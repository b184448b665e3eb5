//! A workload that asks for a certificate and follows trust, without a proxy around it: thousands of them
//! fit into one process. What it says, and how long it waits, is what proxies say and how long they wait.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::{future::BoxFuture, stream};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_stream::StreamExt;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};
use trellis_api::{
    names::{CA, DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE},
    proto::ca::{Holding, IssueRequest, Trusted, issuance_client::IssuanceClient, trust_client::TrustClient},
};
use trellis_local::{Mesh, Workload};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    csr,
    identity::Identity,
    key::PrivateKey,
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
};

/// From the dial to the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Caller {
    workload: Workload,
    ca: SocketAddr,
    token: String,
    key: Vec<u8>,
    csr: Vec<u8>,
    tls: Arc<MeshTls>,
    /// Both ways, of its last connection.
    bytes: Arc<AtomicU64>,
}

/// A certificate.
pub struct Asked {
    leaf: Vec<u8>,
    trusted: Trusted,
}

/// Trust as it is told.
pub struct Told {
    stream: Streaming<Trusted>,
    anchors: usize,
}

impl Caller {
    /// Has its key before it is measured.
    pub fn new(mesh: &Mesh, workload: Workload, tls: Arc<MeshTls>) -> Result<Self> {
        let token = std::fs::read_to_string(mesh.token(&workload)?).context("a token")?;
        let key = PrivateKey::generate(Algorithm::MlDsa65)?;
        let csr = csr::make(&key)?;
        Ok(Self {
            workload,
            ca: mesh.ca_address(),
            token,
            key: key.pkcs8()?.to_vec(),
            csr,
            tls,
            bytes: Arc::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.workload.name
    }

    /// What its last connection has carried, both ways.
    pub fn last_bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Once: who would have to ask again was not served in order.
    pub async fn ask(&self) -> Result<Asked> {
        let mut request = Request::new(IssueRequest { csr: self.csr.clone(), ..IssueRequest::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token.trim()).parse()?);
        let mut client = IssuanceClient::new(self.channel(self.tls.clone(), false));
        let answer = time::timeout(TIMEOUT, client.issue(request)).await.context("no answer")??.into_inner();
        Ok(Asked { leaf: answer.leaf, trusted: answer.trusted.context("an answer without trust")? })
    }

    pub async fn follow(&self, asked: Asked) -> Result<Told> {
        let Asked { leaf, trusted } = asked;
        let tls = MeshTls::new(Policy::default(), DEFAULT_TRUST_DOMAIN, Arc::new(SystemClock));
        let bundle = self.tls.bundle().context("no bundle")?;
        let key = PrivateKey::from_pkcs8(&self.key)?;
        let identity = Identity::new(key, leaf, &bundle, Algorithm::MlDsa65, SystemClock.now())?;
        tls.install(identity, Bundle::clone(&bundle))?;
        let holding = Holding {
            pod: format!("{}/{}", self.workload.namespace, self.workload.name),
            revision: trusted.revision,
            anchors: bundle.anchors().iter().map(|anchor| anchor.fingerprint().to_string()).collect(),
            leaf_anchor: trusted.issuing,
            leaf_algorithm: Algorithm::MlDsa65.to_string(),
            ..Holding::default()
        };
        let mut client = TrustClient::new(self.channel(Arc::new(tls), true));
        // It never ends: what it holds does not change.
        let says = stream::once(async { holding }).chain(stream::pending());
        let mut stream = client.follow(says).await.context("cannot follow")?.into_inner();
        let first = stream.message().await?.context("a stream that ended")?;
        Ok(Told { stream, anchors: first.anchors.len() })
    }

    fn channel(&self, tls: Arc<MeshTls>, present: bool) -> Channel {
        let (from, ca, bytes) = (IpAddr::V4(self.workload.pod), self.ca, self.bytes.clone());
        let connector = tower::service_fn(move |_: Uri| -> BoxFuture<'static, io::Result<_>> {
            let (tls, bytes) = (tls.clone(), bytes.clone());
            Box::pin(async move { connect(from, ca, &tls, present, bytes).await.map(TokioIo::new) })
        });
        Endpoint::from_static("http://ca").connect_with_connector_lazy(connector)
    }
}

impl Told {
    pub fn anchors(&self) -> usize {
        self.anchors
    }

    pub async fn hears_of_more_than(&mut self, anchors: usize) -> Result<()> {
        while self.anchors <= anchors {
            self.anchors = self.stream.message().await?.context("a stream that ended")?.anchors.len();
        }
        ensure!(self.anchors > anchors);
        Ok(())
    }
}

async fn connect(
    from: IpAddr,
    to: SocketAddr,
    tls: &MeshTls,
    present: bool,
    bytes: Arc<AtomicU64>,
) -> io::Result<TlsStream<Weighed>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let tcp = socket.connect(to).await?;
    let ca = SpiffeId::new(DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE, CA).map_err(io::Error::other)?;
    let connecting = tls.connect(vec![ca], present).map_err(io::Error::other)?;
    bytes.store(0, Relaxed);
    TlsConnector::from(connecting.config).connect(connecting.server_name, Weighed { tcp, bytes }).await
}

/// A connection that counts what it carries.
struct Weighed {
    tcp: TcpStream,
    bytes: Arc<AtomicU64>,
}

impl Weighed {
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl AsyncRead for Weighed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        self.add(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Weighed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buffer);
        if let Poll::Ready(Ok(written)) = written {
            self.add(written);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
