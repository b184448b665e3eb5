//! The CA as its users meet it: a process that reads a folder, asked over TLS on loopback.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod audit;
mod companion;
mod federation;
mod https;
mod rotation;
mod support;
mod upstream;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use serde_json::{Value, json};
use support::{
    AUDIENCE, Asker, Ca, DOMAIN, TOKEN_ISSUER, TokenKey, World, good_csr, request, run_to_its_end,
};
use tonic::Code;
use trellis_api::proto::ca::IssueRequest;
use trellis_channel::identity::{IdentityConfig, Resting, start};
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, SystemClock},
    key::PrivateKey,
    leaf::Leaf,
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

#[tokio::test]
async fn a_workload_gets_a_leaf_that_says_who_it_is_and_nothing_more() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    fs::write(world.path("token"), world.token() + "\n").unwrap();
    let config = IdentityConfig {
        ca_address: ca.address.to_string(),
        trust_domain: DOMAIN.to_owned(),
        token_file: world.path("token"),
        bundle_file: world.path("bundle.pem"),
        algorithm: Algorithm::MlDsa65,
        ca_identity: SpiffeId::new(DOMAIN, "trellis-system", "trellis-ca").unwrap(),
        pod: "shop/orders-1".to_owned(),
        pinned: false,
        dual: None,
        control: Ladder::Require,
        resting: Resting::default(),
    };
    let clock = Arc::new(SystemClock);
    let tls = Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone()));
    let (health, registry) = (Health::new(&[]), Registry::new());
    start(config, tls.clone(), clock, health.clone(), &registry).await.unwrap();

    let leaf = tls.current().unwrap();
    assert_eq!(leaf.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/orders");
    let names = ["api.shop.svc.cluster.local", "api", "orders.shop.svc.cluster.local", "orders"];
    assert_eq!(leaf.dns_names, names);
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap().as_secs(), 24 * 60 * 60);
    assert!(leaf.algorithm == Algorithm::MlDsa65 && leaf.is_post_quantum());
    assert!(leaf.server && leaf.client);
    assert!((24..=32).contains(&leaf.serial.len()), "{}", leaf.serial);
    assert_eq!(tls.bundle().unwrap().fingerprint(), world.bundle().fingerprint());
    assert!(health.is_ready());

    let logged = ca.logged("issued a certificate", "serial", &leaf.serial).await;
    let expected = [
        ("identity", "spiffe://cluster.local/ns/shop/sa/orders"),
        ("pod", "orders-1"),
        ("algorithm", "ML-DSA-65"),
    ];
    assert!(expected.iter().all(|(field, value)| logged[*field] == *value), "{logged}");
    let metrics = ca.metrics().await;
    assert!(metrics.contains("trellis_ca_issued_total{algorithm=\"ML-DSA-65\"} 1"), "{metrics}");
    let handshake = metrics.lines().find(|line| line.starts_with("trellis_handshakes_total{")).unwrap();
    for label in ["group=\"X25519MLKEM768\"", "local_signature=\"ML-DSA-65\"", "tls=\"1.3\"", "class=\"pq\""]
    {
        assert!(handshake.contains(label), "{handshake}");
    }
    for metric in ["trellis_ca_root_expiry_timestamp_seconds", "trellis_identity_expiry_timestamp_seconds"] {
        assert!(metrics.contains(&format!("\n{metric} ")), "{metrics}");
    }
}

#[tokio::test]
async fn every_leaf_has_its_own_serial_and_the_level_that_was_asked_for() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let (asker, authorization) = (Asker::new(&world, &ca), format!("Bearer {}", world.token()));
    let mut serials = Vec::new();
    for algorithm in [Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87, Algorithm::MlDsa65] {
        let csr = trellis_pki::csr::make(&PrivateKey::generate(algorithm).unwrap()).unwrap();
        let leaf = asker.ask(&[&authorization], request(csr)).await.unwrap().leaf;
        let leaf = Leaf::parse(&leaf).unwrap();
        assert_eq!(leaf.algorithm, algorithm);
        serials.push(leaf.serial);
    }
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 4);

    let shorter = IssueRequest { csr: good_csr(), validity_seconds: 3600, companion: false };
    let leaf = Leaf::parse(&asker.ask(&[&authorization], shorter).await.unwrap().leaf).unwrap();
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap().as_secs(), 3600);
}

