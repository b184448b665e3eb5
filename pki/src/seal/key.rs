//! The key pair of a recipient: X-Wing, which is X25519 and ML-KEM-768 in one.
//!
//! The encodings are those of draft-connolly-cfrg-xwing-kem, which other implementations read as well:
//! PKCS#8 of the 32-byte seed and SubjectPublicKeyInfo, both under the OID 1.3.6.1.4.1.62253.25722,
//! in PEM. (age has a text form for the same keys, `age1pq1…`, but of no file that AES-256-GCM seals.)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, Serializable};
use zeroize::Zeroizing;

use super::{OpeningKeyError, sha256};
use crate::x509;

pub(super) const SEED_LEN: usize = 32;
pub(super) const PUBLIC_LEN: usize = 1216;

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
/// More text than this holds no key of ours.
const MAX_TEXT: usize = 64 * 1024;

/// A private key that opens sealed files: its seed, wiped when dropped.
pub struct OpeningKey {
    seed: Zeroizing<[u8; SEED_LEN]>,
    recipient: Recipient,
}

/// A public key that files are sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    raw: Vec<u8>,
}

impl OpeningKey {
    /// A fresh key from the operating system's randomness.
    pub fn generate() -> Result<Self, OpeningKeyError> {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| OpeningKeyError::Generation)?;
        Self::from_seed(&seed)
    }

    /// The key that X-Wing expands from `seed`, which it calls the decapsulation key.
    pub fn from_seed(seed: &[u8; SEED_LEN]) -> Result<Self, OpeningKeyError> {
        let seed = Zeroizing::new(*seed);
        let private = private(&seed).ok_or(OpeningKeyError::Generation)?;
        let recipient = Recipient { raw: XWing::sk_to_pk(&private).to_bytes().to_vec() };
        Ok(Self { seed, recipient })
    }

    /// Reads what [`OpeningKey::pem`] writes; text around the block is allowed.
    pub fn from_pem(pem: &str) -> Result<Self, OpeningKeyError> {
        let der = block(pem, PRIVATE_LABEL).ok_or(OpeningKeyError::Private)?;
        let seed = der.strip_prefix(&PKCS8_HEAD).ok_or(OpeningKeyError::Private)?;
        Self::from_seed(seed.try_into().map_err(|_| OpeningKeyError::Private)?)
    }

    /// PKCS#8 in PEM.
    pub fn pem(&self) -> Zeroizing<String> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_HEAD.len() + SEED_LEN));
        der.extend_from_slice(&PKCS8_HEAD);
        der.extend_from_slice(self.seed.as_slice());
        Zeroizing::new(x509::pem(PRIVATE_LABEL, &der))
    }

    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// The key as HPKE wants it, which wipes it when dropped.
    pub(super) fn hpke(&self) -> Option<<XWing as Kem>::PrivateKey> {
        private(&self.seed)
    }
}

fn private(seed: &Zeroizing<[u8; SEED_LEN]>) -> Option<<XWing as Kem>::PrivateKey> {
    <XWing as Kem>::PrivateKey::from_bytes(seed.as_slice()).ok()
}

impl Recipient {
    /// Reads what [`Recipient::pem`] writes; text around the block is allowed.
    pub fn from_pem(pem: &str) -> Result<Self, OpeningKeyError> {
        let der = block(pem, PUBLIC_LABEL).ok_or(OpeningKeyError::Recipient)?;
        let raw = der.strip_prefix(&SPKI_HEAD).ok_or(OpeningKeyError::Recipient)?;
        let recipient = Self { raw: raw.to_vec() };
        // The length, and that its numbers are below the modulus of ML-KEM.
        recipient.hpke().ok_or(OpeningKeyError::Recipient)?;
        Ok(recipient)
    }

    /// SubjectPublicKeyInfo in PEM.
    pub fn pem(&self) -> String {
        x509::pem(PUBLIC_LABEL, &self.subject_public_key_info())
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in lower case hex.
    pub fn fingerprint(&self) -> String {
        x509::hex(&sha256(&self.subject_public_key_info()))
    }

    fn subject_public_key_info(&self) -> Vec<u8> {
        [SPKI_HEAD.as_slice(), &self.raw].concat()
    }

    pub(super) fn hpke(&self) -> Option<<XWing as Kem>::PublicKey> {
        <XWing as Kem>::PublicKey::from_bytes(&self.raw).ok()
    }
}

/// What the only PEM block of that label holds. Unlike the PEM reader of the TLS library this one leaves
/// no copy of a private key behind.
fn block(text: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut lines = text.lines().map(str::trim_end);
    lines.by_ref().find(|line| *line == begin)?;
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    loop {
        let line = lines.next()?;
        if line == end {
            break;
        }
        base64.extend_from_slice(line.as_bytes());
    }
    if lines.any(|line| line == begin) {
        return None;
    }
    let mut der = Zeroizing::new(vec![0; base64.len()]);
    let length = STANDARD.decode_slice(base64.as_slice(), &mut der).ok()?;
    der.truncate(length);
    Some(der)
}

const _: () = assert!(SPKI_HEAD.len() + PUBLIC_LEN == 0x4d4 + 4);
