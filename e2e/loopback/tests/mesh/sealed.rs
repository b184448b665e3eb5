//! Applications that want TLS of their own, and clients that speak it for themselves or not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trellis_api::evidence::Class;
use trellis_local::{Role, Service, get::get};
use trellis_loopback::stage::{Error, NAMESPACE, PORT, Stage, workload};
use trellis_pki::{provider, public::KeyExchange};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("bytes_between_workloads_go_on_in_the_applications_own_tls", sealed),
        trial("a_client_that_speaks_tls_itself_is_carried_as_it_is", own),
        trial("bytes_of_a_tcp_route_go_on_in_the_tls_of_its_backend_or_not_at_all", routed),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority, and the application that it certifies for two names.
struct Web {
    pem: String,
    roots: Arc<RootCertStore>,
    acceptor: TlsAcceptor,
}

impl Web {
    fn new() -> Result<Self, Error> {
        let (own, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&own)?;
        let names = ["app.example".to_owned(), "own.example".to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(params, own))?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config = ServerConfig::builder_with_provider(provider::public(KeyExchange::Prefer))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority.der().to_vec()))?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { pem: authority.pem(), roots: Arc::new(roots), acceptor })
    }

    /// Says which name it was called by as soon as it may speak, and then what it gets, in upper case. Counts
    /// connections that were no TLS.
    async fn serve(&self, listener: TcpListener) -> Serving {
        let (acceptor, bare) = (self.acceptor.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = bare.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), counted.clone());
                tokio::spawn(async move {
                    let mut first = [0];
                    if socket.peek(&mut first).await.is_ok_and(|read| read > 0) && first != [22] {
                        counted.fetch_add(1, Relaxed);
                    }
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                    let _ = stream.write_all(format!("{name};").as_bytes()).await;
                    let mut data = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut data).await {
                        let _ = stream.write_all(&data[..read].to_ascii_uppercase()).await;
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Serving { bare, task: task.abort_handle() }
    }

    fn policy(&self, hostname: &str, service: &str) -> Vec<Value> {
        vec![
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": "ca", "uid": "ca"},
                   "data": {"ca.crt": self.pem}}),
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
                   "metadata": {"namespace": NAMESPACE, "name": "policy", "uid": "policy"},
                   "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": service}],
                            "validation": {"hostname": hostname,
                                           "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}}),
        ]
    }
}

/// Ends with the stage that it is on: another one may get the same addresses.
struct Serving {
    bare: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stage whose server's port says that it speaks `protocol`, under a policy.
async fn open(web: &Web, protocol: Option<&str>) -> Result<(Stage, Serving), Error> {
    let stage = Stage::open(&[]).await?;
    let serving = web.serve(TcpListener::bind(stage.application()).await?).await;
    if let Some(protocol) = protocol {
        let mut manifests = stage.server.workload.manifests();
        for service in manifests.iter_mut().filter(|one| one["kind"] == "Service") {
            service["spec"]["ports"][0]["appProtocol"] = json!(protocol);
        }
        stage.mesh.apply(&format!("{NAMESPACE}-server"), manifests)?;
    }
    stage.mesh.apply("policy", web.policy("app.example", "server"))?;
    until("a connection in TLS", async || {
        Ok(said(TcpStream::connect(stage.entry()).await?, "hello").await?.ends_with("HELLO"))
    })
    .await?;
    Ok((stage, serving))
}

/// All that is said in answer to `what`.
async fn said<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, what: &str) -> Result<String, Error> {
    stream.write_all(what.as_bytes()).await?;
    // A client that begins with its end says that it waits for nothing.
    stream.shutdown().await?;
    let mut said = Vec::new();
    // What is refused is reset.
    let _ = time::timeout(PATIENCE, stream.read_to_end(&mut said)).await?;
    Ok(String::from_utf8(said)?)
}

async fn until(what: &str, condition: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
    let waited = time::timeout(PATIENCE, async {
        while !condition().await? {
            time::sleep(Duration::from_millis(20)).await;
        }
        Result::<(), Error>::Ok(())
    });
    waited.await.map_err(|_| format!("never happened: {what}"))?
}

