//! QuantumKEMKeyPair.

use trellis_api::crypto::{KemKeyPairSpec, KemKeyPairStatus, Output, Standing};

use super::key_pair;
use crate::{
    craft::{Craft, Failure, Keeps, Made, Making, Recipe, Salvage, Shown, Terms},
    lifecycle::Class,
    object::Object,
    sources::{Ask, Found, Obstacle},
};

pub(crate) struct KemKeyPair;

impl Craft for KemKeyPair {
    type Spec = KemKeyPairSpec;

    fn asks(_: &KemKeyPairSpec) -> Vec<Ask> {
        Vec::new()
    }

    fn recipe(spec: &KemKeyPairSpec, _: &Object, _: &[Found]) -> Result<Recipe, Obstacle> {
        key_pair::recipe(&spec.algorithm)
    }

    fn make(spec: &KemKeyPairSpec, making: &Making<'_>) -> Result<Made, Failure> {
        key_pair::make(&spec.algorithm, spec.key_format, making.before)
    }
}

impl Keeps for KemKeyPair {
    const CLASS: Class = Class::Fresh;
    const MARKED: bool = false;

    fn output(spec: &KemKeyPairSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &KemKeyPairSpec) -> Terms {
        Terms::fresh(spec.rotation.as_ref(), spec.version, spec.recreate_policy)
    }

    fn form(spec: &KemKeyPairSpec) -> Option<String> {
        spec.key_format.map(|format| format.as_str().to_owned())
    }

    fn salvage(spec: &KemKeyPairSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        key_pair::salvage(salvage, spec.key_format)
    }

    fn adopt(spec: &KemKeyPairSpec, found: &Salvage<'_>, _: Option<&Making<'_>>) -> Result<Made, Failure> {
        key_pair::adopt(&spec.algorithm, found)
    }

    fn show(_: &KemKeyPairSpec, shown: Shown<'_>, before: &KemKeyPairStatus) -> Option<KemKeyPairStatus> {
        let public_key = match (shown.active, shown.content) {
            (None, _) => None,
            (Some(_), Some(content)) => key_pair::public_key(content).map(|key| key.pem()),
            (Some(_), None) if shown.is_of(&before.standing) && before.public_key.is_some() => {
                before.public_key.clone()
            }
            (Some(_), None) => return None,
        };
        Some(KemKeyPairStatus {
            key_pair_reference: shown.secret.clone(),
            public_key_fingerprint: shown.short(),
            public_key,
            standing: shown.standing,
        })
    }

    fn standing(status: &KemKeyPairStatus) -> &Standing {
        &status.standing
    }
}
