//! OpenBao signs issuing certificates by itself: the real server, over TLS, sealed, closed and opened.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command as Program, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, SystemClock},
    issue::BACKDATE,
    leaf::Leaf,
};

use super::{
    cluster::{Cluster, REVIEWER},
    needed, phase, reason, settled_on,
    support::{Asker, Ca, PATIENCE, World},
    until, wish,
};

const ROOT_TOKEN: &str = "root-of-the-test";

/// A server of its own for each test, in memory.
pub struct Bao {
    server: Option<Child>,
    folder: PathBuf,
    address: String,
    unseal: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bao {
    pub async fn start(world: &World) -> Self {
        let folder = world.path(&format!("bao-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new(needed("TRELLIS_TEST_BAO"))
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-tls-cert-dir={}", folder.display()))
            .env("HOME", &folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let mut unseal = String::new();
        timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(key) = line.strip_prefix("Unseal Key: ") {
                    unseal = key.trim().to_owned();
                }
                if line.starts_with("Root Token: ") {
                    break;
                }
            }
        })
        .await
        .unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let bao = Self { server: Some(server), folder, address: format!("https://127.0.0.1:{port}"), unseal };
        bao.run(&["secrets", "enable", "-max-lease-ttl=87600h", "pki"]);
        bao.write_token(ROOT_TOKEN);
        bao
    }

    /// A root of this kind.
    pub fn root(&self, kind: &[&str]) {
        let args = ["write", "pki/root/generate/internal", "common_name=outside root", "ttl=87600h"];
        self.run(&[&args[..], kind].concat());
    }

    fn run(&self, args: &[&str]) -> String {
        let done = Program::new(needed("TRELLIS_TEST_BAO"))
            .args(args)
            .env("BAO_ADDR", &self.address)
            .env("BAO_TOKEN", ROOT_TOKEN)
            .env("BAO_CACERT", self.ca_file())
            .env("HOME", &self.folder)
            .output()
            .unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn ca_file(&self) -> PathBuf {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let mut found = entries.filter(|path| path.to_string_lossy().ends_with("-ca.pem"));
        found.next().unwrap()
    }

    fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    fn write_token(&self, token: &str) {
        fs::write(self.token_file(), token).unwrap();
        fs::set_permissions(self.token_file(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn args(&self, world: &World, more: &[&str]) -> Vec<String> {
        let mut args = world.args();
        args.push(format!("--openbao-address={}", self.address));
        args.push(format!("--openbao-ca-file={}", self.ca_file().display()));
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        args
    }

    pub fn args_with_token(&self, world: &World) -> Vec<String> {
        let file = format!("--openbao-token-file={}", self.token_file().display());
        self.args(world, &[&file])
    }
}

pub fn issuing(algorithm: &str, generation: u32) -> Value {
    json!({ "algorithm": algorithm, "generation": generation, "signedBy": "openbao" })
}

fn message(status: &Value) -> &str {
    status["conditions"][0]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn openbao_signs_issuing_keys_of_every_ml_dsa_level() {
    let world = World::new();
    let bao = Bao::start(&world).await;
    bao.root(&["key_type=mldsa", "key_bits=65"]);
    let ca = Ca::with(&bao.args_with_token(&world)).await;
    for (generation, algorithm, parsed) in [
        (2, "ml-dsa-44", Algorithm::MlDsa44),
        (3, "ml-dsa-65", Algorithm::MlDsa65),
        (4, "ml-dsa-87", Algorithm::MlDsa87),
    ] {
        world.trust_domain(wish(issuing(algorithm, generation), json!({})));
        let status = until(&ca, algorithm, settled_on(generation)).await;
        let chain = status["anchors"][0]["chain"].as_str().unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "the issuing certificate and the root");
        let issued = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
        assert_eq!(Leaf::parse(&issued.leaf).unwrap().issuer_algorithm, parsed);
    }
    let [anchor] = world.bundle().anchors().to_vec().try_into().ok().unwrap();
    assert!(anchor.not_before + BACKDATE <= SystemClock.now(), "it begins early, for clocks that lag");
    assert!(!ca.whole_log().contains(ROOT_TOKEN), "the token is in the log");
}

#[tokio::test]
async fn a_sealed_a_forbidding_and_an_absent_server_are_told_apart_and_asked_again() {
    let world = World::new();
    let mut bao = Bao::start(&world).await;
    bao.root(&["key_type=mldsa", "key_bits=65"]);
    let ca = Ca::with(&bao.args_with_token(&world)).await;
    let before = world.bundle().fingerprint();
    bao.run(&["operator", "seal"]);
    world.trust_domain(wish(issuing("ml-dsa-65", 2), json!({})));
    let unavailable = |said: &'static str| {
        move |status: &Value| reason(status) == "UpstreamUnavailable" && message(status).contains(said)
    };
    let sealed = until(&ca, "sealed", unavailable("it is sealed; unseal it")).await;
    assert_eq!(phase(&sealed), "AwaitingSignature");
    let request = sealed["pending"]["request"].clone();

    let weak = bao_token(&mut bao);
    bao.write_token(&weak);
    let denied = until(&ca, "denied", unavailable("pki/root/sign-intermediate is denied")).await;
    assert!(message(&denied).contains("capabilities = [\"update\"]"), "{denied}");
    assert_eq!(denied["pending"]["request"], request, "no state is lost");
    // Nobody was left without certificates meanwhile, and nothing was taken.
    Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
    assert_eq!(world.bundle().fingerprint(), before);
    assert!(!ca.whole_log().contains(&weak), "the token is in the log");

    bao.write_token(ROOT_TOKEN);
    until(&ca, "it recovers by itself", settled_on(2)).await;
    assert_ne!(world.bundle().fingerprint(), before);

    bao.server.take().unwrap().kill().await.unwrap();
    world.trust_domain(wish(issuing("ml-dsa-65", 3), json!({})));
    until(&ca, "absent", unavailable("is it running, and reachable")).await;
    world.trust_domain(wish(issuing("ml-dsa-65", 2), json!({})));
    until(&ca, "taken back", settled_on(2)).await;
}

/// Unseals, and makes a token that may not sign.
fn bao_token(bao: &mut Bao) -> String {
    bao.run(&["operator", "unseal", &bao.unseal]);
    bao.run(&["token", "create", "-policy=default", "-field=token"])
}

#[tokio::test]
async fn a_classical_root_signs_an_ecdsa_key_and_no_ml_dsa_one() {
    let world = World::new();
    let bao = Bao::start(&world).await;
    bao.root(&["key_type=ec", "key_bits=256"]);
    let mut args = bao.args_with_token(&world);
    args.extend(["--root-algorithm=ecdsa-p256", "--signatures=prefer"].map(str::to_owned));
    let ca = Ca::with(&args).await;
    world.trust_domain(wish(issuing("ml-dsa-65", 2), json!({})));
    let refused = until(&ca, "refused", |status| reason(status) == "CertificateRefused").await;
    assert!(message(&refused).contains("weaker than the issuing key of ML-DSA-65"), "{refused}");
    assert_eq!(refused["anchors"].as_array().unwrap().len(), 1);
    world.trust_domain(wish(issuing("ecdsa-p256", 2), json!({})));
    until(&ca, "its own kind", settled_on(2)).await;
}

/// OpenBao's own method, which asks a Kubernetes API server whose token it is.
#[tokio::test]
async fn the_ca_logs_in_with_its_service_account() {
    let (world, cluster) = (World::new(), Cluster::start().await);
    let bao = Bao::start(&world).await;
    bao.root(&["key_type=mldsa", "key_bits=65"]);
    let file = |name: &str| bao.folder.join(name).display().to_string();
    fs::write(file("cluster-ca.crt"), &cluster.ca).unwrap();
    fs::write(file("policy.hcl"), "path \"pki/root/sign-intermediate\" { capabilities = [\"update\"] }")
        .unwrap();
    bao.run(&["auth", "enable", "kubernetes"]);
    bao.run(&[
        "write",
        "auth/kubernetes/config",
        &format!("kubernetes_host={}", cluster.address),
        &format!("kubernetes_ca_cert=@{}", file("cluster-ca.crt")),
        &format!("token_reviewer_jwt={REVIEWER}"),
        "disable_local_ca_jwt=true",
    ]);
    bao.run(&["policy", "write", "sign", &file("policy.hcl")]);
    bao.run(&[
        "write",
        "auth/kubernetes/role/trellis",
        "bound_service_account_names=trellis-ca",
        "bound_service_account_namespaces=trellis-system",
        "audience=openbao",
        "token_policies=sign",
    ]);
    fs::write(file("jwt"), "not a token").unwrap();
    let flags = ["--openbao-kubernetes-role=trellis", &format!("--openbao-jwt-file={}", file("jwt"))];
    let ca = Ca::with(&bao.args(&world, &flags)).await;
    world.trust_domain(wish(issuing("ml-dsa-65", 2), json!({})));
    let unavailable = |said: &'static str| {
        move |status: &Value| reason(status) == "UpstreamUnavailable" && message(status).contains(said)
    };
    let turned_away = "auth/kubernetes/login does not let role trellis in";
    until(&ca, "refused", unavailable(turned_away)).await;
    assert!(cluster.reviews().is_empty(), "nobody is asked about what is no token");
    let before = ca.trust().await["pending"]["request"].clone();
    // One of somebody else, and one that the API server did not make.
    fs::write(file("jwt"), cluster.token("default", "openbao")).unwrap();
    until(&ca, "somebody else", unavailable("in (service account name not authorized)")).await;
    let unknown = cluster.stranger("trellis-ca", "openbao");
    fs::write(file("jwt"), &unknown).unwrap();
    until(&ca, "unknown", unavailable("in (permission denied)")).await;
    assert!(cluster.reviews().iter().any(|review| review.spec["token"] == *unknown));
    assert_eq!(ca.trust().await["pending"]["request"], before, "no state is lost");

    let good = cluster.token("trellis-ca", "openbao");
    fs::write(file("jwt"), &good).unwrap();
    until(&ca, "logged in", settled_on(2)).await;
    let review = cluster.reviews().into_iter().find(|review| review.spec["token"] == *good).unwrap();
    assert_eq!(review.authorization, format!("Bearer {REVIEWER}"));
    assert_eq!(review.spec["audiences"], json!(["openbao"]));
    let issued = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
    assert_eq!(Leaf::parse(&issued.leaf).unwrap().issuer_algorithm, Algorithm::MlDsa65);
    assert!(!ca.whole_log().contains(&good), "the token is in the log");
}
