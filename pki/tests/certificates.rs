//! Roots, leaves, identities and bundles: what is written, and what is refused before it is used.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::time::{Duration, SystemTime};

use memory::*;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::bundle::{Anchor, AnchorError, Bundle, BundleError, MAX_ANCHORS};
use trellis_pki::identity::{Identity, IdentityError};
use trellis_pki::issue::{IssueError, IssuedLeaf, Issuer, LeafRequest, MAX_DNS_NAMES};
use trellis_pki::key::PrivateKey;
use trellis_pki::leaf::{Leaf, LeafError};
use trellis_pki::refusal::Refusal;
use trellis_pki::spiffe::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

const ML_DSA_65_OID: &str = "2.16.840.1.101.3.4.3.18";

fn parsed(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

fn issued(root: &Issuer, key: &PrivateKey, account: &str) -> Result<IssuedLeaf, IssueError> {
    root.issue(&LeafRequest {
        public_key: key.public_key(),
        identity: &id(account),
        dns_names: &dns_names(account),
        now: start(),
        validity: DAY,
    })
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    })
}

fn extensions(certificate: &X509Certificate<'_>) -> Vec<(String, bool)> {
    certificate.iter_extensions().map(|e| (e.oid.to_id_string(), e.critical)).collect()
}

#[test]
fn a_root_may_sign_leaves_and_nothing_else() {
    let root = root(Algorithm::MlDsa65);
    let anchor = root.anchor();
    let certificate = parsed(&anchor.der);
    assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), ML_DSA_65_OID);
    assert_eq!(certificate.public_key().algorithm.algorithm.to_id_string(), ML_DSA_65_OID);
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign());
    assert_eq!(usage.value.flags, 1 << 5, "keyCertSign alone");
    assert!(certificate.extended_key_usage().unwrap().is_none());
    assert!(subject_key_id(&certificate).is_some());
    assert_eq!(certificate.subject(), certificate.issuer());
    let name = certificate.subject().to_string();
    assert!(name.starts_with("CN=Trellis root cluster.local "), "{name}");
    assert_eq!(anchor.trust_domain.as_deref(), Some(DOMAIN));
    assert_eq!(anchor.not_after.duration_since(anchor.not_before).unwrap(), YEARS);
    assert_eq!(anchor.fingerprint().len(), 64);
    assert_ne!(anchor.subject, self::root(Algorithm::MlDsa65).anchor().subject, "two roots, two names");
}

#[test]
fn a_leaf_says_exactly_what_the_design_says() {
    let root = root(Algorithm::MlDsa65);
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let leaf = issued(&root, &key, "pay").unwrap();
    assert!(leaf.der.len() <= 5_700, "{} bytes", leaf.der.len());
    let certificate = parsed(&leaf.der);
    assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), ML_DSA_65_OID);
    assert_eq!(certificate.public_key().algorithm.algorithm.to_id_string(), ML_DSA_65_OID);
    assert!(certificate.signature_algorithm.parameters.is_none());
    assert!(certificate.public_key().algorithm.parameters.is_none());
    assert_eq!(
        extensions(&certificate),
        [
            ("2.5.29.35".to_owned(), false), // authority key identifier
            ("2.5.29.17".to_owned(), false), // alternative names
            ("2.5.29.15".to_owned(), true),  // key usage
            ("2.5.29.37".to_owned(), false), // extended key usage
            ("2.5.29.14".to_owned(), false), // subject key identifier
            ("2.5.29.19".to_owned(), true),  // basic constraints
        ]
    );
    assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(certificate.key_usage().unwrap().unwrap().value.flags, 1, "digitalSignature alone");
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(
        names.as_slice(),
        [
            GeneralName::URI("spiffe://cluster.local/ns/shop/sa/pay"),
            GeneralName::DNSName("pay.shop.svc.cluster.local"),
            GeneralName::DNSName("pay"),
        ]
    );
    assert_eq!(certificate.subject().to_string(), "CN=pay, O=shop");
    assert_eq!(certificate.issuer().as_raw(), parsed(&root.anchor().der).subject().as_raw());
    assert_eq!(authority_key_id(&certificate), subject_key_id(&parsed(&root.anchor().der)));

    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 86_400);
    let early = start() - Duration::from_secs(15 * 60);
    let lag = early.duration_since(leaf.not_before).unwrap();
    assert!(lag < Duration::from_secs(1), "begins 15 minutes early, in whole seconds: {lag:?}");
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), DAY);
}

