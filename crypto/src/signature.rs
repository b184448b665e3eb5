//! Signatures over whole messages: the pure modes of FIPS 204 and FIPS 205, with a context if one is given.
//!
//! A context says what a signature is for; one that was made for another, or for none, does not verify.
//! Signatures are randomised, as both standards advise. An empty message is a message.

mod ml_dsa;
mod slh_dsa;

use crate::algorithm::SignatureAlgorithm;
use crate::key::{KeyError, check_length};
use crate::random;
use crate::secret::Secret;

/// Bytes that a context can have.
pub const MAX_CONTEXT: usize = 255;

/// A key that signs.
pub struct PrivateKey {
    secret: Made,
    public: PublicKey,
}

enum Made {
    MlDsa(ml_dsa::Key),
    SlhDsa(slh_dsa::Key),
}

/// A key that says who signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: SignatureAlgorithm,
    raw: Vec<u8>,
}

/// The signature is not one over this message, with this context, by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature was not made by this key over this message in this context")]
pub struct Mismatch;

impl PrivateKey {
    /// A fresh key from the operating system's randomness, tried before it is given out.
    pub fn generate(algorithm: SignatureAlgorithm) -> Result<Self, KeyError> {
        let key = Self::from_seed(algorithm, random::bytes(algorithm.seed_len())?.as_bytes())?;
        key.check()?;
        Ok(key)
    }

    /// The key that FIPS 204 makes of a seed, or FIPS 205 of its three, one behind the other.
    pub fn from_seed(algorithm: SignatureAlgorithm, seed: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a seed", seed, algorithm.seed_len())?;
        Ok(match algorithm {
            SignatureAlgorithm::SlhDsa(set) => Self::slh_dsa(algorithm, slh_dsa::Key::from_seeds(set, seed)?),
            _ => Self::ml_dsa(algorithm, ml_dsa::Key::from_seed(algorithm, seed)?),
        })
    }

    /// The key as its standard writes it, once its parts are found to belong together.
    pub fn from_expanded(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a private key", bytes, algorithm.expanded_len())?;
        Ok(match algorithm {
            SignatureAlgorithm::SlhDsa(set) => {
                Self::slh_dsa(algorithm, slh_dsa::Key::from_bytes(set, bytes)?)
            }
            _ => {
                let key = Self::ml_dsa(algorithm, ml_dsa::Key::from_expanded(algorithm, bytes)?);
                key.check()?;
                key
            }
        })
    }

    fn ml_dsa(algorithm: SignatureAlgorithm, key: ml_dsa::Key) -> Self {
        let public = PublicKey { algorithm, raw: key.public() };
        Self { secret: Made::MlDsa(key), public }
    }

    fn slh_dsa(algorithm: SignatureAlgorithm, key: slh_dsa::Key) -> Self {
        let public = PublicKey { algorithm, raw: key.public() };
        Self { secret: Made::SlhDsa(key), public }
    }

    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.public.algorithm
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Absent from a key that was read without, and from all of SLH-DSA, whose keys are stored whole.
    pub fn seed(&self) -> Option<&Secret> {
        match &self.secret {
            Made::MlDsa(key) => key.seed(),
            Made::SlhDsa(_) => None,
        }
    }

    /// The bytes of the standard.
    pub fn expanded(&self) -> Result<Secret, KeyError> {
        match &self.secret {
            Made::MlDsa(key) => key.expanded(),
            Made::SlhDsa(key) => Ok(key.bytes()),
        }
    }

    pub fn sign(&self, message: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        check_context(context)?;
        match &self.secret {
            Made::MlDsa(key) => key.sign(message, context),
            Made::SlhDsa(key) => key.sign(message, context),
        }
    }

    /// Whether the public key verifies what the private key signs.
    pub fn check(&self) -> Result<(), KeyError> {
        const MESSAGE: &[u8] = b"pairwise consistency";
        let signature = self.sign(MESSAGE, b"")?;
        self.public
            .verify(MESSAGE, b"", &signature)
            .map_err(|Mismatch| KeyError::Inconsistent(self.algorithm().into()))
    }
}

impl PublicKey {
    /// Reads the bytes of FIPS 204 or FIPS 205.
    pub fn new(algorithm: SignatureAlgorithm, raw: &[u8]) -> Result<Self, KeyError> {
        check_length(algorithm, "a public key", raw, algorithm.public_key_len())?;
        Ok(Self { algorithm, raw: raw.to_vec() })
    }

    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub fn verify(&self, message: &[u8], context: &[u8], signature: &[u8]) -> Result<(), Mismatch> {
        let right_size = signature.len() == self.algorithm.signature_len() && context.len() <= MAX_CONTEXT;
        let verified = right_size
            && match self.algorithm {
                SignatureAlgorithm::SlhDsa(set) => {
                    slh_dsa::verifies(set, &self.raw, message, context, signature)
                }
                algorithm => ml_dsa::verifies(algorithm, &self.raw, message, context, signature),
            };
        verified.then_some(()).ok_or(Mismatch)
    }
}

fn check_context(context: &[u8]) -> Result<(), KeyError> {
    if context.len() > MAX_CONTEXT { Err(KeyError::Context(context.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
