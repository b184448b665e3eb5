//! The web: authorities and certificates, applications, and clients.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, SignatureAlgorithm};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, crypto::CryptoProvider, server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use trellis_api::proto::discovery as wire;
use trellis_pki::{
    clock::{Clock, SystemClock},
    provider,
    public::KeyExchange,
};

use crate::stage::PATIENCE;

// === certificates ===

static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

#[derive(Clone)]
pub struct Issued {
    pub chain: String,
    pub key: String,
}

fn dated(mut params: CertificateParams) -> CertificateParams {
    let (now, day) = (SystemClock.now(), Duration::from_secs(24 * 3600));
    (params.not_before, params.not_after) = ((now - day).into(), (now + day).into());
    params
}

impl Authority {
    pub fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = dated(CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own: by their names verifiers tell them apart.
        let number = AUTHORITIES.fetch_add(1, Relaxed);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {number}"));
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Issued {
        let mut params = dated(CertificateParams::default());
        params.subject_alt_names =
            names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { chain, key: key.serialize_pem() }
    }
}

impl Issued {
    pub fn wire(&self, source: &str) -> wire::Certificate {
        wire::Certificate {
            source: source.into(),
            chain_pem: self.chain.clone(),
            key_pem: self.key.clone().into_bytes(),
        }
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

// === applications ===

/// Answers every request with its name and with what it saw.
pub async fn application(name: &'static str, address: SocketAddr, tls: Option<&Issued>) {
    serve(name, address, tls, None).await;
}

/// The same for clients only that one of `clients` certifies, which it names by [`mark`].
pub async fn demanding(name: &'static str, address: SocketAddr, tls: &Issued, clients: &Authority) {
    serve(name, address, Some(tls), Some(clients)).await;
}

/// A word for one certificate.
pub fn mark(certificate: &CertificateDer<'_>) -> String {
    let last: Vec<String> = certificate.iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect();
    last.concat()
}

/// Accepts TLS as `issued`, from clients only that one of `clients` certifies, where that is to be.
pub fn acceptor(issued: &Issued, clients: Option<&Authority>, protocols: &[&[u8]]) -> TlsAcceptor {
    let provider = provider::public(KeyExchange::Prefer);
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
            let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
            builder.build().unwrap()
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.der()], PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(name: &'static str, address: SocketAddr, tls: Option<&Issued>, clients: Option<&Authority>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let acceptor = tls.map(|issued| acceptor(issued, clients, &[b"h2", b"http/1.1"]));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => answer(name, "no", socket).await,
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(socket).await else { return };
                        let mut said = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                        if let Some([one, ..]) = stream.get_ref().1.peer_certificates() {
                            said += &format!("\nclient: {}", mark(one));
                        }
                        answer(name, &said, stream).await;
                    }
                }
            });
        }
    });
}

async fn answer(name: &str, tls: &str, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let head = format!("application: {name}\ntls: {tls}\n");
    let service = service_fn(move |request: Request<Incoming>| {
        let mut said = head.clone();
        async move {
            if request.headers().contains_key("upgrade") {
                let mut response = Response::builder().status(101).header("connection", "upgrade");
                if let Some(key) = request.headers().get("sec-websocket-key") {
                    response = response.header("sec-websocket-accept", accept(key.as_bytes()));
                }
                tokio::spawn(upgraded(hyper::upgrade::on(request)));
                return Ok(response.header("upgrade", "websocket").body(Full::default()).unwrap());
            }
            said += &format!("version: {:?}\n{} {}\n", request.version(), request.method(), request.uri());
            for (name, value) in request.headers() {
                said += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            said += &format!("body: {}\n", String::from_utf8_lossy(&body));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(said))))
        }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// That the key of a WebSocket was read.
fn accept(key: &[u8]) -> String {
    let known = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &known))
}

async fn upgraded(upgrade: hyper::upgrade::OnUpgrade) {
    let mut stream = TokioIo::new(upgrade.await.unwrap());
    let mut data = [0; 64];
    while let Ok(read @ 1..) = stream.read(&mut data).await {
        stream.write_all(&data[..read].to_ascii_uppercase()).await.unwrap();
    }
    let _ = stream.shutdown().await;
}

