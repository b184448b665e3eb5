//! QuantumVerifySignature, which keeps nothing: its outcome is its status.

use trellis_api::crypto::{Kind, VerifySignatureSpec, VerifySignatureStatus};
use trellis_crypto::{Algorithm, Fingerprint, PublicKey};

use super::{
    encapsulate_secret::{fits, nothing},
    key_pair,
};
use crate::{
    craft::{Failure, Input, Recipe, made_of, short},
    sources::{Ask, Found, Need, Obstacle},
};

const KEY_FIELD: &str = "spec.publicKeyRef";
const INLINE_FIELD: &str = "spec.publicKey";
const MESSAGE: &str = "message";

/// Whether a signature is that of a message, and by which key that was found out.
pub(crate) struct Verdict {
    pub valid: bool,
    pub algorithm: String,
    /// In full.
    pub key: String,
    /// What else there is to say.
    pub note: Option<String>,
}

pub(crate) struct VerifySignature;

impl VerifySignature {
    pub fn asks(spec: &VerifySignatureSpec) -> Vec<Ask> {
        let key = spec.public_key_ref.clone();
        let key = key.map(|to| Ask::Object { field: KEY_FIELD, kinds: vec![Kind::SignatureKeyPair], to });
        let items = [
            Ask::item("spec.messageRef", &spec.message_ref, &spec.message_key),
            Ask::item("spec.signatureRef", &spec.signature_ref, &spec.signature_key),
        ];
        key.into_iter().chain(items).collect()
    }

    pub fn recipe(spec: &VerifySignatureSpec, found: &[Found]) -> Result<Recipe, Obstacle> {
        let (pair, message, signature) = match found {
            [Found::Item(message), Found::Item(signature)] => (None, message, signature),
            [Found::Object(pair), Found::Item(message), Found::Item(signature)] => {
                (Some(pair), message, signature)
            }
            _ => return Err(nothing()),
        };
        let (key, note) = match pair {
            Some(pair) => {
                let note = fits(KEY_FIELD, pair, spec.algorithm.as_deref())?;
                // A signature by a key that was replaced is good as long as that is kept.
                let all: Vec<&str> = pair.all().map(|kept| kept.facts.fingerprint.as_str()).collect();
                (all.join(","), note)
            }
            None => {
                let key = inline(spec)?;
                (key.fingerprint().to_string(), None)
            }
        };
        let context = spec.context.as_deref().unwrap_or_default();
        let parts = [
            ("key", key.as_str()),
            (MESSAGE, message.mark.as_str()),
            ("signature", signature.mark.as_str()),
            ("context", &Fingerprint::of_public(context.as_bytes()).to_string()),
        ];
        let keys = pair.into_iter().flat_map(|pair| pair.all().cloned().map(Need::Kept));
        let items = [Need::Item(message.clone()), Need::Item(signature.clone())];
        Ok(Recipe {
            made_of: made_of("verification/v1", &parts),
            needs: items.into_iter().chain(keys).collect(),
            note,
            confirms: None,
        })
    }

    /// Of the message, the signature, and every key that may have made it.
    pub fn judge(spec: &VerifySignatureSpec, inputs: &[Input]) -> Result<Verdict, Failure> {
        let [Input::Item(message), Input::Item(signature), kept @ ..] = inputs else {
            return Err(nothing().into());
        };
        let mut keys = Vec::new();
        for input in kept {
            let Input::Kept(kept, content) = input else { continue };
            match key_pair::public_key(content) {
                Some(PublicKey::Signature(key)) => keys.push((Some(kept.version()), key)),
                _ => return Err(Obstacle::NotReady { field: KEY_FIELD, what: kept.name.clone() }.into()),
            }
        }
        if keys.is_empty() {
            let PublicKey::Signature(key) = inline(spec)? else { return Err(nothing().into()) };
            keys.push((None, key));
        }
        let context = spec.context.as_deref().unwrap_or_default().as_bytes();
        let by = keys
            .iter()
            .position(|(_, key)| key.verify(message.as_bytes(), context, signature.as_bytes()).is_ok());
        let Some((version, key)) = keys.get(by.unwrap_or_default()) else { return Err(nothing().into()) };
        let retired = by.filter(|at| *at > 0).and(*version);
        let public = PublicKey::Signature(key.clone());
        Ok(Verdict {
            valid: by.is_some(),
            algorithm: public.algorithm().name().to_owned(),
            key: public.fingerprint().to_string(),
            note: retired.map(|version| format!("by version {version} of the key, which is out of use")),
        })
    }

    /// What a status shows of a verdict.
    pub fn show(recipe: &Recipe, verdict: &Verdict) -> VerifySignatureStatus {
        VerifySignatureStatus {
            verified: verdict.valid,
            message_fingerprint: crate::craft::part(&recipe.made_of, MESSAGE).map(short),
            public_key_fingerprint: Some(short(&verdict.key)),
            inputs: Some(Fingerprint::of_public(recipe.made_of.as_bytes()).to_string()),
            ..VerifySignatureStatus::default()
        }
    }

    /// Whether a verdict that is shown is about the same.
    pub fn stands(before: &VerifySignatureStatus, recipe: &Recipe) -> bool {
        before.inputs == Some(Fingerprint::of_public(recipe.made_of.as_bytes()).to_string())
    }
}

/// The key that the spec holds itself.
fn inline(spec: &VerifySignatureSpec) -> Result<PublicKey, Obstacle> {
    let unfit = |why: String| Obstacle::Unfit { field: INLINE_FIELD, why };
    let text = spec.public_key.as_deref().unwrap_or_default();
    let named = spec.algorithm.as_deref().map(Algorithm::parse).transpose();
    let wanted =
        named.map_err(|error| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })?;
    let wanted = wanted.map(|named| named.algorithm);
    let key = PublicKey::read(text.as_bytes(), wanted).map_err(|error| unfit(error.to_string()))?;
    match &key {
        PublicKey::Signature(_) => Ok(key),
        PublicKey::Kem(_) => Err(unfit(format!("a key of {} signs nothing", key.algorithm()))),
    }
}
