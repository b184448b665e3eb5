//! A key of any algorithm, for those who only hand keys on: read, write and compare them.

use crate::algorithm::Algorithm;
use crate::encoding::Form;
use crate::secret::Secret;
use crate::{kem, signature};

/// A private key. It is wiped when dropped, and has no `Debug`.
pub enum PrivateKey {
    Kem(kem::PrivateKey),
    Signature(signature::PrivateKey),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    Kem(kem::PublicKey),
    Signature(signature::PublicKey),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("{algorithm} has {what} of {wanted} bytes, not of {found}")]
    Length { algorithm: Algorithm, what: &'static str, wanted: usize, found: usize },
    #[error("this is no {what} of {algorithm}: {problem}")]
    Invalid { algorithm: Algorithm, what: &'static str, problem: &'static str },
    #[error("the parts of the {0} private key do not belong together: get an undamaged copy")]
    Inconsistent(Algorithm),
    #[error("a context has at most 255 bytes, not {0}")]
    Context(usize),
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

impl PrivateKey {
    /// A fresh key from the operating system's randomness, tried before it is given out.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Kem(algorithm) => kem::PrivateKey::generate(algorithm).map(Self::Kem),
            Algorithm::Signature(algorithm) => {
                signature::PrivateKey::generate(algorithm).map(Self::Signature)
            }
        }
    }

    /// The key that the standard makes of `seed`, which has [`Algorithm::seed_len`] bytes.
    pub fn from_seed(algorithm: Algorithm, seed: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Kem(algorithm) => kem::PrivateKey::from_seed(algorithm, seed).map(Self::Kem),
            Algorithm::Signature(algorithm) => {
                signature::PrivateKey::from_seed(algorithm, seed).map(Self::Signature)
            }
        }
    }

    /// The key whose bytes the standard writes so, once its parts are found to belong together.
    pub fn from_expanded(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Kem(algorithm) => kem::PrivateKey::from_expanded(algorithm, bytes).map(Self::Kem),
            Algorithm::Signature(algorithm) => {
                signature::PrivateKey::from_expanded(algorithm, bytes).map(Self::Signature)
            }
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Kem(key) => key.algorithm().into(),
            Self::Signature(key) => key.algorithm().into(),
        }
    }

    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Kem(key) => PublicKey::Kem(key.public_key().clone()),
            Self::Signature(key) => PublicKey::Signature(key.public_key().clone()),
        }
    }

    /// What the key is stored as: its seed, if that is known.
    pub fn form(&self) -> Form {
        if self.seed().is_some() { Form::Seed } else { Form::Expanded }
    }

    /// What the key was made from, where the algorithm stores that and it is known.
    pub fn seed(&self) -> Option<&Secret> {
        match self {
            Self::Kem(key) => key.seed(),
            Self::Signature(key) => key.seed(),
        }
    }

    /// The bytes of the standard.
    pub fn expanded(&self) -> Result<Secret, KeyError> {
        match self {
            Self::Kem(key) => Ok(key.expanded().clone()),
            Self::Signature(key) => key.expanded(),
        }
    }

    /// Whether what the private key does, the public key undoes.
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Kem(key) => key.check(),
            Self::Signature(key) => key.check(),
        }
    }
}

impl PublicKey {
    /// The key whose bytes the standard writes so.
    pub fn new(algorithm: Algorithm, raw: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Kem(algorithm) => kem::PublicKey::new(algorithm, raw).map(Self::Kem),
            Algorithm::Signature(algorithm) => signature::PublicKey::new(algorithm, raw).map(Self::Signature),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Kem(key) => key.algorithm().into(),
            Self::Signature(key) => key.algorithm().into(),
        }
    }

    /// The bytes of the standard.
    pub fn raw(&self) -> &[u8] {
        match self {
            Self::Kem(key) => key.raw(),
            Self::Signature(key) => key.raw(),
        }
    }
}

pub(crate) fn check_length(
    algorithm: impl Into<Algorithm>,
    what: &'static str,
    bytes: &[u8],
    wanted: usize,
) -> Result<(), KeyError> {
    if bytes.len() == wanted {
        return Ok(());
    }
    Err(KeyError::Length { algorithm: algorithm.into(), what, wanted, found: bytes.len() })
}