/// A token's claims with one of them changed.
fn with(mut claims: Value, pointer: &str, value: Value) -> Value {
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

#[tokio::test]
async fn whoever_is_not_who_the_token_says_is_refused() {
    let world = World::new();
    world.pod("done-1", "orders", json!({}), "Succeeded");
    let ca = Ca::start(&world).await;
    let asker = Asker::new(&world, &ca);
    let good = || world.claims("orders-1", "orders");
    let now = SystemClock.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut unsigned = good();
    unsigned.as_object_mut().unwrap().remove("kubernetes.io");
    let mut podless = good();
    podless["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let sign = |claims: &Value| world.key.sign(claims);
    let tampered = {
        let mut token = world.token();
        let payload = token.find('.').unwrap() + 20;
        token.replace_range(payload..=payload, if token[payload..].starts_with('A') { "B" } else { "A" });
        token
    };
    let table = [
        ("malformed_token", "no-token".to_owned(), Code::Unauthenticated, "ServiceAccount"),
        ("malformed_token", "a".repeat(17 << 10), Code::Unauthenticated, "17408 characters"),
        ("invalid_token", tampered, Code::Unauthenticated, "token:"),
        ("invalid_token", TokenKey::new("first").sign(&good()), Code::Unauthenticated, "signature"),
        ("invalid_token", TokenKey::new("unknown").sign(&good()), Code::Unauthenticated, "\"unknown\""),
        ("expired_token", sign(&with(good(), "/exp", json!(now - 60))), Code::Unauthenticated, "exp is"),
        (
            "not_yet_valid_token",
            sign(&with(good(), "/nbf", json!(now + 1200))),
            Code::Unauthenticated,
            "behind that of who made it; set both by NTP",
        ),
        (
            "wrong_audience",
            sign(&with(good(), "/aud", json!(["https://kubernetes.default.svc"]))),
            Code::Unauthenticated,
            AUDIENCE,
        ),
        (
            "wrong_audience",
            sign(&with(good(), "/aud", json!("trellis.dev"))),
            Code::Unauthenticated,
            AUDIENCE,
        ),
        (
            "wrong_issuer",
            sign(&with(good(), "/iss", json!("https://elsewhere"))),
            Code::Unauthenticated,
            TOKEN_ISSUER,
        ),
        ("not_bound_to_pod", sign(&unsigned), Code::Unauthenticated, "bound to no pod"),
        ("not_bound_to_pod", sign(&podless), Code::Unauthenticated, "bound to no pod"),
        (
            "invalid_token",
            sign(&with(good(), "/sub", json!("system:serviceaccount:shop:admin"))),
            Code::Unauthenticated,
            "sub is",
        ),
        ("pod_absent", sign(&world.claims("orders-2", "orders")), Code::PermissionDenied, "shop/orders-2"),
        (
            "pod_replaced",
            sign(&with(good(), "/kubernetes.io/pod/uid", json!("another"))),
            Code::PermissionDenied,
            "\"another\"",
        ),
        (
            "service_account_mismatch",
            sign(&world.claims("orders-1", "admin")),
            Code::PermissionDenied,
            "\"admin\"",
        ),
        ("pod_finished", sign(&world.claims("done-1", "orders")), Code::PermissionDenied, "shop/done-1"),
    ];
    for (reason, token, code, words) in &table {
        let Err((found, message)) = asker.ask_with(token).await else { panic!("{reason} was let in") };
        assert_eq!(found, *code, "{reason}: {message}");
        assert!(message.contains(words), "{reason}: {message}");
        assert!(!message.contains(token.as_str()));
        ca.logged("refused a certificate", "reason", reason).await;
    }
    for (authorization, words) in [
        (&[][..], "Bearer"),
        (&["Basic Zm9vOmJhcg=="][..], "no bearer token"),
        (&["Bearer "][..], "no bearer token"),
        (&["Bearer a.b.c", "Bearer a.b.c"][..], "exactly once"),
    ] {
        let refused = asker.ask(authorization, request(good_csr())).await;
        let Err((Code::Unauthenticated, message)) = refused else { panic!("{authorization:?}: {refused:?}") };
        assert!(message.contains(words), "{message}");
    }
    let metrics = ca.metrics().await;
    for (reason, count) in [("wrong_audience", 2), ("pod_absent", 1), ("missing_token", 4)] {
        let line = format!("trellis_ca_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let log = ca.whole_log();
    let leaked = table.iter().map(|(_, token, ..)| token).filter(|token| token.len() > 100);
    assert!(!leaked.clone().any(|token| log.contains(token.as_str())), "a token is in the log");
    assert!(leaked.count() > 10);
    assert!(asker.ask_with(&world.token()).await.is_ok(), "the good one still gets what is its own");
    // Whoever makes tokens may be ten minutes ahead.
    assert!(asker.ask_with(&sign(&with(good(), "/nbf", json!(now + 600)))).await.is_ok());
}

/// A request by a key of this algorithm, with names.
fn named(algorithm: Algorithm, common_name: Option<&str>, names: Vec<SanType>) -> Vec<u8> {
    let key = PrivateKey::generate(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.subject_alt_names = names;
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

#[tokio::test]
async fn of_a_request_only_a_proven_key_is_used() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let (asker, authorization) = (Asker::new(&world, &ca), format!("Bearer {}", world.token()));
    let ml_dsa = |common_name, names| named(Algorithm::MlDsa65, common_name, names);
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut csr = good_csr();
        change(&mut csr);
        csr
    };
    let (denied, invalid) = (Code::PermissionDenied, Code::InvalidArgument);
    let table = [
        ("foreign_name", ml_dsa(None, vec![dns("payments.shop.svc.cluster.local")]), denied, "payments.shop"),
        ("foreign_name", ml_dsa(None, vec![dns("orders"), dns("orders.other")]), denied, "orders.other"),
        ("foreign_name", ml_dsa(Some("payments"), vec![]), denied, "\"payments\""),
        (
            "foreign_name",
            ml_dsa(None, vec![uri("spiffe://cluster.local/ns/shop/sa/payments")]),
            denied,
            "sa/payments",
        ),
        ("foreign_name", ml_dsa(None, vec![SanType::IpAddress([10, 0, 0, 1].into())]), denied, "10.0.0.1"),
        ("key_type", named(Algorithm::EcdsaP256, None, vec![]), invalid, "ECDSA-P256"),
        ("bad_self_signature", changed(|csr| *csr.last_mut().unwrap() ^= 1), invalid, "signature"),
        ("trailing_bytes", changed(|csr| csr.push(0)), invalid, "1 bytes follow"),
        ("malformed_csr", changed(|csr| csr.truncate(100)), invalid, "PKCS#10"),
        ("malformed_csr", vec![], invalid, "PKCS#10"),
        ("malformed_csr", vec![0x30; 17 << 10], invalid, "17408 bytes"),
    ];
    for (reason, csr, code, words) in table {
        let refused = asker.ask(&[&authorization], request(csr)).await;
        let Err((found, message)) = refused else { panic!("{reason} was let in") };
        assert_eq!(found, code, "{reason}: {message}");
        assert!(message.contains(words), "{reason}: {message}");
        let audit = ca.logged("refused a certificate", "reason", reason).await;
        assert_eq!(audit["pod"], "orders-1", "{audit}");
    }
    for seconds in [1, 599, 24 * 60 * 60 + 1, u32::MAX] {
        let request = IssueRequest { csr: good_csr(), validity_seconds: seconds, companion: false };
        let refused = asker.ask(&[&authorization], request).await;
        let Err((Code::InvalidArgument, message)) = refused else { panic!("{seconds}: {refused:?}") };
        assert!(message.contains(&seconds.to_string()) && message.contains("600 to 86400"), "{message}");
    }

    // Names that are its own anyway do no harm, and change nothing.
    let own = ml_dsa(Some("orders"), vec![dns("api"), uri("spiffe://cluster.local/ns/shop/sa/orders")]);
    let leaf = Leaf::parse(&asker.ask(&[&authorization], request(own)).await.unwrap().leaf).unwrap();
    assert_eq!(leaf.dns_names.len(), 4);
}

#[tokio::test]
async fn nobody_alone_can_keep_the_ca_busy() {
    let world = World::new();
    world.pod("orders-2", "orders", json!({ "app": "orders" }), "Running");
    let ca = Ca::start(&world).await;
    let asker = Asker::new(&world, &ca);
    let token = world.token();
    let (code, message) = first_other_than(Code::Ok, &asker, &token).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("shop/orders-1") && message.contains("wait"), "{message}");
    let other = world.key.sign(&world.claims("orders-2", "orders"));
    assert!(asker.ask_with(&other).await.is_ok(), "its neighbour is not affected");

    // And one address cannot try tokens for ever.
    let (code, message) = first_other_than(Code::Unauthenticated, &asker, "a.b.c").await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("127.0.0.1"), "{message}");
}

async fn first_other_than(usual: Code, asker: &Asker, token: &str) -> (Code, String) {
    for _ in 0..1000 {
        let answer = asker.ask_with(token).await.err().unwrap_or((Code::Ok, String::new()));
        if answer.0 != usual {
            return answer;
        }
    }
    panic!("always {usual:?}");
}

#[tokio::test]
async fn a_restart_keeps_the_root_and_only_its_owner_reads_it() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let first = world.bundle().fingerprint();
    assert!(ca.stop().await.success());
    let root = world.path("root/trust-domain.json");
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(world.path("root")).unwrap().permissions().mode() & 0o777, 0o700);

    fs::remove_file(world.path("bundle.pem")).unwrap();
    let ca = Ca::start(&world).await;
    assert_eq!(world.bundle().fingerprint(), first);
    let connected = Asker::new(&world, &ca);
    assert!(connected.ask_with(&world.token()).await.is_ok());
    assert!(ca.stop().await.success(), "a connection that is open and idle keeps nobody from stopping");

    let mut other = world.args();
    other.extend(["--trust-domain".to_owned(), "other.example".to_owned()]);
    let (status, said) = run_to_its_end(&other).await;
    assert!(!status.success() && said.contains("cluster.local") && said.contains("other.example"), "{said}");

    fs::set_permissions(&root, fs::Permissions::from_mode(0o640)).unwrap();
    let (status, said) = run_to_its_end(&world.args()).await;
    assert!(!status.success() && said.contains("chmod 600"), "{said}");

    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&root, "spoiled").unwrap();
    let (status, said) = run_to_its_end(&world.args()).await;
    assert!(!status.success() && said.contains("is damaged"), "{said}");
    assert_eq!(fs::read_to_string(&root).unwrap(), "spoiled", "what is there is never overwritten");
}

