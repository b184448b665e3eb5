use ::ml_dsa::{ExpandedSigningKey, ExpandedSigningKeyBytes, MlDsa44, MlDsa65, MlDsa87, MlDsaParams};

use super::*;
use crate::algorithm::SlhDsa;
use crate::fingerprint::Fingerprint;
use crate::vectors::{self, Vector};

const ML_DSA: &str = include_str!("../../tests/vectors/ml-dsa-acvp.json");
const ML_DSA_WYCHEPROOF: &str = include_str!("../../tests/vectors/ml-dsa-wycheproof.json");
const SLH_DSA: &str = include_str!("../../tests/vectors/slh-dsa-acvp.json");

fn of(vector: &Vector) -> SignatureAlgorithm {
    SignatureAlgorithm::parse(vector.text("algorithm")).unwrap().algorithm
}

fn sha256(bytes: &[u8]) -> String {
    Fingerprint::of_public(bytes).to_string()
}

/// Deterministic, as vectors are.
fn sign(key: &PrivateKey, message: &[u8], context: &[u8]) -> Vec<u8> {
    match &key.secret {
        Made::MlDsa(key) => key.sign_with(message, context, &[0; 32]).unwrap(),
        Made::SlhDsa(key) => key.sign_with(message, context, None).unwrap(),
    }
}

#[test]
fn ml_dsa_keys_are_the_ones_that_nist_makes_of_the_seed() {
    for vector in vectors::all(ML_DSA, "keyGen") {
        let key = PrivateKey::from_seed(of(&vector), &vector.bytes("seed")).unwrap();
        assert!(key.public_key().raw() == vector.bytes("pk"), "{}", vector.case());
        assert!(key.expanded().unwrap().as_bytes() == vector.bytes("sk"), "{}", vector.case());
        let again = PrivateKey::from_expanded(of(&vector), &vector.bytes("sk")).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert!(again.seed().is_none());
    }
}

/// NIST's vectors of that time have no context yet: they are of what is below it, which only one library shows.
#[test]
fn ml_dsa_signatures_are_the_ones_that_nist_makes() {
    fn signed<Set: MlDsaParams>(vector: &Vector) -> Vec<u8> {
        let bytes = ExpandedSigningKeyBytes::<Set>::try_from(vector.bytes("sk").as_slice()).unwrap();
        #[allow(deprecated, reason = "the vectors have no seed")]
        let key = ExpandedSigningKey::<Set>::from_expanded(&bytes);
        let randomness = vector.bytes("rnd").as_slice().try_into().unwrap();
        key.sign_internal(&[&vector.bytes("message")], &randomness).encode().to_vec()
    }
    for vector in vectors::all(ML_DSA, "sigGen") {
        let signature = match of(&vector) {
            SignatureAlgorithm::MlDsa44 => signed::<MlDsa44>(&vector),
            SignatureAlgorithm::MlDsa65 => signed::<MlDsa65>(&vector),
            _ => signed::<MlDsa87>(&vector),
        };
        assert_eq!(sha256(&signature), vector.text("signatureSha256"), "{}", vector.case());
    }
}

#[test]
fn ml_dsa_signatures_are_judged_as_nist_does() {
    fn verifies<Set: MlDsaParams>(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let key = ::ml_dsa::VerifyingKey::<Set>::decode(&key.try_into().unwrap());
        ::ml_dsa::Signature::try_from(signature)
            .is_ok_and(|signature| key.verify_internal(message, &signature))
    }
    let mut judged = [0; 2];
    for group in vectors::all(ML_DSA, "sigVer") {
        let key = group.bytes("pk");
        for vector in group.cases() {
            let (message, signature) = (vector.bytes("message"), vector.bytes("signature"));
            let found = match of(&group) {
                SignatureAlgorithm::MlDsa44 => verifies::<MlDsa44>(&key, &message, &signature),
                SignatureAlgorithm::MlDsa65 => verifies::<MlDsa65>(&key, &message, &signature),
                _ => verifies::<MlDsa87>(&key, &message, &signature),
            };
            assert_eq!(found, vector.is("valid"), "{}", vector.case());
            judged[usize::from(found)] += 1;
        }
    }
    assert_eq!(judged, [6, 3]);
}

