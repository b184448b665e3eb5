//! What both kinds of key pairs have in common: how keys are written into a Secret and read from it.
//!
//! `public-key` and `private-key` are PEM, of the standards or as QubeSec writes it; `public_key` and
//! `private_key` are the raw bytes of FIPS 203, 204 and 205; `metadata` says in JSON what they are.

use serde_json::json;
use trellis_api::crypto::KeyFormat;
use trellis_crypto::{Algorithm, AlgorithmError, EncodingError, PrivateKey, PublicKey, Secret};

use crate::{
    content::Content,
    craft::{Failure, Made, Recipe, Salvage, made_of, unlike},
    sources::Obstacle,
};

const PUBLIC_PEM: &str = "public-key";
const PRIVATE_PEM: &str = "private-key";
const PUBLIC_RAW: &str = "public_key";
const PRIVATE_RAW: &str = "private_key";
const METADATA: &str = "metadata";
/// What the label of a private key ends with in QubeSec's form.
const QUBESEC_LABEL: &str = " SECRET KEY-----";

pub(super) fn recipe(name: &str) -> Result<Recipe, Obstacle> {
    let named = Algorithm::parse(name)
        .map_err(|error| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })?;
    let made_of = made_of("key-pair/v1", &[("algorithm", named.algorithm.name())]);
    Ok(Recipe { made_of, note: named.note, ..Recipe::default() })
}

/// A fresh pair. In which form nobody says, it is in that of the pair before: whoever reads one can read it.
pub(super) fn make(name: &str, format: Option<KeyFormat>, before: Option<&Content>) -> Result<Made, Failure> {
    let key = PrivateKey::generate(algorithm(name)?)?;
    Ok(written(&key, format.or_else(|| before.map(form)).unwrap_or_default())?)
}

fn algorithm(name: &str) -> Result<Algorithm, Obstacle> {
    let named = Algorithm::parse(name);
    let unfit = |error: AlgorithmError| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() };
    named.map(|named| named.algorithm).map_err(unfit)
}

/// In which form the keys of a Secret stand.
fn form(content: &Content) -> KeyFormat {
    let pem = content.get(PRIVATE_PEM).and_then(|pem| std::str::from_utf8(pem).ok());
    if pem.is_some_and(|pem| pem.contains(QUBESEC_LABEL)) { KeyFormat::Qubesec } else { KeyFormat::Standard }
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
    let as_found = form(salvage.content);
    let pem = salvage.content.get(PRIVATE_PEM).and_then(|pem| PrivateKey::read(pem, None).ok());
    let raw = salvage.content.get(PRIVATE_RAW).and_then(|raw| PrivateKey::read(raw, algorithm).ok());
    let keys = pem.into_iter().chain(raw);
    keys.filter_map(|key| written(&key, format.unwrap_or(as_found)).ok()).collect()
}

/// A pair that was written elsewhere: each half of it that is there, in whatever form, is of the same key.
pub(super) fn adopt(name: &str, found: &Salvage<'_>) -> Result<Made, Failure> {
    let wanted = algorithm(name)?;
    let there = |item| Some((item, found.content.get(item)?));
    let (item, bytes) = there(PRIVATE_PEM)
        .or_else(|| there(PRIVATE_RAW))
        .ok_or_else(|| unlike(format!("it has no item {PRIVATE_PEM}")))?;
    let said = |item: &str, error: EncodingError| unlike(format!("its item {item}: {error}"));
    let key = PrivateKey::read(bytes, Some(wanted)).map_err(|error| said(item, error))?;
    for (item, bytes) in [PUBLIC_PEM, PUBLIC_RAW].into_iter().filter_map(there) {
        let public = PublicKey::read(bytes, Some(wanted)).map_err(|error| said(item, error))?;
        if public != key.public_key() {
            return Err(unlike(format!("its item {item} is not the public half of its private key")));
        }
    }
    if found.content.secret(PRIVATE_RAW).is_some_and(|raw| key.expanded().is_ok_and(|own| own != *raw)) {
        return Err(unlike(format!("its items {PRIVATE_PEM} and {PRIVATE_RAW} are different keys")));
    }
    Ok(written(&key, form(found.content))?)
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
