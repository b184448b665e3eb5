//! What somebody states about something, signed: an in-toto Statement (v1) in a DSSE envelope (v1.0.2).
//!
//! The statement names its subjects by their digests, so that something of any size is signed by what fits into a
//! Secret or an annotation. Three kinds of subject are known:
//!
//! | subject | digest | `predicateType` |
//! |---|---|---|
//! | an image in a registry | SHA-256 of its manifest | `https://sigstore.dev/cosign/sign/v1`, as cosign 3 has it |
//! | a file | SHA-512 of its content | `https://trellis.dev/attestation/file/v1` |
//! | a Kubernetes resource | SHA-256 of its [canonical form](canonical) | `https://trellis.dev/attestation/resource/v1` |
//!
//! What is signed is DSSE's encoding of payload and its type, [`pae`], in no context. That is also the message to
//! give to whoever only signs bytes; [`Envelope::assemble`] makes a document of the signature that comes back.

mod envelope;
mod image;
mod resource;
mod statement;

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA512};

pub use envelope::{Envelope, MAX_ENVELOPE, PAYLOAD_TYPE, pae};
pub use image::ImageReference;
pub use resource::{RESOURCE_ANNOTATION, canonical};
pub use statement::{Purpose, Statement, Subject};

use crate::fingerprint::Fingerprint;
use crate::key::KeyError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    #[error("{reference:?} does not name an image by its digest: {problem}; give NAME@sha256:<64 digits>")]
    Image { reference: String, problem: &'static str },
    #[error("the resource cannot be attested: {0}")]
    Resource(String),
    #[error("this is no signature document: {0}; give the DSSE envelope, in JSON, as it was made")]
    Envelope(&'static str),
    #[error("what is signed is of type {0:?}, not an in-toto statement")]
    PayloadType(String),
    #[error("none of the signatures was made by the key {0}, or what they are over was changed")]
    Signature(Fingerprint),
    #[error("what is signed is no in-toto statement: {0}")]
    Statement(&'static str),
    #[error("the signature is for {found}, and one for {wanted} is wanted here")]
    Purpose { found: String, wanted: Purpose },
    #[error("the signature is for {found}, not for {wanted}")]
    Subject { found: String, wanted: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// SHA-512 of all that `content` gives, which may be of any size.
pub fn sha512(content: &mut impl Read) -> io::Result<[u8; 64]> {
    let mut context = Context::new(&SHA512);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => context.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut hash = [0; 64];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(byte, of)| *byte = *of);
    Ok(hash)
}

#[cfg(test)]
mod tests;
