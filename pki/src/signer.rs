//! What signs certificates: a key in memory, or one in a token that it never leaves.

pub mod ecdsa;

use std::sync::{Arc, OnceLock};

use crate::key::{KeyError, PrivateKey, PublicKey};

/// A key that signs when it is asked to. One that lives elsewhere may be away, and answers late: whoever
/// asks it must be allowed to wait.
pub trait Signer: Send + Sync {
    fn public_key(&self) -> &PublicKey;

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignerError>;

    /// Whether a signature may take its time, and may fail although nothing is wrong with the message.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Why nothing was signed, in words for whoever operates the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    #[error("{0}")]
    Local(String),
    /// The key is elsewhere, and cannot be used now.
    #[error("{0}")]
    Away(String),
}

impl From<KeyError> for SignerError {
    fn from(error: KeyError) -> Self {
        Self::Local(error.to_string())
    }
}

impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        Self::public_key(self)
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.sign_message(message)?)
    }
}

impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn public_key(&self) -> &PublicKey {
        (**self).public_key()
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        (**self).signature(message)
    }

    fn is_remote(&self) -> bool {
        (**self).is_remote()
    }
}

impl rcgen::PublicKeyData for dyn Signer + '_ {
    fn der_bytes(&self) -> &[u8] {
        &self.public_key().raw
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public_key().algorithm.for_certificates()
    }
}

impl rcgen::SigningKey for dyn Signer + '_ {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// One use of a signer, which remembers why it failed: the library that builds certificates has no words
/// for it.
pub(crate) struct Attempt<'a> {
    signer: &'a dyn Signer,
    failure: OnceLock<SignerError>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(signer: &'a dyn Signer) -> Self {
        Self { signer, failure: OnceLock::new() }
    }

    pub(crate) fn failure(&self, error: rcgen::Error) -> SignerError {
        self.failure.get().cloned().unwrap_or_else(|| SignerError::Local(error.to_string()))
    }
}

impl rcgen::PublicKeyData for Attempt<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.signer.public_key().raw
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.signer.public_key().algorithm.for_certificates()
    }
}

impl rcgen::SigningKey for Attempt<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.signature(message).map_err(|error| {
            let _ = self.failure.set(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
