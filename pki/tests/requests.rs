//! Signing requests: only proof of one key passes, and what else was asked for can be seen.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use memory::*;
use rcgen::{CertificateParams, DnType, PublicKeyData, SanType, SigningKey};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::csr::{self, CsrError, MAX_LEN};
use trellis_pki::key::PrivateKey;

const ML_DSA: [Algorithm; 3] = [Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87];

#[test]
fn a_request_shows_the_key_it_was_made_with_and_asks_for_nothing() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        let der = csr::make(&key).unwrap();
        assert_eq!(csr::check(&der, &Algorithm::ALL).as_ref(), Ok(key.public_key()), "{algorithm}");
        assert_eq!(csr::names(&der), Vec::<String>::new());
        assert!(der.len() < MAX_LEN / 2, "{algorithm}: {} bytes", der.len());
    }
}

#[test]
fn a_key_type_that_is_not_allowed_is_named_with_those_that_are() {
    let der = csr::make(&PrivateKey::generate(Algorithm::EcdsaP256).unwrap()).unwrap();
    let error = csr::check(&der, &ML_DSA).unwrap_err();
    assert_eq!(
        error,
        CsrError::KeyTypeNotAllowed {
            found: "ECDSA-P256".into(),
            allowed: "ML-DSA-44, ML-DSA-65, ML-DSA-87".into()
        }
    );
}

#[test]
fn foreign_key_types_are_named() {
    for (algorithm, name) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "elliptic curve"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
        (&rcgen::PKCS_RSA_SHA256, "RSA"),
    ] {
        // The check reads the key before any signature, so any bytes serve as one.
        struct Foreign(&'static rcgen::SignatureAlgorithm);
        impl PublicKeyData for Foreign {
            fn der_bytes(&self) -> &[u8] {
                &[4; 97]
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                self.0
            }
        }
        impl SigningKey for Foreign {
            fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
                Ok(vec![0; 64])
            }
        }
        let request = CertificateParams::default().serialize_request(&Foreign(algorithm)).unwrap();
        match csr::check(request.der(), &Algorithm::ALL).unwrap_err() {
            CsrError::KeyTypeNotAllowed { found, .. } => assert!(found.contains(name), "{found}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn a_request_that_another_key_signed_is_refused() {
    struct Mismatched {
        shown: PrivateKey,
        signing: PrivateKey,
        stated: Algorithm,
    }
    impl PublicKeyData for Mismatched {
        fn der_bytes(&self) -> &[u8] {
            self.shown.der_bytes()
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            match self.stated {
                Algorithm::MlDsa44 => &rcgen::PKCS_ML_DSA_44,
                Algorithm::MlDsa87 => &rcgen::PKCS_ML_DSA_87,
                _ => &rcgen::PKCS_ML_DSA_65,
            }
        }
    }
    impl SigningKey for Mismatched {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            self.signing.sign(message)
        }
    }
    let request = |key: Mismatched| CertificateParams::default().serialize_request(&key).unwrap();
    let generate = |algorithm| PrivateKey::generate(algorithm).unwrap();
    let stolen = request(Mismatched {
        shown: generate(Algorithm::MlDsa65),
        signing: generate(Algorithm::MlDsa65),
        stated: Algorithm::MlDsa65,
    });
    assert_eq!(csr::check(stolen.der(), &Algorithm::ALL), Err(CsrError::BadSignature));
    // A key whose bytes do not fit the algorithm that it states.
    let confused = request(Mismatched {
        shown: generate(Algorithm::MlDsa44),
        signing: generate(Algorithm::MlDsa44),
        stated: Algorithm::MlDsa87,
    });
    assert_eq!(csr::check(confused.der(), &Algorithm::ALL), Err(CsrError::Malformed));
}

#[test]
fn key_and_signature_must_be_of_one_algorithm() {
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let mut der = csr::make(&key).unwrap();
    // The last occurrence of the OID is the signature's.
    let oid = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12];
    let at = der.windows(oid.len()).rposition(|window| window == oid).unwrap();
    der[at + oid.len() - 1] = 0x13;
    let error = csr::check(&der, &Algorithm::ALL).unwrap_err();
    assert_eq!(error, CsrError::AlgorithmMismatch { key: "ML-DSA-65", signature: "ML-DSA-87".into() });
}

