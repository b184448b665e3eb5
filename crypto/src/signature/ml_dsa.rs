//! ML-DSA: aws-lc's, but where a context is given, of which it knows nothing.

use std::convert::Infallible;

use aws_lc_rs::encoding::AsRawBytes;
use aws_lc_rs::signature::{
    KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING, ML_DSA_87, ML_DSA_87_SIGNING,
    PqdsaKeyPair, PqdsaSigningAlgorithm, PqdsaVerificationAlgorithm, UnparsedPublicKey,
};
use ml_dsa::signature::rand_core::{TryCryptoRng, TryRng};
use ml_dsa::{ExpandedSigningKey, ExpandedSigningKeyBytes, MlDsa44, MlDsa65, MlDsa87, MlDsaParams};
use zeroize::Zeroizing;

use crate::algorithm::SignatureAlgorithm;
use crate::apart::apart;
use crate::key::KeyError;
use crate::random;
use crate::secret::Secret;

/// The parameter set of FIPS 204 that `algorithm` is.
macro_rules! with_set {
    ($algorithm:expr, $set:ident => $body:expr) => {
        match $algorithm {
            SignatureAlgorithm::MlDsa44 => {
                type $set = MlDsa44;
                $body
            }
            SignatureAlgorithm::MlDsa87 => {
                type $set = MlDsa87;
                $body
            }
            // SLH-DSA never comes here.
            SignatureAlgorithm::MlDsa65 | SignatureAlgorithm::SlhDsa(_) => {
                type $set = MlDsa65;
                $body
            }
        }
    };
}

pub(super) struct Key {
    algorithm: SignatureAlgorithm,
    seed: Option<Secret>,
    pair: PqdsaKeyPair,
}

impl Key {
    pub(super) fn from_seed(algorithm: SignatureAlgorithm, seed: &[u8]) -> Result<Self, KeyError> {
        let pair = PqdsaKeyPair::from_seed(signing(algorithm), seed)
            .map_err(|_| KeyError::Library("make an ML-DSA key"))?;
        Ok(Self { algorithm, seed: Some(Secret::copy_of(seed)), pair })
    }

    /// aws-lc computes the public key anew, and with it whatever else in the private key depends on it.
    pub(super) fn from_expanded(algorithm: SignatureAlgorithm, bytes: &[u8]) -> Result<Self, KeyError> {
        let pair = PqdsaKeyPair::from_raw_private_key(signing(algorithm), bytes)
            .map_err(|_| KeyError::Inconsistent(algorithm.into()))?;
        Ok(Self { algorithm, seed: None, pair })
    }

    pub(super) fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    pub(super) fn seed(&self) -> Option<&Secret> {
        self.seed.as_ref()
    }

    pub(super) fn expanded(&self) -> Result<Secret, KeyError> {
        let raw = self.pair.private_key().as_raw_bytes().map_err(|_| KeyError::Library("write a key"))?;
        Ok(Secret::copy_of(raw.as_ref()))
    }

    pub(super) fn sign(&self, message: &[u8], context: &[u8]) -> Result<Vec<u8>, KeyError> {
        if !context.is_empty() {
            let randomness = random::bytes(32)?;
            return self.sign_with(message, context, randomness.as_bytes());
        }
        let mut signature = vec![0; self.pair.algorithm().signature_len()];
        let written =
            self.pair.sign(message, &mut signature).map_err(|_| KeyError::Library("sign a message"))?;
        signature.truncate(written);
        Ok(signature)
    }

    /// The signature that FIPS 204 makes with `randomness`, which is of 32 zeros where it is deterministic.
    pub(super) fn sign_with(
        &self,
        message: &[u8],
        context: &[u8],
        randomness: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        const FAILED: KeyError = KeyError::Library("sign a message");
        let mut randomness = Given(randomness);
        apart(|| {
            with_set!(self.algorithm, Set => {
                let key = self.second::<Set>()?;
                let signature =
                    key.sign_randomized(message, context, &mut randomness).map_err(|_| FAILED)?;
                Ok(signature.encode().to_vec())
            })
        })?
    }

    /// The same key as the other library has it. It reads the expanded form without any check, so nothing but
    /// what aws-lc wrote is handed to it.
    fn second<Set: MlDsaParams>(&self) -> Result<ExpandedSigningKey<Set>, KeyError> {
        const FAILED: KeyError = KeyError::Library("take a key");
        if let Some(seed) = &self.seed {
            let seed = Zeroizing::new(ml_dsa::Seed::try_from(seed.as_bytes()).map_err(|_| FAILED)?);
            return Ok(ExpandedSigningKey::from_seed(&seed));
        }
        let expanded = self.expanded()?;
        let bytes = Zeroizing::new(
            ExpandedSigningKeyBytes::<Set>::try_from(expanded.as_bytes()).map_err(|_| FAILED)?,
        );
        #[allow(deprecated, reason = "a key that was read without its seed has no other form")]
        Ok(ExpandedSigningKey::from_expanded(&bytes))
    }
}

pub(super) fn verifies(
    algorithm: SignatureAlgorithm,
    public: &[u8],
    message: &[u8],
    context: &[u8],
    signature: &[u8],
) -> bool {
    if context.is_empty() {
        return UnparsedPublicKey::new(verification(algorithm), public).verify(message, signature).is_ok();
    }
    with_set!(algorithm, Set => {
        let Ok(public) = ml_dsa::EncodedVerifyingKey::<Set>::try_from(public) else { return false };
        let Ok(signature) = ml_dsa::Signature::<Set>::try_from(signature) else { return false };
        ml_dsa::VerifyingKey::<Set>::decode(&public).verify_with_context(message, context, &signature)
    })
}

fn signing(algorithm: SignatureAlgorithm) -> &'static PqdsaSigningAlgorithm {
    match algorithm {
        SignatureAlgorithm::MlDsa44 => &ML_DSA_44_SIGNING,
        SignatureAlgorithm::MlDsa87 => &ML_DSA_87_SIGNING,
        SignatureAlgorithm::MlDsa65 | SignatureAlgorithm::SlhDsa(_) => &ML_DSA_65_SIGNING,
    }
}

fn verification(algorithm: SignatureAlgorithm) -> &'static PqdsaVerificationAlgorithm {
    match algorithm {
        SignatureAlgorithm::MlDsa44 => &ML_DSA_44,
        SignatureAlgorithm::MlDsa87 => &ML_DSA_87,
        SignatureAlgorithm::MlDsa65 | SignatureAlgorithm::SlhDsa(_) => &ML_DSA_65,
    }
}

/// Randomness that was drawn beforehand, since drawing may fail. What goes beyond it is refused by leaving it zero,
/// which makes a signature deterministic and no worse.
struct Given<'a>(&'a [u8]);

impl TryRng for Given<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        let (taken, rest) = self.0.split_at(wanted.len().min(self.0.len()));
        self.0 = rest;
        if let Some(room) = wanted.get_mut(..taken.len()) {
            room.copy_from_slice(taken);
        }
        Ok(())
    }
}

impl TryCryptoRng for Given<'_> {}
