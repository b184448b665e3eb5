//! PKCS#8 (RFC 5958). What is inside is a choice for ML-KEM and ML-DSA, and the raw bytes for SLH-DSA.

use zeroize::Zeroizing;

use super::der::{INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE, element};
use super::{EncodingError, oid};
use crate::algorithm::{Algorithm, SignatureAlgorithm};
use crate::key::{KeyError, PrivateKey};
use crate::secret::Secret;

const WHAT: &str = "a private key of PKCS#8";
/// `[0]`, in place of the tag of an octet string.
const SEED: u8 = 0x80;
/// `[0]`, around attributes.
const ATTRIBUTES: u8 = 0xa0;
/// `[1]`, in place of the tag of a bit string.
const PUBLIC: u8 = 0x81;

/// The parts of something that has this shape.
pub(super) struct Outline<'a> {
    identifier: Reader<'a>,
    private: &'a [u8],
    public: Option<&'a [u8]>,
}

pub(super) fn outline(der: &[u8]) -> Option<Outline<'_>> {
    let mut all = Reader::new(der);
    let mut info = all.enter(SEQUENCE)?;
    let version = info.take(INTEGER)?;
    let identifier = info.enter(SEQUENCE)?;
    let private = info.take(OCTET_STRING)?;
    // Attributes say nothing about the key.
    info.take(ATTRIBUTES);
    // Only the second version has room for the public key.
    let public = if version == [1] { info.take(PUBLIC) } else { None };
    let whole = all.at_end() && info.at_end() && matches!(version, [0 | 1]);
    whole.then_some(Outline { identifier, private, public })
}

pub(super) fn read(der: &[u8]) -> Result<PrivateKey, EncodingError> {
    const WRONG: EncodingError = EncodingError::Structure(WHAT);
    let Outline { mut identifier, private, public } = outline(der).ok_or(WRONG)?;
    let id = identifier.take(OBJECT_IDENTIFIER).ok_or(WRONG)?;
    let algorithm = oid::algorithm(id).ok_or_else(|| EncodingError::UnknownIdentifier(oid::dotted(id)))?;
    if !identifier.at_end() {
        return Err(WRONG);
    }
    let key = match algorithm {
        Algorithm::Signature(SignatureAlgorithm::SlhDsa(_)) => PrivateKey::from_expanded(algorithm, private)?,
        _ => choice(algorithm, private)?,
    };
    match public {
        Some(bits) if bits.split_first() != Some((&0, key.public_key().raw())) => {
            Err(EncodingError::PublicMismatch(algorithm))
        }
        _ => Ok(key),
    }
}

/// The seed, the expanded key, or both, which then must agree.
fn choice(algorithm: Algorithm, private: &[u8]) -> Result<PrivateKey, EncodingError> {
    let whole = |reader: &Reader<'_>| reader.at_end();
    let mut reader = Reader::new(private);
    if let Some(seed) = reader.take(SEED).filter(|_| whole(&reader)) {
        return Ok(PrivateKey::from_seed(algorithm, seed)?);
    }
    let mut reader = Reader::new(private);
    if let Some(expanded) = reader.take(OCTET_STRING).filter(|_| whole(&reader)) {
        return Ok(PrivateKey::from_expanded(algorithm, expanded)?);
    }
    let mut reader = Reader::new(private);
    let both = reader.enter(SEQUENCE).filter(|_| whole(&reader)).and_then(|mut both| {
        let (seed, expanded) = (both.take(OCTET_STRING)?, both.take(OCTET_STRING)?);
        whole(&both).then_some((seed, expanded))
    });
    let (seed, expanded) = both.ok_or(EncodingError::PrivateForm(algorithm))?;
    let key = PrivateKey::from_seed(algorithm, seed)?;
    if key.expanded()? == Secret::copy_of(expanded) {
        Ok(key)
    } else {
        Err(EncodingError::SeedMismatch(algorithm))
    }
}

pub(super) fn write(
    algorithm: Algorithm,
    seed: Option<&Secret>,
    expanded: impl FnOnce() -> Result<Secret, KeyError>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let inner = match (algorithm, seed) {
        (_, Some(seed)) => element(SEED, &[seed.as_bytes()]),
        (Algorithm::Signature(SignatureAlgorithm::SlhDsa(_)), None) => {
            Zeroizing::new(expanded()?.as_bytes().to_vec())
        }
        (_, None) => element(OCTET_STRING, &[expanded()?.as_bytes()]),
    };
    let version = element(INTEGER, &[&[0]]);
    let id = element(OBJECT_IDENTIFIER, &[&oid::of(algorithm)]);
    let identifier = element(SEQUENCE, &[&id]);
    let private = element(OCTET_STRING, &[&inner]);
    Ok(element(SEQUENCE, &[&version, &identifier, &private]))
}
