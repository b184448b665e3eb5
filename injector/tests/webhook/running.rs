//! A running injector, and who asks it.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trellis_api::injection::Settings;
use trellis_injector::{
    announce,
    certificates::Certificates,
    keeper::{self, Keeper},
    metrics::Metrics,
    namespaces::{self, Namespaces},
    serve::{self, Limits, serve},
    serving::{self, Serving},
    store::Store,
    trust::Trust,
    webhook::Webhook,
};
use trellis_pki::{clock::SystemClock, provider};
use trellis_source::AnySource;
use trellis_telemetry::{Registry, health::Health};

pub const NAME: &str = "trellis-injector.trellis-system.svc";
pub const ADMISSIONS: &str = "trellis_injector_admissions_total";
pub const HANDSHAKES: &str = "trellis_handshakes_total";
pub const LIMITS: Limits = Limits { total: 16, per_source: 8, linger: Duration::ZERO };

/// A running injector without a cluster.
pub struct Injector {
    pub address: SocketAddr,
    pub registry: Registry,
    pub health: Health,
    pub folder: tempfile::TempDir,
    pub stop: watch::Sender<bool>,
    pub tasks: JoinSet<()>,
}

impl Injector {
    pub async fn start() -> Self {
        Self::beside(Certificates::Nowhere).await
    }

    /// With Secrets that it may read.
    pub async fn beside(certificates: Certificates) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = folder.path().join("world");
        fs::create_dir(&world).unwrap();
        fs::write(world.join("namespaces.yaml"), NAMESPACES).unwrap();
        let (stop, stopped) = watch::channel(false);
        let registry = Registry::new();
        let health =
            Health::new(&[keeper::CERTIFICATE, keeper::TRUST, namespaces::CONDITION, serve::CONDITION]);
        let metrics = Metrics::new(&registry);
        let mut tasks = JoinSet::new();
        let namespaces = Namespaces::new(None);
        let source = AnySource::folder(world).await.unwrap();
        tasks.spawn(namespaces.clone().follow(source, health.clone()));
        let serving = Arc::new(Serving::default());
        let path = folder.path().to_owned();
        let keeper = Keeper::new(
            Store::Folder(path.clone()),
            Trust::Folder(path),
            Arc::new(SystemClock),
            vec![NAME.to_owned()],
            serving.clone(),
            health.clone(),
            metrics.clone(),
        );
        tasks.spawn(keeper.run(stopped.clone()));
        let (announcer, publisher) = announce::channel(None, metrics.clone());
        tasks.spawn(publisher.run());
        let webhook = Webhook { settings: Settings::default(), namespaces, certificates, announcer, metrics };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let tls = serving::tls(serving).unwrap();
        tasks.spawn(serve(tcp, tls, Arc::new(webhook), LIMITS, health.clone(), stopped));
        health.ready().await;
        Self { address, registry, health, folder, stop, tasks }
    }

    /// The sum of all series with these labels.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let text = self.registry.prometheus();
        let series = text.lines().filter(|line| {
            line.starts_with(&format!("{name}{{"))
                && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub async fn connect(&self, protocol: &str) -> TlsStream<TcpStream> {
        connect(self.address, self.folder.path(), protocol).await
    }

    pub async fn review(&self, request: Value) -> Value {
        self.ask("/mutate", request).await
    }

    /// Asks about what is not a pod, and gives the response.
    pub async fn validate(&self, request: Value) -> Value {
        self.ask("/validate", request).await["response"].take()
    }

    async fn ask(&self, path: &str, request: Value) -> Value {
        let body = review(request).to_string();
        let (status, body) = post(self.connect("h2").await, path, body.into()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

pub const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {trellis.dev/inject: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: quiet}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: warned, labels: {trellis.dev/enforce: warn}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: public, labels: {trellis.dev/enforce: hybrid}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: closed, labels: {trellis.dev/enforce: deny}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: mistyped, labels: {trellis.dev/enforce: dny}}}
";

async fn connect(address: SocketAddr, folder: &Path, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let bundle = fs::read(folder.join("ca-bundle.pem")).unwrap();
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider::webhook())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await.unwrap()
}

pub async fn post(stream: TlsStream<TcpStream>, path: &str, body: Bytes) -> (StatusCode, String) {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{NAME}{path}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .unwrap();
    send(stream, request).await
}

pub async fn send(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let response = if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub fn review(request: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}
