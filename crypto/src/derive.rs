//! Keys that are derived from a shared secret: HKDF (RFC 5869), and what keeps keys for different uses apart.
//!
//! With the profile [`Profile::Separated`] the use is part of what is derived: the info that HKDF is given is
//!
//! ```text
//! trellis.dev/derived-key/v1 NUL <key type> NUL <length, two bytes, big endian> <info>
//! ```
//!
//! so that of the same secret, salt and info an AES key, a ChaCha20 key and an HMAC key have nothing in common, nor
//! is a short one the beginning of a long one. [`Profile::Plain`] gives HKDF the info alone, for keys that others
//! derive as well.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, HKDF_SHA512, Salt};

use crate::random::Length;
use crate::secret::Secret;

const SEPARATOR: &[u8] = b"trellis.dev/derived-key/v1\0";

/// The hash that HKDF works with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hash {
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

/// What a derived key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    Aes256,
    ChaCha20,
    HmacSha256,
}

/// Whether the use of a key is part of what it is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// HKDF as RFC 5869 has it.
    Plain,
    /// With type and length of the key in the info.
    Separated,
}

/// All that a key is derived from, beside the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derivation<'a> {
    pub hash: Hash,
    pub profile: Profile,
    pub key_type: KeyType,
    pub salt: &'a [u8],
    pub info: &'a [u8],
    /// Bytes of the key.
    pub length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    #[error("a key of type {key_type} has {} bytes, not {found}", lengths(*.key_type))]
    Length { key_type: KeyType, found: usize },
    #[error("HKDF-{hash} gives 1 to {} bytes, not {found}", .hash.most())]
    Output { hash: Hash, found: usize },
    #[error("unknown {what} {found:?}: use one of {choices}")]
    Unknown { what: &'static str, found: String, choices: &'static str },
    #[error("the cryptographic library failed to derive a key")]
    Library,
}

impl Derivation<'_> {
    /// The key that comes of `secret`.
    pub fn key(&self, secret: &Secret) -> Result<Secret, DeriveError> {
        if !self.key_type.lengths().contains(&self.length) {
            return Err(DeriveError::Length { key_type: self.key_type, found: self.length });
        }
        match self.profile {
            Profile::Plain => hkdf(self.hash, secret, self.salt, self.info, self.length),
            Profile::Separated => {
                // At most 64.
                let length = (self.length as u16).to_be_bytes();
                let info = [SEPARATOR, self.key_type.name().as_bytes(), b"\0", &length, self.info].concat();
                hkdf(self.hash, secret, self.salt, &info, self.length)
            }
        }
    }
}

/// HKDF of RFC 5869, both steps.
pub fn hkdf(
    hash: Hash,
    secret: &Secret,
    salt: &[u8],
    info: &[u8],
    length: usize,
) -> Result<Secret, DeriveError> {
    if !(1..=hash.most()).contains(&length) {
        return Err(DeriveError::Output { hash, found: length });
    }
    let mut key = Secret::new(vec![0; length]);
    Salt::new(hash.hkdf(), salt)
        .extract(secret.as_bytes())
        .expand(&[info], Length(length))
        .and_then(|material| material.fill(key.as_mut_bytes()))
        .map_err(|_| DeriveError::Library)?;
    Ok(key)
}

impl Hash {
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Sha256 => HKDF_SHA256,
            Self::Sha384 => HKDF_SHA384,
            Self::Sha512 => HKDF_SHA512,
        }
    }

    /// Bytes that HKDF gives at most.
    fn most(self) -> usize {
        255 * match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl KeyType {
    pub const ALL: [Self; 3] = [Self::Aes256, Self::ChaCha20, Self::HmacSha256];
    /// Bytes of each of them unless something else is asked for.
    pub const LENGTH: usize = 32;

    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "AES-256",
            Self::ChaCha20 => "ChaCha20",
            Self::HmacSha256 => "HMAC-SHA256",
        }
    }

    /// Bytes that a key can have. One for HMAC is never shorter than what it makes, nor longer than its block.
    pub fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Aes256 | Self::ChaCha20 => 32..=32,
            Self::HmacSha256 => 32..=64,
        }
    }
}

fn lengths(key_type: KeyType) -> String {
    let (least, most) = key_type.lengths().into_inner();
    if least == most { least.to_string() } else { format!("{least} to {most}") }
}

impl Profile {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Separated];

    /// The profile where none is named. Who gives an info keeps uses apart by it, and derives the same key elsewhere;
    /// without one, only the type of the key can.
    pub fn for_info(info: &[u8]) -> Self {
        if info.is_empty() { Self::Separated } else { Self::Plain }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "rfc5869-plain",
            Self::Separated => "key-type-separated",
        }
    }
}

impl FromStr for Hash {
    type Err = DeriveError;

    /// Also as `SHA256` and `HKDF-SHA256`.
    fn from_str(text: &str) -> Result<Self, DeriveError> {
        let plain = |text: &str| text.to_ascii_uppercase().replace('-', "");
        let wanted = plain(text);
        let wanted = wanted.strip_prefix("HKDF").unwrap_or(&wanted);
        let found = Self::ALL.into_iter().find(|hash| plain(hash.name()) == wanted);
        found.ok_or_else(|| unknown("hash", text, "SHA-256, SHA-384, SHA-512"))
    }
}

impl FromStr for KeyType {
    type Err = DeriveError;

    fn from_str(text: &str) -> Result<Self, DeriveError> {
        let found = Self::ALL.into_iter().find(|key_type| key_type.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| unknown("key type", text, "AES-256, ChaCha20, HMAC-SHA256"))
    }
}

impl FromStr for Profile {
    type Err = DeriveError;

    fn from_str(text: &str) -> Result<Self, DeriveError> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or_else(|| unknown("profile", text, "rfc5869-plain, key-type-separated"))
    }
}

fn unknown(what: &'static str, found: &str, choices: &'static str) -> DeriveError {
    DeriveError::Unknown { what, found: found.chars().take(64).collect(), choices }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