#[test]
fn any_changed_byte_of_the_signature_or_the_key_is_noticed() {
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let der = csr::make(&key).unwrap();
    for at in [der.len() - 1, der.len() - 2_000, der.len() - 3_000] {
        let mut bent = der.clone();
        bent[at] ^= 1;
        assert!(csr::check(&bent, &Algorithm::ALL).is_err(), "byte {at}");
    }
}

#[test]
fn what_follows_a_request_is_refused() {
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let mut der = csr::make(&key).unwrap();
    der.extend_from_slice(&[0, 0, 0]);
    assert_eq!(csr::check(&der, &Algorithm::ALL), Err(CsrError::TrailingBytes(3)));
    let twice = [csr::make(&key).unwrap(), csr::make(&key).unwrap()].concat();
    assert!(matches!(csr::check(&twice, &Algorithm::ALL), Err(CsrError::TrailingBytes(_))));
}

#[test]
fn what_is_no_request_or_too_large_is_refused() {
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let der = csr::make(&key).unwrap();
    for wrong in [&b""[..], b"\x30", b"hello", &der[..der.len() - 1], &root(Algorithm::MlDsa44).anchor().der]
    {
        assert_eq!(csr::check(wrong, &Algorithm::ALL), Err(CsrError::Malformed));
    }
    let huge = vec![0x30; MAX_LEN + 1];
    assert_eq!(csr::check(&huge, &Algorithm::ALL), Err(CsrError::TooLarge { len: huge.len() }));
}

#[test]
fn the_names_that_a_request_asks_for_are_seen_and_change_nothing() {
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.subject_alt_names = vec![
        uri("spiffe://cluster.local/ns/kube-system/sa/admin"),
        SanType::DnsName("kubernetes.default.svc".try_into().unwrap()),
        SanType::Rfc822Name("root@example.com".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress("fd00::1".parse().unwrap()),
    ];
    let request = params.serialize_request(&key).unwrap();
    assert_eq!(
        csr::names(request.der()),
        [
            "admin",
            "spiffe://cluster.local/ns/kube-system/sa/admin",
            "kubernetes.default.svc",
            "root@example.com",
            "10.0.0.1",
            "fd00::1"
        ]
    );
    assert_eq!(csr::check(request.der(), &Algorithm::ALL).as_ref(), Ok(key.public_key()));
}

#[test]
fn names_that_cannot_be_read_are_never_taken_for_none() {
    assert_eq!(csr::names(b"junk"), ["unreadable:request"]);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let san = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 5, 1]);
    params.custom_extensions = vec![san];
    let request = params.serialize_request(&key).unwrap();
    let names = csr::names(request.der());
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("unreadable:")), "{names:?}");
}

#[test]
fn a_key_without_a_request_needs_its_holders_signature_over_what_was_agreed() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        let (info, proof) = (key.subject_public_key_info(), key.sign(b"uid").unwrap());
        let check =
            |info: &[u8], message: &[u8], proof: &[u8]| csr::check_key(info, message, proof, &Algorithm::ALL);
        assert_eq!(check(&info, b"uid", &proof).as_ref(), Ok(key.public_key()), "{algorithm}");
        assert_eq!(check(&info, b"another", &proof), Err(CsrError::BadProof));
        assert_eq!(check(&info, b"uid", b""), Err(CsrError::BadProof));
        assert_eq!(check(&[info.as_slice(), b"x"].concat(), b"uid", &proof), Err(CsrError::TrailingBytes(1)));
        assert_eq!(check(b"junk", b"uid", &proof), Err(CsrError::MalformedKey));
        assert_eq!(
            check(&vec![0; MAX_LEN + 1], b"uid", &proof),
            Err(CsrError::TooLarge { len: MAX_LEN + 1 })
        );
    }
    let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
    let refused = csr::check_key(&key.subject_public_key_info(), b"", b"", &ML_DSA);
    assert!(matches!(refused, Err(CsrError::KeyTypeNotAllowed { .. })), "{refused:?}");
}
