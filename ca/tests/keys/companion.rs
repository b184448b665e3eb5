//! A companion whose key is in a token, beside an issuing one whose key is not.

use serde_json::json;
use trellis_api::proto::ca::IssueRequest;
use trellis_pki::{algorithm::Algorithm, csr, key::PrivateKey, leaf::Leaf};

use super::{
    phase, reason,
    support::{Asker, Ca, World},
    token::{args, issuing, kept, wait_for_keys},
    tokens::{Kind, SoftToken},
    until, wish,
};

async fn companion(world: &World, ca: &Ca) -> Leaf {
    let csr = csr::make(&PrivateKey::generate(Algorithm::EcdsaP256).unwrap()).unwrap();
    let request = IssueRequest { csr, validity_seconds: 0, companion: true };
    let token = format!("Bearer {}", world.token());
    let answer = Asker::new(world, ca).ask(&[&token], request).await.unwrap();
    Leaf::parse(&answer.leaf).unwrap()
}

#[tokio::test]
async fn it_is_made_in_the_token_issues_from_there_and_is_destroyed_there_when_it_goes() {
    let world = World::new();
    let token = SoftToken::new(&world, Kind::SoftHsm);
    let ca = Ca::with_env(&args(&world, &token, "root", &[]), &[token.env()]).await;
    assert!(ca.stop().await.success());

    let ca = Ca::with_env(&args(&world, &token, "token", &[]), &[token.env()]).await;
    let dual = json!({ "dual": true });
    let wished = json!({ "companion": issuing("ecdsa-p256", 1), "leaf": dual });
    world.trust_domain(wish(issuing("ml-dsa-65", 1), wished));
    let status = until(&ca, "a companion", |status| {
        phase(status) == "Settled" && status["companion"].as_str().is_some_and(|name| !name.is_empty())
    })
    .await;
    let made = wait_for_keys(&token, 1).await;
    assert_eq!(made[0].label, "trellis cluster.local ecdsa-p256.1");
    assert_eq!(status["anchors"][1]["key"], format!("pkcs11:token=mesh;id={}", made[0].id));
    assert_eq!(kept(&world), 1, "the key of the issuing anchor stays where it was made");
    let leaf = companion(&world, &ca).await;
    assert_eq!((leaf.algorithm, leaf.issuer_algorithm), (Algorithm::EcdsaP256, Algorithm::EcdsaP256));
    assert!(ca.stop().await.success());

    // A CA that makes its keys elsewhere by now still issues from it, and moves it there by a rotation.
    let ca = Ca::with_env(&args(&world, &token, "root", &[]), &[token.env()]).await;
    companion(&world, &ca).await;
    let wished = json!({ "companion": issuing("ecdsa-p256", 2), "leaf": dual });
    world.trust_domain(wish(issuing("ml-dsa-65", 1), wished));
    until(&ca, "out of the token", |status| {
        phase(status) == "Settled" && status["past"].as_array().is_some_and(|past| past.len() == 2)
    })
    .await;
    wait_for_keys(&token, 0).await;
    assert_eq!(kept(&world), 2);
    companion(&world, &ca).await;
    assert!(ca.stop().await.success());

    // Into the token again, which is away at first: the companion that is there goes on.
    let mut shared = token.share();
    let mut args = world.args();
    args.extend(shared.args("token"));
    let ca = Ca::with_env(&args, &[shared.env()]).await;
    shared.pull_out();
    let wished = json!({ "companion": issuing("ecdsa-p256", 3), "leaf": dual });
    world.trust_domain(wish(issuing("ml-dsa-65", 1), wished));
    let status = until(&ca, "it says so", |status| reason(status) == "KeyUnavailable").await;
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("the key of ecdsa-p256 generation 3"), "{message}");
    companion(&world, &ca).await;
    shared.plug_in();
    until(&ca, "in the token", |status| {
        phase(status) == "Settled" && status["past"].as_array().is_some_and(|past| past.len() == 3)
    })
    .await;
    assert_eq!((kept(&world), token.keys().len()), (1, 1));
    world.trust_domain(wish(issuing("ml-dsa-65", 1), json!({})));
    wait_for_keys(&token, 0).await;
}
