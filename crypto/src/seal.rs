//! Sealed files: a stream of bytes of any size that only the holder of a key can open, today's
//! eavesdropper with tomorrow's quantum computer excluded. What was cut, changed or put elsewhere in
//! one is found before it is used.
//!
//! Whoever has a recipient's public key can seal to it, so that a file opens says nothing about who
//! made it. A reader to whom that matters needs a signature inside, or a key that is kept like a secret.
//!
//! # Format, `trellis.dev/sealed/v1`
//!
//! A header of lines, each ended by a line feed, and then the content, up to the end of the file:
//!
//! ```text
//! trellis.dev/sealed/v1
//! purpose: trellis backup
//! to: <fingerprint of the key> <encapsulated key> <content key>        one to 64 of these
//! mac: <HMAC-SHA256>
//! <chunks, binary>
//! ```
//!
//! Base64 is the standard one, with padding. A fingerprint is the SHA-256 of the recipient's
//! SubjectPublicKeyInfo, in lower case hex.
//!
//! - A fresh random **content key** of 32 bytes is sealed to each recipient by HPKE (RFC 9180), base
//!   mode, KDF HKDF-SHA256 (0x0001), AEAD AES-256-GCM (0x0002); `info` is the first two lines with their
//!   line feeds, `aad` is empty. The KEM is X-Wing (draft-connolly-cfrg-xwing-kem, 0x647a), or, with its
//!   name as a fifth word of the line, ML-KEM-512, ML-KEM-768 or ML-KEM-1024 (draft-ietf-hpke-pq, 0x0040
//!   to 0x0042). A key of X25519MLKEM768 is a recipient by X-Wing: it consists of the same two public keys.
//! - HKDF-SHA256 of the content key, without salt, gives two keys of 32 bytes: the **header key** with
//!   the info `trellis.dev/sealed/v1 header`, the **payload key** with `trellis.dev/sealed/v1 payload`.
//! - `mac` is over all lines before it, by the header key. It also pins the content key, which
//!   AES-GCM by itself would not: no two recipients can be shown different contents.
//! - The content is cut into **chunks** of 64 KiB, of which the last may be shorter, and is empty only if
//!   everything is. Each is sealed by AES-256-GCM under the payload key, with the SHA-256 of the whole
//!   header as associated data and a nonce of 11 bytes that count up from zero, big endian, and one byte
//!   that is 1 in the last chunk and 0 in all others (STREAM, in the form that age gave it). The tag of
//!   16 bytes follows each chunk.
//!
//! Which keys are read, and how they are encoded: see [`OpeningKey`] and [`Recipient`].

mod chunks;
mod error;
mod header;
mod kem;
mod key;
mod wrap;

use std::io::{BufReader, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

pub use chunks::CHUNK_LEN;
pub use error::{OpeningKeyError, SealError};
pub use header::{MAX_PURPOSE, MAX_RECIPIENTS};
pub use key::{OpeningKey, Recipient};

use chunks::Payload;
use header::Header;

/// The first line of a sealed file.
pub const FORM: &str = "trellis.dev/sealed/v1";

const KEY_LEN: usize = 32;

type ContentKey = Zeroizing<[u8; KEY_LEN]>;

/// Where random bytes come from: the operating system, but for tests that pin the format.
type Draw<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), SealError>;

/// What a sealed file says of itself to everyone. Nobody has vouched for it before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub purpose: String,
    /// Fingerprints of the keys that open it.
    pub recipients: Vec<String>,
}

/// Seals everything that `plain` gives, and returns how many bytes that were. `purpose` says what the
/// content is, so that one kind of file cannot be passed off as another: whoever opens it has to name
/// the same.
pub fn seal(
    purpose: &str,
    recipients: &[Recipient],
    plain: &mut impl Read,
    sealed: &mut impl Write,
) -> Result<u64, SealError> {
    seal_with(purpose, recipients, plain, sealed, &mut system)
}

/// Opens what [`seal`] made, and returns how many bytes of content it had.
///
/// Nothing is written to `plain` that was not sealed at just that place. But a file of several chunks is
/// found to be cut only when its end is missing: on an error, what was written is the true beginning
/// of something whose rest is not known, and must not be used as if it were whole.
pub fn open(
    purpose: &str,
    key: &OpeningKey,
    sealed: &mut impl Read,
    plain: &mut impl Write,
) -> Result<u64, SealError> {
    header::check_purpose(purpose)?;
    let mut sealed = BufReader::new(sealed);
    let header = Header::read(&mut sealed)?;
    if header.purpose() != purpose {
        return Err(SealError::OtherPurpose {
            found: header.purpose().to_owned(),
            wanted: purpose.to_owned(),
        });
    }
    let keys = Keys::of(&header.content_key(key)?)?;
    header.verify(&keys.header)?;
    Payload::new(keys.payload, header.hash()).open(&mut sealed, plain)
}

/// [`seal`] for content that is in memory anyway.
pub fn seal_bytes(purpose: &str, recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut sealed = Vec::new();
    seal(purpose, recipients, &mut &*plain, &mut sealed)?;
    Ok(sealed)
}

/// [`open`] for content that is small, and secret enough to be wiped. All of it, or nothing.
pub fn open_bytes(purpose: &str, key: &OpeningKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    // Content is shorter than what it was sealed to, so this never grows and leaves no copy behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
    open(purpose, key, &mut &*sealed, &mut *plain)?;
    Ok(plain)
}

/// Reads the header only, which needs no key and proves nothing.
pub fn inspect(sealed: &mut impl Read) -> Result<Envelope, SealError> {
    let header = Header::read(&mut BufReader::new(sealed))?;
    Ok(header.envelope())
}

fn seal_with(
    purpose: &str,
    recipients: &[Recipient],
    plain: &mut impl Read,
    sealed: &mut impl Write,
    draw: Draw<'_>,
) -> Result<u64, SealError> {
    let mut content_key = ContentKey::default();
    draw(content_key.as_mut_slice())?;
    let keys = Keys::of(&content_key)?;
    let header = Header::make(purpose, recipients, &content_key, &keys.header, draw)?;
    sealed.write_all(header.bytes()).map_err(SealError::Writing)?;
    let written = Payload::new(keys.payload, header.hash()).seal(plain, sealed)?;
    sealed.flush().map_err(SealError::Writing)?;
    Ok(written)
}

fn system(bytes: &mut [u8]) -> Result<(), SealError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| SealError::Library("give random bytes"))
}

/// What a content key is used for: never itself.
struct Keys {
    header: hmac::Key,
    payload: LessSafeKey,
}

impl Keys {
    fn of(content_key: &ContentKey) -> Result<Self, SealError> {
        let header = derived(content_key, "header")?;
        let payload = derived(content_key, "payload")?;
        let payload = UnboundKey::new(&AES_256_GCM, payload.as_slice())
            .map_err(|_| SealError::Library("take an AES key"))?;
        Ok(Self {
            header: hmac::Key::new(hmac::HMAC_SHA256, header.as_slice()),
            payload: LessSafeKey::new(payload),
        })
    }
}

fn derived(content_key: &ContentKey, role: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, SealError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    Salt::new(HKDF_SHA256, &[])
        .extract(content_key.as_slice())
        .expand(&[FORM.as_bytes(), b" ", role.as_bytes()], HKDF_SHA256)
        .and_then(|material| material.fill(key.as_mut_slice()))
        .map_err(|_| SealError::Library("derive a key"))?;
    Ok(key)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests;
