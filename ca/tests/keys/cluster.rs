//! A Kubernetes API server that does nothing but review tokens, for OpenBao's Kubernetes auth method.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm as Jws, EncodingKey, Header, encode};
use parking_lot::Mutex;
use rustls::{ServerConfig, sign::SingleCertAndKey};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, SystemClock},
    key::PrivateKey,
    provider,
    serving::serving_certificate,
};

/// What OpenBao shows to have tokens reviewed.
pub const REVIEWER: &str = "reviewer-of-the-test";
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

pub struct Cluster {
    pub address: String,
    /// PEM of who vouches for it.
    pub ca: String,
    key: PrivateKey,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Tokens that it made, and whose they are.
    issued: Vec<(String, String)>,
    reviews: Vec<Review>,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Review {
    pub authorization: String,
    pub spec: Value,
}

impl Cluster {
    pub async fn start() -> Self {
        let serving = serving_certificate(&["localhost".to_owned()], SystemClock.now(), DAY).unwrap();
        let certified = serving.certified_key().unwrap();
        let config = ServerConfig::builder_with_provider(provider::webhook())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::unwrap_or_clone(certified))));
        let tls = TlsAcceptor::from(Arc::new(config));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(tcp, tls, state.clone()));
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        Self { address, ca: serving.ca_pem, key, state, server }
    }

    /// A token of a ServiceAccount of the control plane's namespace, as the kubelet would project it.
    pub fn token(&self, account: &str, audience: &str) -> String {
        let token = self.stranger(account, audience);
        self.state.lock().issued.push((token.clone(), account.to_owned()));
        token
    }

    /// One that only looks like it.
    pub fn stranger(&self, account: &str, audience: &str) -> String {
        let now = SystemClock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": "https://kubernetes.default.svc", "aud": [audience], "iat": now, "nbf": now, "exp": now + 600,
            "sub": format!("system:serviceaccount:trellis-system:{account}"),
            "kubernetes.io": {
                "namespace": "trellis-system",
                "pod": { "name": "trellis-ca-0", "uid": "uid-of-the-pod" },
                "serviceaccount": { "name": account, "uid": format!("uid-of-{account}") },
            },
        });
        let key = EncodingKey::from_ec_der(&self.key.pkcs8().unwrap());
        encode(&Header::new(Jws::ES256), &claims, &key).unwrap()
    }

    pub fn reviews(&self) -> Vec<Review> {
        self.state.lock().reviews.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(tcp: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = tcp.accept().await {
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, state.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// As the API server answers: who the token belongs to if it made it and it is meant for one of the audiences,
/// and an error otherwise.
async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/apis/authentication.k8s.io/v1/tokenreviews" {
        let gone = Response::builder().status(404).body(Full::default()).unwrap();
        return Ok(gone);
    }
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut review: Value = serde_json::from_slice(&body).unwrap();
    let mut state = state.lock();
    let known = state.issued.iter().find(|(token, _)| review["spec"]["token"] == *token);
    review["status"] = match known {
        Some((_, account)) => json!({
            "authenticated": true,
            "audiences": review["spec"]["audiences"],
            "user": {
                "username": format!("system:serviceaccount:trellis-system:{account}"),
                "uid": format!("uid-of-{account}"),
                "groups": ["system:serviceaccounts", "system:serviceaccounts:trellis-system", "system:authenticated"],
            },
        }),
        None => json!({ "authenticated": false, "error": "[invalid bearer token, unknown]" }),
    };
    state.reviews.push(Review { authorization, spec: review["spec"].clone() });
    let response = Response::builder().status(201).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(review.to_string()))).unwrap())
}
