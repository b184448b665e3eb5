//! The companion anchor from its beginning to its end, under a workload that goes on: who gets a certificate
//! of it, and that nobody holds one when it goes.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::Code;
use trellis_api::proto::ca::IssueRequest;
use trellis_pki::{algorithm::Algorithm, csr, key::PrivateKey, leaf::Leaf, policy::Ladder};

use crate::{
    rotation::{Workload, phase, wish},
    support::{Asker, Ca, PATIENCE, World, good_csr, until},
};

fn companion(generation: u32, dual: bool) -> Value {
    let companion = json!({ "algorithm": "ecdsa-p256", "generation": generation });
    wish("ml-dsa-65", 1, json!({ "companion": companion, "leaf": { "dual": dual } }))
}

fn ecdsa_csr() -> Vec<u8> {
    csr::make(&PrivateKey::generate(Algorithm::EcdsaP256).unwrap()).unwrap()
}

async fn ask(world: &World, ca: &Ca, csr: Vec<u8>) -> Result<Leaf, (Code, String)> {
    let request = IssueRequest { csr, validity_seconds: 0, companion: true };
    let token = format!("Bearer {}", world.token());
    let answer = Asker::new(world, ca).ask(&[&token], request).await?;
    Ok(Leaf::parse(&answer.leaf).unwrap())
}

async fn settled(ca: &Ca, rotations: usize) -> Value {
    until(ca, "settled", |status| {
        phase(status) == "Settled" && status["past"].as_array().unwrap().len() == rotations
    })
    .await
}

