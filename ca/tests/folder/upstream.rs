//! An issuing certificate that an outside CA signs, handed over by file: the CA as a process, killed while
//! it waits, given the wrong thing first.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use serde_json::{Value, json};
use trellis_pki::{algorithm::Algorithm, csr, key::PrivateKey, leaf::Leaf};

use crate::{
    rotation::{phase, wish_of},
    support::{Asker, Ca, World, until},
};

/// A CA that is none of ours.
pub struct Outside {
    key: PrivateKey,
}

impl Outside {
    pub fn new(algorithm: Algorithm) -> Self {
        Self { key: PrivateKey::generate(algorithm).unwrap() }
    }

    fn params(name: &str, path_length: u8) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    /// The chain over a request.
    pub fn sign(&self, request: &str) -> String {
        let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap();
        let key = csr::check(&der, &Algorithm::ALL).unwrap();
        let root = Self::params("an outside root", 3);
        let root_pem = root.self_signed(&self.key).unwrap().pem();
        let issuing = Self::params("an issuing CA of the mesh", 0);
        let issuing = issuing.signed_by(&key, &rcgen::Issuer::new(root, &self.key)).unwrap();
        format!("{}{root_pem}", issuing.pem())
    }
}

pub fn reason(status: &Value) -> &str {
    status["conditions"][0]["reason"].as_str().unwrap_or_default()
}

fn import(algorithm: &str, more: Value) -> Value {
    wish_of(json!({ "algorithm": algorithm, "generation": 2, "signedBy": "import" }), more)
}

fn keys(world: &World) -> Vec<String> {
    let kept = fs::read_to_string(world.path("root/trust-domain.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    kept.as_object().unwrap().keys().filter(|name| name.ends_with(".key")).cloned().collect()
}

#[tokio::test]
async fn an_outside_ca_signs_the_issuing_key_by_file_and_the_mesh_moves_to_it() {
    let (world, outside) = (World::new(), Outside::new(Algorithm::MlDsa87));
    let ca = Ca::start(&world).await;
    world.trust_domain(import("ml-dsa-65", json!({})));
    let waiting = until(&ca, "it waits", |status| reason(status) == "AwaitingSignature").await;
    assert_eq!(phase(&waiting), "AwaitingSignature");
    let message = waiting["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("trellis trust csr") && message.contains("trellis trust import"), "{message}");
    let request = waiting["pending"]["request"].as_str().unwrap().to_owned();
    assert_eq!(keys(&world).len(), 2, "the pending key is kept");

    // A CA that dies while it waits still has the key that the request is for.
    ca.kill().await;
    let ca = Ca::start(&world).await;
    let again = until(&ca, "it waits again", |status| reason(status) == "AwaitingSignature").await;
    assert_eq!(again["pending"]["request"], request.as_str());

    // Somebody else's certificate, then a weaker one: nothing changes.
    let stranger = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let stranger = trellis_pki::upstream::request("cluster.local", &stranger).unwrap();
    let stranger = outside.sign(&trellis_pki::upstream::request_pem(&stranger));
    let weaker = Outside::new(Algorithm::EcdsaP256).sign(&request);
    for (imported, said) in [
        (stranger, "is for the key"),
        (weaker.clone(), "allowClassicalParents"),
        ("junk".to_owned(), "no certificate"),
    ] {
        world.trust_domain(import("ml-dsa-65", json!({ "imported": imported })));
        let refused = until(&ca, said, |status| {
            reason(status) == "CertificateRefused"
                && status["conditions"][0]["message"].as_str().is_some_and(|message| message.contains(said))
        })
        .await;
        assert_eq!((phase(&refused), refused["anchors"].as_array().unwrap().len()), ("AwaitingSignature", 1));
        assert_eq!(refused["pending"]["request"], request.as_str());
    }
    assert!(ca.metrics().await.contains("trellis_ca_issuing_unsigned_total{reason=\"CertificateRefused\"}"));

    let chain = outside.sign(&request);
    world.trust_domain(import("ml-dsa-65", json!({ "imported": chain })));
    let settled = until(&ca, "settled", |status| phase(status) == "Settled").await;
    let shown = settled["anchors"][0]["chain"].as_str().unwrap();
    assert_eq!(shown, chain.replace("\r\n", "\n"), "parents are published");
    assert!(settled["pending"].is_null());
    // On the wire and in the bundle is the issuing certificate alone.
    let bundle = world.bundle();
    assert_eq!(bundle.anchors().len(), 1);
    assert!(bundle.anchors()[0].subject.contains("an issuing CA of the mesh"));
    assert_eq!(keys(&world).len(), 1);
    let issued = Asker::new(&world, &ca).ask_with(&world.token()).await.unwrap();
    assert_eq!(Leaf::parse(&issued.leaf).unwrap().issuer_algorithm, Algorithm::MlDsa65);
    assert_eq!(issued.trusted.unwrap().anchors.len(), 1);

    // The same field does not serve the next key, and going back is an ordinary rotation.
    world.trust_domain(wish_of(
        json!({ "algorithm": "ml-dsa-65", "generation": 3, "signedBy": "import" }),
        json!({ "imported": chain }),
    ));
    until(&ca, "it waits for another one", |status| reason(status) == "AwaitingSignature").await;
    world.trust_domain(wish_of(json!({ "algorithm": "ml-dsa-65", "generation": 3 }), json!({})));
    let settled =
        until(&ca, "back", |status| phase(status) == "Settled" && status["anchors"][0]["generation"] == 3)
            .await;
    assert!(settled["anchors"][0]["chain"].is_null() && settled["pending"].is_null());
    assert_eq!(keys(&world).len(), 1, "the forgotten key is gone");
}

#[tokio::test]
async fn a_classical_parent_is_allowed_by_an_explicit_field() {
    let (world, outside) = (World::new(), Outside::new(Algorithm::EcdsaP256));
    let ca = Ca::start(&world).await;
    world.trust_domain(import("ml-dsa-44", json!({})));
    let waiting = until(&ca, "it waits", |status| reason(status) == "AwaitingSignature").await;
    let chain = outside.sign(waiting["pending"]["request"].as_str().unwrap());
    world.trust_domain(import("ml-dsa-44", json!({ "imported": chain, "allowClassicalParents": true })));
    until(&ca, "settled", |status| phase(status) == "Settled").await;
    assert_eq!(world.bundle().anchors()[0].algorithm, Algorithm::MlDsa44);
}
