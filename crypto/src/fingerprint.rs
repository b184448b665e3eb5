//! How keys are told apart by people: SHA-256 of what is public, and a keyed code of what is not, from which
//! nobody without that key can find out by trying.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use crate::hex;
use crate::key::PublicKey;
use crate::secret::Secret;

/// Digits that are shown where there is no room for all.
const SHORT: usize = 10;

/// 256 bits, written as 64 lower case digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// SHA-256 of public bytes.
    pub fn of_public(bytes: &[u8]) -> Self {
        Self::from_hash(digest(&SHA256, bytes).as_ref())
    }

    /// HMAC-SHA-256 of `secret` under `key`.
    pub fn of_secret(key: &Secret, secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        Self::from_hash(hmac::sign(&key, secret).as_ref())
    }

    /// Reads 64 lower case digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = hex::decode(text).filter(|_| !text.bytes().any(|digit| digit.is_ascii_uppercase()))?;
        Some(Self(bytes.try_into().ok()?))
    }

    fn from_hash(hash: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(hash).for_each(|(byte, of)| *byte = *of);
        Self(bytes)
    }

    /// The first ten digits, for tables.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT);
        text
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PublicKey {
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_public(&self.der())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_sha_256_and_hmac_sha_256() {
        let empty = Fingerprint::of_public(b"");
        assert_eq!(empty.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(empty.short(), "e3b0c44298");
        assert_eq!(Fingerprint::parse(&empty.to_string()), Some(empty));
        assert_eq!(Fingerprint::parse(&empty.to_string().to_uppercase()), None);
        assert_eq!(Fingerprint::parse(&empty.short()), None);
        // RFC 4231, case 2.
        let code = Fingerprint::of_secret(&Secret::copy_of(b"Jefe"), b"what do ya want for nothing?");
        assert_eq!(code.to_string(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