/// Waits for what comes a moment after the CA has told of it.
async fn holds(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

#[tokio::test]
async fn it_comes_is_issued_from_is_replaced_and_goes() {
    let world = World::new();
    let sink = format!("--audit=file:{}", world.path("trail").display());
    let ca = Ca::with(&world.args().into_iter().chain([sink]).collect::<Vec<_>>()).await;
    let workload = Workload::start(&world, &ca, Algorithm::MlDsa65, Ladder::Prefer).await;
    let own = workload.tls.current().unwrap().serial.clone();
    until(&ca, "both are members", |status| status["members"] == 2).await;
    let (code, said) = ask(&world, &ca, ecdsa_csr()).await.unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(said.contains("trellis trust companion --to ecdsa-p256"), "{said}");

    world.trust_domain(companion(1, false));
    let status = settled(&ca, 1).await;
    assert!(status["companion"].as_str().unwrap().starts_with("ecdsa-p256.1 "), "{status}");
    assert!(status["issuing"].as_str().unwrap().starts_with("ml-dsa-65.1 "), "{status}");
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 2, "all trust it before it issues");
    assert_eq!(workload.tls.companion(), None, "nobody asked for two identities");

    world.trust_domain(companion(1, true));
    holds("a companion certificate", || workload.tls.companion().is_some()).await;
    let first = workload.tls.companion().unwrap();
    assert_eq!((first.algorithm, first.issuer_algorithm), (Algorithm::EcdsaP256, Algorithm::EcdsaP256));
    let anchor = workload.tls.companion_anchor();
    assert_eq!(first.identity, workload.tls.current().unwrap().identity);
    assert_eq!(first.dns_names, workload.tls.current().unwrap().dns_names);
    let logged = ca.logged("issued a certificate", "serial", &first.serial).await;
    assert_eq!(logged["companion"], true, "{logged}");
    let metrics = ca.metrics().await;
    assert!(metrics.contains("trellis_ca_companions_issued_total{namespace=\"shop\"} 1"), "{metrics}");
    until(&ca, "its holder is known", |status| status["anchors"][1]["leaves"] == 1).await;

    world.trust_domain(companion(2, true));
    let status = settled(&ca, 2).await;
    assert_eq!(status["past"][0]["of"], "Companion");
    assert_eq!(status["past"][0]["to"], "ecdsa-p256 generation 2");
    let second = workload.tls.companion().unwrap();
    assert_ne!(second.serial, first.serial);
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 2);

    world.trust_domain(wish("ml-dsa-65", 1, json!({ "leaf": { "dual": true } })));
    let status = settled(&ca, 3).await;
    assert_eq!((&status["past"][0]["to"], &status["companion"]), (&json!("none"), &Value::Null));
    assert_eq!(workload.tls.companion(), None, "it was dropped");
    assert_eq!(workload.tls.bundle().unwrap().anchors().len(), 1);
    assert_eq!(world.bundle().anchors().len(), 1);
    let kept = fs::read_to_string(world.path("root/trust-domain.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    let keys = kept.as_object().unwrap().keys().filter(|name| name.ends_with(".key")).count();
    assert_eq!(keys, 1, "with the anchor its key is gone");
    assert_eq!(workload.tls.current().unwrap().serial, own, "nothing of this touched its own certificate");

    assert!(ca.stop().await.success());
    let trail = fs::read_to_string(world.path("trail")).unwrap();
    let trail: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let issued = trail.iter().find(|record| record["serial"] == first.serial.as_str()).unwrap();
    assert_eq!((&issued["event"], &issued["companion"]), (&json!("issued"), &json!(true)));
    assert_eq!(issued["anchor"].as_str(), anchor.as_deref(), "the anchor that signed it");
    let steps = trail.iter().filter(|record| record["event"] == "trust");
    let steps: Vec<_> = steps.filter_map(|record| record["step"].as_str()).collect();
    for step in ["Begin", "Issue", "Forgo", "Remove", "Settle"] {
        assert!(steps.contains(&step), "{steps:?}");
    }
}

#[tokio::test]
async fn the_pods_word_goes_before_the_meshs_and_a_proxy_that_only_asks_gets_none() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    for (generation, dual) in [(1, false), (2, true)] {
        world.trust_domain(companion(generation, dual));
        until(&ca, "settled", |status| {
            phase(status) == "Settled"
                && status["companionKind"]["generation"] == generation
                && status["dual"] == dual
        })
        .await;
        for (annotation, granted) in
            [(None, dual), (Some("enabled"), true), (Some("disabled"), false), (Some("nonsense"), false)]
        {
            world.dual_pod("orders-1", "orders", annotation);
            // The folder is seen a moment later.
            let waited = timeout(PATIENCE, async {
                loop {
                    let answer = ask(&world, &ca, ecdsa_csr()).await;
                    if answer.is_ok() == granted {
                        return answer;
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            });
            let answer = waited.await.unwrap_or_else(|_| panic!("{annotation:?} where the mesh says {dual}"));
            match answer {
                Ok(leaf) => assert_eq!(leaf.issuer_algorithm, Algorithm::EcdsaP256),
                Err((code, said)) => {
                    assert_eq!(code, Code::FailedPrecondition);
                    assert!(said.contains("trellis.dev/dual-identity: enabled"), "{said}");
                }
            }
        }
    }
    // Below the companion there are ECDSA keys only, and below the issuing anchor what the flags say.
    world.dual_pod("orders-1", "orders", Some("enabled"));
    let (code, said) = ask(&world, &ca, good_csr()).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument, "{said}");
    let token = format!("Bearer {}", world.token());
    let request = IssueRequest { csr: ecdsa_csr(), validity_seconds: 0, companion: false };
    let (code, said) = Asker::new(&world, &ca).ask(&[&token], request).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument, "{said}");
    assert!(ca.metrics().await.contains("trellis_ca_refused_total{reason=\"not_dual\"}"));
}

#[tokio::test]
async fn who_requires_post_quantum_signatures_has_none_and_stands_in_nobodys_way() {
    let world = World::new();
    let ca = Ca::start(&world).await;
    let strict = Workload::start(&world, &ca, Algorithm::MlDsa65, Ladder::Require).await;
    until(&ca, "both are members", |status| status["members"] == 2).await;
    world.trust_domain(companion(1, true));
    settled(&ca, 1).await;
    assert_eq!(strict.tls.bundle().unwrap().anchors().len(), 2);
    world.trust_domain(wish("ml-dsa-65", 1, json!({})));
    settled(&ca, 2).await;
    assert_eq!(strict.tls.companion(), None);
    assert!(!ca.metrics().await.contains("trellis_ca_companions_issued_total{"), "nothing was asked for");
}
