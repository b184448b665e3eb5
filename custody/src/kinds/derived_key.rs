//! QuantumDerivedKey.

use trellis_api::crypto::{DerivedKeySpec, DerivedKeyStatus, Kdf, KdfProfile, Kind, Output, Standing};
use trellis_crypto::{
    Fingerprint, Secret,
    derive::{Derivation, Hash, KeyType, Profile},
    hex,
};

use super::encapsulate_secret::{SHARED_SECRET, nothing};
use crate::{
    content::Content,
    craft::{
        Craft, Failure, Input, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of, short, unlike,
    },
    id::Group,
    lifecycle::Class,
    marks::Marks,
    object::Object,
    sources::{Ask, Found, Need, Obstacle},
};

const FIELD: &str = "spec.sharedSecretRef";
const DERIVED_KEY: &str = "derived-key";
const FINGERPRINT: &str = "fingerprint";
const KEY_TYPE: &str = "key-type";
const FORM: &str = "raw";
/// The part of what a key is made of that says of which secret.
const SECRET: &str = "secret";

pub(crate) struct DerivedKey;

impl Craft for DerivedKey {
    type Spec = DerivedKeySpec;

    fn asks(spec: &DerivedKeySpec) -> Vec<Ask> {
        let both = vec![Kind::EncapsulateSecret, Kind::DecapsulateSecret];
        let kinds = spec.shared_secret_ref.kind.map_or(both, |kind| vec![kind.kind()]);
        vec![Ask::Object { field: FIELD, kinds, to: spec.shared_secret_ref.to.clone() }]
    }

    fn recipe(spec: &DerivedKeySpec, object: &Object, found: &[Found]) -> Result<Recipe, Obstacle> {
        let [Found::Object(from)] = found else { return Err(nothing()) };
        let digest = |hex: Option<&str>| {
            Fingerprint::of_public(&hex.and_then(hex::decode).unwrap_or_default()).to_string()
        };
        let parts = [
            (SECRET, from.active.facts.fingerprint.as_str()),
            ("type", spec.key_type.as_str()),
            ("length", &spec.length().unwrap_or_default().to_string()),
            ("kdf", spec.kdf.as_str()),
            ("profile", profile(spec, object).as_str()),
            ("salt", &digest(spec.salt())),
            ("info", &digest(spec.info())),
        ];
        Ok(Recipe {
            made_of: made_of("derived-key/v1", &parts),
            needs: vec![Need::Kept(from.active.clone())],
            ..Recipe::default()
        })
    }

    fn make(spec: &DerivedKeySpec, making: &Making<'_>) -> Result<Made, Failure> {
        let [Input::Kept(kept, content)] = making.inputs.as_slice() else { return Err(nothing().into()) };
        let Some(secret) = content.secret(SHARED_SECRET) else {
            return Err(Obstacle::NotReady { field: FIELD, what: kept.name.clone() }.into());
        };
        let bytes = |hex: Option<&str>| hex.and_then(hex::decode).unwrap_or_default();
        let derivation = Derivation {
            hash: match spec.kdf {
                Kdf::HkdfSha256 => Hash::Sha256,
                Kdf::HkdfSha384 => Hash::Sha384,
                Kdf::HkdfSha512 => Hash::Sha512,
            },
            profile: match profile(spec, making.object) {
                KdfProfile::Plain => Profile::Plain,
                KdfProfile::Separated => Profile::Separated,
            },
            key_type: match spec.key_type {
                trellis_api::crypto::KeyType::Aes256 => KeyType::Aes256,
                trellis_api::crypto::KeyType::ChaCha20 => KeyType::ChaCha20,
                trellis_api::crypto::KeyType::HmacSha256 => KeyType::HmacSha256,
            },
            salt: &bytes(spec.salt()),
            info: &bytes(spec.info()),
            length: spec.length().unwrap_or_default(),
        };
        let key = derivation
            .key(secret)
            .map_err(|error| Obstacle::Unfit { field: "spec.keyLength", why: error.to_string() })?;
        Ok(made(making.marks, &key, spec.key_type.as_str()))
    }
}

/// QubeSec knows only one, so objects that were taken over from it have that, unless they say otherwise.
fn profile(spec: &DerivedKeySpec, object: &Object) -> KdfProfile {
    match object.id.group {
        Group::Trellis => spec.profile(),
        Group::Qubesec => spec.kdf_profile.unwrap_or(KdfProfile::Plain),
    }
}

fn made(marks: &Marks, key: &Secret, key_type: &str) -> Made {
    let fingerprint = marks.derived(key).to_string();
    let content = Content::default()
        .with(DERIVED_KEY, key.clone())
        .with(FINGERPRINT, Secret::copy_of(fingerprint.as_bytes()))
        .with(KEY_TYPE, Secret::copy_of(key_type.as_bytes()));
    Made { content, fingerprint, algorithm: Some(key_type.to_owned()), form: FORM.to_owned(), whole: true }
}

impl Keeps for DerivedKey {
    const CLASS: Class = Class::Derived;

    fn output(spec: &DerivedKeySpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &DerivedKeySpec) -> Terms {
        Terms::derived(spec.rotation.as_ref(), spec.version)
    }

    fn salvage(spec: &DerivedKeySpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let key_type = salvage.algorithm.unwrap_or(spec.key_type.as_str());
        let left = salvage.content.secret(DERIVED_KEY);
        left.map(|key| made(salvage.marks, key, key_type)).into_iter().collect()
    }

    fn adopt(
        spec: &DerivedKeySpec,
        found: &Salvage<'_>,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        let key_type = spec.key_type.as_str();
        let key = found.content.secret(DERIVED_KEY);
        let key = key.ok_or_else(|| unlike(format!("it has no item {DERIVED_KEY}")))?;
        if found.content.get(KEY_TYPE).is_some_and(|other| other != key_type.as_bytes()) {
            return Err(unlike(format!("its item {KEY_TYPE} is not {key_type}, as spec.keyType says")));
        }
        let Some(making) = making else { return Ok(made(found.marks, key, key_type)) };
        let again = Self::make(spec, making)?;
        if again.content.secret(DERIVED_KEY) != Some(key) {
            return Err(unlike(format!(
                "its item {DERIVED_KEY} is not what spec.keyType, salt, info, kdf and kdfProfile make of the \
                 secret of {FIELD}"
            )));
        }
        Ok(again)
    }

    fn show(spec: &DerivedKeySpec, shown: Shown<'_>, before: &DerivedKeyStatus) -> Option<DerivedKeyStatus> {
        // While another version is in use, or what it is made from is away, what was used is not what is wished.
        let as_wished = DerivedKeyStatus {
            key_type: Some(spec.key_type),
            used_salt: Some(spec.salt.clone().unwrap_or_default()),
            used_info: Some(spec.info.clone().unwrap_or_default()),
            kdf: Some(spec.kdf),
            kdf_profile: Some(profile(spec, shown.object)),
            ..DerivedKeyStatus::default()
        };
        let used = match shown.active {
            None => DerivedKeyStatus::default(),
            Some(_) if shown.is_of(&before.standing) && before.kdf.is_some() => before.clone(),
            Some(_) => as_wished,
        };
        Some(DerivedKeyStatus {
            derived_key_reference: shown.secret.clone(),
            key_fingerprint: shown.active.map(|kept| kept.facts.fingerprint.clone()),
            fingerprint: shown.short(),
            shared_secret_fingerprint: shown.part(SECRET).map(short),
            standing: shown.standing,
            ..used
        })
    }

    fn standing(status: &DerivedKeyStatus) -> &Standing {
        &status.standing
    }
}
