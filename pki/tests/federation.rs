//! Trust domains that federate: each is believed by its own anchors, about its own identities, and about
//! nothing else; and the document by which they tell one another of their anchors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::Duration;

use memory::*;
use rustls::{ClientConnection, ServerConnection};
use serde_json::{Value, json};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::bundle::{Bundle, BundleError};
use trellis_pki::clock::{Clock, ManualClock};
use trellis_pki::credential::Standing;
use trellis_pki::foreign::{Foreign, ForeignError};
use trellis_pki::issue::Issuer;
use trellis_pki::jwks::{self, DocumentError};
use trellis_pki::key::PrivateKey;
use trellis_pki::posture::Class;
use trellis_pki::refusal::Refusal;
use trellis_pki::spiffe::SpiffeId;
use trellis_pki::tls::{ClientAuth, MeshTls};

const B: &str = "b.example";
const C: &str = "c.example";

fn root_of(domain: &str, algorithm: Algorithm) -> Issuer {
    Issuer::new_root(domain, PrivateKey::generate(algorithm).unwrap(), start(), YEARS).unwrap()
}

fn bundle_of(domain: &str, roots: &[&Issuer]) -> Bundle {
    Bundle::new(domain, roots.iter().map(|root| root.anchor().clone()).collect()).unwrap()
}

fn id_of(domain: &str) -> SpiffeId {
    SpiffeId::new(domain, "shop", "pay").unwrap()
}

/// Somebody who says to be of `domain`, with a certificate of `root`.
fn claims(domain: &str, root: &Issuer, clock: &Arc<ManualClock>) -> Stranger {
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let mut params = leaf_params("pay", clock.now());
    params.subject_alt_names = vec![uri(id_of(domain).as_str())];
    Stranger::new(vec![forge(&params, &key, root)], &key, clock)
}

/// What our end makes of it, as server and as client.
fn judged(ours: &MeshTls, stranger: &Stranger, expected: SpiffeId) -> [Result<SpiffeId, Refusal>; 2] {
    let accepting = ours.accept(ClientAuth::Required).unwrap();
    let meeting = Meeting::new(stranger.client(), ServerConnection::new(accepting.config).unwrap());
    let as_server = meeting
        .server_result
        .as_ref()
        .map(|()| accepting.recorder.posture(&meeting.server).unwrap().peer.unwrap())
        .map_err(|error| Refusal::of(error, &accepting.recorder));
    let connecting = ours.connect(vec![expected], true).unwrap();
    let client = ClientConnection::new(connecting.config, connecting.server_name).unwrap();
    let meeting = Meeting::new(client, stranger.server());
    let as_client = meeting
        .client_result
        .as_ref()
        .map(|()| connecting.recorder.posture(&meeting.client).unwrap().peer.unwrap())
        .map_err(|error| Refusal::of(error, &connecting.recorder));
    [as_server, as_client]
}

#[test]
fn an_anchor_vouches_for_its_own_domain_and_for_no_other() {
    let clock = clock();
    let [a, b, c] = [DOMAIN, B, C].map(|domain| root_of(domain, Algorithm::MlDsa65));
    let ours = strict(&a, "web", &clock).federated();
    ours.federate(Foreign::new(&bundle(&[&a]), [bundle_of(B, &[&b]), bundle_of(C, &[&c])]).unwrap());
    let good = |domain| Ok(id_of(domain));
    let unknown = || Err(Refusal::UnknownIssuer);
    for (domain, signer, root, verdict) in [
        (DOMAIN, "A", &a, good(DOMAIN)),
        (DOMAIN, "B", &b, unknown()),
        (DOMAIN, "C", &c, unknown()),
        (B, "A", &a, unknown()),
        (B, "B", &b, good(B)),
        (B, "C", &c, unknown()),
        (C, "A", &a, unknown()),
        (C, "B", &b, unknown()),
        (C, "C", &c, good(C)),
        ("d.example", "A", &a, Err(Refusal::ForeignTrustDomain)),
        ("d.example", "B", &b, Err(Refusal::ForeignTrustDomain)),
    ] {
        let found = judged(&ours, &claims(domain, root, &clock), id_of(domain));
        assert_eq!(found, [verdict.clone(), verdict], "{domain} signed by {signer}");
    }
    // And whoever is of a domain that we know is still not somebody else of it.
    let found = judged(&ours, &claims(B, &b, &clock), SpiffeId::new(B, "shop", "other").unwrap());
    assert_eq!(found[1], Err(Refusal::WrongIdentity));
}