#[test]
fn ml_dsa_with_contexts_is_as_wycheproof_has_it() {
    for vector in vectors::all(ML_DSA_WYCHEPROOF, "seed") {
        let (message, context) = (vector.bytes("message"), vector.bytes("context"));
        let key = match PrivateKey::from_seed(of(&vector), &vector.bytes("seed")) {
            Ok(key) => key,
            Err(_) => {
                assert!(!vector.is("valid"), "{}", vector.case());
                continue;
            }
        };
        if !vector.is("valid") {
            assert_eq!(
                key.sign(&message, &context),
                Err(KeyError::Context(context.len())),
                "{}",
                vector.case()
            );
            continue;
        }
        let signature = sign(&key, &message, &context);
        assert_eq!(sha256(&signature), vector.text("signatureSha256"), "{}", vector.case());
        // Whichever library verifies it.
        assert_eq!(key.public_key().verify(&message, &context, &signature), Ok(()), "{}", vector.case());
    }
}

#[test]
fn expanded_ml_dsa_keys_sign_the_same_and_damaged_ones_are_refused() {
    let mut refused = 0;
    for vector in vectors::all(ML_DSA_WYCHEPROOF, "expanded") {
        let key = PrivateKey::from_expanded(of(&vector), &vector.bytes("key"));
        if !vector.is("valid") {
            assert!(key.is_err(), "{}: {}", vector.case(), vector.text("comment"));
            refused += 1;
            continue;
        }
        let (message, context) = (vector.bytes("message"), vector.bytes("context"));
        let key = key.unwrap();
        assert_eq!(
            sha256(&sign(&key, &message, &context)),
            vector.text("signatureSha256"),
            "{}",
            vector.case()
        );
        let signature = key.sign(&message, &context).unwrap();
        assert_eq!(key.public_key().verify(&message, &context, &signature), Ok(()));
    }
    assert_eq!(refused, 12);
}

#[test]
fn slh_dsa_keys_are_the_ones_that_nist_makes_of_the_seeds() {
    let vectors = vectors::all(SLH_DSA, "keyGen");
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        let key = PrivateKey::from_seed(of(&vector), &vector.bytes("seeds")).unwrap();
        assert!(key.public_key().raw() == vector.bytes("pk"), "{}", vector.case());
        assert!(key.expanded().unwrap().as_bytes() == vector.bytes("sk"), "{}", vector.case());
    }
}

#[test]
fn slh_dsa_signatures_are_the_ones_that_nist_makes() {
    for vector in vectors::all(SLH_DSA, "sigGen") {
        let SignatureAlgorithm::SlhDsa(set) = of(&vector) else { panic!("{}", vector.case()) };
        // Without the look at the root, which the test above takes.
        let key = slh_dsa::Key::unchecked(set, &vector.bytes("sk"));
        let randomness = vector.has("randomness").then(|| vector.bytes("randomness"));
        let (message, context) = (vector.bytes("message"), vector.bytes("context"));
        let signature = key.sign_with(&message, &context, randomness.as_deref()).unwrap();
        assert_eq!(sha256(&signature), vector.text("signatureSha256"), "{}", vector.case());
        assert_eq!(signature.len(), of(&vector).signature_len());
        let public = PublicKey::new(of(&vector), &key.public()).unwrap();
        assert_eq!(public.verify(&message, &context, &signature), Ok(()), "{}", vector.case());
    }
}

#[test]
fn slh_dsa_signatures_are_judged_as_nist_does() {
    let mut judged = [0; 2];
    for vector in vectors::all(SLH_DSA, "sigVer") {
        let key = PublicKey::new(of(&vector), &vector.bytes("pk")).unwrap();
        let found =
            key.verify(&vector.bytes("message"), &vector.bytes("context"), &vector.bytes("signature"));
        assert_eq!(found.is_ok(), vector.is("valid"), "{}", vector.case());
        judged[usize::from(found.is_ok())] += 1;
    }
    assert_eq!(judged, [6, 3]);
}

