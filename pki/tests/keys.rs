//! Private keys: the forms that they are stored in, and that they cannot be printed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::fmt::Debug;

use aws_lc_rs::encoding::AsRawBytes;
use aws_lc_rs::signature::{KeyPair, ML_DSA_65_SIGNING, PqdsaKeyPair};
use rcgen::SigningKey;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::identity::Identity;
use trellis_pki::issue::{Issuer, ServingCertificate};
use trellis_pki::key::{KeyError, PrivateKey};

const SEED: [u8; 32] = [0xa5; 32];

/// SEQUENCE { 0, SEQUENCE { id-ml-dsa-65 }, OCTET STRING { choice } }
fn ml_dsa_65_pkcs8(choice: &[u8]) -> Vec<u8> {
    let oid = [0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12];
    let inner = [&[0x02, 0x01, 0x00][..], &oid, &tagged(0x04, choice)].concat();
    tagged(0x30, &inner)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            der.push(0x82);
            der.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    der.extend_from_slice(content);
    der
}

fn expanded() -> Vec<u8> {
    let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &SEED).unwrap();
    pair.private_key().as_raw_bytes().unwrap().as_ref().to_vec()
}

#[test]
fn every_key_survives_its_storage() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        let again = PrivateKey::from_pkcs8(&key.pkcs8().unwrap()).unwrap();
        assert_eq!(again.public_key(), key.public_key(), "{algorithm}");
        assert_eq!(again.seed(), key.seed(), "{algorithm}");
        assert_eq!(key.seed().is_some(), algorithm.is_post_quantum());
    }
}

#[test]
fn an_ml_dsa_key_is_its_seed_and_is_written_as_nothing_else() {
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.is_post_quantum()) {
        let key = PrivateKey::from_seed(algorithm, &SEED).unwrap();
        assert_eq!(key.seed().unwrap().as_slice(), SEED);
        let pkcs8 = key.pkcs8().unwrap();
        assert_eq!(pkcs8.len(), 54);
        // The same as the room of all other keys writes and reads.
        let other = trellis_crypto::PrivateKey::from_der(&pkcs8).unwrap();
        assert_eq!(*other.der().unwrap(), *pkcs8);
        assert_eq!(other.public_key().raw(), key.public_key().raw);
        assert_eq!(pkcs8[22..], SEED);
        let again = PrivateKey::from_seed(algorithm, &SEED).unwrap();
        assert_eq!(again.public_key(), key.public_key(), "the same seed is the same key");
    }
    assert_eq!(*PrivateKey::from_seed(Algorithm::MlDsa65, &SEED).unwrap().pkcs8().unwrap(), {
        ml_dsa_65_pkcs8(&tagged(0x80, &SEED))
    });
}

#[test]
fn two_generated_keys_are_two_keys() {
    for algorithm in Algorithm::ALL {
        let (one, two) = (PrivateKey::generate(algorithm).unwrap(), PrivateKey::generate(algorithm).unwrap());
        assert_ne!(one.public_key(), two.public_key());
    }
}

/// OpenSSL writes seed and expanded key together unless it is told otherwise.
#[test]
fn a_key_stored_with_seed_and_expansion_is_read_for_its_seed() {
    let both = tagged(0x30, &[tagged(0x04, &SEED), tagged(0x04, &expanded())].concat());
    let key = PrivateKey::from_pkcs8(&ml_dsa_65_pkcs8(&both)).unwrap();
    assert_eq!(key.seed().unwrap().as_slice(), SEED);
    assert_eq!(key.algorithm(), Algorithm::MlDsa65);

    let mut contradicting = expanded();
    contradicting[200] ^= 1;
    let both = tagged(0x30, &[tagged(0x04, &SEED), tagged(0x04, &contradicting)].concat());
    assert_eq!(PrivateKey::from_pkcs8(&ml_dsa_65_pkcs8(&both)).err(), Some(KeyError::Unreadable));
}

#[test]
fn a_key_without_its_seed_is_refused_with_the_remedy() {
    let only_expanded = ml_dsa_65_pkcs8(&tagged(0x04, &expanded()));
    let error = PrivateKey::from_pkcs8(&only_expanded).err().unwrap();
    assert_eq!(error, KeyError::SeedMissing(Algorithm::MlDsa65));
    assert!(error.to_string().contains("32-byte seed"), "{error}");
}

#[test]
fn what_is_no_key_is_refused() {
    for wrong in [&b""[..], b"secret", &ml_dsa_65_pkcs8(&tagged(0x80, &SEED[..31]))] {
        assert_eq!(PrivateKey::from_pkcs8(wrong).err(), Some(KeyError::Unreadable));
    }
    let error = PrivateKey::from_seed(Algorithm::EcdsaP256, &SEED).err();
    assert_eq!(error, Some(KeyError::NoSeedForm(Algorithm::EcdsaP256)));
}

#[test]
fn a_key_signs_what_its_public_key_verifies() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm).unwrap();
        let signer = key.rustls_key().unwrap();
        let scheme = algorithm.scheme();
        let signature = signer.choose_scheme(&[scheme]).unwrap().sign(b"message").unwrap();
        let direct = SigningKey::sign(&key, b"message").unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let (_, verifiers) = algorithms.mapping.iter().find(|(offered, _)| *offered == scheme).unwrap();
        for signature in [&signature, &direct] {
            let raw = &key.public_key().raw;
            assert!(verifiers[0].verify_signature(raw, b"message", signature).is_ok(), "{algorithm}");
            assert!(verifiers[0].verify_signature(raw, b"massage", signature).is_err(), "{algorithm}");
        }
        let others: Vec<_> =
            Algorithm::ALL.into_iter().filter(|a| *a != algorithm).map(Algorithm::scheme).collect();
        assert!(signer.choose_scheme(&others).is_none(), "one key, one scheme");
    }
}

/// Compiles only while the named types have no `Debug`: with it, the call below would be ambiguous.
#[test]
fn nothing_that_holds_a_key_can_be_printed() {
    trait Unprintable<Marker> {
        fn holds() {}
    }
    struct HasDebug;
    impl<T: ?Sized> Unprintable<()> for T {}
    impl<T: ?Sized + Debug> Unprintable<HasDebug> for T {}
    <PrivateKey as Unprintable<_>>::holds();
    <Issuer as Unprintable<_>>::holds();
    <Identity as Unprintable<_>>::holds();
    <ServingCertificate as Unprintable<_>>::holds();
}

#[test]
fn public_keys_are_raw_bits() {
    let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &SEED).unwrap();
    let key = PrivateKey::from_seed(Algorithm::MlDsa65, &SEED).unwrap();
    assert_eq!(key.public_key().raw, pair.public_key().as_ref());
    assert_eq!(PrivateKey::generate(Algorithm::EcdsaP256).unwrap().public_key().raw.len(), 65);
}
