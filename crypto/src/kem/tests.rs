use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};

use super::*;
use crate::vectors;

const ACVP: &str = include_str!("../../tests/vectors/ml-kem-acvp.json");

fn named(name: &str) -> KemAlgorithm {
    KemAlgorithm::parse(name).unwrap().algorithm
}

fn fixed(algorithm: KemAlgorithm, byte: u8) -> PrivateKey {
    PrivateKey::from_seed(algorithm, &vec![byte; algorithm.seed_len()]).unwrap()
}

#[test]
fn keys_are_the_ones_that_nist_makes_of_the_seed() {
    for vector in vectors::all(ACVP, "keyGen") {
        let algorithm = named(vector.text("algorithm"));
        let seed = [vector.bytes("d"), vector.bytes("z")].concat();
        let key = PrivateKey::from_seed(algorithm, &seed).unwrap();
        assert!(key.public_key().raw() == vector.bytes("ek"), "{}", vector.case());
        assert!(key.expanded().as_bytes() == vector.bytes("dk"), "{}", vector.case());
        // Its expanded form is the same key.
        let again = PrivateKey::from_expanded(algorithm, &vector.bytes("dk")).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert!(again.seed().is_none() && key.seed().unwrap().as_bytes() == seed);
    }
}

#[test]
fn encapsulations_are_the_ones_that_nist_makes_of_the_randomness() {
    for vector in vectors::all(ACVP, "encapsulation") {
        let key = PublicKey::new(named(vector.text("algorithm")), &vector.bytes("ek")).unwrap();
        let made = key.encapsulate_with(&vector.bytes("m")).unwrap();
        assert!(made.ciphertext == vector.bytes("c"), "{}", vector.case());
        assert!(made.shared_secret.as_bytes() == vector.bytes("k"), "{}", vector.case());
    }
}

#[test]
fn ciphertexts_open_as_nist_says_the_rejected_ones_included() {
    let mut rejected = 0;
    for group in vectors::all(ACVP, "decapsulation") {
        let key = PrivateKey::from_expanded(named(group.text("algorithm")), &group.bytes("dk")).unwrap();
        for vector in group.cases() {
            let secret = key.decapsulate(&vector.bytes("c")).unwrap();
            assert!(secret.as_bytes() == vector.bytes("k"), "{}", vector.case());
            rejected += usize::from(vector.is("rejected"));
        }
    }
    assert_eq!(rejected, 6);
}

#[test]
fn what_is_encapsulated_opens_with_the_private_key_alone() {
    for algorithm in KemAlgorithm::ALL {
        let (key, other) =
            (PrivateKey::generate(algorithm).unwrap(), PrivateKey::generate(algorithm).unwrap());
        let made = key.public_key().encapsulate().unwrap();
        assert_eq!(made.ciphertext.len(), algorithm.ciphertext_len());
        assert_eq!(made.shared_secret.as_bytes().len(), algorithm.shared_secret_len());
        assert!(key.decapsulate(&made.ciphertext).unwrap() == made.shared_secret);
        assert!(other.decapsulate(&made.ciphertext).unwrap() != made.shared_secret);
        for at in [0, 700, made.ciphertext.len() - 1] {
            let mut changed = made.ciphertext.clone();
            changed[at] ^= 1;
            assert!(key.decapsulate(&changed).unwrap() != made.shared_secret, "{algorithm}, byte {at}");
        }
        // Two encapsulations share nothing.
        let second = key.public_key().encapsulate().unwrap();
        assert!(second.shared_secret != made.shared_secret && second.ciphertext != made.ciphertext);
        // The library that encapsulates for us and the one of known randomness agree.
        let randomness = vec![9; if algorithm == KemAlgorithm::X25519MlKem768 { 64 } else { 32 }];
        let made = key.public_key().encapsulate_with(&randomness).unwrap();
        assert!(key.decapsulate(&made.ciphertext).unwrap() == made.shared_secret);
    }
}