#[test]
fn only_what_is_federated_lets_foreign_peers_in() {
    let clock = clock();
    let (a, b) = (root_of(DOMAIN, Algorithm::MlDsa65), root_of(B, Algorithm::MlDsa65));
    let own = strict(&a, "web", &clock);
    own.federate(Foreign::new(&bundle(&[&a]), [bundle_of(B, &[&b])]).unwrap());
    let refused = Err(Refusal::ForeignTrustDomain);
    assert_eq!(judged(&own, &claims(B, &b, &clock), id_of(B)), [refused.clone(), refused.clone()]);
    assert!(!own.knows(B) && own.knows(DOMAIN));
    let federated = own.under(own.policy()).federated();
    assert!(federated.knows(B) && !federated.knows(C));
    assert_eq!(judged(&federated, &claims(B, &b, &clock), id_of(B))[0], Ok(id_of(B)));
    // What is derived from it, such as connections to the control plane, begins again without.
    let control = federated.under(federated.policy());
    assert_eq!(judged(&control, &claims(B, &b, &clock), id_of(B)), [refused.clone(), refused]);
}

/// A workload of `domain` that federates with the domain of `other`.
fn member(domain: &str, root: &Issuer, other: &Issuer, clock: &Arc<ManualClock>) -> MeshTls {
    let tls = MeshTls::new(Default::default(), domain, Arc::clone(clock) as Arc<dyn Clock>).federated();
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let own = bundle_of(domain, &[root]);
    let leaf = root
        .issue(&trellis_pki::issue::LeafRequest {
            public_key: key.public_key(),
            identity: &id_of(domain),
            dns_names: &[],
            now: clock.now(),
            validity: DAY,
        })
        .unwrap();
    let identity =
        trellis_pki::identity::Identity::new(key, leaf.der, &own, Algorithm::MlDsa65, clock.now()).unwrap();
    let other = bundle_of(other.trust_domain(), &[other]);
    tls.federate(Foreign::new(&own, [other]).unwrap());
    tls.install(identity, own).unwrap();
    tls
}

#[test]
fn a_connection_between_two_domains_rests_on_the_anchors_of_both() {
    let clock = clock();
    let (a, b) = (root_of(DOMAIN, Algorithm::MlDsa65), root_of(B, Algorithm::MlDsa65));
    let (ours, theirs) = (member(DOMAIN, &a, &b, &clock), member(B, &b, &a, &clock));
    let (meeting, notes) = meet(&ours, &theirs, vec![id_of(B)]);
    let posture = notes.client.posture(&meeting.client).unwrap();
    assert_eq!((posture.class, posture.peer.clone()), (Class::Pq, Some(id_of(B))));
    let there = notes.server.posture(&meeting.server).unwrap();
    assert_eq!((there.class, there.peer.clone()), (Class::Pq, Some(id_of(DOMAIN))));
    assert_eq!(ours.standing(&posture), Standing::Good);

    let own = bundle(&[&a]);
    let next = root_of(B, Algorithm::MlDsa65);
    ours.federate(Foreign::new(&own, [bundle_of(B, &[&b, &next])]).unwrap());
    assert_eq!(ours.standing(&posture), Standing::Good);
    ours.federate(Foreign::new(&own, [bundle_of(B, &[&next])]).unwrap());
    assert_eq!(ours.standing(&posture), Standing::AnchorRemoved);
    // The same anchor under another name does not hold it up.
    let unnamed = Foreign::default();
    ours.federate(unnamed);
    assert_eq!(ours.standing(&posture), Standing::AnchorRemoved);
    assert_eq!(theirs.standing(&there), Standing::Good);
}

#[test]
fn what_may_not_stand_beside_our_own_anchors_is_refused() {
    let (a, b) = (root_of(DOMAIN, Algorithm::MlDsa65), root_of(B, Algorithm::MlDsa65));
    let own = bundle(&[&a]);
    let refused = |bundles: Vec<Bundle>| Foreign::new(&own, bundles).unwrap_err();
    assert_eq!(refused(vec![bundle(&[&a])]), ForeignError::Own(DOMAIN.into()));
    assert_eq!(
        refused(vec![bundle_of(B, &[&b]), bundle_of(B, &[&root_of(B, Algorithm::MlDsa65)])]),
        ForeignError::Twice(B.into())
    );
    let many: Vec<_> = (0..17).map(|n| format!("d{n}.example")).collect();
    let many = many.iter().map(|domain| bundle_of(domain, &[&root_of(domain, Algorithm::MlDsa44)]));
    assert_eq!(refused(many.collect()), ForeignError::TooMany(17));
    let roots: Vec<_> = (0..5).map(|_| root_of(B, Algorithm::MlDsa87)).collect();
    let large = bundle_of(B, &roots.iter().collect::<Vec<_>>());
    assert!(matches!(refused(vec![large]), ForeignError::TooLarge { .. }));
    // Our own key, certified once more for somebody else.
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let copy = PrivateKey::from_pkcs8(&key.pkcs8().unwrap()).unwrap();
    let lender = Issuer::new_root(DOMAIN, key, start(), YEARS).unwrap();
    let borrowed = Issuer::new_root(B, copy, start(), YEARS).unwrap();
    assert_eq!(
        Foreign::new(&bundle(&[&lender]), vec![bundle_of(B, &[&borrowed])]).unwrap_err(),
        ForeignError::Shared { trust_domain: B.into(), other: DOMAIN.into() }
    );
}