#[tokio::test]
async fn replicas_that_race_for_the_first_root_agree() {
    let world = World::new();
    let bundles: Vec<String> =
        (0..4).map(|n| format!("file:{}", world.path(&format!("bundle-{n}.pem")).display())).collect();
    let start = bundles.iter().map(|bundle| Ca::start_publishing(&world, bundle));
    let _replicas = futures::future::join_all(start).await;
    let published: Vec<String> =
        (0..4).map(|n| fs::read_to_string(world.path(&format!("bundle-{n}.pem"))).unwrap()).collect();
    assert!(published.iter().all(|pem| Some(pem) == published.first()));
    assert_eq!(fs::read_dir(world.path("root")).unwrap().count(), 2, "the file and its lock, and no draft");
}

#[tokio::test]
async fn tokens_of_a_new_key_are_taken_and_of_an_old_one_no_longer() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let asker = Asker::new(&world, &ca);
    let second = TokenKey::new("second");
    let (old, new) = (world.token(), second.sign(&world.claims("orders-1", "orders")));
    assert!(asker.ask_with(&old).await.is_ok() && asker.ask_with(&new).await.is_err());
    world.trust_tokens_of(&[&second]);
    assert!(asker.ask_with(&new).await.is_ok() && asker.ask_with(&old).await.is_err());

    fs::write(world.path("jwks.json"), "{ broken").unwrap();
    assert!(asker.ask_with(&new).await.is_ok(), "the last good keys stay");
}

