//! What one kind is: what it reads, what it makes of that, and what its status shows. Pure: nothing here knows
//! an API server, a clock or another object than those that it is handed. A kind is one file that says this.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use trellis_api::crypto::{Keeping, Output, RecreatePolicy, Rotation, Spec, Standing};
use trellis_crypto::{KeyError, Secret};

use crate::{
    content::Content,
    issuer::Issuer,
    kept::Kept,
    lifecycle::Class,
    marks::Marks,
    object::Object,
    sources::{Ask, Found, Need, Obstacle},
};

/// A kind.
pub(crate) trait Craft: Send + Sync + 'static {
    type Spec: Spec + Send + Sync;

    /// What it reads, in the order in which it is handed what was found.
    fn asks(spec: &Self::Spec) -> Vec<Ask>;

    /// What it makes of that.
    fn recipe(spec: &Self::Spec, object: &Object, found: &[Found]) -> Result<Recipe, Obstacle>;

    /// Makes it, of the bytes of all that the recipe needs, in its order.
    fn make(spec: &Self::Spec, making: &Making<'_>) -> Result<Made, Failure>;
}

/// A kind that keeps something in a Secret.
pub(crate) trait Keeps: Craft {
    const CLASS: Class;
    /// Whether its fingerprints are under the cluster's key, and not of something public.
    const MARKED: bool = true;

    fn output(spec: &Self::Spec) -> &Output;
    fn terms(spec: &Self::Spec) -> Terms;

    /// The form in which it is to be written, if the spec says so.
    fn form(_spec: &Self::Spec) -> Option<String> {
        None
    }

    /// Conditions beyond those that every kind has.
    fn conditions(_spec: &Self::Spec, _recipe: Option<&Recipe>, _active: Option<&Kept>) -> Vec<Extra> {
        Vec::new()
    }

    /// When what is in it is of no use any more, if that is ever.
    fn until(_content: &Content) -> Option<SystemTime> {
        None
    }

    /// All that a damaged or unknown content could have been, the likeliest first.
    fn salvage(spec: &Self::Spec, salvage: &Salvage<'_>) -> Vec<Made>;

    /// What a Secret holds that was written elsewhere, if all of it belongs together and is what the spec wishes;
    /// where what it is made of is at hand, if it was made of that. Or why it is not.
    fn adopt(spec: &Self::Spec, found: &Salvage<'_>, making: Option<&Making<'_>>) -> Result<Made, Failure>;

    /// The status. Nothing where that needs the content, and it was not handed over.
    fn show(
        spec: &Self::Spec,
        shown: Shown<'_>,
        before: &<Self::Spec as Spec>::Status,
    ) -> Option<<Self::Spec as Spec>::Status>;

    fn standing(status: &<Self::Spec as Spec>::Status) -> &Standing;
}

/// A condition of one kind alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    pub type_: &'static str,
    /// Nothing where nobody knows.
    pub holds: Option<bool>,
    pub reason: &'static str,
    pub message: String,
}

/// What is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Everything that decides what comes of it; the same as long as that is the same.
    pub made_of: String,
    /// Whose bytes are needed to make it.
    pub needs: Vec<Need>,
    /// What the author of the spec should know.
    pub note: Option<String>,
    /// Whether it is known to be the right one, of a decapsulated secret.
    pub confirms: Option<Confirms>,
}

/// The secret that a decapsulation must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confirms {
    pub fingerprint: String,
    /// Who encapsulated it.
    pub what: String,
}

pub(crate) struct Making<'a> {
    pub object: &'a Object,
    pub marks: &'a Marks,
    pub recipe: &'a Recipe,
    pub inputs: Vec<Input>,
    pub now: SystemTime,
    /// What it takes the place of.
    pub before: Option<&'a Content>,
    /// Whether somebody asked for another.
    pub asked: bool,
    /// The CA of the mesh, if there is one.
    pub mesh: Option<&'a dyn Issuer>,
}

/// The bytes of a need.
pub(crate) enum Input {
    Kept(Arc<Kept>, Content),
    Item(Secret),
}

/// What was made, or found.
pub(crate) struct Made {
    pub content: Content,
    /// In full.
    pub fingerprint: String,
    /// By its standard name.
    pub algorithm: Option<String>,
    pub form: String,
    /// Whether nothing of the content can differ while its fingerprint is the same.
    pub whole: bool,
}

pub(crate) struct Salvage<'a> {
    pub object: &'a Object,
    pub marks: &'a Marks,
    pub content: &'a Content,
    /// The algorithm that it says it is of.
    pub algorithm: Option<&'a str>,
    /// The status, which may have a part that is public.
    pub status: &'a Value,
}

/// All that a status is made of.
pub(crate) struct Shown<'a> {
    pub object: &'a Object,
    pub standing: Standing,
    pub active: Option<&'a Kept>,
    pub content: Option<&'a Content>,
    /// The name of the Secret in use.
    pub secret: Option<trellis_api::crypto::Reference>,
}

impl Shown<'_> {
    /// Whether a status that was shown before is about the version that is in use.
    pub fn is_of(&self, before: &Standing) -> bool {
        let fingerprint = self.active.map(|kept| kept.facts.fingerprint.as_str());
        fingerprint.is_some() && before.full_fingerprint.as_deref() == fingerprint
    }

    /// The fingerprint of what is in use, as people compare it.
    pub fn short(&self) -> Option<String> {
        self.active.map(|kept| short(&kept.facts.fingerprint))
    }

    /// A part of what it is made of: see [`made_of`].
    pub fn part(&self, name: &str) -> Option<&str> {
        part(&self.active?.facts.made_of, name)
    }
}

/// How long what is kept of versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub every: Option<Duration>,
    /// How long before its end a content is replaced that has one.
    pub renew_before: Option<Duration>,
    pub grace: Option<Duration>,
    pub version: Option<u32>,
    pub recreate: bool,
}

impl Terms {
    pub fn fresh(rotation: Option<&Rotation>, version: Option<i64>, recreate: RecreatePolicy) -> Self {
        Self {
            every: rotation.and_then(Rotation::every),
            renew_before: None,
            grace: rotation.and_then(Rotation::grace),
            version: version.and_then(|version| u32::try_from(version).ok()),
            recreate: recreate == RecreatePolicy::Recreate,
        }
    }

    pub fn derived(keeping: Option<&Keeping>, version: Option<i64>) -> Self {
        Self {
            grace: keeping.and_then(Keeping::grace),
            version: version.and_then(|version| u32::try_from(version).ok()),
            ..Self::default()
        }
    }
}

/// Why nothing was made, or taken over.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It cannot be made of this.
    Obstacle(Obstacle),
    /// It could not be made this time.
    Library(KeyError),
    /// The same, of who else was to help.
    Unable(String),
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Self {
        Self::Obstacle(obstacle)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Library(error)
    }
}

/// Why something that was written elsewhere is not taken over.
pub(crate) fn unlike(why: impl Into<String>) -> Failure {
    Obstacle::Refused { why: why.into() }.into()
}

/// What something is made of that was made elsewhere, until it is known.
pub(crate) const ADOPTED: &str = "adopted";

/// What something is made of, as a line: what it is, and parts with names, none of which has a space.
pub(crate) fn made_of(what: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(what.to_owned(), |line, (name, value)| format!("{line} {name}={value}"))
}

pub(crate) fn part<'a>(made_of: &'a str, name: &str) -> Option<&'a str> {
    made_of.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// The first characters of a fingerprint.
pub(crate) fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(trellis_api::crypto::SHORT_FINGERPRINT).collect()
}
