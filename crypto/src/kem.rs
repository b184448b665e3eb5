//! Key encapsulation: a public key makes a shared secret and a ciphertext, of which the private key makes the
//! same secret.
//!
//! A ciphertext that was changed, or made for another key, opens to another secret and to no error: that is the
//! implicit rejection of FIPS 203, by which an attacker learns nothing. Whoever has to know compares something
//! that was derived from the secret.

mod hybrid;
mod ml_kem;

use crate::algorithm::KemAlgorithm;
use crate::key::{KeyError, check_length};
use crate::random;
use crate::secret::Secret;

/// A key that opens ciphertexts.
pub struct PrivateKey {
    seed: Option<Secret>,
    /// As FIPS 203 writes it; of the hybrid with the scalar of X25519 behind.
    expanded: Secret,
    public: PublicKey,
}

/// A key that secrets are encapsulated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: KemAlgorithm,
    raw: Vec<u8>,
}

/// What an encapsulation gives: the secret to keep, and the ciphertext to send.
pub struct Encapsulation {
    pub shared_secret: Secret,
    pub ciphertext: Vec<u8>,
}

impl PrivateKey {
    /// A fresh key from the operating system's randomness, tried before it is given out.
    pub fn generate(algorithm: KemAlgorithm) -> Result<Self, KeyError> {
        let key = Self::from_seed(algorithm, random::bytes(algorithm.seed_len())?.as_bytes())?;
        key.check()?;
        Ok(key)
    }

    /// The key that FIPS 203 makes of `d` and `z`, one behind the other; of the hybrid with the scalar of X25519
    /// behind.
    pub fn from_seed(algorithm: KemAlgorithm, seed: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a seed", seed, algorithm.seed_len())?;
        let (expanded, raw) = match algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::expand(seed)?,
            _ => ml_kem::expand(algorithm, seed)?,
        };
        let public = PublicKey { algorithm, raw };
        Ok(Self { seed: Some(Secret::copy_of(seed)), expanded, public })
    }

    /// The key without its seed, once its parts are found to belong together.
    pub fn from_expanded(algorithm: KemAlgorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a private key", bytes, algorithm.expanded_len())?;
        let raw = match algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::public_of(bytes)?,
            _ => ml_kem::public_of(algorithm, bytes)?,
        };
        let key = Self { seed: None, expanded: Secret::copy_of(bytes), public: PublicKey { algorithm, raw } };
        key.check()?;
        Ok(key)
    }

    pub fn algorithm(&self) -> KemAlgorithm {
        self.public.algorithm
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Absent from a key that was read without.
    pub fn seed(&self) -> Option<&Secret> {
        self.seed.as_ref()
    }

    pub fn expanded(&self) -> &Secret {
        &self.expanded
    }

    /// The secret of `ciphertext`, or of a damaged one another.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<Secret, KeyError> {
        let algorithm = self.algorithm();
        check_length(algorithm, "a ciphertext", ciphertext, algorithm.ciphertext_len())?;
        match algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::decapsulate(self.expanded.as_bytes(), ciphertext),
            _ => ml_kem::decapsulate(algorithm, self.expanded.as_bytes(), ciphertext),
        }
    }

    /// Whether the private key opens what its public key closes.
    pub fn check(&self) -> Result<(), KeyError> {
        let Encapsulation { shared_secret, ciphertext } = self.public.encapsulate()?;
        if self.decapsulate(&ciphertext)? == shared_secret {
            return Ok(());
        }
        Err(KeyError::Inconsistent(self.algorithm().into()))
    }
}

impl PublicKey {
    /// Reads the bytes of FIPS 203, whose numbers must be below the modulus; of the hybrid with X25519's behind.
    pub fn new(algorithm: KemAlgorithm, raw: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a public key", raw, algorithm.public_key_len())?;
        match algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::check_public(raw)?,
            _ => ml_kem::check_public(algorithm, raw)?,
        }
        Ok(Self { algorithm, raw: raw.to_vec() })
    }

    pub fn algorithm(&self) -> KemAlgorithm {
        self.algorithm
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// A fresh secret, and what opens to it.
    pub fn encapsulate(&self) -> Result<Encapsulation, KeyError> {
        match self.algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::encapsulate(&self.raw),
            _ => ml_kem::encapsulate(self.algorithm, &self.raw),
        }
    }

    /// Encapsulates with `randomness`, which must be fresh, of 32 bytes and 32 more for X25519: for formats that tests
    /// pin, and for NIST's vectors.
    pub(crate) fn encapsulate_with(&self, randomness: &[u8]) -> Result<Encapsulation, KeyError> {
        check_length(self.algorithm, "randomness", randomness, self.algorithm.randomness_len())?;
        match self.algorithm {
            KemAlgorithm::X25519MlKem768 => hybrid::encapsulate_with(&self.raw, randomness),
            _ => ml_kem::encapsulate_with(self.algorithm, &self.raw, randomness),
        }
    }
}

#[cfg(test)]
mod tests;