/// The quick ones: the others are the same code with other numbers.
fn quick() -> [SignatureAlgorithm; 5] {
    [
        SignatureAlgorithm::MlDsa44,
        SignatureAlgorithm::MlDsa65,
        SignatureAlgorithm::MlDsa87,
        SignatureAlgorithm::SlhDsa(SlhDsa::Sha2_128f),
        SignatureAlgorithm::SlhDsa(SlhDsa::Shake128f),
    ]
}

#[test]
fn a_signature_counts_for_its_message_context_and_key_alone() {
    for algorithm in quick() {
        let (key, other) =
            (PrivateKey::generate(algorithm).unwrap(), PrivateKey::generate(algorithm).unwrap());
        for (message, context) in
            [(&b""[..], &b""[..]), (b"message", b""), (b"", b"context"), (b"message", b"context")]
        {
            let signature = key.sign(message, context).unwrap();
            assert_eq!(signature.len(), algorithm.signature_len());
            let public = key.public_key();
            assert_eq!(public.verify(message, context, &signature), Ok(()), "{algorithm}");
            assert_eq!(public.verify(b"messagf", context, &signature), Err(Mismatch));
            assert_eq!(public.verify(message, b"contexu", &signature), Err(Mismatch));
            assert_eq!(other.public_key().verify(message, context, &signature), Err(Mismatch));
            assert_eq!(public.verify(message, context, b""), Err(Mismatch));
            assert_eq!(public.verify(message, context, &signature[1..]), Err(Mismatch));
            let mut changed = signature.clone();
            changed[40] ^= 1;
            assert_eq!(public.verify(message, context, &changed), Err(Mismatch));
            // Randomised: the same again is another.
            assert_ne!(key.sign(message, context).unwrap(), signature);
        }
        // What context and message are put together from, is not for others to choose.
        let signature = key.sign(b"cd", b"ab").unwrap();
        assert_eq!(key.public_key().verify(b"d", b"abc", &signature), Err(Mismatch));
        assert_eq!(key.public_key().verify(b"\0\x02abcd", b"", &signature), Err(Mismatch));
        assert_eq!(key.sign(b"", &[0; 256]), Err(KeyError::Context(256)));
        assert_eq!(key.public_key().verify(b"", &[0; 256], &signature), Err(Mismatch));
    }
}

#[test]
fn both_libraries_sign_and_verify_the_same_ml_dsa() {
    for algorithm in [SignatureAlgorithm::MlDsa44, SignatureAlgorithm::MlDsa65, SignatureAlgorithm::MlDsa87] {
        let key = PrivateKey::generate(algorithm).unwrap();
        // Signed by RustCrypto's, verified by aws-lc, and the other way round.
        let signature = sign(&key, b"message", b"");
        assert_eq!(key.public_key().verify(b"message", b"", &signature), Ok(()));
        let signature = key.sign(b"message", b"").unwrap();
        let raw = key.public_key().raw();
        let verified = match algorithm {
            SignatureAlgorithm::MlDsa44 => second::<MlDsa44>(raw, &signature),
            SignatureAlgorithm::MlDsa65 => second::<MlDsa65>(raw, &signature),
            _ => second::<MlDsa87>(raw, &signature),
        };
        assert!(verified);
    }

    fn second<Set: MlDsaParams>(public: &[u8], signature: &[u8]) -> bool {
        let key = ::ml_dsa::VerifyingKey::<Set>::decode(&public.try_into().unwrap());
        key.verify_with_context(b"message", b"", &signature.try_into().unwrap())
    }
}

#[test]
fn an_slh_dsa_key_with_another_root_is_refused() {
    let algorithm = SignatureAlgorithm::SlhDsa(SlhDsa::Sha2_128f);
    let key = PrivateKey::generate(algorithm).unwrap();
    for at in [0, 20, 40, 63] {
        let mut bytes = key.expanded().unwrap().as_bytes().to_vec();
        bytes[at] ^= 1;
        // The second seed has no part in the public key: any is right.
        let refused = PrivateKey::from_expanded(algorithm, &bytes).is_err();
        assert_eq!(refused, at != 20, "byte {at}");
    }
}
