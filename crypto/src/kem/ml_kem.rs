//! ML-KEM: aws-lc encapsulates and decapsulates; it makes no key of a seed and derives no public key, which
//! RustCrypto's crate does.

use aws_lc_rs::kem::{
    AlgorithmId, Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_512, ML_KEM_768, ML_KEM_1024,
};
use ml_kem::array::Array;
use ml_kem::{KeyExport, MlKem512, MlKem768, MlKem1024, Seed};
use zeroize::Zeroizing;

use super::Encapsulation;
use crate::algorithm::KemAlgorithm;
use crate::key::KeyError;
use crate::secret::Secret;

/// The parameter set of FIPS 203 that is in `algorithm`.
macro_rules! with_set {
    ($algorithm:expr, $set:ident => $body:expr) => {
        match $algorithm {
            KemAlgorithm::MlKem512 => {
                type $set = MlKem512;
                $body
            }
            KemAlgorithm::MlKem768 | KemAlgorithm::X25519MlKem768 => {
                type $set = MlKem768;
                $body
            }
            KemAlgorithm::MlKem1024 => {
                type $set = MlKem1024;
                $body
            }
        }
    };
}

/// The decapsulation key and the encapsulation key that come of `d` and `z`.
pub(super) fn expand(algorithm: KemAlgorithm, seed: &[u8]) -> Result<(Secret, Vec<u8>), KeyError> {
    let seed = Zeroizing::new(
        Seed::try_from(seed).map_err(|_| KeyError::Library("take a seed, whose length is wrong"))?,
    );
    with_set!(algorithm, Set => {
        let key = ml_kem::DecapsulationKey::<Set>::from_seed(*seed);
        #[allow(deprecated, reason = "it is what aws-lc imports, and what FIPS 203 calls the key")]
        let expanded = Zeroizing::new(ml_kem::ExpandedKeyEncoding::to_expanded_bytes(&key));
        Ok((Secret::copy_of(&expanded), key.encapsulation_key().to_bytes().to_vec()))
    })
}

/// The encapsulation key in a decapsulation key, whose hash of it must be right (FIPS 203, 7.3).
pub(super) fn public_of(algorithm: KemAlgorithm, expanded: &[u8]) -> Result<Vec<u8>, KeyError> {
    let inconsistent = KeyError::Inconsistent(algorithm.into());
    with_set!(algorithm, Set => {
        let bytes = Zeroizing::new(Array::try_from(expanded).map_err(|_| inconsistent.clone())?);
        #[allow(deprecated, reason = "keys of others may have no other form")]
        let key = ml_kem::DecapsulationKey::<Set>::from_expanded(&bytes).map_err(|_| inconsistent)?;
        Ok(key.encapsulation_key().to_bytes().to_vec())
    })
}

/// FIPS 203, 7.2.
pub(super) fn check_public(algorithm: KemAlgorithm, raw: &[u8]) -> Result<(), KeyError> {
    let invalid = KeyError::Invalid {
        algorithm: algorithm.into(),
        what: "public key",
        problem: "some of its numbers are not below the modulus",
    };
    with_set!(algorithm, Set => {
        let bytes = Array::try_from(raw).map_err(|_| invalid.clone())?;
        ml_kem::EncapsulationKey::<Set>::new(&bytes).map_err(|_| invalid)?;
    });
    Ok(())
}

pub(super) fn encapsulate(algorithm: KemAlgorithm, public: &[u8]) -> Result<Encapsulation, KeyError> {
    const FAILED: KeyError = KeyError::Library("encapsulate a secret");
    let key = EncapsulationKey::new(aws_lc(algorithm), public).map_err(|_| FAILED)?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| FAILED)?;
    Ok(Encapsulation {
        shared_secret: Secret::copy_of(secret.as_ref()),
        ciphertext: ciphertext.as_ref().to_vec(),
    })
}

/// Encapsulates with `message`, the 32 random bytes of FIPS 203.
pub(super) fn encapsulate_with(
    algorithm: KemAlgorithm,
    public: &[u8],
    message: &[u8],
) -> Result<Encapsulation, KeyError> {
    const FAILED: KeyError = KeyError::Library("encapsulate a secret");
    let message = Zeroizing::new(ml_kem::B32::try_from(message).map_err(|_| FAILED)?);
    with_set!(algorithm, Set => {
        let bytes = Array::try_from(public).map_err(|_| FAILED)?;
        let key = ml_kem::EncapsulationKey::<Set>::new(&bytes).map_err(|_| FAILED)?;
        let (ciphertext, secret) = key.encapsulate_deterministic(&message);
        let secret = Zeroizing::new(secret);
        Ok(Encapsulation { shared_secret: Secret::copy_of(&secret), ciphertext: ciphertext.to_vec() })
    })
}

pub(super) fn decapsulate(
    algorithm: KemAlgorithm,
    expanded: &[u8],
    ciphertext: &[u8],
) -> Result<Secret, KeyError> {
    const FAILED: KeyError = KeyError::Library("decapsulate a secret");
    let key = DecapsulationKey::new(aws_lc(algorithm), expanded).map_err(|_| FAILED)?;
    let secret = key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| FAILED)?;
    Ok(Secret::copy_of(secret.as_ref()))
}

fn aws_lc(algorithm: KemAlgorithm) -> &'static aws_lc_rs::kem::Algorithm<AlgorithmId> {
    match algorithm {
        KemAlgorithm::MlKem512 => &ML_KEM_512,
        KemAlgorithm::MlKem768 | KemAlgorithm::X25519MlKem768 => &ML_KEM_768,
        KemAlgorithm::MlKem1024 => &ML_KEM_1024,
    }
}