/// Sends back what it gets, in upper case.
pub async fn echo(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut data = [0; 1024];
                while let Ok(read @ 1..) = socket.read(&mut data).await {
                    let _ = socket.write_all(&data[..read].to_ascii_uppercase()).await;
                }
            });
        }
    });
}

// === clients ===

/// What curl got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    /// Or what curl says where there was no answer.
    pub body: String,
}

/// As curl does it; `address` is where `url` leads.
pub async fn curl(address: SocketAddr, url: &str, extra: &[&str]) -> Got {
    let mut command = Command::new("curl");
    command
        .args(["-s", "-S", "-i", "--max-time", "20", "--connect-to", &format!("::{address}")])
        .args(extra)
        .arg(url)
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.trim().parse().ok()).unwrap_or_default();
    let body = match status {
        0 => String::from_utf8_lossy(&output.stderr).into_owned(),
        _ => body.into(),
    };
    Got { status, head: head.to_ascii_lowercase(), body }
}

/// A client in TLS that believes `authority`.
pub async fn secure(
    address: SocketAddr,
    name: &str,
    authority: &Authority,
    provider: Arc<CryptoProvider>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

/// Says something, and reads until the answer holds `end`, or the connection ends.
pub async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, what: &str, end: &str) -> String {
    let _ = stream.write_all(what.as_bytes()).await;
    let mut said = Vec::new();
    let heard = async {
        let mut data = [0; 4096];
        while !String::from_utf8_lossy(&said).contains(end) {
            match stream.read(&mut data).await {
                Ok(read @ 1..) => said.extend_from_slice(&data[..read]),
                _ => break,
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await.is_ok();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(heard, "neither {end:?} nor the end of the connection came after {said:?}");
    said
}

/// A request whose answer ends with the body that applications send.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, host: &str, path: &str) -> String {
    say(stream, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"), "body: \n").await
}

// === what a gateway is told ===

pub fn backend(name: &str) -> wire::WeightedBackend {
    let backend = wire::Backend { namespace: "shop".into(), name: name.into(), port: 80 };
    wire::WeightedBackend { backend: Some(backend), weight: 1, ..Default::default() }
}

/// A route of requests whose path begins with `prefix`, for `hostnames`.
pub fn route(hostnames: &[&str], prefix: &str, to: &str) -> wire::HttpRoute {
    let path = wire::PathMatch { kind: wire::path_match::Kind::Prefix.into(), value: prefix.into() };
    let matches = vec![wire::HttpMatch { path: Some(path), ..Default::default() }];
    wire::HttpRoute {
        namespace: "shop".into(),
        name: format!("to-{to}"),
        hostnames: hostnames.iter().map(ToString::to_string).collect(),
        rules: vec![wire::HttpRule { matches, backends: vec![backend(to)], ..Default::default() }],
        ..Default::default()
    }
}

pub fn bytes(hostnames: &[&str], to: &str) -> wire::ByteRoute {
    wire::ByteRoute {
        namespace: "shop".into(),
        name: format!("bytes-to-{to}"),
        hostnames: hostnames.iter().map(ToString::to_string).collect(),
        backends: vec![backend(to)],
    }
}

pub fn listener(name: &str, port: u32, kind: wire::listener::Kind, hostname: &str) -> wire::Listener {
    wire::Listener {
        name: name.into(),
        port,
        kind: kind.into(),
        hostname: hostname.into(),
        ..Default::default()
    }
}

pub fn http(mut listener: wire::Listener, routes: Vec<wire::HttpRoute>) -> wire::Listener {
    listener.routes = Some(wire::Routes { http: routes, ..Default::default() });
    listener
}

pub fn tls(mut listener: wire::Listener, certificates: Vec<wire::Certificate>) -> wire::Listener {
    listener.tls = Some(wire::ListenerTls { certificates, ..Default::default() });
    listener
}
