//! What gateways do all day, much of it: `ci/profile` learns from it which parts of a proxy run often. No test of
//! anything, so it runs only when asked for.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::PKCS_ECDSA_P256_SHA256 as P256;
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use trellis_api::proto::discovery::listener::Kind;
use trellis_loopback::stage::binaries;
use trellis_pki::{provider, public::KeyExchange};

use crate::{backends::meshed, stage::Stage, web::*};

const CLIENTS: usize = 8;
const REQUESTS: usize = 400;
/// Of a request's body, which comes back.
const BODY: usize = 1024;

#[derive(Clone, Copy)]
enum Version {
    Http1,
    Http2,
    /// HTTP/2 to the application as well.
    Grpc,
}

#[tokio::test]
#[ignore = "a load, and no test: see ci/profile"]
async fn rehearsal() {
    let mut stage = Stage::new().await;
    (stage.program, stage.log) = (binaries().unwrap().join("trellis-proxy"), "info");
    let at = stage.application(1, 8080);
    application("plain", at, None).await;
    stage.control.backend(stage.plain("plain", at));
    application("meshed", stage.application(7, 8080), None).await;
    let (mut sidecar, service) = meshed(&stage, "meshed", 7).await;
    stage.control.backend(service);
    let authority = Authority::new(&P256);
    let certificate = authority.issue(&P256, &["shop.example"]).wire("edge/shop");
    let routes = || vec![route(&[], "/plain", "plain"), route(&[], "/meshed", "meshed")];
    stage.control.gateway(vec![
        http(listener("web", 80, Kind::Http, ""), routes()),
        tls(http(listener("secure", 443, Kind::Https, ""), routes()), vec![certificate]),
    ]);
    let mut gateway = stage.gateway(&[]).await;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    for path in ["/plain", "/meshed"] {
        for version in [Version::Http1, Version::Http2, Version::Grpc] {
            for (port, roots) in [(80, None), (443, Some(roots.clone()))] {
                let mut clients = JoinSet::new();
                for _ in 0..CLIENTS {
                    clients.spawn(client(gateway.at(port), roots.clone(), version, path));
                }
                clients.join_all().await;
            }
        }
    }
    // What was counted is written at the end.
    for proxy in [&mut gateway, &mut sidecar] {
        proxy.signal(Signal::TERM);
        assert!(proxy.ended().await);
    }
}

async fn client(at: SocketAddr, roots: Option<RootCertStore>, version: Version, path: &'static str) {
    let socket = TcpStream::connect(at).await.unwrap();
    let Some(roots) = roots else { return ask_often(socket, version, path).await };
    let mut config = ClientConfig::builder_with_provider(provider::public(KeyExchange::Prefer))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match version {
        Version::Http1 => vec![b"http/1.1".to_vec()],
        Version::Http2 | Version::Grpc => vec![b"h2".to_vec()],
    };
    let name = ServerName::try_from("shop.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    ask_often(stream, version, path).await;
}

async fn ask_often(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    version: Version,
    path: &str,
) {
    let request = || {
        let kind = match version {
            Version::Http1 | Version::Http2 => "application/json",
            Version::Grpc => "application/grpc",
        };
        Request::post(format!("http://shop.example{path}"))
            .header("host", "shop.example")
            .header("user-agent", "rehearsal")
            .header("accept", "*/*")
            .header("content-type", kind)
            .body(Full::new(Bytes::from_static(&[b'x'; BODY])))
            .unwrap()
    };
    let stream = TokioIo::new(stream);
    match version {
        Version::Http1 => {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..REQUESTS {
                sender.ready().await.unwrap();
                answered(sender.send_request(request()).await).await;
            }
        }
        Version::Http2 | Version::Grpc => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let mut streams = JoinSet::new();
            for _ in 0..CLIENTS {
                let (mut sender, requests): (_, Vec<_>) =
                    (sender.clone(), (0..REQUESTS / CLIENTS).map(|_| request()).collect());
                streams.spawn(async move {
                    for request in requests {
                        sender.ready().await.unwrap();
                        answered(sender.send_request(request).await).await;
                    }
                });
            }
            streams.join_all().await;
        }
    }
}

async fn answered(answer: hyper::Result<http::Response<hyper::body::Incoming>>) {
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.len() > BODY);
}
