//! SLH-DSA, all parameter sets of FIPS 205. aws-lc has none of them.

use slh_dsa::{
    ParameterSet, Sha2_128f, Sha2_128s, Sha2_192f, Sha2_192s, Sha2_256f, Sha2_256s, Shake128f, Shake128s,
    Shake192f, Shake192s, Shake256f, Shake256s, Signature, SigningKey, VerifyingKey,
};

use zeroize::Zeroizing;

use crate::algorithm::{SignatureAlgorithm, SlhDsa};
use crate::apart::apart;
use crate::key::KeyError;
use crate::random;
use crate::secret::Secret;

macro_rules! with_set {
    ($set:expr, $name:ident => $body:expr) => {
        with_set!(@ $set, $name => $body,
            Sha2_128s Sha2_128f Sha2_192s Sha2_192f Sha2_256s Sha2_256f
            Shake128s Shake128f Shake192s Shake192f Shake256s Shake256f)
    };
    (@ $set:expr, $name:ident => $body:expr, $($variant:ident)*) => {
        match $set {
            $(SlhDsa::$variant => {
                type $name = $variant;
                $body
            })*
        }
    };
}

/// The two secret seeds, the public one and the root, as FIPS 205 writes a private key.
pub(super) struct Key {
    set: SlhDsa,
    bytes: Secret,
}

impl Key {
    pub(super) fn from_seeds(set: SlhDsa, seeds: &[u8]) -> Result<Self, KeyError> {
        let mut parts = seeds.chunks_exact(set.n());
        let (Some(secret), Some(prf), Some(public)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Library("take seeds that are too short"));
        };
        let bytes = apart(|| {
            with_set!(set, Set => {
                let key = SigningKey::<Set>::slh_keygen_internal(secret, prf, public);
                Secret::copy_of(&Zeroizing::new(key.to_bytes()))
            })
        })?;
        Ok(Self { set, bytes })
    }

    /// The root is computed anew, and must be the one that is there.
    pub(super) fn from_bytes(set: SlhDsa, bytes: &[u8]) -> Result<Self, KeyError> {
        let inconsistent = KeyError::Inconsistent(SignatureAlgorithm::SlhDsa(set).into());
        let seeds = bytes.get(..3 * set.n()).ok_or(inconsistent.clone())?;
        let key = Self::from_seeds(set, seeds)?;
        if key.bytes == Secret::copy_of(bytes) { Ok(key) } else { Err(inconsistent) }
    }

    #[cfg(test)]
    pub(super) fn unchecked(set: SlhDsa, bytes: &[u8]) -> Self {
        Self { set, bytes: Secret::copy_of(bytes) }
    }

    pub(super) fn public(&self) -> Vec<u8> {
        self.bytes.as_bytes().get(2 * self.set.n()..).unwrap_or_default().to_vec()
    }

    pub(super) fn bytes(&self) -> Secret {
        self.bytes.clone()
    }

    pub(super) fn sign(&self, message: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        let randomness = random::bytes(self.set.n())?;
        self.sign_with(message, context, Some(randomness.as_bytes()))
    }

    /// The signature that FIPS 205 makes with `randomness`, or the deterministic one.
    pub(super) fn sign_with(
        &self,
        message: &[u8],
        context: &[u8],
        randomness: Option<&[u8]>,
    ) -> Result<Vec<u8>, KeyError> {
        const FAILED: KeyError = KeyError::Library("sign a message");
        // The library insists by a panic.
        if randomness.is_some_and(|randomness| randomness.len() != self.set.n()) {
            return Err(FAILED);
        }
        apart(|| {
            with_set!(self.set, Set => {
                let key = SigningKey::<Set>::try_from(self.bytes.as_bytes()).map_err(|_| FAILED)?;
                let signature = key.try_sign_with_context(message, context, randomness).map_err(|_| FAILED)?;
                Ok(signature.to_bytes().to_vec())
            })
        })?
    }
}

pub(super) fn verifies(set: SlhDsa, public: &[u8], message: &[u8], context: &[u8], signature: &[u8]) -> bool {
    with_set!(set, Set => verifies_by::<Set>(public, message, context, signature).is_some())
}

fn verifies_by<Set: ParameterSet>(
    public: &[u8],
    message: &[u8],
    context: &[u8],
    signature: &[u8],
) -> Option<()> {
    let public = VerifyingKey::<Set>::try_from(public).ok()?;
    let signature = Signature::<Set>::try_from(signature).ok()?;
    public.try_verify_with_context(message, context, &signature).ok()
}
