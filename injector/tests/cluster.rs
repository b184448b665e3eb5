//! Two replicas over one API server: who makes the certificate, who writes the bundle, and that at no
//! time something is served that an API server cannot verify.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::ByteString;
use kube::client::Body;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, time_provider::TimeProvider};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use serde_json::{Value, json};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trellis_injector::{
    keeper::{self, Keeper},
    metrics::Metrics,
    namespaces::Namespaces,
    serving::{self, Serving},
    store::Store,
    trust::Trust,
};
use trellis_pki::{
    clock::{Clock, ManualClock},
    provider,
};
use trellis_telemetry::{Registry, health::Health};

const NAME: &str = "trellis-injector.trellis-system.svc";
const SECRET: &str = "/api/v1/namespaces/trellis-system/secrets/trellis-injector-tls";
const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/trellis-injector";
const VALIDATING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/trellis-injector";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// As much of an API server as the injector needs: objects by path, versions, conflicts, and
/// server-side apply of a caBundle.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Objects>>);

#[derive(Default)]
struct Objects {
    by_path: std::collections::BTreeMap<String, Value>,
    version: u64,
    writes: Vec<String>,
    is_down: bool,
}

impl ApiServer {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "trellis-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let (status, object) = self.0.lock().apply(&parts.method, parts.uri.path(), parts.uri.query(), body);
        let body = serde_json::to_vec(&object).unwrap();
        Response::builder().status(status).body(Body::from(body)).unwrap()
    }

    fn put(&self, path: &str, object: Value) {
        self.0.lock().store(path, object);
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().by_path.get(path).cloned()
    }

    /// With some of the entries that the chart installs.
    fn install_webhook(&self) {
        let entry = |name: &str| {
            json!({
                "name": name, "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "trellis-injector", "namespace": "trellis-system"}},
            })
        };
        let webhooks = [entry("namespace.inject.trellis.dev"), entry("pod.inject.trellis.dev")];
        self.put(WEBHOOK, json!({"metadata": {"name": "trellis-injector"}, "webhooks": webhooks}));
        let webhooks = [entry("spec.crypto.trellis.dev")];
        self.put(VALIDATING, json!({"metadata": {"name": "trellis-injector"}, "webhooks": webhooks}));
    }

    fn bundles(&self) -> Vec<String> {
        let configurations = [WEBHOOK, VALIDATING].map(|path| self.get(path).unwrap());
        let entries = configurations.iter().flat_map(|one| one["webhooks"].as_array().unwrap());
        entries
            .map(|entry| {
                let bundle = entry["clientConfig"]["caBundle"].clone();
                let ByteString(bundle) = serde_json::from_value(bundle).unwrap();
                String::from_utf8(bundle).unwrap()
            })
            .collect()
    }
}

impl Objects {
    fn apply(
        &mut self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        body: Value,
    ) -> (StatusCode, Value) {
        if self.is_down {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let known = self.by_path.get(path).cloned();
        if *method != Method::GET {
            self.writes.push(format!("{method} {path}"));
        }
        match (method.as_str(), known) {
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("GET" | "PUT" | "PATCH", None) => failure(StatusCode::NOT_FOUND, "NotFound"),
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                match self.by_path.contains_key(&path) {
                    true => failure(StatusCode::CONFLICT, "AlreadyExists"),
                    false => (StatusCode::CREATED, self.store(&path, body)),
                }
            }
            ("PUT", Some(known)) => {
                match known["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] {
                    true => (StatusCode::OK, self.store(path, body)),
                    false => failure(StatusCode::CONFLICT, "Conflict"),
                }
            }
            ("PATCH", Some(mut known)) => {
                let query = query.unwrap();
                assert!(query.contains("fieldManager=trellis-injector") && query.contains("force=true"));
                for entry in known["webhooks"].as_array_mut().unwrap() {
                    let applied = body["webhooks"].as_array().unwrap();
                    let same = applied.iter().find(|applied| applied["name"] == entry["name"]).unwrap();
                    entry["clientConfig"]["caBundle"] = same["clientConfig"]["caBundle"].clone();
                }
                (StatusCode::OK, self.store(path, known))
            }
            (other, _) => panic!("{other} {path}"),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.by_path.insert(path.to_owned(), object.clone());
        object
    }
}

fn failure(status: StatusCode, reason: &str) -> (StatusCode, Value) {
    let code = status.as_u16();
    let object = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code, "metadata": {},
    });
    (status, object)
}

/// One injector process, as far as its certificate is concerned.
struct Replica {
    keeper: Keeper,
    serving: Arc<Serving>,
    health: Health,
}

impl Replica {
    fn new(server: &ApiServer, clock: &Arc<ManualClock>) -> Self {
        let serving = Arc::new(Serving::default());
        let health = Health::new(&[keeper::CERTIFICATE, keeper::TRUST]);
        let keeper = Keeper::new(
            Store::secret(server.client(), "trellis-system"),
            Trust::webhook(server.client()),
            clock.clone(),
            vec![NAME.to_owned()],
            serving.clone(),
            health.clone(),
            Metrics::new(&Registry::new()),
        );
        Self { keeper, serving, health }
    }

    /// Whether an API server that has this bundle completes a handshake now, and the certificate.
    async fn handshake(&self, bundle: &str, clock: &Arc<ManualClock>) -> Option<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let time = Arc::new(At(clock.clone()));
        let config = ClientConfig::builder_with_details(provider::webhook(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(serving::tls(self.serving.clone()).unwrap());
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(NAME).unwrap();
        let (client, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let client = client.ok()?;
        Some(client.get_ref().1.peer_certificates()?.first()?.to_vec())
    }
}

#[derive(Debug)]
struct At(Arc<ManualClock>);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.now().duration_since(UNIX_EPOCH).unwrap()))
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)))
}

