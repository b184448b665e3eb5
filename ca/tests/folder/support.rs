//! A CA as a process of its own, a folder of manifests, and tokens signed by a key that the CA was told.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm as Jws, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tonic::{Code, Request};
use trellis_api::proto::ca::{IssueRequest, IssueResponse, issuance_client::IssuanceClient};
use trellis_channel::client::Dialer;
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    csr,
    key::PrivateKey,
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
};

pub const DOMAIN: &str = "cluster.local";
pub const TOKEN_ISSUER: &str = "https://tokens.test";
pub const AUDIENCE: &str = "trellis.dev/ca";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Who signs tokens.
pub struct TokenKey {
    name: String,
    key: EncodingKey,
}

impl TokenKey {
    pub fn new(name: &str) -> Self {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap().pkcs8().unwrap();
        Self { name: name.to_owned(), key: EncodingKey::from_ec_der(&key) }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Jws::ES256);
        header.kid = Some(self.name.clone());
        encode(&header, claims, &self.key).unwrap()
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Jws::ES256).unwrap();
        jwk.common.key_id = Some(self.name.clone());
        serde_json::to_value(jwk).unwrap()
    }
}

/// The files that a CA without Kubernetes lives on.
pub struct World {
    folder: tempfile::TempDir,
    pub key: TokenKey,
}

impl World {
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), key: TokenKey::new("first") };
        fs::create_dir(world.path("manifests")).unwrap();
        world.trust_tokens_of(&[&world.key]);
        world.manifest("namespace", json!({ "kind": "Namespace", "metadata": { "name": "shop" } }));
        world.pod("orders-1", "orders", json!({ "app": "orders", "tier": "api" }), "Running");
        for (name, selector) in [
            ("orders", json!({ "app": "orders" })),
            ("api", json!({ "tier": "api" })),
            ("payments", json!({ "app": "payments" })),
        ] {
            let metadata = json!({ "namespace": "shop", "name": name });
            let spec = json!({ "selector": selector, "ports": [{ "port": 80 }] });
            world.manifest(name, json!({ "kind": "Service", "metadata": metadata, "spec": spec }));
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As everybody else does who is read while writing: whole or not at all.
    fn write(&self, path: &Path, text: &str) {
        let draft = self.path("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, path).unwrap();
    }

    fn manifest(&self, name: &str, mut object: Value) {
        object["apiVersion"] = json!("v1");
        self.write(&self.path(&format!("manifests/{name}.json")), &object.to_string());
    }

    pub fn pod(&self, name: &str, account: &str, labels: Value, phase: &str) {
        let metadata =
            json!({ "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "labels": labels });
        let spec = json!({ "serviceAccountName": account, "containers": [] });
        let status = json!({ "phase": phase });
        let file = format!("pod-{name}");
        self.manifest(&file, json!({ "kind": "Pod", "metadata": metadata, "spec": spec, "status": status }));
    }

    /// A pod whose proxy works.
    pub fn working_pod(&self, name: &str, account: &str, labels: Value) {
        let metadata = json!({
            "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "labels": labels,
            "annotations": { "trellis.dev/injected": "test" },
        });
        let spec = json!({ "serviceAccountName": account, "containers": [] });
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        let status = json!({ "phase": "Running", "conditions": ready });
        let file = format!("pod-{name}");
        self.manifest(&file, json!({ "kind": "Pod", "metadata": metadata, "spec": spec, "status": status }));
    }

    /// A pod whose proxy works, and that says this of its identities.
    pub fn dual_pod(&self, name: &str, account: &str, dual: Option<&str>) {
        let mut annotations = json!({ "trellis.dev/injected": "test" });
        if let Some(dual) = dual {
            annotations["trellis.dev/dual-identity"] = json!(dual);
        }
        let metadata = json!({
            "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"), "labels": {},
            "annotations": annotations,
        });
        let spec = json!({ "serviceAccountName": account, "containers": [] });
        let object =
            json!({ "kind": "Pod", "metadata": metadata, "spec": spec, "status": { "phase": "Running" } });
        self.manifest(&format!("pod-{name}"), object);
    }

    /// What the operator wishes of trust.
    pub fn trust_domain(&self, spec: Value) {
        let metadata = json!({ "namespace": "trellis-system", "name": "mesh" });
        let object = json!({ "apiVersion": "policy.trellis.dev/v1", "kind": "TrustDomain", "metadata": metadata, "spec": spec });
        self.write(&self.path("manifests/trust.json"), &object.to_string());
    }

    pub fn remove_pod(&self, name: &str) {
        fs::remove_file(self.path(&format!("manifests/pod-{name}.json"))).unwrap();
    }

    pub fn trust_tokens_of(&self, keys: &[&TokenKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.write(&self.path("jwks.json"), &json!({ "keys": keys }).to_string());
    }

    /// The claims of the token that a kubelet would give to this pod.
    pub fn claims(&self, pod: &str, account: &str) -> Value {
        let now = SystemClock.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({
            "iss": TOKEN_ISSUER, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600,
            "sub": format!("system:serviceaccount:shop:{account}"),
            "kubernetes.io": {
                "namespace": "shop",
                "pod": { "name": pod, "uid": format!("uid-of-{pod}") },
                "serviceaccount": { "name": account, "uid": "uid-of-account" },
            },
        })
    }

    pub fn token(&self) -> String {
        self.key.sign(&self.claims("orders-1", "orders"))
    }

    pub fn args(&self) -> Vec<String> {
        self.args_at("127.0.0.1:0")
    }

    /// With a place of its own for requests.
    pub fn args_at(&self, listen: &str) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        [
            ("--source", format!("folder:{}", file("manifests"))),
            ("--root", format!("file:{}", file("root"))),
            ("--attest", format!("jwks:{}", file("jwks.json"))),
            ("--jwks-issuer", TOKEN_ISSUER.to_owned()),
            ("--publish", format!("file:{}", file("bundle.pem"))),
            ("--listen", listen.to_owned()),
            ("--metrics-listen", "127.0.0.1:0".to_owned()),
            ("--ready-listen", "127.0.0.1:0".to_owned()),
            ("--log-format", "json".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    pub fn bundle(&self) -> Bundle {
        Bundle::from_pem(DOMAIN, &fs::read_to_string(self.path("bundle.pem")).unwrap()).unwrap()
    }
}

/// A running `trellis-ca`.
pub struct Ca {
    process: Child,
    log: watch::Receiver<Vec<Value>>,
    pub address: SocketAddr,
    metrics: SocketAddr,
}

fn spawn(args: &[String], env: &[(&str, String)]) -> (Child, watch::Receiver<Vec<Value>>) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_trellis-ca"))
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        // The audit trail, unless it goes elsewhere.
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let (sender, log) = watch::channel(Vec::new());
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let record = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "message": line }));
            sender.send_modify(|log| log.push(record));
        }
    });
    (process, log)
}