#[tokio::test]
async fn a_token_dies_with_its_pod() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let asker = Asker::new(&world, &ca);
    assert!(asker.ask_with(&world.token()).await.is_ok());
    world.remove_pod("orders-1");
    let token = world.token();
    for _ in 0..200 {
        match asker.ask_with(&token).await {
            Err((Code::PermissionDenied, message)) => return assert!(message.contains("does not exist")),
            // The folder's change is on its way.
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("the token is still good");
}

#[tokio::test]
async fn a_wrong_start_ends_with_the_flag_and_the_remedy() {
    let world = World::new();
    let without = |flag: &str| {
        let mut args = world.args();
        let at = args.iter().position(|arg| arg == flag).unwrap();
        args.drain(at..at + 2);
        args
    };
    let table = [
        (without("--root"), "--root file:DIR"),
        (without("--attest"), "--attest jwks:FILE"),
        (without("--jwks-issuer"), "--jwks-issuer"),
        (without("--publish"), "--publish file:PATH"),
    ];
    for (args, words) in table {
        let (status, said) = run_to_its_end(&args).await;
        assert!(!status.success() && said.contains(words), "{words}: {said}");
    }
    fs::remove_file(world.path("jwks.json")).unwrap();
    let (status, said) = run_to_its_end(&world.args()).await;
    assert!(!status.success() && said.contains("jwks.json"), "{said}");
}