#[tokio::test(start_paused = true)]
async fn through_two_hundred_days_of_rotations_every_handshake_succeeds() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    let mut replicas = [Replica::new(&server, &clock), Replica::new(&server, &clock)];
    for replica in &mut replicas {
        replica.keeper.turn().await.unwrap();
    }
    let start = clock.now();
    let mut seen = Vec::new();
    let mut looked_at = 0;
    while clock.now() < start + 200 * DAY {
        let mut wait = Duration::MAX;
        for acting in 0..replicas.len() {
            // What an API server knew before the replica acted: it learns of a change later.
            let before = server.bundles();
            // Each configuration is written by itself, and either bundle has to do.
            assert_eq!(before[0], before[1]);
            assert_eq!(before[0], before[2]);
            wait = wait.min(replicas[acting].keeper.turn().await.unwrap());
            let version = server.0.lock().version;
            if std::mem::replace(&mut looked_at, version) == version {
                continue;
            }
            for replica in &replicas {
                let certificate = replica.handshake(&before[0], &clock).await.expect("a handshake failed");
                if seen.last() != Some(&certificate) {
                    seen.push(certificate);
                }
            }
        }
        assert!(replicas.iter().all(|replica| replica.health.is_ready()));
        clock.advance(wait);
        tokio::time::advance(wait).await;
    }
    // The first one, and one more every sixty days; never back to an old one.
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_start_together_agree_on_one_certificate() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    let mut a = Replica::new(&server, &clock);
    let mut b = Replica::new(&server, &clock);
    let (one, two) = tokio::join!(a.keeper.turn(), b.keeper.turn());
    one.unwrap();
    two.unwrap();
    a.keeper.turn().await.unwrap();
    b.keeper.turn().await.unwrap();
    let bundle = server.bundles().remove(0);
    let served = a.handshake(&bundle, &clock).await;
    assert!(served.is_some());
    assert_eq!(served, b.handshake(&bundle, &clock).await);
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_comes_later_takes_what_is_there() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    Replica::new(&server, &clock).keeper.turn().await.unwrap();
    let writes = server.0.lock().writes.len();
    let mut late = Replica::new(&server, &clock);
    late.keeper.turn().await.unwrap();
    assert!(late.health.is_ready());
    assert_eq!(server.0.lock().writes.len(), writes, "{:?}", server.0.lock().writes);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_somebody_changed_is_repaired() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    let mut replica = Replica::new(&server, &clock);
    replica.keeper.turn().await.unwrap();
    let right = server.bundles();

    server.install_webhook();
    // At once after our own writing, there is a pause; nobody may be kept busy by somebody else.
    let wait = replica.keeper.turn().await.unwrap();
    assert!(!replica.health.is_ready());
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(5), "{wait:?}");
    tokio::time::advance(wait).await;
    replica.keeper.turn().await.unwrap();
    assert_eq!(server.bundles(), right);
    assert!(replica.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn without_the_webhook_s_configuration_it_is_not_ready() {
    let (server, clock) = (ApiServer::default(), clock());
    let mut replica = Replica::new(&server, &clock);
    replica.keeper.turn().await.unwrap();
    let unmet = replica.health.unmet();
    assert!(
        matches!(&unmet[..], [(keeper::TRUST, reason)] if reason.contains("install the chart")),
        "{unmet:?}"
    );
    server.install_webhook();
    replica.keeper.turn().await.unwrap();
    assert!(replica.health.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_holds_rubbish_is_replaced_and_one_that_is_gone_is_made_again() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    server.put(SECRET, json!({"metadata": {"name": "trellis-injector-tls"}, "data": {"tls.crt": "eA=="}}));
    let mut replica = Replica::new(&server, &clock);
    replica.keeper.turn().await.unwrap();
    let first = replica.handshake(&server.bundles()[0], &clock).await.unwrap();

    server.0.lock().by_path.remove(SECRET);
    tokio::time::advance(Duration::from_secs(10)).await;
    replica.keeper.turn().await.unwrap();
    let second = replica.handshake(&server.bundles()[0], &clock).await.unwrap();
    assert_ne!(first, second);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_is_away_what_is_served_is_served_on() {
    let (server, clock) = (ApiServer::default(), clock());
    server.install_webhook();
    let mut replica = Replica::new(&server, &clock);
    replica.keeper.turn().await.unwrap();
    let bundle = server.bundles().remove(0);
    server.0.lock().is_down = true;
    let error = replica.keeper.turn().await.unwrap_err().to_string();
    assert!(error.starts_with("Secret trellis-system/trellis-injector-tls: "), "{error}");
    assert!(replica.handshake(&bundle, &clock).await.is_some());
}

#[tokio::test]
async fn a_namespace_that_the_watch_has_not_seen_is_fetched() {
    let server = ApiServer::default();
    let labels = json!({"trellis.dev/inject": "enabled"});
    server.put("/api/v1/namespaces/new", json!({"metadata": {"name": "new", "labels": labels}}));
    let namespaces = Namespaces::new(Some(server.client()));
    assert_eq!(namespaces.cached("new"), None);
    assert_eq!(namespaces.fresh("new").await.unwrap().labels["trellis.dev/inject"], "enabled");
    let error = namespaces.fresh("none").await.unwrap_err().to_string();
    assert_eq!(error, "namespace none is not known");
    server.0.lock().is_down = true;
    let error = namespaces.fresh("new").await.unwrap_err().to_string();
    assert!(error.starts_with("namespace new cannot be read: "), "{error}");
}