/// Runs a CA that is expected to stop by itself; what it said comes back too.
pub async fn run_to_its_end(args: &[String]) -> (ExitStatus, String) {
    run_with(args, &[]).await
}

/// The same with more in its environment.
pub async fn run_with(args: &[String], env: &[(&str, String)]) -> (ExitStatus, String) {
    let (mut process, log) = spawn(args, env);
    let status = timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    let mut ended = log.clone();
    // The pipe ends with the process.
    while ended.changed().await.is_ok() {}
    let said = log.borrow().iter().map(Value::to_string).collect();
    (status, said)
}

impl Ca {
    /// Starts, and waits until every condition holds.
    pub async fn start(world: &World) -> Self {
        Self::with(&world.args()).await
    }

    pub async fn with(args: &[String]) -> Self {
        Self::with_env(args, &[]).await
    }

    /// With more in its environment.
    pub async fn with_env(args: &[String], env: &[(&str, String)]) -> Self {
        let ca = Self::answering(args, env).await;
        for condition in ["root", "source", "publish", "identity", "audit"] {
            wait(&mut ca.log.clone(), "condition met", "condition", Some(condition)).await;
        }
        ca
    }

    /// Starts, and waits until it answers.
    pub async fn without_waiting(args: &[String]) -> Self {
        Self::answering(args, &[]).await
    }

    async fn answering(args: &[String], env: &[(&str, String)]) -> Self {
        let mut ca = Self::starting(args, env).await;
        let issuing = wait(&mut ca.log, "issuing certificates", "address", None).await;
        ca.address = address(&issuing);
        ca
    }

    /// Starts, and waits only until it shows how it is.
    pub async fn starting(args: &[String], env: &[(&str, String)]) -> Self {
        let (process, mut log) = spawn(args, env);
        let metrics = address(&wait(&mut log, "serving metrics", "address", None).await);
        Self { process, log, address: metrics, metrics }
    }

