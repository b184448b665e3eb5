//! One anchor takes the place of another while a workload that follows it goes on: the CA as a process,
//! killed and started again on the way.

use std::{fs, sync::Arc};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use trellis_channel::identity::{IdentityConfig, Resting, start};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    csr,
    identity::Identity,
    key::PrivateKey,
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

use crate::support::{Asker, Ca, DOMAIN, World, request, until};

const ANY: &str = "127.0.0.1:0";

/// A workload that lives by the CA, without a proxy around it.
pub struct Workload {
    pub tls: Arc<MeshTls>,
    task: JoinHandle<()>,
    _stop: tokio::sync::watch::Sender<bool>,
}

impl Workload {
    pub async fn start(world: &World, ca: &Ca, algorithm: Algorithm, signatures: Ladder) -> Self {
        fs::write(world.path("token"), world.token() + "\n").unwrap();
        world.working_pod("orders-1", "orders", json!({ "app": "orders", "tier": "api" }));
        let config = IdentityConfig {
            ca_address: ca.address.to_string(),
            trust_domain: DOMAIN.to_owned(),
            token_file: world.path("token"),
            bundle_file: world.path("bundle.pem"),
            algorithm,
            pinned: false,
            dual: None,
            control: signatures,
            ca_identity: SpiffeId::new(DOMAIN, "trellis-system", "trellis-ca").unwrap(),
            pod: "shop/orders-1".to_owned(),
            resting: Resting::default(),
        };
        let clock = Arc::new(SystemClock);
        let policy = Policy { signatures, ..Policy::default() };
        let tls = Arc::new(MeshTls::new(policy, DOMAIN, clock.clone()));
        let (health, registry) = (Health::new(&[]), Registry::new());
        let identity = start(config, tls.clone(), clock, health, &registry).await.unwrap();
        let (stop, shutdown) = tokio::sync::watch::channel(false);
        Self { tls, task: tokio::spawn(identity.run(shutdown)), _stop: stop }
    }
}

pub fn wish(issuing: &str, generation: u32, more: Value) -> Value {
    wish_of(json!({ "algorithm": issuing, "generation": generation }), more)
}

