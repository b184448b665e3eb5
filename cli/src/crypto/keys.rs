//! Keys, from files.

use anyhow::{Context, Result};
use trellis_crypto::{
    PrivateKey, PublicKey,
    pem::MAX_TEXT,
    seal::{OpeningKey, Recipient},
    signature,
};

use super::Input;

/// The private key that signs.
pub fn signer(input: &Input) -> Result<signature::PrivateKey> {
    let context = || format!("--key {input}");
    match PrivateKey::read(&input.read(MAX_TEXT)?, None).with_context(context)? {
        PrivateKey::Signature(key) => Ok(key),
        PrivateKey::Kem(key) => Err(signs(&key.algorithm().into())).with_context(context),
    }
}

/// The public key that verifies.
pub fn verifier(input: &Input) -> Result<signature::PublicKey> {
    let context = || format!("--key {input}");
    match PublicKey::read(&input.read(MAX_TEXT)?, None).with_context(context)? {
        PublicKey::Signature(key) => Ok(key),
        PublicKey::Kem(key) => Err(signs(&key.algorithm().into())).with_context(context),
    }
}

/// Why a key does not sign.
fn signs(algorithm: &trellis_crypto::Algorithm) -> anyhow::Error {
    match algorithm.signature() {
        Err(error) => error.into(),
        Ok(_) => anyhow::anyhow!("it signs"),
    }
}

/// The private key that opens.
pub fn opener(input: &Input) -> Result<OpeningKey> {
    let context = || format!("--key {input}");
    let bytes = input.read(MAX_TEXT)?;
    // X-Wing's keys are read there, and these are texts.
    match std::str::from_utf8(&bytes) {
        Ok(text) => OpeningKey::from_pem(text).with_context(context),
        Err(_) => match PrivateKey::from_der(&bytes).with_context(context)? {
            PrivateKey::Kem(key) => Ok(OpeningKey::of(key)),
            PrivateKey::Signature(key) => Err(encapsulates(&key.algorithm().into())).with_context(context),
        },
    }
}

/// A public key that is sealed to.
pub fn recipient(input: &Input) -> Result<Recipient> {
    let context = || format!("--to {input}");
    let bytes = input.read(MAX_TEXT)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Recipient::from_pem(text).with_context(context),
        Err(_) => match PublicKey::from_der(&bytes).with_context(context)? {
            PublicKey::Kem(key) => Ok(Recipient::of(key)),
            PublicKey::Signature(key) => Err(encapsulates(&key.algorithm().into())).with_context(context),
        },
    }
}

fn encapsulates(algorithm: &trellis_crypto::Algorithm) -> anyhow::Error {
    match algorithm.kem() {
        Err(error) => error.into(),
        Ok(_) => anyhow::anyhow!("it encapsulates"),
    }
}