#[test]
fn a_leaf_is_read_back_as_it_was_asked_for() {
    let root = root(Algorithm::MlDsa87);
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        let issued = issued(&root, &key, "pay").unwrap();
        let leaf = Leaf::parse(&issued.der).unwrap();
        assert_eq!(leaf.identity, id("pay"));
        assert_eq!(leaf.dns_names, dns_names("pay"));
        assert_eq!((leaf.algorithm, leaf.issuer_algorithm), (algorithm, Algorithm::MlDsa87));
        assert_eq!(leaf.is_post_quantum(), algorithm.is_post_quantum());
        assert_eq!(leaf.serial, issued.serial);
        assert_eq!((leaf.not_before, leaf.not_after), (issued.not_before, issued.not_after));
        assert!(leaf.server && leaf.client);
    }
}

#[test]
fn serial_numbers_are_128_random_bits_and_positive() {
    let root = root(Algorithm::EcdsaP256);
    let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
    let mut seen = std::collections::HashSet::new();
    let mut longest = 0;
    for _ in 0..64 {
        let leaf = issued(&root, &key, "pay").unwrap();
        let certificate = parsed(&leaf.der);
        let raw = certificate.raw_serial();
        assert!((1..=20).contains(&raw.len()) && raw[0] < 0x80, "{raw:?}");
        longest = longest.max(leaf.serial.len());
        assert!(seen.insert(leaf.serial));
    }
    assert_eq!(longest, 32, "hexadecimal digits of 16 bytes");
}

#[test]
fn a_long_account_name_shortens_only_the_common_name() {
    let root = root(Algorithm::MlDsa44);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let account = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let request = LeafRequest {
        public_key: key.public_key(),
        identity: &id(&account),
        dns_names: &[],
        now: start(),
        validity: DAY,
    };
    let leaf = root.issue(&request).unwrap();
    assert_eq!(Leaf::parse(&leaf.der).unwrap().identity.service_account(), account);
    let certificate = parsed(&leaf.der);
    let common_name = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap();
    assert_eq!(common_name, format!("{}.", "a".repeat(63)));
}

#[test]
fn a_long_trust_domain_still_gets_a_root() {
    let domain = "d".repeat(255);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let root = Issuer::new_root(&domain, key, start(), YEARS).unwrap();
    assert_eq!(root.trust_domain(), domain);
}

#[test]
fn a_stored_root_issues_what_its_bundle_verifies() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        let pkcs8 = key.pkcs8().unwrap();
        let first = Issuer::new_root(DOMAIN, key, start(), YEARS).unwrap();
        let again = Issuer::load(&first.anchor().der, PrivateKey::from_pkcs8(&pkcs8).unwrap()).unwrap();
        let key = PrivateKey::generate(algorithm).unwrap();
        let leaf = issued(&again, &key, "pay").unwrap();
        let identity = Identity::new(key, leaf.der, &bundle(&[&first]), algorithm, start());
        assert!(identity.is_ok(), "{algorithm}: {:?}", identity.err());
    }
}

#[test]
fn a_root_is_not_loaded_with_another_key_or_from_another_kind_of_certificate() {
    let root = root(Algorithm::MlDsa44);
    let other = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    assert_eq!(Issuer::load(&root.anchor().der, other).err(), Some(IssueError::OtherKey));

    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let leaf = issued(&root, &key, "pay").unwrap();
    assert_eq!(Issuer::load(&leaf.der, key).err(), Some(IssueError::Root(AnchorError::NotAnIssuer)));

    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    assert_eq!(Issuer::load(b"no", key).err(), Some(IssueError::Root(AnchorError::Malformed)));

    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let mut params = leaf_params("ca", start());
    params.subject_alt_names.clear();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let nameless = params.self_signed(&key).unwrap();
    assert_eq!(Issuer::load(nameless.der(), key).err(), Some(IssueError::RootWithoutTrustDomain));
}

