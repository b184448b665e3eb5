//! QuantumDecapsulateSecret. A ciphertext that was made for another key gives another secret and no error, so
//! what a QuantumEncapsulateSecret is named for is compared with what that encapsulated, before it is kept.

use trellis_api::crypto::{
    DecapsulateSecretSpec, DecapsulateSecretStatus, Kind, Output, Standing, condition,
};
use trellis_crypto::{Fingerprint, PrivateKey, Secret, hex};

use super::{
    encapsulate_secret::{CIPHERTEXT, FORM, KEY, SHARED_SECRET, fits, nothing},
    key_pair,
};
use crate::{
    access::may_use,
    content::Content,
    craft::{
        Confirms, Craft, Extra, Failure, Input, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of,
        part, short, unlike,
    },
    kept::Kept,
    lifecycle::Class,
    marks::Marks,
    object::Object,
    sources::{Ask, Found, Need, Obstacle},
};

const KEY_FIELD: &str = "spec.privateKeyRef";
const FROM_FIELD: &str = "spec.ciphertextRef";

pub(crate) struct DecapsulateSecret;

impl Craft for DecapsulateSecret {
    type Spec = DecapsulateSecretSpec;

    fn asks(spec: &DecapsulateSecretSpec) -> Vec<Ask> {
        let key =
            Ask::Object { field: KEY_FIELD, kinds: vec![Kind::KemKeyPair], to: spec.private_key_ref.clone() };
        let from = spec.ciphertext_ref.clone();
        let from = from.map(|to| Ask::Object { field: FROM_FIELD, kinds: vec![Kind::EncapsulateSecret], to });
        [key].into_iter().chain(from).collect()
    }

    fn recipe(spec: &DecapsulateSecretSpec, object: &Object, found: &[Found]) -> Result<Recipe, Obstacle> {
        let (pair, from) = match found {
            [Found::Object(pair)] => (pair, None),
            [Found::Object(pair), Found::Object(from)] => (pair, Some(from)),
            _ => return Err(nothing()),
        };
        may_use(KEY_FIELD, pair, &object.id.namespace, spec.service_account_name.as_deref())?;
        let note = fits(KEY_FIELD, pair, spec.algorithm.as_deref())?;
        // Encapsulated under a key that was replaced since, it is opened by that.
        let key = match from.and_then(|from| part(&from.active.facts.made_of, KEY)) {
            None => &pair.active,
            Some(under) => pair.with_fingerprint(under).ok_or_else(|| Obstacle::NotConfirmed {
                what: from.map(|from| from.id.to_string()).unwrap_or_default(),
            })?,
        };
        let mut needs = vec![Need::Kept(key.clone())];
        let ciphertext = match (spec.ciphertext(), from) {
            (Some(hex), _) => {
                let bytes = hex::decode(hex).unwrap_or_default();
                Fingerprint::of_public(&bytes).to_string()
            }
            (None, Some(from)) => {
                needs.push(Need::Kept(from.active.clone()));
                format!("{}/{}", from.uid, from.active.facts.fingerprint)
            }
            (None, None) => return Err(nothing()),
        };
        let parts = [(KEY, key.facts.fingerprint.as_str()), ("ciphertext", ciphertext.as_str())];
        Ok(Recipe {
            made_of: made_of("decapsulation/v1", &parts),
            needs,
            note,
            confirms: from.map(|from| Confirms {
                fingerprint: from.active.facts.fingerprint.clone(),
                what: from.id.to_string(),
            }),
        })
    }

