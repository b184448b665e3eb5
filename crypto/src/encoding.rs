//! How keys are written down.
//!
//! | | public | private |
//! |---|---|---|
//! | standard, PEM or DER | SubjectPublicKeyInfo | PKCS#8: ML-KEM as RFC 9935 has it, ML-DSA as RFC 9881, SLH-DSA as RFC 9909 |
//! | raw | the bytes of FIPS 203, 204 or 205 | the same, that is the expanded key |
//! | QubeSec | PEM `<algorithm> PUBLIC KEY` of the raw bytes | PEM `<algorithm> SECRET KEY` of the raw bytes |
//!
//! A private key of ML-KEM or ML-DSA is written as its seed, of which everything else follows. One that was read
//! without its seed is written as it was read. Where both are there, they must agree.
//!
//! X25519MLKEM768 has no registered identifier, nor does anybody else store such keys. Its OID here is
//! 2.25.225073894544748183949091582343555188920, which is the UUID of version 5 that the name
//! `https://trellis.dev/crypto/X25519MLKEM768` gives, and its private key is a choice like ML-KEM's, of a seed of 96
//! bytes (`d`, `z`, X25519's scalar) or 2432 expanded ones.

mod der;
mod oid;
mod pkcs8;
mod spki;

use zeroize::Zeroizing;

use crate::algorithm::{Algorithm, AlgorithmError, SignatureAlgorithm};
use crate::kem;
use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::pem::{self, Block, PemError};

/// What a private key is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Seed,
    Expanded,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    #[error("there is no {0} in it: give PEM or DER")]
    NoKey(&'static str),
    #[error("there is more than one {0} in it: give one alone")]
    Several(&'static str),
    #[error("there is a private key where a public one belongs: give the public key alone")]
    Private,
    #[error("there is only a public key where the private one belongs")]
    Public,
    #[error("the private key is encrypted with a password, which is not supported: decrypt it first")]
    Encrypted,
    #[error("this is not {0} in DER")]
    Structure(&'static str),
    #[error(
        "the {0} private key is in none of the forms that its standard knows (seed, expanded key, or both)"
    )]
    PrivateForm(Algorithm),
    #[error("the algorithm of the key has the identifier {0}, which stands for none that is offered here")]
    UnknownIdentifier(String),
    #[error("the key is one of {found}, and one of {wanted} is wanted")]
    OtherAlgorithm { found: Algorithm, wanted: Algorithm },
    #[error(
        "the label {label:?} says that the key is of a draft from before {algorithm}, with which it is not \
         compatible: make a new one"
    )]
    Draft { label: String, algorithm: Algorithm },
    #[error("the label of the PEM block: {0}")]
    Label(#[from] AlgorithmError),
    #[error("the seed and the expanded key of the {0} private key do not belong together")]
    SeedMismatch(Algorithm),
    #[error("the public key that stands with the {0} private key is that of another")]
    PublicMismatch(Algorithm),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

const PRIVATE: &str = "private key";
const PUBLIC: &str = "public key";
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
const SECRET_SUFFIX: &str = " SECRET KEY";
const PRIVATE_SUFFIX: &str = " PRIVATE KEY";
const PUBLIC_SUFFIX: &str = " PUBLIC KEY";

impl PrivateKey {
    /// Reads PEM of either kind or DER, and, if `wanted` says of what algorithm, raw bytes. A key of another
    /// algorithm is refused, also where only its label or identifier tells.
    pub fn read(bytes: &[u8], wanted: Option<Algorithm>) -> Result<Self, EncodingError> {
        let key = match (std::str::from_utf8(bytes), wanted) {
            (Ok(text), _) if text.contains("-----BEGIN ") => Self::from_pem(text)?,
            (_, Some(algorithm))
                if bytes.len() == algorithm.expanded_len() && pkcs8::outline(bytes).is_none() =>
            {
                Self::from_expanded(algorithm, bytes)?
            }
            _ if pkcs8::outline(bytes).is_none() && spki::outline(bytes).is_some() => {
                return Err(EncodingError::Public);
            }
            _ if pkcs8::outline(bytes).is_none() => return Err(EncodingError::NoKey(PRIVATE)),
            _ => Self::from_der(bytes)?,
        };
        check_algorithm(key.algorithm(), wanted)?;
        Ok(key)
    }

    /// Reads the only private key in a text.
    pub fn from_pem(text: &str) -> Result<Self, EncodingError> {
        let blocks = pem::blocks(text)?;
        if blocks.iter().any(|block| block.label == "ENCRYPTED PRIVATE KEY") {
            return Err(EncodingError::Encrypted);
        }
        let is_public = blocks.iter().any(|block| is_public(&block.label));
        let Some(block) = only(blocks, is_private, PRIVATE)? else {
            return Err(if is_public { EncodingError::Public } else { EncodingError::NoKey(PRIVATE) });
        };
        match labelled(&block.label, &[SECRET_SUFFIX, PRIVATE_SUFFIX])? {
            Some(algorithm) => Ok(Self::from_expanded(algorithm, &block.content)?),
            None => Self::from_der(&block.content),
        }
    }

    /// Reads PKCS#8.
    pub fn from_der(der: &[u8]) -> Result<Self, EncodingError> {
        pkcs8::read(der)
    }

    /// PKCS#8 in DER, in the form that the key is kept in.
    pub fn der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        pkcs8::write(self.algorithm(), self.seed(), || self.expanded())
    }

    /// PKCS#8 in PEM.
    pub fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        Ok(Zeroizing::new(pem::encode(PRIVATE_LABEL, &self.der()?)))
    }

    /// The raw bytes, in PEM as QubeSec writes it.
    pub fn qubesec_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let label = format!("{}{SECRET_SUFFIX}", self.algorithm());
        Ok(Zeroizing::new(pem::encode(&label, self.expanded()?.as_bytes())))
    }
}

