//! Why something was not sealed, not opened, or is no key; each says what to do.

use std::io;

use super::header::{MAX_PURPOSE, MAX_RECIPIENTS};
use crate::algorithm::SignatureAlgorithm;
use crate::encoding::EncodingError;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("nobody is named who could open it: give at least one recipient")]
    NoRecipient,
    #[error("{0} recipients are too many: give up to {MAX_RECIPIENTS}, or seal to a key that they share")]
    TooManyRecipients(usize),
    #[error(
        "{0:?} does not do as a purpose: give 1 to {MAX_PURPOSE} letters, digits, blanks or marks of ASCII, \
         without a blank at either end"
    )]
    Purpose(String),
    #[error("this is no sealed file: its first line is not {form:?}; give the file as it was sealed", form = super::FORM)]
    NotSealed,
    #[error(
        "the file is sealed in the form {0:?}, which this release does not know: open it with a newer one"
    )]
    Version(String),
    #[error("line {line} of the sealed file's header {problem}: the file is damaged, get another copy")]
    Header { line: usize, problem: &'static str },
    #[error("the file was sealed as {found:?}, but {wanted:?} is wanted here: give a file of that kind")]
    OtherPurpose { found: String, wanted: String },
    #[error(
        "the key {held} does not open this file: use the private key of {}", .recipients.join(" or of ")
    )]
    WrongKey { held: String, recipients: Vec<String> },
    #[error("the sealed file was cut: its end is missing; get another copy")]
    Cut,
    #[error("chunk {0}, the last of the sealed file, was cut or changed; get another copy")]
    CutOrChanged(u64),
    #[error("chunk {0} of the sealed file was changed, or is not where it was sealed; get another copy")]
    Changed(u64),
    #[error("reading failed: {0}")]
    Reading(#[source] io::Error),
    #[error("writing failed: {0}")]
    Writing(#[source] io::Error),
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningKeyError {
    #[error("the cryptographic library failed to make the key")]
    Generation,
    #[error("this is no private key to open sealed files with: {0}")]
    Private(#[source] EncodingError),
    #[error("this is no public key to seal files to: {0}")]
    Recipient(#[source] EncodingError),
    #[error("a key of {0} signs: files are sealed to keys of ML-KEM, X25519MLKEM768 or X-Wing")]
    Signs(SignatureAlgorithm),
}
