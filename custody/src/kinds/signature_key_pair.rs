//! QuantumSignatureKeyPair.

use trellis_api::crypto::{Output, SignatureKeyPairSpec, SignatureKeyPairStatus, Standing};

use super::key_pair;
use crate::{
    craft::{Craft, Failure, Keeps, Made, Making, Recipe, Salvage, Shown, Terms},
    lifecycle::Class,
    object::Object,
    sources::{Ask, Found, Obstacle},
};

pub(crate) struct SignatureKeyPair;

impl Craft for SignatureKeyPair {
    type Spec = SignatureKeyPairSpec;

    fn asks(_: &SignatureKeyPairSpec) -> Vec<Ask> {
        Vec::new()
    }

    fn recipe(spec: &SignatureKeyPairSpec, _: &Object, _: &[Found]) -> Result<Recipe, Obstacle> {
        key_pair::recipe(&spec.algorithm)
    }

    fn make(spec: &SignatureKeyPairSpec, making: &Making<'_>) -> Result<Made, Failure> {
        key_pair::make(&spec.algorithm, spec.key_format, making.before)
    }
}

impl Keeps for SignatureKeyPair {
    const CLASS: Class = Class::Fresh;
    const MARKED: bool = false;

    fn output(spec: &SignatureKeyPairSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &SignatureKeyPairSpec) -> Terms {
        Terms::fresh(spec.rotation.as_ref(), spec.version, spec.recreate_policy)
    }

    fn form(spec: &SignatureKeyPairSpec) -> Option<String> {
        spec.key_format.map(|format| format.as_str().to_owned())
    }

    fn salvage(spec: &SignatureKeyPairSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        key_pair::salvage(salvage, spec.key_format)
    }

    fn adopt(
        spec: &SignatureKeyPairSpec,
        found: &Salvage<'_>,
        _: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        key_pair::adopt(&spec.algorithm, found)
    }

    fn show(
        _: &SignatureKeyPairSpec,
        shown: Shown<'_>,
        before: &SignatureKeyPairStatus,
    ) -> Option<SignatureKeyPairStatus> {
        let public_key = match (shown.active, shown.content) {
            (None, _) => None,
            (Some(_), Some(content)) => key_pair::public_key(content).map(|key| key.pem()),
            (Some(_), None) if shown.is_of(&before.standing) && before.public_key.is_some() => {
                before.public_key.clone()
            }
            (Some(_), None) => return None,
        };
        Some(SignatureKeyPairStatus {
            key_pair_reference: shown.secret.clone(),
            public_key_fingerprint: shown.short(),
            public_key,
            standing: shown.standing,
        })
    }

    fn standing(status: &SignatureKeyPairStatus) -> &Standing {
        &status.standing
    }
}
