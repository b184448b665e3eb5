//! Who can open a sealed file: whoever has a key of ML-KEM or of the hybrid, in any of the [forms](crate::encoding)
//! that keys are written in, or one of X-Wing.
//!
//! X-Wing's own encodings are those of draft-connolly-cfrg-xwing-kem: PKCS#8 of the 32-byte seed and
//! SubjectPublicKeyInfo, both under the OID 1.3.6.1.4.1.62253.25722, in PEM. (age has a text form for the same keys,
//! `age1pq1…`, but of no file that AES-256-GCM seals.)

use zeroize::Zeroizing;

use super::OpeningKeyError;
use super::kem::{SealingKem, x_wing_expanded};
use crate::algorithm::KemAlgorithm;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::secret::Secret;
use crate::{kem, pem, random};

pub(super) const SEED_LEN: usize = 32;
const PUBLIC_LEN: usize = 1216;

// Both encodings have one spelling: a constant head, and the key.
const PKCS8_HEAD: [u8; 22] = [
    0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x0b, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xe6, 0x2d,
    0x81, 0xc8, 0x7a, 0x04, 0x20,
];
const SPKI_HEAD: [u8; 24] = [
    0x30, 0x82, 0x04, 0xd4, 0x30, 0x0d, 0x06, 0x0b, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xe6, 0x2d, 0x81,
    0xc8, 0x7a, 0x03, 0x82, 0x04, 0xc1, 0x00,
];
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";

/// A private key that opens sealed files, wiped when dropped.
pub struct OpeningKey {
    key: kem::PrivateKey,
    /// What an X-Wing key is stored as.
    x_wing: Option<Secret>,
    recipient: Recipient,
}

/// A public key that files are sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    key: kem::PublicKey,
    /// Whether it is written down as one of X-Wing.
    x_wing: bool,
}

impl OpeningKey {
    /// A fresh key of X-Wing from the operating system's randomness.
    pub fn generate() -> Result<Self, OpeningKeyError> {
        let seed = random::bytes(SEED_LEN).map_err(|_| OpeningKeyError::Generation)?;
        Self::x_wing(seed.as_bytes())
    }

    /// The key that X-Wing expands from `seed`, which it calls the decapsulation key.
    pub fn from_seed(seed: &[u8; SEED_LEN]) -> Result<Self, OpeningKeyError> {
        Self::x_wing(seed)
    }

    fn x_wing(seed: &[u8]) -> Result<Self, OpeningKeyError> {
        let expanded = x_wing_expanded(seed);
        let key = kem::PrivateKey::from_seed(KemAlgorithm::X25519MlKem768, expanded.as_bytes())
            .map_err(|_| OpeningKeyError::Generation)?;
        let recipient = Recipient { key: key.public_key().clone(), x_wing: true };
        Ok(Self { key, x_wing: Some(Secret::copy_of(seed)), recipient })
    }

    /// Any key that decapsulates.
    pub fn of(key: kem::PrivateKey) -> Self {
        let recipient = Recipient::of(key.public_key().clone());
        Self { key, x_wing: None, recipient }
    }

    /// Reads the only private key in a text.
    pub fn from_pem(pem: &str) -> Result<Self, OpeningKeyError> {
        if let Some(der) = only(pem, PRIVATE_LABEL)
            && let Some(seed) = der.strip_prefix(&PKCS8_HEAD)
            && seed.len() == SEED_LEN
        {
            return Self::x_wing(seed);
        }
        match PrivateKey::from_pem(pem).map_err(OpeningKeyError::Private)? {
            PrivateKey::Kem(key) => Ok(Self::of(key)),
            PrivateKey::Signature(key) => Err(OpeningKeyError::Signs(key.algorithm())),
        }
    }

    /// PKCS#8 in PEM.
    pub fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let Some(seed) = &self.x_wing else { return self.key.pem() };
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_HEAD.len() + SEED_LEN));
        der.extend_from_slice(&PKCS8_HEAD);
        der.extend_from_slice(seed.as_bytes());
        Ok(Zeroizing::new(pem::encode(PRIVATE_LABEL, &der)))
    }

    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    pub(super) fn key(&self) -> &kem::PrivateKey {
        &self.key
    }
}

impl Recipient {
    /// Any key that encapsulates.
    pub fn of(key: kem::PublicKey) -> Self {
        Self { key, x_wing: false }
    }

    /// Reads the only public key in a text.
    pub fn from_pem(pem: &str) -> Result<Self, OpeningKeyError> {
        if let Some(der) = only(pem, PUBLIC_LABEL)
            && let Some(raw) = der.strip_prefix(&SPKI_HEAD)
        {
            // The length, and that its numbers are below the modulus of ML-KEM.
            let key = kem::PublicKey::new(KemAlgorithm::X25519MlKem768, raw);
            let key = key.map_err(|error| OpeningKeyError::Recipient(error.into()))?;
            return Ok(Self { key, x_wing: true });
        }
        match PublicKey::from_pem(pem).map_err(OpeningKeyError::Recipient)? {
            PublicKey::Kem(key) => Ok(Self::of(key)),
            PublicKey::Signature(key) => Err(OpeningKeyError::Signs(key.algorithm())),
        }
    }

    /// SubjectPublicKeyInfo in PEM.
    pub fn pem(&self) -> String {
        pem::encode(PUBLIC_LABEL, &self.subject_public_key_info())
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in lower case hex.
    pub fn fingerprint(&self) -> String {
        Fingerprint::of_public(&self.subject_public_key_info()).to_string()
    }

    /// What the key is of.
    pub fn algorithm(&self) -> &'static str {
        if self.x_wing { "X-Wing" } else { self.key.algorithm().name() }
    }

    fn subject_public_key_info(&self) -> Vec<u8> {
        if self.x_wing {
            return [SPKI_HEAD.as_slice(), self.key.raw()].concat();
        }
        PublicKey::Kem(self.key.clone()).der()
    }

    pub(super) fn key(&self) -> &kem::PublicKey {
        &self.key
    }

    pub(super) fn kem(&self) -> SealingKem {
        SealingKem::of(self.key.algorithm())
    }
}

/// What the only PEM block of that label holds.
fn only(text: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let blocks = pem::blocks(text).ok()?;
    let mut blocks = blocks.into_iter().filter(|block| block.label == label);
    let first = blocks.next()?;
    blocks.next().is_none().then_some(first.content)
}

const _: () = assert!(SPKI_HEAD.len() + PUBLIC_LEN == 0x4d4 + 4);