async fn count(stage: &Stage, parts: &[&str]) -> Result<f64, Error> {
    let (_, body) = get(stage.client.metrics, "/metrics").await?;
    let text = String::from_utf8_lossy(&body);
    let lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

async fn sealed() -> Result<(), Error> {
    let web = Web::new()?;
    // Detected, opaque, and said to be the client's own.
    for protocol in [None, Some("tcp"), Some("https")] {
        let (stage, serving) = open(&web, protocol).await?;
        let before = serving.bare.load(Relaxed);
        assert_eq!(said(TcpStream::connect(stage.entry()).await?, "hello").await?, "app.example;HELLO");
        // What only looks like a greeting of TLS is none.
        let answer = said(TcpStream::connect(stage.entry()).await?, "\u{16}\u{3}hello").await?;
        assert_eq!(answer, "app.example;\u{16}\u{3}HELLO", "{protocol:?}");
        // The server speaks first, and the client has time.
        let mut client = TcpStream::connect(stage.entry()).await?;
        let mut first = [0; 12];
        time::timeout(PATIENCE, client.read_exact(&mut first)).await??;
        assert_eq!(&first, b"app.example;");
        assert_eq!(said(client, "and I second").await?, "AND I SECOND");
        assert_eq!(serving.bare.load(Relaxed), before, "{protocol:?}: something came in plaintext");
        let handshakes =
            ["trellis_handshakes_total", "outbound", "/sa/server\"", "result=\"ok\"", "class=\"hybrid\""];
        assert!(count(&stage, &handshakes).await? >= 3.0);
        let evidence = stage.client.evidence().await?;
        let row = evidence.outbound.iter().find(|row| row.class == Class::Pq).ok_or("no tunnel")?;
        assert!(row.count >= 3, "{row:?}");
        // One that cannot be verified is not spoken to.
        stage.mesh.apply("policy", web.policy("else.example", "server"))?;
        until("a refusal", async || {
            Ok(said(TcpStream::connect(stage.entry()).await?, "hello").await.unwrap_or_default().is_empty())
        })
        .await?;
        assert!(count(&stage, &["trellis_connections_total", "refused_wrong_identity"]).await? >= 1.0);
        assert_eq!(serving.bare.load(Relaxed), before, "{protocol:?}: something came in plaintext");
    }
    Ok(())
}

async fn own() -> Result<(), Error> {
    let web = Web::new()?;
    let config = ClientConfig::builder_with_provider(provider::public(KeyExchange::Prefer))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(web.roots.clone())
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for protocol in [None, Some("tcp"), Some("https")] {
        let (stage, _serving) = open(&web, protocol).await?;
        let handshakes = ["trellis_handshakes_total", "outbound", "/sa/server\"", "class=\"hybrid\""];
        let before = count(&stage, &handshakes).await?;
        for piece in [1, 3, 700, 64 * 1024] {
            let socket = Pieces { socket: TcpStream::connect(stage.entry()).await?, piece };
            let stream = connector.connect(ServerName::try_from("own.example")?, socket).await?;
            assert_eq!(said(stream, "hello").await?, "own.example;HELLO", "{protocol:?}, {piece} bytes");
        }
        assert_eq!(count(&stage, &handshakes).await?, before, "somebody spoke for the client");
    }
    Ok(())
}

/// Says its first word in pieces.
struct Pieces {
    socket: TcpStream,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let most = std::mem::replace(&mut self.piece, usize::MAX).min(buf.len());
        std::pin::Pin::new(&mut self.socket).poll_write(cx, &buf[..most])
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

async fn routed() -> Result<(), Error> {
    let web = Web::new()?;
    let mut stage = Stage::open(&[]).await?;
    let address = stage.mesh.network().address(Role::Service, 3);
    let other =
        workload(&stage.mesh, 3, "other", vec![Service { name: "other".into(), address, port: PORT }]);
    let _running = stage.mesh.join(&other, &[], &[PORT], &[]).await?;
    let serving = web.serve(TcpListener::bind((other.application, PORT)).await?).await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute",
        "metadata": {"namespace": NAMESPACE, "name": "route", "uid": "route-uid"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "server", "port": PORT}],
                 "rules": [{"backendRefs": [{"name": "other", "port": PORT}]}]},
    });
    stage.mesh.apply("route", vec![route])?;
    let objects = web.policy("app.example", "other");
    stage.mesh.apply("policy", objects.clone())?;
    until("a connection to the other", async || {
        let client = TcpStream::connect(stage.entry()).await?;
        Ok(said(client, "hello").await.is_ok_and(|said| said == "app.example;HELLO"))
    })
    .await?;
    let before = serving.bare.load(Relaxed);
    // An authority that is missing is none that anybody could do without.
    stage.mesh.apply("policy", objects.into_iter().skip(1).collect())?;
    let refused = ["trellis_connections_total", "refused_backend_tls_invalid"];
    until("a refusal", async || {
        let client = TcpStream::connect(stage.entry()).await?;
        let _ = said(client, "hello").await;
        Ok(count(&stage, &refused).await? >= 1.0)
    })
    .await?;
    assert_eq!(serving.bare.load(Relaxed), before, "something came in plaintext");
    Ok(())
}
