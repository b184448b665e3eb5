//! SubjectPublicKeyInfo: the identifier of the algorithm, without parameters, and the raw bytes.

use super::der::{BIT_STRING, OBJECT_IDENTIFIER, Reader, SEQUENCE, element};
use super::{EncodingError, oid};
use crate::key::PublicKey;

const WHAT: &str = "a SubjectPublicKeyInfo";

/// Identifier and key of something that has this shape.
pub(super) fn outline(der: &[u8]) -> Option<(Reader<'_>, &[u8])> {
    let mut all = Reader::new(der);
    let mut info = all.enter(SEQUENCE)?;
    let algorithm = info.enter(SEQUENCE)?;
    let bits = info.take(BIT_STRING)?;
    (all.at_end() && info.at_end()).then_some((algorithm, bits))
}

pub(super) fn read(der: &[u8]) -> Result<PublicKey, EncodingError> {
    const WRONG: EncodingError = EncodingError::Structure(WHAT);
    let (mut identifier, bits) = outline(der).ok_or(WRONG)?;
    let id = identifier.take(OBJECT_IDENTIFIER).ok_or(WRONG)?;
    let algorithm = oid::algorithm(id).ok_or_else(|| EncodingError::UnknownIdentifier(oid::dotted(id)))?;
    match bits.split_first() {
        Some((0, raw)) if identifier.at_end() => Ok(PublicKey::new(algorithm, raw)?),
        _ => Err(WRONG),
    }
}

pub(super) fn write(key: &PublicKey) -> Vec<u8> {
    let id = element(OBJECT_IDENTIFIER, &[&oid::of(key.algorithm())]);
    let identifier = element(SEQUENCE, &[&id]);
    // No bit of the last byte is unused.
    let bits = element(BIT_STRING, &[&[0], key.raw()]);
    element(SEQUENCE, &[&identifier, &bits]).to_vec()
}
