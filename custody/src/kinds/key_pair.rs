//! What both kinds of key pairs have in common: how keys are written into a Secret and read from it.
//!
//! `public-key` and `private-key` are PEM, of the standards or as QubeSec writes it; `public_key` and
//! `private_key` are the raw bytes of FIPS 203, 204 and 205; `metadata` says in JSON what they are.

use serde_json::json;
use trellis_api::crypto::KeyFormat;
use trellis_crypto::{Algorithm, PrivateKey, PublicKey, Secret};

use crate::{
    content::Content,
    craft::{Failure, Made, Recipe, Salvage, made_of},
    sources::Obstacle,
};

const PUBLIC_PEM: &str = "public-key";
const PRIVATE_PEM: &str = "private-key";
const PUBLIC_RAW: &str = "public_key";
const PRIVATE_RAW: &str = "private_key";
const METADATA: &str = "metadata";
/// What the label of a private key ends with in QubeSec's form.
const QUBESEC_LABEL: &str = " SECRET KEY-----";

/// The form in which keys stand that nobody wished a form for.
pub(super) fn unless_said(format: Option<KeyFormat>) -> KeyFormat {
    format.unwrap_or_default()
}

pub(super) fn recipe(name: &str) -> Result<Recipe, Obstacle> {
    let named = Algorithm::parse(name)
        .map_err(|error| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })?;
    let made_of = made_of("key-pair/v1", &[("algorithm", named.algorithm.name())]);
    Ok(Recipe { made_of, note: named.note, ..Recipe::default() })
}

/// A fresh pair.
pub(super) fn make(name: &str, format: KeyFormat) -> Result<Made, Failure> {
    let named = Algorithm::parse(name)
        .map_err(|error| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })?;
    let key = PrivateKey::generate(named.algorithm)?;
    Ok(written(&key, format)?)
}

/// Everything that a Secret holds of a key.
pub(super) fn written(key: &PrivateKey, format: KeyFormat) -> Result<Made, trellis_crypto::KeyError> {
    let public = key.public_key();
    let fingerprint = public.fingerprint().to_string();
    let (public_pem, private_pem) = match format {
        KeyFormat::Standard => (public.pem(), key.pem()?),
        KeyFormat::Qubesec => (public.qubesec_pem(), key.qubesec_pem()?),
    };
    let metadata = json!({
        "algorithm": key.algorithm().name(),
        "fingerprint": fingerprint,
        "format": format.as_str(),
    });
    let content = Content::default()
        .with(PUBLIC_PEM, Secret::copy_of(public_pem.as_bytes()))
        .with(PRIVATE_PEM, Secret::copy_of(private_pem.as_bytes()))
        .with(PUBLIC_RAW, Secret::copy_of(public.raw()))
        .with(PRIVATE_RAW, key.expanded()?)
        .with(METADATA, Secret::copy_of(metadata.to_string().as_bytes()));
    Ok(Made {
        content,
        fingerprint,
        algorithm: Some(key.algorithm().name().to_owned()),
        form: format.as_str().to_owned(),
        whole: true,
    })
}

/// What can be read of a Secret: the private key in either form, from which all else follows.
pub(super) fn salvage(salvage: &Salvage<'_>, format: Option<KeyFormat>) -> Vec<Made> {
    let algorithm =
        salvage.algorithm.and_then(|name| Algorithm::parse(name).ok()).map(|named| named.algorithm);
    let pem = salvage.content.get(PRIVATE_PEM);
    let as_found = match pem {
        Some(pem) if std::str::from_utf8(pem).is_ok_and(|pem| pem.contains(QUBESEC_LABEL)) => {
            KeyFormat::Qubesec
        }
        _ => KeyFormat::Standard,
    };
    let pem = pem.and_then(|pem| PrivateKey::read(pem, None).ok());
    let raw = salvage.content.get(PRIVATE_RAW).and_then(|raw| PrivateKey::read(raw, algorithm).ok());
    let keys = pem.into_iter().chain(raw);
    keys.filter_map(|key| written(&key, format.unwrap_or(as_found)).ok()).collect()
}

pub(crate) fn private_key(content: &Content) -> Option<PrivateKey> {
    PrivateKey::read(content.get(PRIVATE_PEM)?, None).ok()
}

pub(crate) fn public_key(content: &Content) -> Option<PublicKey> {
    match content.get(PUBLIC_PEM).map(|pem| PublicKey::read(pem, None)) {
        Some(Ok(key)) => Some(key),
        _ => private_key(content).map(|key| key.public_key()),
    }
}