#[test]
fn what_must_not_be_issued_is_refused_with_its_remedy() {
    let root = root(Algorithm::MlDsa44);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let foreign = SpiffeId::new("other.example", "shop", "pay").unwrap();
    let attempt = |identity: &SpiffeId, dns: &[&str], now: SystemTime, validity: Duration| {
        let dns_names: Vec<_> = dns.iter().map(|name| (*name).to_owned()).collect();
        let public_key = key.public_key();
        root.issue(&LeafRequest { public_key, identity, dns_names: &dns_names, now, validity }).err()
    };
    let home = id("pay");
    let error = |found: Option<IssueError>| found.unwrap().to_string();

    let message = error(attempt(&foreign, &[], start(), DAY));
    assert!(message.contains("other.example") && message.contains("cluster.local"), "{message}");
    for wrong in ["", "Upper.case", "under_score", "-dash", "a..b", "*.shop", "a b", &"x".repeat(64)] {
        let message = error(attempt(&home, &["fine", wrong], start(), DAY));
        assert!(message.contains(&format!("{wrong:?}")), "{message}");
    }
    let many = vec!["name"; MAX_DNS_NAMES + 1];
    assert_eq!(attempt(&home, &many, start(), DAY), Some(IssueError::TooManyDnsNames(many.len())));
    assert_eq!(attempt(&home, &many[1..], start(), DAY), None);
    for short in [Duration::ZERO, Duration::from_millis(999)] {
        assert_eq!(attempt(&home, &[], start(), short), Some(IssueError::Validity(short, Duration::ZERO)));
    }
    let late = root.anchor().not_after - Duration::from_secs(5 * 60);
    let message = error(attempt(&home, &[], late, DAY));
    assert!(message.contains("cannot outlive it") && message.contains("trust rotate"), "{message}");
    for wrong in [start() - DAY, start() + YEARS] {
        let found = attempt(&home, &[], wrong, DAY);
        assert!(matches!(found, Some(IssueError::RootNotValid { .. })), "{found:?}");
    }
    let centuries = Duration::from_secs(u64::MAX / 4);
    assert_eq!(attempt(&home, &[], start(), centuries), Some(IssueError::Time(start())));
}

#[test]
fn a_leaf_ends_with_its_issuer_at_the_latest() {
    let root = root(Algorithm::EcdsaP256);
    let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
    let identity = SpiffeId::new(DOMAIN, "shop", "pay").unwrap();
    let now = root.anchor().not_after - DAY / 2;
    let request =
        LeafRequest { public_key: key.public_key(), identity: &identity, dns_names: &[], now, validity: DAY };
    assert_eq!(root.issue(&request).unwrap().not_after, root.anchor().not_after);
}

#[test]
fn an_identity_is_what_peers_would_accept_or_an_error() {
    let (home, other) = (root(Algorithm::MlDsa44), root(Algorithm::MlDsa44));
    let seed = [7; 32];
    let key = || PrivateKey::from_seed(Algorithm::MlDsa44, &seed).unwrap();
    let der = issued(&home, &key(), "pay").unwrap().der;
    let check = |key: PrivateKey, der: &[u8], root: &Issuer, wanted, now| {
        Identity::new(key, der.to_vec(), &bundle(&[root]), wanted, now)
    };
    let level = Algorithm::MlDsa44;
    assert!(check(key(), &der, &home, level, start()).is_ok());

    let stray = PrivateKey::generate(level).unwrap();
    assert_eq!(check(stray, &der, &home, level, start()).err(), Some(IdentityError::OtherKey));
    assert_eq!(
        check(key(), &der, &home, Algorithm::MlDsa65, start()).err(),
        Some(IdentityError::Algorithm { wanted: Algorithm::MlDsa65, found: level })
    );
    let refusal = |found: Result<Identity, IdentityError>| match found.err() {
        Some(IdentityError::NotValid(rejection)) => rejection.refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(check(key(), &der, &other, level, start())), Refusal::UnknownIssuer);
    assert_eq!(refusal(check(key(), &der, &home, level, start() + DAY)), Refusal::ExpiredCertificate);
    assert_eq!(refusal(check(key(), &der, &home, level, start() - DAY)), Refusal::NotYetValid);

    let mut one_sided = leaf_params("pay", start());
    one_sided.extended_key_usages.pop();
    let der = forge(&one_sided, &key(), &home);
    let found = check(key(), &der, &home, level, start()).err();
    assert!(matches!(found, Some(IdentityError::Usage(_))), "{found:?}");

    let mut foreign = leaf_params("pay", start());
    foreign.subject_alt_names = vec![uri("spiffe://other.example/ns/shop/sa/pay")];
    let der = forge(&foreign, &key(), &home);
    let found = check(key(), &der, &home, level, start()).err();
    assert!(matches!(found, Some(IdentityError::TrustDomain { .. })), "{found:?}");
    assert!(matches!(check(key(), b"junk", &home, level, start()).err(), Some(IdentityError::Leaf(_))));
}

