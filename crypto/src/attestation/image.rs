//! An image, by its digest: a tag can be moved to another one tomorrow.

use std::fmt;
use std::str::FromStr;

use super::AttestationError;
use crate::hex;

/// Bytes that the name of a repository has at most.
const MAX_NAME: usize = 255;

/// A repository and the SHA-256 of a manifest in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    name: String,
    digest: String,
}

impl ImageReference {
    /// The repository, without tag and digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 64 lower case digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl FromStr for ImageReference {
    type Err = AttestationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse =
            |problem| AttestationError::Image { reference: text.chars().take(300).collect(), problem };
        let (name, digest) = text.split_once('@').ok_or_else(|| refuse("it has no digest"))?;
        let digest =
            digest.strip_prefix("sha256:").ok_or_else(|| refuse("its digest is not one of SHA-256"))?;
        let lower = digest.bytes().all(|digit| !digit.is_ascii_uppercase());
        if hex::decode(digest).is_none_or(|bytes| bytes.len() != 32) || !lower {
            return Err(refuse("its digest is not of 64 lower case digits"));
        }
        // A colon in the last part begins a tag, which the digest makes void; one before is of a port.
        let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
        let last = last.split_once(':').map_or(last, |(last, _)| last);
        let name = if path.is_empty() { last.to_owned() } else { format!("{path}/{last}") };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) && !last.is_empty();
        if !fits {
            return Err(refuse("its name is not one of a repository"));
        }
        Ok(Self { name, digest: digest.to_owned() })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@sha256:{}", self.name, self.digest)
    }
}
