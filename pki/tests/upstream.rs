//! An issuing certificate that an outside CA signed: good ones are taken, and each bad one is refused by
//! its own name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType, SigningKey,
};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::csr;
use trellis_pki::key::{PrivateKey, PublicKey};
use trellis_pki::upstream::{self, Signed, SignedError, Terms};

const DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn terms() -> Terms<'static> {
    Terms {
        trust_domain: DOMAIN,
        service_domain: "svc.cluster.local",
        now: now(),
        leaf: DAY,
        classical_parents: false,
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Outside");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now() - DAY).into();
    params.not_after = (now() + 365 * DAY).into();
    params
}

/// A root, and one issuing certificate below it, as changed.
fn sign(
    root_key: &dyn SigningKey,
    key: &PublicKey,
    change: impl FnOnce(&mut CertificateParams, &mut CertificateParams),
) -> String {
    let (mut root, mut issuing) = (ca("root"), ca("issuing"));
    issuing.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    change(&mut root, &mut issuing);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuing = issuing.signed_by(key, &rcgen::Issuer::new(root, root_key)).unwrap();
    format!("{}{root_pem}", issuing.pem())
}

fn key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::generate(algorithm).unwrap()
}

fn tried(pem: &str, key: PrivateKey, terms: &Terms<'_>) -> Result<Signed, SignedError> {
    let signed = upstream::read(pem, key.public_key(), terms)?;
    upstream::try_out(&signed, key, terms)?;
    Ok(signed)
}

#[test]
fn a_good_chain_is_taken_with_its_parents_whatever_ml_dsa_level_it_has() {
    for algorithm in Algorithm::ALL {
        let (root, issuing) = (key(Algorithm::MlDsa87), key(algorithm));
        let pem = sign(&root, issuing.public_key(), |_, _| ());
        let signed = tried(&pem, issuing, &terms()).unwrap();
        assert_eq!((signed.anchor.algorithm, signed.parents.len()), (algorithm, 1));
        let all = std::iter::once(&signed.anchor.der).chain(&signed.parents);
        assert_eq!(upstream::chain_pem(all.map(Vec::as_slice)), pem.replace("\r\n", "\n"));
    }
}

#[test]
fn the_request_proves_its_key_and_names_the_trust_domain() {
    for algorithm in Algorithm::ALL {
        let key = key(algorithm);
        let der = upstream::request(DOMAIN, &key).unwrap();
        assert_eq!(csr::check(&der, &Algorithm::ALL).as_ref(), Ok(key.public_key()));
        let names = csr::names(&der);
        assert!(names.contains(&"spiffe://cluster.local".to_owned()), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("Trellis root cluster.local ")), "{names:?}");
    }
}

#[test]
fn a_weaker_parent_is_refused_unless_that_is_allowed() {
    let lenient = Terms { classical_parents: true, ..terms() };
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let root = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let issuing = key(Algorithm::MlDsa65);
        let pem = sign(&root, issuing.public_key(), |_, _| ());
        let error = upstream::read(&pem, issuing.public_key(), &terms()).unwrap_err();
        assert!(matches!(error, SignedError::Weaker { number: 1, .. }), "{error}");
        assert!(error.to_string().contains("allowClassicalParents"), "{error}");
        tried(&pem, issuing, &lenient).unwrap();
        // What is classical itself has nothing to lose.
        let issuing = key(Algorithm::EcdsaP256);
        let pem = sign(&root, issuing.public_key(), |_, _| ());
        tried(&pem, issuing, &terms()).unwrap();
    }
}

type Change = fn(&mut CertificateParams, &mut CertificateParams);

#[test]
fn each_bad_certificate_is_refused_by_name() {
    let table: [(&str, Change); 16] = [
        ("certificate 1 is valid from", |_, i| i.not_before = (now() + DAY).into()),
        ("certificate 1 ended at", |_, i| i.not_after = (now() - Duration::from_secs(60)).into()),
        ("certificate 2 ended at", |r, _| r.not_after = (now() - Duration::from_secs(60)).into()),
        ("at least 172800s", |_, i| i.not_after = (now() + DAY).into()),
        ("certificate 1: it may not issue", |_, i| i.is_ca = IsCa::ExplicitNoCa),
        ("certificate 1: it may not issue", |_, i| i.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("certificate 2: basicConstraints", |r, _| r.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ("certificate 2: its path length is 0", |r, _| {
            r.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }),
        ("certificate 1: its extended key usage", |_, i| {
            i.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        }),
        ("names trust domain \"other.example\"", |_, i| {
            i.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())];
        }),
        ("empty subject", |_, i| i.distinguished_name = DistinguishedName::new()),
        ("permits only DNS names below \"example.com\"", |_, i| {
            let only = GeneralSubtree::DnsName("example.com".to_owned());
            let subtrees = NameConstraints { permitted_subtrees: vec![only], excluded_subtrees: vec![] };
            i.name_constraints = Some(subtrees);
        }),
        ("certificate 2: its name constraints exclude DNS names below \"local\"", |r, _| {
            let without = GeneralSubtree::DnsName("local".to_owned());
            let subtrees = NameConstraints { permitted_subtrees: vec![], excluded_subtrees: vec![without] };
            r.name_constraints = Some(subtrees);
        }),
        ("permits only subjects below", |_, i| {
            let mut name = DistinguishedName::new();
            name.push(DnType::OrganizationName, "Outside");
            let only = GeneralSubtree::DirectoryName(name);
            let subtrees = NameConstraints { permitted_subtrees: vec![only], excluded_subtrees: vec![] };
            i.name_constraints = Some(subtrees);
        }),
        ("critical extension 1.2.3.4", |_, i| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            i.custom_extensions = vec![unknown];
        }),
        ("signed by its own key", |r, i| i.distinguished_name = r.distinguished_name.clone()),
    ];
    for (said, change) in table {
        let (root, issuing) = (key(Algorithm::MlDsa65), key(Algorithm::MlDsa65));
        let pem = sign(&root, issuing.public_key(), change);
        let error = tried(&pem, issuing, &terms()).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn what_is_no_chain_for_this_key_is_refused_by_name() {
    let (root, issuing, other) = (key(Algorithm::MlDsa65), key(Algorithm::MlDsa65), key(Algorithm::MlDsa65));
    let pem = sign(&root, issuing.public_key(), |_, _| ());
    let at = pem.find("-----END CERTIFICATE-----").unwrap() + "-----END CERTIFICATE-----\n".len();
    let (alone, root_pem) = pem.split_at(at);
    let stranger = ca("root").self_signed(&other).unwrap().pem();
    let secret = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let table = [
        (String::new(), "holds no certificate"),
        ("no PEM at all".to_owned(), "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n".to_owned(), "not PEM"),
        (format!("{pem}{secret}"), "PEM section of PrivateKey"),
        (alone.to_owned(), "no certificate above"),
        (format!("{root_pem}{alone}"), "is for the key"),
        (format!("{alone}{stranger}"), "certificate 1 is not signed by certificate 2"),
        (format!("{alone}{}", root_pem.repeat(9)), "9 certificates above"),
        ("x".repeat(upstream::MAX_PEM + 1), "bytes of PEM"),
    ];
    for (pem, said) in table {
        let error = upstream::read(&pem, issuing.public_key(), &terms()).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let error = upstream::read(&pem, other.public_key(), &terms()).unwrap_err();
    assert!(
        matches!(error, SignedError::OtherKey { .. }) && error.to_string().contains("trust csr"),
        "{error}"
    );
}