    fn make(spec: &DecapsulateSecretSpec, making: &Making<'_>) -> Result<Made, Failure> {
        let (kept, content, from) = match making.inputs.as_slice() {
            [Input::Kept(kept, content)] => (kept, content, None),
            [Input::Kept(kept, content), Input::Kept(_, from)] => (kept, content, Some(from)),
            _ => return Err(nothing().into()),
        };
        let Some(PrivateKey::Kem(key)) = key_pair::private_key(content) else {
            return Err(Obstacle::NotReady { field: KEY_FIELD, what: kept.name.clone() }.into());
        };
        let given = spec.ciphertext().and_then(hex::decode);
        let ciphertext = match (&given, from) {
            (Some(given), _) => given.as_slice(),
            (None, Some(from)) => from.get(CIPHERTEXT).unwrap_or_default(),
            (None, None) => return Err(nothing().into()),
        };
        let field = if given.is_some() { "spec.ciphertext" } else { FROM_FIELD };
        let secret =
            key.decapsulate(ciphertext).map_err(|error| Obstacle::Unfit { field, why: error.to_string() })?;
        let made = made(making.marks, &secret, kept.facts.algorithm.as_deref());
        match &making.recipe.confirms {
            Some(confirms) if confirms.fingerprint != made.fingerprint => {
                Err(Obstacle::NotConfirmed { what: confirms.what.clone() }.into())
            }
            _ => Ok(made),
        }
    }
}

fn made(marks: &Marks, secret: &Secret, algorithm: Option<&str>) -> Made {
    Made {
        content: Content::default().with(SHARED_SECRET, secret.clone()),
        fingerprint: marks.shared(secret).to_string(),
        algorithm: algorithm.map(str::to_owned),
        form: FORM.to_owned(),
        whole: true,
    }
}

impl Keeps for DecapsulateSecret {
    const CLASS: Class = Class::Derived;

    fn output(spec: &DecapsulateSecretSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &DecapsulateSecretSpec) -> Terms {
        Terms::derived(spec.rotation.as_ref(), spec.version)
    }

    fn conditions(
        spec: &DecapsulateSecretSpec,
        recipe: Option<&Recipe>,
        active: Option<&Kept>,
    ) -> Vec<Extra> {
        let confirms = recipe.and_then(|recipe| recipe.confirms.as_ref());
        let (holds, reason, message) = match (&spec.ciphertext_ref, confirms, active) {
            (None, ..) => (None, "NothingToCompare", "spec.ciphertextRef names no encapsulation".to_owned()),
            (Some(_), Some(confirms), Some(active)) if active.facts.fingerprint == confirms.fingerprint => {
                (Some(true), "SameFingerprint", format!("{} has the same secret", confirms.what))
            }
            (Some(_), Some(confirms), Some(_)) => {
                (Some(false), "OtherFingerprint", format!("{} has another secret", confirms.what))
            }
            (Some(_), ..) => (None, "NotThereYet", "there are not two secrets to compare".to_owned()),
        };
        vec![Extra { type_: condition::KEY_CONFIRMED, holds, reason, message }]
    }

    fn salvage(_: &DecapsulateSecretSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let left = salvage.content.secret(SHARED_SECRET);
        left.map(|secret| made(salvage.marks, secret, salvage.algorithm)).into_iter().collect()
    }

    fn adopt(
        spec: &DecapsulateSecretSpec,
        found: &Salvage<'_>,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        let secret = found.content.secret(SHARED_SECRET);
        let secret = secret.ok_or_else(|| unlike(format!("it has no item {SHARED_SECRET}")))?;
        let Some(making) = making else { return Ok(made(found.marks, secret, None)) };
        let again = Self::make(spec, making)?;
        if again.content.secret(SHARED_SECRET) != Some(secret) {
            return Err(unlike(format!(
                "its item {SHARED_SECRET} is not what the ciphertext holds for the key of spec.privateKeyRef"
            )));
        }
        Ok(again)
    }

    fn show(
        _: &DecapsulateSecretSpec,
        shown: Shown<'_>,
        _: &DecapsulateSecretStatus,
    ) -> Option<DecapsulateSecretStatus> {
        Some(DecapsulateSecretStatus {
            shared_secret_reference: shown.secret.clone(),
            fingerprint: shown.short(),
            public_key_fingerprint: shown.part(KEY).map(short),
            standing: shown.standing,
        })
    }

    fn standing(status: &DecapsulateSecretStatus) -> &Standing {
        &status.standing
    }
}