#[test]
fn a_bundle_is_written_and_read_back() {
    let roots = Algorithm::ALL.map(root);
    let bundle = bundle(&roots.each_ref());
    let again = Bundle::from_pem(DOMAIN, &bundle.to_pem()).unwrap();
    assert_eq!(again.fingerprint(), bundle.fingerprint());
    let algorithms: Vec<_> = again.anchors().iter().map(|anchor| anchor.algorithm).collect();
    assert_eq!(algorithms, Algorithm::ALL);
    let der = |bundle: &Bundle| -> Vec<_> { bundle.anchors().iter().map(|a| a.der.clone()).collect() };
    assert_eq!(der(&again), der(&bundle));
}

#[test]
fn a_bundles_fingerprint_follows_the_set_and_not_the_order() {
    let (one, two) = (root(Algorithm::MlDsa44), root(Algorithm::MlDsa44));
    let anchors = |roots: &[&Issuer]| roots.iter().map(|r| r.anchor().clone()).collect::<Vec<Anchor>>();
    let print = |roots: &[&Issuer]| Bundle::new(DOMAIN, anchors(roots)).unwrap().fingerprint();
    assert_eq!(print(&[&one, &two]), print(&[&two, &one, &two]));
    assert_ne!(print(&[&one, &two]), print(&[&one]));
    assert_eq!(Bundle::new(DOMAIN, anchors(&[&one, &one])).unwrap().anchors().len(), 1);
}

#[test]
fn a_wrong_bundle_says_which_certificate_is_wrong_and_why() {
    let root = root(Algorithm::MlDsa44);
    let good = bundle(&[&root]).to_pem();
    let error = |pem: &str| Bundle::from_pem(DOMAIN, pem).unwrap_err();
    assert_eq!(error(""), BundleError::Empty);
    assert_eq!(error("just words"), BundleError::Empty);
    assert!(matches!(error(&good.replace("END", "DNE")), BundleError::Pem(_)));
    assert!(matches!(error(&good.replacen("MII", "M*I", 1)), BundleError::Pem(_)));
    assert!(matches!(error(&good[..good.len() / 2]), BundleError::Pem(_)));

    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let secret = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    assert!(matches!(error(&format!("{good}{secret}")), BundleError::NotACertificate(_)));
    let leaf = issued(&root, &key, "pay").unwrap().der;
    let from_der = |certificates: Vec<Vec<u8>>| Bundle::from_der(DOMAIN, certificates).unwrap_err();
    assert_eq!(
        from_der(vec![root.anchor().der.clone(), leaf]),
        BundleError::Anchor { number: 2, error: AnchorError::NotAnIssuer }
    );
    let found = Bundle::new("other.example", vec![root.anchor().clone()]).unwrap_err();
    assert!(matches!(found, BundleError::ForeignAnchor { number: 1, .. }), "{found}");
    assert!(matches!(Bundle::new("Upper", vec![]).unwrap_err(), BundleError::TrustDomain(_)));

    let crowd: Vec<_> = (0..=MAX_ANCHORS).map(|_| self::root(Algorithm::EcdsaP256)).collect();
    let anchors = crowd.iter().map(|root| root.anchor().clone()).collect();
    assert_eq!(Bundle::new(DOMAIN, anchors).unwrap_err(), BundleError::TooMany(MAX_ANCHORS + 1));
}

#[test]
fn algorithms_that_are_not_ours_are_named_and_told_apart() {
    let root = root(Algorithm::MlDsa44);
    let der = rustls_pki_types::CertificateDer::from(root.anchor().der.clone());
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, root.signer()).unwrap();
    let params = leaf_params("pay", start());
    for (algorithm, said) in
        [(&rcgen::PKCS_ED25519, "Ed25519"), (&rcgen::PKCS_ECDSA_P384_SHA384, "1.3.132.0.34")]
    {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        match Leaf::parse(params.signed_by(&key, &issuer).unwrap().der()).unwrap_err() {
            LeafError::ForeignKey { name, classical: true } => assert!(name.contains(said), "{name}"),
            other => panic!("{other:?}"),
        }
        let ours = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
        let mut ca = leaf_params("ca", start());
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let found = Anchor::parse(ca.self_signed(&key).unwrap().der());
        assert!(matches!(found, Err(AnchorError::KeyType(_))), "{found:?}");
        let foreign_issuer = rcgen::Issuer::new(ca, key);
        let leaf = params.signed_by(ours.public_key(), &foreign_issuer).unwrap();
        let found = Leaf::parse(leaf.der());
        assert!(matches!(found, Err(LeafError::ForeignIssuer { classical: true, .. })), "{found:?}");
    }
}