impl kem::PrivateKey {
    /// PKCS#8 in PEM.
    pub fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = pkcs8::write(self.algorithm().into(), self.seed(), || Ok(self.expanded().clone()))?;
        Ok(Zeroizing::new(pem::encode(PRIVATE_LABEL, &der)))
    }
}

impl PublicKey {
    /// Reads PEM of either kind or DER, and, if `wanted` says of what algorithm, raw bytes. A key of another
    /// algorithm is refused, also where only its label or identifier tells.
    pub fn read(bytes: &[u8], wanted: Option<Algorithm>) -> Result<Self, EncodingError> {
        let key = match (std::str::from_utf8(bytes), wanted) {
            (Ok(text), _) if text.contains("-----BEGIN ") => Self::from_pem(text)?,
            (_, Some(algorithm))
                if bytes.len() == algorithm.public_key_len() && spki::outline(bytes).is_none() =>
            {
                Self::new(algorithm, bytes)?
            }
            _ if spki::outline(bytes).is_none() && pkcs8::outline(bytes).is_some() => {
                return Err(EncodingError::Private);
            }
            _ if spki::outline(bytes).is_none() => return Err(EncodingError::NoKey(PUBLIC)),
            _ => Self::from_der(bytes)?,
        };
        check_algorithm(key.algorithm(), wanted)?;
        Ok(key)
    }

    /// Reads the only public key in a text.
    pub fn from_pem(text: &str) -> Result<Self, EncodingError> {
        let blocks = pem::blocks(text)?;
        let is_private = blocks.iter().any(|block| is_private(&block.label));
        let Some(block) = only(blocks, is_public, PUBLIC)? else {
            return Err(if is_private { EncodingError::Private } else { EncodingError::NoKey(PUBLIC) });
        };
        match labelled(&block.label, &[PUBLIC_SUFFIX])? {
            Some(algorithm) => Ok(Self::new(algorithm, &block.content)?),
            None => Self::from_der(&block.content),
        }
    }

    /// Reads a SubjectPublicKeyInfo.
    pub fn from_der(der: &[u8]) -> Result<Self, EncodingError> {
        spki::read(der)
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn der(&self) -> Vec<u8> {
        spki::write(self)
    }

    /// SubjectPublicKeyInfo in PEM.
    pub fn pem(&self) -> String {
        pem::encode(PUBLIC_LABEL, &self.der())
    }

    /// The raw bytes, in PEM as QubeSec writes it.
    pub fn qubesec_pem(&self) -> String {
        pem::encode(&format!("{}{PUBLIC_SUFFIX}", self.algorithm()), self.raw())
    }
}

fn check_algorithm(found: Algorithm, wanted: Option<Algorithm>) -> Result<(), EncodingError> {
    match wanted {
        Some(wanted) if wanted != found => Err(EncodingError::OtherAlgorithm { found, wanted }),
        _ => Ok(()),
    }
}

fn is_private(label: &str) -> bool {
    label == PRIVATE_LABEL || label.ends_with(SECRET_SUFFIX) || label.ends_with(PRIVATE_SUFFIX)
}

fn is_public(label: &str) -> bool {
    label == PUBLIC_LABEL || label.ends_with(PUBLIC_SUFFIX)
}

fn only(
    blocks: Vec<Block>,
    fits: fn(&str) -> bool,
    what: &'static str,
) -> Result<Option<Block>, EncodingError> {
    let mut blocks = blocks.into_iter().filter(|block| fits(&block.label));
    let first = blocks.next();
    if blocks.next().is_some() {
        return Err(EncodingError::Several(what));
    }
    Ok(first)
}

/// The algorithm that a label names. Of SPHINCS+ the keys are those of FIPS 205, of the other drafts they are not.
fn labelled(label: &str, suffixes: &[&str]) -> Result<Option<Algorithm>, EncodingError> {
    let Some(name) = suffixes.iter().find_map(|suffix| label.strip_suffix(suffix)) else { return Ok(None) };
    let named = Algorithm::parse(name)?;
    let kept = matches!(named.algorithm, Algorithm::Signature(SignatureAlgorithm::SlhDsa(_)));
    if named.note.is_some() && !kept {
        let label = label.chars().take(64).collect();
        return Err(EncodingError::Draft { label, algorithm: named.algorithm });
    }
    Ok(Some(named.algorithm))
}

#[cfg(test)]
mod tests;