#[test]
fn a_document_is_read_back_as_it_was_written() {
    let roots = [Algorithm::EcdsaP256, Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87]
        .map(|algorithm| root_of(B, algorithm));
    let bundle = bundle_of(B, &roots.iter().collect::<Vec<_>>());
    let text = jwks::write(&bundle, 7, Duration::from_secs(300));
    let document: Value = serde_json::from_str(&text).unwrap();
    let kinds: Vec<_> = document["keys"].as_array().unwrap().iter().map(|key| &key["kty"]).collect();
    assert_eq!(kinds, ["EC", "AKP", "AKP", "AKP"]);
    assert_eq!(document["keys"][2]["alg"], "ML-DSA-65");
    assert_eq!(document["keys"][0]["crv"], "P-256");
    let read = jwks::read(B, text.as_bytes()).unwrap();
    assert_eq!(read.bundle.fingerprint(), bundle.fingerprint());
    assert_eq!((read.sequence, read.refresh_hint), (Some(7), Some(Duration::from_secs(300))));
    assert_eq!(read.unusable, 0);
}

#[test]
fn a_document_that_proves_nothing_is_refused_and_says_why() {
    let (b, a) = (root_of(B, Algorithm::MlDsa65), root_of(DOMAIN, Algorithm::EcdsaP256));
    let good: Value =
        serde_json::from_str(&jwks::write(&bundle_of(B, &[&b]), 1, Duration::from_secs(1))).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        document.to_string()
    };
    let leaf = {
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let der = forge(&leaf_params("pay", start()), &key, &b);
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der)
    };
    let theirs: Value =
        serde_json::from_str(&jwks::write(&bundle(&[&a]), 1, Duration::from_secs(1))).unwrap();
    for (document, words) in [
        ("{".to_owned(), "not JSON"),
        ("[]".to_owned(), "not a JSON object"),
        ("{}".to_owned(), "keys is missing"),
        (" ".repeat(300_000), "300000 bytes"),
        (json!({ "keys": [] }).to_string(), "none of its 0"),
        (json!({ "keys": vec![json!({}); 65] }).to_string(), "65 keys"),
        (with(&|document| document["keys"][0]["use"] = json!("jwt-svid")), "none of its 0"),
        (with(&|document| document["keys"][0]["x5c"] = json!([])), "exactly one certificate, it holds 0"),
        (with(&|document| document["keys"][0]["x5c"] = json!(["?"])), "base64"),
        (with(&|document| document["keys"][0]["x5c"] = json!([leaf])), "keys[0]: the certificate in x5c"),
        (with(&|document| document["keys"][0]["pub"] = json!("AAAA")), "keys[0]: pub is not that"),
        (with(&|document| document["keys"][0]["kty"] = json!("EC")), "keys[0]: kty is not that"),
        (with(&|document| document["keys"][0]["alg"] = json!("ML-DSA-87")), "keys[0]: alg is not that"),
        (with(&|document| document["spiffe_sequence"] = json!(-1)), "spiffe_sequence"),
        (with(&|document| document["spiffe_refresh_hint"] = json!("soon")), "spiffe_refresh_hint"),
        (theirs.to_string(), "is for trust domain \"cluster.local\", the bundle for \"b.example\""),
    ] {
        let error = jwks::read(B, document.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let foreign = jwks::read(B, theirs.to_string().as_bytes()).unwrap_err();
    assert!(matches!(foreign, DocumentError::Bundle(BundleError::ForeignAnchor { .. })));
}

#[test]
fn a_certificate_that_cannot_be_used_here_spoils_nothing_for_those_that_can() {
    let b = root_of(B, Algorithm::MlDsa65);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let other = params.self_signed(&key).unwrap();
    let other = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other.der());
    let mut document: Value =
        serde_json::from_str(&jwks::write(&bundle_of(B, &[&b]), 1, Duration::from_secs(1))).unwrap();
    let other = json!({ "kty": "EC", "crv": "P-384", "use": "x509-svid", "x5c": [other] });
    document["keys"].as_array_mut().unwrap().push(other.clone());
    let read = jwks::read(B, document.to_string().as_bytes()).unwrap();
    assert_eq!((read.bundle.anchors().len(), read.unusable), (1, 1));
    let alone = json!({ "keys": [other] }).to_string();
    assert_eq!(jwks::read(B, alone.as_bytes()).unwrap_err(), DocumentError::NothingUsable(1));
}
