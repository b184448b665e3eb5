//! The library's ML-DSA-65 and ML-KEM-768 against NIST's vectors and a second implementation.
//!
//! The vectors are from NIST's ACVP server (usnistgov/ACVP-Server, gen-val/json-files):
//! ML-DSA-keyGen-FIPS204 at 203f667, cases 26 and 27, and ML-KEM-keyGen-FIPS203 at a9496ad, cases 27
//! and 28. (Older ML-KEM vectors there are of the draft, whose keys differ.) Instead of whole
//! keys they keep the hashes that the standard itself puts into the private key: `tr` of the ML-DSA
//! public key and `H(ek)` of the ML-KEM encapsulation key. The second implementation (RustCrypto)
//! computes those hashes, and its public keys are then compared byte by byte with the library's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use ml_dsa::signature::{Signer, Verifier};
use ml_kem::B32;
#[allow(deprecated, reason = "the library under test imports only the expanded form")]
use ml_kem::ExpandedKeyEncoding;
use ml_kem::kem::{Decapsulate, KeyExport};
use rcgen::SigningKey;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::key::PrivateKey;

fn bytes(hex: &str) -> Vec<u8> {
    assert_eq!(hex.len() % 2, 0);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

struct MlDsaVector {
    seed: &'static str,
    /// The first 32 bytes of public and private key.
    rho: &'static str,
    /// The last bytes of the public key.
    tail: &'static str,
    /// Bytes 64 to 128 of the private key, where the vector was kept whole.
    tr: Option<&'static str>,
}

const ML_DSA_65: [MlDsaVector; 2] = [
    MlDsaVector {
        seed: "8AB6448BF58F897D528A8DE9F8E59329AC929A9CDE7EDF3E27E01BC9EF128A67",
        rho: "49DE190622B0681761A9DB044015BF812760429001FDFF5FC897166546277E84",
        tail: "675BBABEBDCE1B816769D66F9BC72DE319E1EC39E8F979E49B61C",
        tr: Some(concat!(
            "B2B87C49F3E51E4C76C8EDF276174B9EBE99228B1BEAD73FDE09D114795B8275",
            "598163B433A79712726320692FFCA1DBD70F68689A3D5BFD21BFE3F3852673B0"
        )),
    },
    MlDsaVector {
        seed: "E67D4E94E36225F5E360DBE043099A96078174A054631BC673100D218A71C448",
        rho: "A11E04721B8D823AEBFD8CD4663CC5E864BFB0C33DF9D350FC6B20E1DE4D857D",
        tail: "74D01362437191A36EA3C99F45A7DE1C2D179C53E365D1C5",
        tr: None,
    },
];

#[test]
fn ml_dsa_65_keys_are_the_ones_that_nist_derives_from_the_seed() {
    for vector in ML_DSA_65 {
        let seed: [u8; 32] = array(vector.seed);
        let ours = PrivateKey::from_seed(Algorithm::MlDsa65, &seed).unwrap();
        let second = ml_dsa::ExpandedSigningKey::<ml_dsa::MlDsa65>::from_seed(&seed.into());
        let public = &ours.public_key().raw;
        assert_eq!(public.len(), 1952);
        assert_eq!(public.as_slice(), second.verifying_key().encode().as_slice());
        assert!(public.starts_with(&bytes(vector.rho)));
        // Odd numbers of digits begin in the middle of a byte.
        let tail = &vector.tail[vector.tail.len() % 2..];
        assert!(public.ends_with(&bytes(tail)));
        #[allow(deprecated, reason = "the expanded form is what NIST's vectors are written in")]
        let private = second.to_expanded();
        assert!(private.starts_with(&bytes(vector.rho)));
        if let Some(tr) = vector.tr {
            assert_eq!(private[64..128], bytes(tr));
        }
    }
}

#[test]
fn ml_dsa_signatures_verify_in_the_other_implementation_and_theirs_in_ours() {
    let seed: [u8; 32] = array(ML_DSA_65[0].seed);
    let message = b"what TLS or a CA wants signed";
    let ours = PrivateKey::from_seed(Algorithm::MlDsa65, &seed).unwrap();
    let second = ml_dsa::ExpandedSigningKey::<ml_dsa::MlDsa65>::from_seed(&seed.into());

    let signature = SigningKey::sign(&ours, message).unwrap();
    assert_eq!(signature.len(), 3309);
    let decoded = ml_dsa::Signature::<ml_dsa::MlDsa65>::try_from(signature.as_slice()).unwrap();
    assert!(second.verifying_key().verify(message, &decoded).is_ok());
    assert!(second.verifying_key().verify(b"something else", &decoded).is_err());

    let theirs: ml_dsa::Signature<ml_dsa::MlDsa65> = second.sign(message);
    let verifier = webpki::aws_lc_rs::ML_DSA_65;
    let raw = &ours.public_key().raw;
    assert!(verifier.verify_signature(raw, message, theirs.encode().as_slice()).is_ok());
    assert!(verifier.verify_signature(raw, b"something else", theirs.encode().as_slice()).is_err());
}

struct MlKemVector {
    d: &'static str,
    z: &'static str,
    /// H(ek), near the end of the decapsulation key.
    hash: &'static str,
}

const ML_KEM_768_VECTORS: [MlKemVector; 2] = [
    MlKemVector {
        d: "D01784544B02F876ECFCBA5D5578FEC4258E0B27A7E22F75C2D7FB1F86EA723E",
        z: "C66138D2EFC3A9C7CF317073B2A52D7339CE40568BDAE808EA7317F5C9C7A85C",
        hash: "CBE4EADE7D34885C9D0DB0EAEEAD076C6977B21B2B8A32258C999B01CD0473C5",
    },
    MlKemVector {
        d: "05BE30B30437784B48C39FEA2B05F464E42FBF79EDCFF1432905726B4B781FB9",
        z: "B8EE2442BAF9670C3E5E17886F31FB82443E74274568C82A00EBAD6C44B6AA60",
        hash: "E6C640907303F6E2F6DF0388409C59AD6F66988B26F4404D8DD87F1CBA76B8F3",
    },
];

#[test]
fn ml_kem_768_agrees_with_nists_keys_and_with_the_other_implementation() {
    for vector in ML_KEM_768_VECTORS {
        let seed: [u8; 64] = array(&format!("{}{}", vector.d, vector.z));
        let second = ml_kem::DecapsulationKey::<ml_kem::MlKem768>::from_seed(seed.into());
        #[allow(deprecated, reason = "the library under test imports only the expanded form")]
        let expanded = second.to_expanded_bytes();
        assert_eq!(expanded.len(), 2400);
        assert_eq!(expanded[2336..], bytes(&format!("{}{}", vector.hash, vector.z)));

        let ours = DecapsulationKey::new(&ML_KEM_768, &expanded).unwrap();
        let public = second.encapsulation_key().to_bytes();
        let ours_public = EncapsulationKey::new(&ML_KEM_768, &public).unwrap();

        // Theirs to ours, with a fixed message so that the case is the same each time.
        let (ciphertext, secret) =
            second.encapsulation_key().encapsulate_deterministic(&B32::from([0x42; 32]));
        let opened = ours.decapsulate(Ciphertext::from(ciphertext.as_slice())).unwrap();
        assert_eq!(opened.as_ref(), secret.as_slice());

        // Ours to theirs.
        let (ciphertext, secret) = ours_public.encapsulate().unwrap();
        let opened = second.decapsulate(&ciphertext.as_ref().try_into().unwrap());
        assert_eq!(opened.as_slice(), secret.as_ref());

        // A damaged ciphertext opens to another secret, the same in both: implicit rejection.
        let mut damaged = ciphertext.as_ref().to_vec();
        damaged[100] ^= 1;
        let ours = ours.decapsulate(Ciphertext::from(damaged.as_slice())).unwrap();
        let theirs = second.decapsulate(&damaged.as_slice().try_into().unwrap());
        assert_eq!(ours.as_ref(), theirs.as_slice());
        assert_ne!(ours.as_ref(), secret.as_ref());
    }
}
