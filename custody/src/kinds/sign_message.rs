//! QuantumSignMessage.

use base64::{Engine, engine::general_purpose::STANDARD};
use trellis_api::crypto::{Kind, Output, SignMessageSpec, SignMessageStatus, Standing};
use trellis_crypto::{Fingerprint, PrivateKey, PublicKey, Secret};

use super::{
    encapsulate_secret::{fits, nothing},
    key_pair,
};
use crate::{
    access::may_use,
    content::Content,
    craft::{
        Craft, Failure, Input, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of, short, unlike,
    },
    lifecycle::Class,
    object::Object,
    sources::{Ask, Found, Need, Obstacle},
};

const KEY_FIELD: &str = "spec.privateKeyRef";
const KEY: &str = "key";
const MESSAGE: &str = "message";
const QUBESEC_ITEM: &str = "signature";
/// The longest signature that a status shows.
const SHOWN: usize = 8 * 1024;

pub(crate) struct SignMessage;

impl Craft for SignMessage {
    type Spec = SignMessageSpec;

    fn asks(spec: &SignMessageSpec) -> Vec<Ask> {
        let key = Ask::Object {
            field: KEY_FIELD,
            kinds: vec![Kind::SignatureKeyPair],
            to: spec.private_key_ref.clone(),
        };
        vec![key, Ask::item("spec.messageRef", &spec.message_ref, &spec.message_key)]
    }

    fn recipe(spec: &SignMessageSpec, object: &Object, found: &[Found]) -> Result<Recipe, Obstacle> {
        let [Found::Object(pair), Found::Item(message)] = found else { return Err(nothing()) };
        may_use(KEY_FIELD, pair, &object.id.namespace, spec.service_account_name.as_deref())?;
        let note = fits(KEY_FIELD, pair, spec.algorithm.as_deref())?;
        let context = spec.context.as_deref().unwrap_or_default();
        let parts = [
            (KEY, pair.active.facts.fingerprint.as_str()),
            (MESSAGE, message.mark.as_str()),
            ("context", &Fingerprint::of_public(context.as_bytes()).to_string()),
        ];
        Ok(Recipe {
            made_of: made_of("signature/v1", &parts),
            needs: vec![Need::Kept(pair.active.clone()), Need::Item(message.clone())],
            note,
            confirms: None,
        })
    }

    fn make(spec: &SignMessageSpec, making: &Making<'_>) -> Result<Made, Failure> {
        let [Input::Kept(kept, content), Input::Item(message)] = making.inputs.as_slice() else {
            return Err(nothing().into());
        };
        let Some(PrivateKey::Signature(key)) = key_pair::private_key(content) else {
            return Err(Obstacle::NotReady { field: KEY_FIELD, what: kept.name.clone() }.into());
        };
        let context = spec.context.as_deref().unwrap_or_default();
        let signature = key.sign(message.as_bytes(), context.as_bytes())?;
        Ok(made(spec, Secret::new(signature), kept.facts.algorithm.as_deref()))
    }
}

fn made(spec: &SignMessageSpec, signature: Secret, algorithm: Option<&str>) -> Made {
    Made {
        fingerprint: Fingerprint::of_public(signature.as_bytes()).to_string(),
        content: Content::default().with(&spec.signature_key, signature),
        algorithm: algorithm.map(str::to_owned),
        form: spec.signature_key.clone(),
        whole: true,
    }
}

impl Keeps for SignMessage {
    const CLASS: Class = Class::Replaced;
    const MARKED: bool = false;

    fn output(spec: &SignMessageSpec) -> &Output {
        &spec.output
    }

    fn terms(_: &SignMessageSpec) -> Terms {
        Terms::default()
    }

    /// The item that the signature stands in.
    fn form(spec: &SignMessageSpec) -> Option<String> {
        Some(spec.signature_key.clone())
    }

    fn salvage(spec: &SignMessageSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let shown = salvage.status["signature"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let left = salvage.content.items().map(|(_, bytes)| bytes.to_vec()).chain(shown);
        left.map(|bytes| made(spec, Secret::new(bytes), salvage.algorithm)).collect()
    }

    /// QubeSec writes it into one item, whatever the spec says.
    fn adopt(
        spec: &SignMessageSpec,
        found: &Salvage<'_>,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        let items = [spec.signature_key.as_str(), QUBESEC_ITEM];
        let signature = items.iter().find_map(|item| found.content.secret(item));
        let signature =
            signature.ok_or_else(|| unlike(format!("it has no item {}", spec.signature_key)))?.clone();
        let inputs = making.map(|making| making.inputs.as_slice());
        let Some([Input::Kept(kept, content), Input::Item(message)]) = inputs else {
            return Ok(made(spec, signature, None));
        };
        let Some(PublicKey::Signature(key)) = key_pair::public_key(content) else {
            return Err(Obstacle::NotReady { field: KEY_FIELD, what: kept.name.clone() }.into());
        };
        let context = spec.context.as_deref().unwrap_or_default();
        match key.verify(message.as_bytes(), context.as_bytes(), signature.as_bytes()) {
            Ok(()) => Ok(made(spec, signature, kept.facts.algorithm.as_deref())),
            Err(_) => Err(unlike(format!(
                "its signature was not made by the key in Secret {} over the message as it is now",
                kept.name
            ))),
        }
    }

    fn show(
        spec: &SignMessageSpec,
        shown: Shown<'_>,
        before: &SignMessageStatus,
    ) -> Option<SignMessageStatus> {
        let in_content = |content: &Content| {
            let signature = content.get(&spec.signature_key)?;
            (signature.len() <= SHOWN).then(|| STANDARD.encode(signature))
        };
        let signature = match (shown.active, shown.content) {
            (None, _) => None,
            (Some(_), Some(content)) => in_content(content),
            (Some(_), None) if shown.is_of(&before.standing) => before.signature.clone(),
            (Some(_), None) => return None,
        };
        Some(SignMessageStatus {
            signature,
            signature_reference: shown.secret.clone(),
            message_fingerprint: shown.part(MESSAGE).map(short),
            public_key_fingerprint: shown.part(KEY).map(short),
            standing: shown.standing,
        })
    }

    fn standing(status: &SignMessageStatus) -> &Standing {
        &status.standing
    }
}