#[test]
fn the_hybrid_is_what_tls_puts_together() {
    let algorithm = KemAlgorithm::X25519MlKem768;
    let seed: Vec<u8> = (0..96).collect();
    let key = PrivateKey::from_seed(algorithm, &seed).unwrap();
    let alone = PrivateKey::from_seed(KemAlgorithm::MlKem768, &seed[..64]).unwrap();
    assert_eq!(key.public_key().raw()[..1184], *alone.public_key().raw());
    // Each secret is that of its part alone, in this order.
    let made = key.public_key().encapsulate().unwrap();
    let first = alone.decapsulate(&made.ciphertext[..1088]).unwrap();
    assert_eq!(made.shared_secret.as_bytes()[..32], *first.as_bytes());
    let scalar = agreement::PrivateKey::from_private_key(&X25519, &seed[64..]).unwrap();
    assert_eq!(key.public_key().raw()[1184..], *scalar.compute_public_key().unwrap().as_ref());
    let share = UnparsedPublicKey::new(&X25519, &made.ciphertext[1088..]);
    agree(&scalar, share, (), |second| {
        assert_eq!(made.shared_secret.as_bytes()[32..], *second);
        Ok(())
    })
    .unwrap();
}

#[test]
fn every_length_but_the_right_one_is_refused_by_name() {
    for algorithm in KemAlgorithm::ALL {
        let key = fixed(algorithm, 3);
        for wrong in [0, 1, 31, algorithm.ciphertext_len() - 1, algorithm.ciphertext_len() + 1, 1 << 16] {
            let error = key.decapsulate(&vec![0; wrong]).err().unwrap().to_string();
            let wanted = format!(
                "{algorithm} has a ciphertext of {} bytes, not of {wrong}",
                algorithm.ciphertext_len()
            );
            assert_eq!(error, wanted);
        }
        assert!(PublicKey::new(algorithm, &key.public_key().raw()[1..]).is_err());
        assert!(PrivateKey::from_seed(algorithm, &[0; 63]).is_err());
        assert!(PrivateKey::from_expanded(algorithm, &key.expanded().as_bytes()[1..]).is_err());
    }
}

#[test]
fn a_public_key_with_numbers_above_the_modulus_is_refused() {
    for algorithm in KemAlgorithm::ALL {
        let mut raw = fixed(algorithm, 4).public_key().raw().to_vec();
        raw[..3].fill(0xff);
        let error = PublicKey::new(algorithm, &raw).unwrap_err().to_string();
        assert!(error.contains("public key of") && error.contains("modulus"), "{error}");
    }
}

#[test]
fn an_expanded_key_whose_parts_do_not_belong_together_is_refused() {
    for algorithm in KemAlgorithm::ALL {
        let key = fixed(algorithm, 5);
        let (good, len) = (key.expanded().as_bytes(), algorithm.expanded_len());
        let x25519 = if algorithm == KemAlgorithm::X25519MlKem768 { 32 } else { 0 };
        // The secret vector, the public key inside, and its hash.
        for at in [0, len / 2, len - x25519 - 40] {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            let error = PrivateKey::from_expanded(algorithm, &bad).err();
            assert_eq!(error, Some(KeyError::Inconsistent(algorithm.into())), "{algorithm}, byte {at}");
        }
    }
}

#[test]
fn an_x25519_share_that_makes_every_secret_zero_is_refused() {
    let algorithm = KemAlgorithm::X25519MlKem768;
    let key = fixed(algorithm, 6);
    let mut ciphertext = key.public_key().encapsulate().unwrap().ciphertext;
    ciphertext[1088..].fill(0);
    assert!(key.decapsulate(&ciphertext).err().unwrap().to_string().contains("zero"));
    let mut raw = key.public_key().raw().to_vec();
    raw[1184..].fill(0);
    let public = PublicKey::new(algorithm, &raw).unwrap();
    assert!(public.encapsulate().err().unwrap().to_string().contains("zero"));
}

#[test]
fn the_seed_is_read_by_the_one_library_as_the_other_makes_keys() {
    // aws-lc's own key, without a seed, and the other library's public key of it.
    let made = DecapsulationKey::generate(&ML_KEM_768).unwrap();
    let bytes = made.key_bytes().unwrap();
    let key = PrivateKey::from_expanded(KemAlgorithm::MlKem768, bytes.as_ref()).unwrap();
    let public = made.encapsulation_key().unwrap().key_bytes().unwrap();
    assert_eq!(key.public_key().raw(), public.as_ref());
}