    /// Starts with another place for the bundle.
    pub async fn start_publishing(world: &World, publish: &str) -> Self {
        let mut args = world.args();
        let at = args.iter().position(|arg| arg == "--publish").unwrap();
        args[at + 1] = publish.to_owned();
        Self::with(&args).await
    }

    /// The log record with this message, and this value in a field.
    pub async fn logged(&self, message: &str, field: &str, value: &str) -> Value {
        wait(&mut self.log.clone(), message, field, Some(value)).await
    }

    /// The first log record with this message.
    pub async fn record(&self, message: &str) -> Value {
        wait(&mut self.log.clone(), message, "message", None).await
    }

    /// Where its HTTPS API is.
    pub async fn api(&self) -> SocketAddr {
        let said = wait(&mut self.log.clone(), "serving the HTTPS API", "address", None).await;
        said["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn whole_log(&self) -> String {
        self.log.borrow().iter().map(Value::to_string).collect()
    }

    /// The public key of its audit trail, PEM.
    pub async fn audit_key(&self) -> String {
        let answer = self.get("/audit-key").await;
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Waits until it has said so.
    pub async fn said(&mut self, message: &str, field: &str, value: &str) {
        wait(&mut self.log, message, field, Some(value)).await;
    }

    /// What it shows of trust.
    pub async fn trust(&self) -> Value {
        let answer = self.get("/trust").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Ends it as a machine that fails does.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Asks it to stop, as a kubelet does.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("-TERM").await;
        timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap()
    }
}

fn address(record: &Value) -> SocketAddr {
    record["address"].as_str().unwrap().parse().unwrap()
}

async fn wait(
    log: &mut watch::Receiver<Vec<Value>>,
    message: &str,
    field: &str,
    value: Option<&str>,
) -> Value {
    let matches = |record: &&Value| {
        let found = record["message"].as_str().is_some_and(|said| said.starts_with(message));
        found && value.is_none_or(|value| record[field] == value)
    };
    let said = async { log.wait_for(|log| log.iter().any(|record| matches(&record))).await.is_ok() };
    let said = timeout(PATIENCE, said).await.unwrap_or(false);
    let log = log.borrow();
    match log.iter().find(matches) {
        Some(record) if said => record.clone(),
        _ => panic!("the CA never said {message:?} {value:?}: {:#?}", *log),
    }
}

/// Trust as `ca` shows it, once it is so.
pub async fn until(ca: &Ca, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let looked = timeout(PATIENCE, async {
        loop {
            let status = ca.trust().await;
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    match looked.await {
        Ok(status) => status,
        Err(_) => panic!("never happened: {what}; {}; {}", ca.trust().await, ca.whole_log()),
    }
}

/// Someone who asks for certificates, well or badly.
pub struct Asker {
    client: IssuanceClient<tonic::transport::Channel>,
}

impl Asker {
    pub fn new(world: &World, ca: &Ca) -> Self {
        Self::with(world, ca, Policy::default())
    }

    /// One who takes what such a policy allows.
    pub fn with(world: &World, ca: &Ca, policy: Policy) -> Self {
        let tls = MeshTls::new(policy, DOMAIN, Arc::new(SystemClock));
        tls.trust(world.bundle()).unwrap();
        let identity = SpiffeId::new(DOMAIN, "trellis-system", "trellis-ca").unwrap();
        let dialer = Dialer::new(Arc::new(tls), identity, false);
        Self { client: IssuanceClient::new(dialer.channel(&ca.address.to_string().parse().unwrap())) }
    }

    pub async fn ask(
        &self,
        authorization: &[&str],
        request: IssueRequest,
    ) -> Result<IssueResponse, (Code, String)> {
        let mut request = Request::new(request);
        for value in authorization {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        let answer = self.client.clone().issue(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| (status.code(), status.message().to_owned()))
    }

    pub async fn ask_with(&self, token: &str) -> Result<IssueResponse, (Code, String)> {
        self.ask(&[&format!("Bearer {token}")], request(good_csr())).await
    }
}

pub fn request(csr: Vec<u8>) -> IssueRequest {
    IssueRequest { csr, validity_seconds: 0, companion: false }
}

pub fn good_csr() -> Vec<u8> {
    csr::make(&PrivateKey::generate(Algorithm::MlDsa65).unwrap()).unwrap()
}
