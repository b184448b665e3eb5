//! X25519MLKEM768, as TLS 1.3 has it (draft-ietf-tls-ecdhe-mlkem): everything of ML-KEM-768 first, what is
//! X25519's behind it. The client's share is the public key, the server's the ciphertext, and the secret is both
//! secrets, of 64 bytes.
//!
//! The two are not hashed together: what is derived of the secret is derived of all of it, as TLS does.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};

use super::{Encapsulation, ml_kem};
use crate::algorithm::KemAlgorithm;
use crate::key::KeyError;
use crate::random;
use crate::secret::Secret;

/// Of which ML-KEM-768 is a part; errors name the whole.
const HYBRID: KemAlgorithm = KemAlgorithm::X25519MlKem768;
/// Bytes of each key and secret of X25519.
const X25519_LEN: usize = 32;

pub(super) fn expand(seed: &[u8]) -> Result<(Secret, Vec<u8>), KeyError> {
    let (seed, scalar) = split(seed)?;
    let (expanded, mut public) = ml_kem::expand(HYBRID, seed)?;
    public.extend(x25519_public(scalar)?);
    Ok((Secret::concat(&[expanded.as_bytes(), scalar]), public))
}

pub(super) fn public_of(expanded: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (expanded, scalar) = split(expanded)?;
    let mut public = ml_kem::public_of(HYBRID, expanded)?;
    public.extend(x25519_public(scalar)?);
    Ok(public)
}

pub(super) fn check_public(raw: &[u8]) -> Result<(), KeyError> {
    ml_kem::check_public(HYBRID, split(raw)?.0)
}

pub(super) fn encapsulate(public: &[u8]) -> Result<Encapsulation, KeyError> {
    let (ml_kem_public, x25519_public) = split(public)?;
    let first = ml_kem::encapsulate(HYBRID, ml_kem_public)?;
    with_x25519(first, x25519_public, random::bytes(X25519_LEN)?.as_bytes())
}

pub(super) fn encapsulate_with(public: &[u8], randomness: &[u8]) -> Result<Encapsulation, KeyError> {
    let (ml_kem_public, x25519_public) = split(public)?;
    let (message, scalar) = split(randomness)?;
    with_x25519(ml_kem::encapsulate_with(HYBRID, ml_kem_public, message)?, x25519_public, scalar)
}

fn with_x25519(first: Encapsulation, peer: &[u8], scalar: &[u8]) -> Result<Encapsulation, KeyError> {
    let mut ciphertext = first.ciphertext;
    ciphertext.extend(x25519_public(scalar)?);
    let shared_secret = both(&first.shared_secret, scalar, peer, "public key")?;
    Ok(Encapsulation { shared_secret, ciphertext })
}

pub(super) fn decapsulate(expanded: &[u8], ciphertext: &[u8]) -> Result<Secret, KeyError> {
    let (expanded, scalar) = split(expanded)?;
    let (ciphertext, peer) = split(ciphertext)?;
    let first = ml_kem::decapsulate(HYBRID, expanded, ciphertext)?;
    both(&first, scalar, peer, "ciphertext")
}

/// What is ML-KEM's, and what is X25519's.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8; X25519_LEN]), KeyError> {
    bytes.split_last_chunk().ok_or(KeyError::Library("take a key apart that is too short"))
}

fn x25519_public(scalar: &[u8]) -> Result<Vec<u8>, KeyError> {
    const FAILED: KeyError = KeyError::Library("make an X25519 key");
    let key = PrivateKey::from_private_key(&X25519, scalar).map_err(|_| FAILED)?;
    Ok(key.compute_public_key().map_err(|_| FAILED)?.as_ref().to_vec())
}

fn both(first: &Secret, scalar: &[u8], peer: &[u8], what: &'static str) -> Result<Secret, KeyError> {
    let key =
        PrivateKey::from_private_key(&X25519, scalar).map_err(|_| KeyError::Library("take an X25519 key"))?;
    let low_order = KeyError::Invalid {
        algorithm: HYBRID.into(),
        what,
        problem: "with its X25519 share every secret would be zero",
    };
    agree(&key, UnparsedPublicKey::new(&X25519, peer), low_order, |second| {
        Ok(Secret::concat(&[first.as_bytes(), second]))
    })
}
