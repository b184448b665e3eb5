//! QuantumRandomNumber: bytes of the system's generator.

use trellis_api::crypto::{Output, RandomNumberSpec, RandomNumberStatus, Standing, condition};
use trellis_crypto::{Secret, random};

use crate::{
    content::Content,
    craft::{Craft, Extra, Failure, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of, unlike},
    kept::Kept,
    lifecycle::Class,
    object::Object,
    sources::{Ask, Found, Obstacle},
};

/// The item that QubeSec writes, and the one that its documentation names.
const ITEMS: [&str; 2] = ["quantumrandomnumber", "random"];
const SOURCE: &str = "the operating system's generator";
const SOURCE_SEEDED: &str = "the operating system's generator, with the seed mixed in";
/// Of the generator, whatever the length of what is drawn from it.
const STRENGTH: &str = "256 bits";
const FORM: &str = "raw";

pub(crate) struct RandomNumber;

impl Craft for RandomNumber {
    type Spec = RandomNumberSpec;

    fn asks(_: &RandomNumberSpec) -> Vec<Ask> {
        Vec::new()
    }

    fn recipe(spec: &RandomNumberSpec, _: &Object, _: &[Found]) -> Result<Recipe, Obstacle> {
        let bytes = spec.bytes().unwrap_or_default().to_string();
        Ok(Recipe { made_of: made_of("random/v1", &[("bytes", &bytes)]), ..Recipe::default() })
    }

    fn make(spec: &RandomNumberSpec, making: &Making<'_>) -> Result<Made, Failure> {
        let length = spec.bytes().unwrap_or_default();
        let bytes = match spec.seed() {
            Some(seed) => random::mixed_with(seed.as_bytes(), length)?,
            None => random::bytes(length)?,
        };
        Ok(made(making.object, making.marks, &bytes))
    }
}

fn made(object: &Object, marks: &crate::marks::Marks, bytes: &Secret) -> Made {
    Made {
        fingerprint: marks.random(&object.uid, bytes.as_bytes()).to_string(),
        content: ITEMS.iter().fold(Content::default(), |content, item| content.with(item, bytes.clone())),
        algorithm: None,
        form: FORM.to_owned(),
        whole: true,
    }
}

impl Keeps for RandomNumber {
    const CLASS: Class = Class::Fresh;

    fn output(spec: &RandomNumberSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &RandomNumberSpec) -> Terms {
        Terms::fresh(spec.rotation.as_ref(), spec.version, spec.recreate_policy)
    }

    fn conditions(spec: &RandomNumberSpec, _: Option<&Recipe>, _: Option<&Kept>) -> Vec<Extra> {
        let named = spec.seed_uri.as_deref().is_some_and(|uri| !uri.is_empty());
        let extra = Extra {
            type_: condition::SEED_URI_DISABLED,
            holds: Some(true),
            reason: "NeverFetched",
            message: "spec.seedURI is not fetched; the bytes are of the operating system's generator"
                .to_owned(),
        };
        named.then_some(extra).into_iter().collect()
    }

    fn salvage(_: &RandomNumberSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let left = ITEMS.iter().filter_map(|item| salvage.content.secret(item));
        left.map(|bytes| made(salvage.object, salvage.marks, bytes)).collect()
    }

    fn adopt(spec: &RandomNumberSpec, found: &Salvage<'_>, _: Option<&Making<'_>>) -> Result<Made, Failure> {
        let mut there = ITEMS.iter().filter_map(|item| found.content.secret(item));
        let bytes = there.next().ok_or_else(|| unlike(format!("it has no item {}", ITEMS[0])))?;
        if there.any(|other| other != bytes) {
            return Err(unlike(format!("its items {} and {} are different numbers", ITEMS[0], ITEMS[1])));
        }
        let (has, wanted) = (bytes.as_bytes().len(), spec.bytes().unwrap_or_default());
        if has != wanted {
            return Err(unlike(format!("it holds {has} bytes, and spec.bytes says {wanted}")));
        }
        Ok(made(found.object, found.marks, bytes))
    }

    fn show(
        spec: &RandomNumberSpec,
        shown: Shown<'_>,
        before: &RandomNumberStatus,
    ) -> Option<RandomNumberStatus> {
        let bytes = match (shown.active, shown.content) {
            (None, _) => None,
            (Some(_), Some(content)) => {
                content.get(ITEMS[0]).and_then(|bytes| i64::try_from(bytes.len()).ok())
            }
            (Some(_), None) if shown.is_of(&before.standing) && before.bytes.is_some() => before.bytes,
            (Some(_), None) => return None,
        };
        let source = if spec.seed().is_some() { SOURCE_SEEDED } else { SOURCE };
        Some(RandomNumberStatus {
            random_number_reference: shown.secret.clone(),
            bytes,
            provider: Some(spec.provider.as_str().to_owned()),
            source: Some(source.to_owned()),
            entropy: shown.active.map(|_| STRENGTH.to_owned()),
            fingerprint: shown.short(),
            standing: shown.standing,
        })
    }

    fn standing(status: &RandomNumberStatus) -> &Standing {
        &status.standing
    }
}