pub fn wish_of(issuing: Value, more: Value) -> Value {
    let mut spec = json!({ "issuing": issuing });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// A CA whose first root is an ECDSA one, and where it listens.
fn ecdsa(world: &World, listen: &str) -> Vec<String> {
    let flags = [
        "--root-algorithm=ecdsa-p256",
        "--signatures=prefer",
        "--leaf-algorithms=ml-dsa-65,ml-dsa-87,ecdsa-p256",
    ];
    world.args_at(listen).into_iter().chain(flags.map(str::to_owned)).collect()
}

/// Algorithm and generation of each anchor that is trusted.
fn anchors(status: &Value) -> Vec<String> {
    let name = |anchor: &Value| format!("{}.{}", anchor["algorithm"].as_str().unwrap(), anchor["generation"]);
    // None is shown before the first look at the world.
    status["anchors"].as_array().into_iter().flatten().map(name).collect()
}

pub fn phase(status: &Value) -> &str {
    status["phase"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn ecdsa_gives_way_to_ml_dsa_under_a_workload_that_never_stops() {
    let world = World::new();
    let ca = Ca::with(&ecdsa(&world, ANY)).await;
    let workload = Workload::start(&world, &ca, Algorithm::EcdsaP256, Ladder::Prefer).await;
    let before = workload.tls.current().unwrap();
    assert_eq!((before.algorithm, before.issuer_algorithm), (Algorithm::EcdsaP256, Algorithm::EcdsaP256));
    until(&ca, "both are members", |status| status["members"] == 2).await;

    world.trust_domain(wish("ml-dsa-65", 1, json!({ "leaf": { "algorithm": "ml-dsa-65" } })));
    let status = until(&ca, "settled on ML-DSA", |status| {
        phase(status) == "Settled"
            && status["issuing"].as_str().is_some_and(|name| name.starts_with("ml-dsa-65"))
    })
    .await;
    let after = workload.tls.current().unwrap();
    assert_eq!((after.algorithm, after.issuer_algorithm), (Algorithm::MlDsa65, Algorithm::MlDsa65));
    assert_ne!(after.serial, before.serial);
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 1, "the old anchor is gone");
    assert_eq!(world.bundle().fingerprint(), workload.tls.bundle().unwrap().fingerprint());
    let phases = status["past"][0]["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["Distributing", "Issuing", "Removing"]);
    let kept = fs::read_to_string(world.path("root/trust-domain.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let keys = kept.as_object().unwrap().keys().filter(|name| name.ends_with(".key")).count();
    assert_eq!(keys, 1, "with the anchor its key is gone");
    assert!(!workload.task.is_finished());
}

#[tokio::test]
async fn a_ca_that_is_killed_in_every_phase_goes_on_where_it_was() {
    let world = World::new();
    let mut ca = Ca::with(&ecdsa(&world, ANY)).await;
    let address = ca.address;
    let workload = Workload::start(&world, &ca, Algorithm::EcdsaP256, Ladder::Prefer).await;
    // A member that exists and never answers holds each phase until that is forced.
    world.working_pod("silent", "orders", json!({}));
    world.trust_domain(wish("ml-dsa-87", 1, json!({})));
    for expected in ["Distributing", "Issuing", "Removing"] {
        let only_silent = |status: &Value| phase(status) == expected && status["rotation"]["waiting"] == 1;
        let status = until(&ca, expected, only_silent).await;
        assert_eq!(status["rotation"]["waitingFor"][0]["pod"], "shop/silent", "{status}");
        ca.kill().await;
        ca = Ca::with(&ecdsa(&world, &address.to_string())).await;
        let status = until(&ca, "all are back", |status| status["members"] == 2).await;
        assert_eq!(phase(&status), expected, "it goes on where it was");
        world.trust_domain(wish("ml-dsa-87", 1, json!({ "force": { "rotation": 1, "phase": expected } })));
    }
    let status = until(&ca, "settled", |status| phase(status) == "Settled").await;
    assert_eq!(status["past"][0]["cutOff"], json!(["shop/silent", "shop/silent", "shop/silent"]));
    assert_eq!(workload.tls.current().unwrap().issuer_algorithm, Algorithm::MlDsa87);
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 1);
}

#[tokio::test]
async fn a_second_operators_wish_waits_for_the_rotation_of_the_first_and_is_told_so() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    until(&ca, "the CA itself is a member", |status| status["members"] == 1).await;
    world.working_pod("silent", "orders", json!({}));
    world.trust_domain(wish("ml-dsa-65", 2, json!({})));
    until(&ca, "the first is under way", |status| status["rotation"]["waiting"] == 1).await;
    world.trust_domain(wish("ml-dsa-87", 1, json!({})));
    let said = |status: &Value| status["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    let status = until(&ca, "the second waits", |status| said(status).contains("ml-dsa-87")).await;
    let message = said(&status);
    let first = format!("rotation 1 to {} is finished first", status["rotation"]["to"].as_str().unwrap());
    assert!(
        message.starts_with(&first) && message.contains("ml-dsa-87 generation 1 comes after it"),
        "{message}"
    );
    assert_eq!(anchors(&status), ["ml-dsa-65.1", "ml-dsa-65.2"]);
    world.remove_pod("silent");
    let status = until(&ca, "both have ended", |status| status["past"].as_array().unwrap().len() == 2).await;
    let past: Vec<_> = status["past"].as_array().unwrap().iter().collect();
    assert_eq!((&past[1]["number"], &past[0]["number"]), (&json!(1), &json!(2)));
    assert_eq!(anchors(&status), ["ml-dsa-87.1"], "{status}");
}

/// Two replicas that both believe to lead, one of which never hears what the other one writes.
#[tokio::test]
async fn a_replica_with_stale_state_changes_nothing_and_goes_on_from_what_the_other_one_wrote() {
    let world = World::new();
    world.working_pod("silent", "orders", json!({}));
    let one = Ca::start(&world).await;
    let two = Ca::start(&world).await;
    let one_anchor = |status: &Value| anchors(status) == ["ml-dsa-65.1"];
    let before = until(&one, "it has begun", one_anchor).await;
    let same = until(&two, "it has begun as well", one_anchor).await;
    assert_eq!(same["anchors"][0]["fingerprint"], before["anchors"][0]["fingerprint"]);
    world.trust_domain(wish("ml-dsa-65", 2, json!({})));
    let waits = |status: &Value| status["rotation"]["waiting"].as_u64() >= Some(1);
    let (first, second) =
        (until(&one, "it has begun", waits).await, until(&two, "it has heard", waits).await);
    assert_eq!(first["rotation"]["to"], second["rotation"]["to"], "one key of this generation");
    assert_eq!(first["anchors"][1]["fingerprint"], second["anchors"][1]["fingerprint"]);
    let stored = fs::read_to_string(world.path("root/trust-domain.json")).unwrap();
    let stored: Value = serde_json::from_str(&stored).unwrap();
    let keys = stored.as_object().unwrap().keys().filter(|name| name.ends_with(".key")).count();
    assert_eq!(keys, 2, "the key that lost was never stored");
    // Nothing comes from what is not yet known everywhere.
    let old = Bundle::from_pem(DOMAIN, &fs::read_to_string(world.path("bundle.pem")).unwrap()).unwrap();
    let old =
        old.anchors().iter().find(|anchor| **anchor.fingerprint() == before["anchors"][0]["fingerprint"]);
    let old = Bundle::new(DOMAIN, vec![old.unwrap().clone()]).unwrap();
    for ca in [&one, &two] {
        let (key, now) = (PrivateKey::generate(Algorithm::MlDsa65).unwrap(), SystemClock.now());
        let authorization = format!("Bearer {}", world.token());
        let asked = Asker::new(&world, ca).ask(&[&authorization], request(csr::make(&key).unwrap())).await;
        let leaf = asked.unwrap().leaf;
        assert!(Identity::new(key, leaf, &old, Algorithm::MlDsa65, now).is_ok());
    }
}

#[tokio::test]
async fn a_workload_that_accepts_no_classical_signature_is_not_cut_off() {
    let world = World::new();
    let mut args = world.args();
    args.push("--leaf-algorithms=ml-dsa-65,ecdsa-p256".to_owned());
    let ca = Ca::with(&args).await;
    until(&ca, "the CA itself is a member", |status| status["members"] == 1).await;
    world.trust_domain(wish("ecdsa-p256", 1, json!({})));
    let status = until(&ca, "refused", |status| status["conditions"][0]["reason"] == "WouldCutOff").await;
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("trellis-system/trellis-ca") && message.contains("force"), "{message}");
    assert_eq!(phase(&status), "Settled");
}

#[tokio::test]
async fn a_rotation_is_rolled_back_by_taking_the_wish_back() {
    let world = World::new();
    let ca = Ca::with(&ecdsa(&world, ANY)).await;
    let workload = Workload::start(&world, &ca, Algorithm::EcdsaP256, Ladder::Prefer).await;
    until(&ca, "both are members", |status| status["members"] == 2).await;
    world.working_pod("silent", "orders", json!({}));
    world.trust_domain(wish("ml-dsa-65", 1, json!({})));
    until(&ca, "distributing", |status| status["rotation"]["waiting"] == 1).await;
    world.trust_domain(wish("ecdsa-p256", 1, json!({})));
    until(&ca, "rolling back", |status| status["rotation"]["rollingBack"] == true).await;
    world.remove_pod("silent");
    let status = until(&ca, "settled", |status| phase(status) == "Settled").await;
    assert_eq!(status["past"][0]["rolledBack"], true);
    assert_eq!(workload.tls.current().unwrap().issuer_algorithm, Algorithm::EcdsaP256);
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 1);
}

#[tokio::test]
async fn who_is_denied_is_turned_away_at_once_and_gets_nothing_new() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let workload = Workload::start(&world, &ca, Algorithm::MlDsa65, Ladder::Require).await;
    until(&ca, "both are members", |status| status["members"] == 2).await;
    let identity = workload.tls.current().unwrap().identity.to_string();
    let denied =
        json!([{ "what": format!("identity={identity}"), "reason": "a test" }, { "what": "nonsense" }]);
    world.trust_domain(wish("ml-dsa-65", 1, json!({ "denied": denied })));
    until(&ca, "its stream was ended", |status| status["members"] == 1).await;
    let status =
        until(&ca, "the nonsense is named", |status| status["conditions"][1]["status"] == "False").await;
    let message = status["conditions"][1]["message"].as_str().unwrap();
    assert!(message.contains("denied[1].what") && message.contains("\"nonsense\""), "{message}");
    let (code, said) = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap_err();
    assert_eq!(code, tonic::Code::PermissionDenied);
    assert!(said.contains(&identity) && said.contains("trellis trust allow"), "{said}");
    world.trust_domain(wish("ml-dsa-65", 1, json!({})));
    until(&ca, "it is let in again", |status| status["members"] == 2).await;
    assert!(!workload.task.is_finished());
}
