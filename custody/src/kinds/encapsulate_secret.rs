//! QuantumEncapsulateSecret.

use trellis_api::crypto::{EncapsulateSecretSpec, EncapsulateSecretStatus, Kind, Output, Standing};
use trellis_crypto::{Algorithm, PrivateKey, PublicKey, Secret, hex};

use super::key_pair;
use crate::{
    content::Content,
    craft::{
        Craft, Failure, Input, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of, short, unlike,
    },
    lifecycle::Class,
    object::Object,
    sources::{Ask, Found, Need, Obstacle, Source},
};

pub(super) const SHARED_SECRET: &str = "shared-secret";
pub(super) const CIPHERTEXT: &str = "ciphertext";
pub(super) const FORM: &str = "raw";
/// The part of what an encapsulation is made of that says under which key.
pub(super) const KEY: &str = "key";
const FIELD: &str = "spec.publicKeyRef";

pub(crate) struct EncapsulateSecret;

impl Craft for EncapsulateSecret {
    type Spec = EncapsulateSecretSpec;

    fn asks(spec: &EncapsulateSecretSpec) -> Vec<Ask> {
        vec![Ask::Object { field: FIELD, kinds: vec![Kind::KemKeyPair], to: spec.public_key_ref.clone() }]
    }

    fn recipe(spec: &EncapsulateSecretSpec, _: &Object, found: &[Found]) -> Result<Recipe, Obstacle> {
        let [Found::Object(pair)] = found else { return Err(nothing()) };
        let note = fits(FIELD, pair, spec.algorithm.as_deref())?;
        let key = &pair.active.facts.fingerprint;
        Ok(Recipe {
            made_of: made_of("encapsulation/v1", &[(KEY, key)]),
            needs: vec![Need::Kept(pair.active.clone())],
            note,
            confirms: None,
        })
    }

    fn make(_: &EncapsulateSecretSpec, making: &Making<'_>) -> Result<Made, Failure> {
        let [Input::Kept(kept, content)] = making.inputs.as_slice() else { return Err(nothing().into()) };
        let key = match key_pair::public_key(content) {
            Some(PublicKey::Kem(key)) => key,
            _ => return Err(Obstacle::NotReady { field: FIELD, what: kept.name.clone() }.into()),
        };
        let encapsulation = key.encapsulate()?;
        let fingerprint = making.marks.shared(&encapsulation.shared_secret).to_string();
        let content = Content::default()
            .with(SHARED_SECRET, encapsulation.shared_secret)
            .with(CIPHERTEXT, Secret::new(encapsulation.ciphertext));
        Ok(Made {
            content,
            fingerprint,
            algorithm: kept.facts.algorithm.clone(),
            form: FORM.to_owned(),
            whole: false,
        })
    }
}

impl Keeps for EncapsulateSecret {
    const CLASS: Class = Class::Fresh;

    fn output(spec: &EncapsulateSecretSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &EncapsulateSecretSpec) -> Terms {
        Terms::fresh(spec.rotation.as_ref(), spec.version, spec.recreate_policy)
    }

    /// The ciphertext is public, so the status has a copy.
    fn salvage(_: &EncapsulateSecretSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let Some(secret) = salvage.content.secret(SHARED_SECRET) else { return Vec::new() };
        let found = salvage.content.get(CIPHERTEXT).map(<[u8]>::to_vec);
        let shown = salvage.status["ciphertext"].as_str().and_then(hex::decode);
        let made = |ciphertext: Vec<u8>| Made {
            fingerprint: salvage.marks.shared(secret).to_string(),
            content: Content::default()
                .with(SHARED_SECRET, secret.clone())
                .with(CIPHERTEXT, Secret::new(ciphertext)),
            algorithm: salvage.algorithm.map(str::to_owned),
            form: FORM.to_owned(),
            whole: false,
        };
        found.into_iter().chain(shown).map(made).collect()
    }

    /// Whether secret and ciphertext belong together only the private key knows. Who asks learns nothing by it that
    /// an encapsulation of their own would not tell them.
    fn adopt(
        spec: &EncapsulateSecretSpec,
        found: &Salvage<'_>,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        let wanted = spec.algorithm.as_deref().and_then(|name| Algorithm::parse(name).ok());
        let algorithm = wanted.map(|named| named.algorithm.name());
        let salvage = Salvage { algorithm, content: found.content, status: found.status, ..*found };
        let candidate = Self::salvage(spec, &salvage).into_iter().next();
        let mut made = candidate.ok_or_else(|| {
            unlike(format!("it has no item {SHARED_SECRET}, or its ciphertext is nowhere to be found"))
        })?;
        let Some([Input::Kept(kept, content)]) = making.map(|making| making.inputs.as_slice()) else {
            return Ok(made);
        };
        let Some(PrivateKey::Kem(key)) = key_pair::private_key(content) else {
            return Err(Obstacle::NotReady { field: FIELD, what: kept.name.clone() }.into());
        };
        let opened = key.decapsulate(made.content.get(CIPHERTEXT).unwrap_or_default());
        let opened = opened.map_err(|error| unlike(format!("its item {CIPHERTEXT}: {error}")))?;
        if made.content.secret(SHARED_SECRET) != Some(&opened) {
            return Err(unlike(format!(
                "its item {CIPHERTEXT} does not hold its item {SHARED_SECRET} for the key in Secret {}",
                kept.name
            )));
        }
        made.algorithm = kept.facts.algorithm.clone();
        Ok(made)
    }

    fn show(
        _: &EncapsulateSecretSpec,
        shown: Shown<'_>,
        before: &EncapsulateSecretStatus,
    ) -> Option<EncapsulateSecretStatus> {
        let ciphertext = match (shown.active, shown.content) {
            (None, _) => None,
            (Some(_), Some(content)) => content.get(CIPHERTEXT).map(hex::encode),
            (Some(_), None) if shown.is_of(&before.standing) && before.ciphertext.is_some() => {
                before.ciphertext.clone()
            }
            (Some(_), None) => return None,
        };
        Some(EncapsulateSecretStatus {
            ciphertext,
            shared_secret_reference: shown.secret.clone(),
            fingerprint: shown.short(),
            public_key_fingerprint: shown.part(KEY).map(short),
            standing: shown.standing,
        })
    }

    fn standing(status: &EncapsulateSecretStatus) -> &Standing {
        &status.standing
    }
}

/// Whether a key is of the algorithm that a spec names, and what its author should know of that name.
pub(super) fn fits(
    field: &'static str,
    pair: &Source,
    wanted: Option<&str>,
) -> Result<Option<String>, Obstacle> {
    let Some(name) = wanted else { return Ok(None) };
    let named = Algorithm::parse(name)
        .map_err(|error| Obstacle::Unfit { field: "spec.algorithm", why: error.to_string() })?;
    let found = pair.active.facts.algorithm.clone().unwrap_or_default();
    if found == named.algorithm.name() {
        return Ok(named.note);
    }
    Err(Obstacle::Mismatch { field, what: pair.id.to_string(), wanted: name.to_owned(), found })
}

/// What is asked for is found before a recipe is written.
pub(super) fn nothing() -> Obstacle {
    Obstacle::Refused { why: "what it is made from was not looked up".to_owned() }
}
