//! Private keys: made here, kept here. They have no `Debug`, and what leaves is wiped when dropped.
//!
//! An ML-DSA key is its 32-byte seed; the expanded form is never written, because the seed cannot be
//! recovered from it and other implementations read only the seed.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, PqdsaKeyPair};
use rcgen::PublicKeyData;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::algorithm::Algorithm;
use crate::x509;

/// Bytes of an ML-DSA seed, whatever the level.
pub const SEED_LEN: usize = 32;

/// PKCS#8 of a seed is a constant head, the algorithm's last OID arc inside it, and the seed.
const SEED_PKCS8_LEN: usize = 54;
const SEED_PKCS8_HEAD: [u8; SEED_PKCS8_LEN - SEED_LEN] = [
    0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03,
    0x00, 0x04, 0x22, 0x80, 0x20,
];
const SEED_PKCS8_ARC: usize = 17;

/// A key that signs.
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    MlDsa { seed: Zeroizing<[u8; SEED_LEN]>, pair: PqdsaKeyPair },
    Ecdsa { pair: EcdsaKeyPair },
}

/// What a key shows to the world: the bits of a SubjectPublicKeyInfo, without its wrapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub algorithm: Algorithm,
    pub raw: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("the cryptographic library failed to make the {0} key")]
    Generation(&'static str),
    #[error("{} keys are not made from a seed: use generate or PKCS#8", .0.name())]
    NoSeedForm(Algorithm),
    #[error("the private key is not PKCS#8 DER of an ML-DSA-44, ML-DSA-65, ML-DSA-87 or ECDSA P-256 key")]
    Unreadable,
    #[error(
        "the {} private key holds only the expanded form: store it as the 32-byte seed (PKCS#8 of 54 bytes)",
        .0.name()
    )]
    SeedMissing(Algorithm),
    #[error("the cryptographic library failed to write the key")]
    Writing,
    #[error("the key cannot be used for TLS: {0}")]
    Tls(rustls::Error),
    #[error("the cryptographic library failed to sign")]
    Signing,
}

impl PrivateKey {
    /// A fresh key from the operating system's randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        if algorithm == Algorithm::EcdsaP256 {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                .map_err(|_| KeyError::Generation(algorithm.name()))?;
            return Ok(Self::from_ecdsa(pair));
        }
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::Generation(algorithm.name()))?;
        Self::from_seed(algorithm, &seed)
    }

    /// The key that FIPS 204 derives from `seed`. Only ML-DSA keys have such a form.
    pub fn from_seed(algorithm: Algorithm, seed: &[u8; SEED_LEN]) -> Result<Self, KeyError> {
        let parameters = algorithm.ml_dsa().ok_or(KeyError::NoSeedForm(algorithm))?;
        let pair =
            PqdsaKeyPair::from_seed(parameters, seed).map_err(|_| KeyError::Generation(algorithm.name()))?;
        let raw = pair.public_key().as_ref().to_vec();
        Ok(Self {
            secret: Secret::MlDsa { seed: Zeroizing::new(*seed), pair },
            public: PublicKey { algorithm, raw },
        })
    }

    /// Reads PKCS#8 DER; an ML-DSA key must contain its seed.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            return Ok(Self::from_ecdsa(pair));
        }
        for algorithm in Algorithm::ALL {
            let Some(parameters) = algorithm.ml_dsa() else { continue };
            let Ok(pair) = PqdsaKeyPair::from_pkcs8(parameters, der) else { continue };
            // Written anew it is in seed form, or cannot be written because the seed is not there.
            let written = pair.to_pkcs8v1().map_err(|_| KeyError::SeedMissing(algorithm))?;
            let (head, seed) =
                written.as_ref().split_last_chunk::<SEED_LEN>().ok_or(KeyError::SeedMissing(algorithm))?;
            if head.len() + SEED_LEN != SEED_PKCS8_LEN {
                return Err(KeyError::SeedMissing(algorithm));
            }
            return Self::from_seed(algorithm, seed);
        }
        Err(KeyError::Unreadable)
    }

    fn from_ecdsa(pair: EcdsaKeyPair) -> Self {
        let raw = pair.public_key().as_ref().to_vec();
        let public = PublicKey { algorithm: Algorithm::EcdsaP256, raw };
        Self { secret: Secret::Ecdsa { pair }, public }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The canonical form of an ML-DSA key; ECDSA keys have none.
    pub fn seed(&self) -> Option<Zeroizing<[u8; SEED_LEN]>> {
        match &self.secret {
            Secret::MlDsa { seed, .. } => Some(seed.clone()),
            Secret::Ecdsa { .. } => None,
        }
    }

    /// The key as PKCS#8 DER, ML-DSA as its seed.
    pub fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match &self.secret {
            Secret::MlDsa { seed, .. } => Ok(seed_pkcs8(self.algorithm(), seed)),
            Secret::Ecdsa { pair } => {
                let der = pair.to_pkcs8v1().map_err(|_| KeyError::Writing)?;
                Ok(Zeroizing::new(der.as_ref().to_vec()))
            }
        }
    }

    /// The key as rustls signs handshakes with it.
    pub fn rustls_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let pkcs8 = self.pkcs8()?;
        let mut der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let key = any_supported_type(&der).map_err(KeyError::Tls);
        der.zeroize();
        key
    }

    pub(crate) fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.secret {
            Secret::MlDsa { pair, .. } => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                let written = pair.sign(message, &mut signature).map_err(|_| KeyError::Signing)?;
                signature.truncate(written);
                Ok(signature)
            }
            Secret::Ecdsa { pair } => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Signing)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }
}

fn seed_pkcs8(algorithm: Algorithm, seed: &[u8; SEED_LEN]) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(Vec::with_capacity(SEED_PKCS8_LEN));
    der.extend_from_slice(&SEED_PKCS8_HEAD);
    if let Some(arc) = der.get_mut(SEED_PKCS8_ARC) {
        *arc = match algorithm {
            Algorithm::MlDsa44 => 17,
            Algorithm::MlDsa65 | Algorithm::EcdsaP256 => 18,
            Algorithm::MlDsa87 => 19,
        };
    }
    der.extend_from_slice(seed);
    der
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.raw
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm.for_certificates()
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The bytes that lower case hexadecimal digits stand for.
pub fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    x509::from_hex(hex)
}

impl PublicKey {
    /// The raw bits of a key, if such a key can have as many.
    pub fn new(algorithm: Algorithm, raw: Vec<u8>) -> Option<Self> {
        let uncompressed = algorithm != Algorithm::EcdsaP256 || raw.first() == Some(&4);
        (uncompressed && raw.len() == algorithm.public_key_len()).then_some(Self { algorithm, raw })
    }

    /// Whether this key signed `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithm.verifies(&self.raw, message, signature)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in lower case hex.
    pub fn fingerprint(&self) -> String {
        x509::hex(digest(&SHA256, &self.subject_public_key_info()).as_ref())
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.raw
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.for_certificates()
    }
}
