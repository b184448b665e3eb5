//! A kind as the machinery sees it, whatever its types: specs and statuses are JSON here.

use std::{marker::PhantomData, sync::Arc, time::SystemTime};

use serde_json::Value;
use trellis_api::crypto::{
    Kind, MAX_SECRET_NAME, Problem, Reference, Spec, Standing, VersionState, Word, read,
};
use trellis_pki::clock::rfc3339;

use crate::{
    account::Account,
    content::Content,
    craft::{Failure, Keeps, Made, Making, Recipe, Salvage, Shown},
    id::Id,
    kept::Kept,
    lifecycle::{Course, Record, Taken, Wish, course},
    marks::Marks,
    object::Object,
    sources::{Ask, Found, Obstacle},
    view::Looked,
};

/// Everything about one object at one moment.
pub(crate) struct Look {
    pub object: Object,
    pub kept: Vec<Arc<Kept>>,
    pub taken: Taken,
    pub looked: Looked,
    /// That the controller may not keep Secrets where the object is.
    pub closed: Option<Obstacle>,
    pub dependants: Vec<Id>,
}

/// What follows from it.
#[derive(Default)]
pub(crate) struct Decision {
    pub course: Course,
    pub recipe: Option<Recipe>,
    pub obstacle: Option<Obstacle>,
}

/// A kind that keeps something in a Secret.
pub(crate) trait Trade: Send + Sync {
    /// What the object reads; or why its spec cannot be obeyed.
    fn asks(&self, object: &Object) -> Result<Vec<Ask>, Obstacle>;
    /// The name of its Secret.
    fn secret(&self, object: &Object) -> Option<String>;
    /// Whether its fingerprints are under the cluster's key.
    fn is_marked(&self) -> bool;
    /// What its status remembers.
    fn record(&self, object: &Object) -> Record;
    fn decide(&self, look: &Look, now: SystemTime) -> Decision;
    fn make(&self, making: &Making<'_>) -> Result<Made, Failure>;
    /// When a content ends by itself.
    fn until(&self, content: &Content) -> Option<SystemTime>;
    fn salvage(&self, object: &Object, kept: &Kept, content: &Content, marks: &Marks) -> Vec<Made>;
    /// What a content is that was written elsewhere; `making` where what it is made of is at hand.
    fn adopt(
        &self,
        object: &Object,
        content: &Content,
        marks: &Marks,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure>;
    /// The status; nothing where that needs the content of the Secret in use.
    fn status(
        &self,
        look: &Look,
        decision: &Decision,
        content: Option<&Content>,
        now: SystemTime,
    ) -> Option<Value>;
}

pub(crate) struct Keeper<K>(PhantomData<fn() -> K>);

impl<K> Keeper<K> {
    pub const NEW: Self = Self(PhantomData);
}

/// The spec of an object, if it can be obeyed.
pub(crate) fn spec_of<S: Spec>(object: &Object) -> Result<S, Obstacle> {
    let spec: S = read(object.spec()).map_err(Obstacle::Invalid)?;
    match spec.check().into_iter().next() {
        Some(problem) => Err(Obstacle::Invalid(problem)),
        None => Ok(spec),
    }
}

impl<K: Keeps> Keeper<K> {
    fn spec(object: &Object) -> Result<K::Spec, Obstacle> {
        let spec = spec_of::<K::Spec>(object)?;
        let name = Self::name(&spec, object);
        if name.len() > MAX_SECRET_NAME {
            let remedy =
                format!("the name of the Secret would have more than {MAX_SECRET_NAME} characters: set one");
            return Err(Obstacle::Invalid(Problem::new("spec.secretName", "", remedy)));
        }
        Ok(spec)
    }

    fn name(spec: &K::Spec, object: &Object) -> String {
        let wished = K::output(spec).name().map(str::to_owned);
        wished.or_else(|| kind::<K>().default_secret(&object.id.name)).unwrap_or_default()
    }
}

fn kind<K: Keeps>() -> Kind {
    <K::Spec as Spec>::KIND
}

fn before<K: Keeps>(object: &Object) -> <K::Spec as Spec>::Status {
    serde_json::from_str(&object.status).unwrap_or_default()
}

/// What a status remembers of Secrets.
fn record(standing: &Standing) -> Record {
    let made = standing.version.is_some()
        || standing.status == Word::Success
        || standing.versions.iter().any(|version| version.state != VersionState::Destroyed);
    Record { version: standing.version, was_made: made, versions: standing.versions.clone() }
}

impl<K: Keeps> Trade for Keeper<K> {
    fn asks(&self, object: &Object) -> Result<Vec<Ask>, Obstacle> {
        Self::spec(object).map(|spec| K::asks(&spec))
    }

    fn secret(&self, object: &Object) -> Option<String> {
        Self::spec(object).ok().map(|spec| Self::name(&spec, object))
    }

    fn is_marked(&self) -> bool {
        K::MARKED
    }

    fn record(&self, object: &Object) -> Record {
        let mut record = record(K::standing(&before::<K>(object)));
        // What cannot be read any more may still tell that there was one.
        record.was_made |= former(object).is_some();
        record
    }

    fn decide(&self, look: &Look, now: SystemTime) -> Decision {
        let object = &look.object;
        let spec = match Self::spec(object) {
            Ok(spec) => spec,
            Err(obstacle) => return Decision { obstacle: Some(obstacle), ..Decision::default() },
        };
        if let Some(closed) = &look.closed {
            return Decision { obstacle: Some(closed.clone()), ..Decision::default() };
        }
        let found: Result<&[Found], Obstacle> = match &look.looked {
            Looked::Found(found) => Ok(found),
            Looked::Missing(obstacle) => Err(obstacle.clone()),
            Looked::NotYet => return Decision::default(),
        };
        let (recipe, obstacle) = match found.and_then(|found| K::recipe(&spec, object, found)) {
            Ok(recipe) => (Some(recipe), None),
            Err(obstacle) => (None, Some(obstacle)),
        };
        let (terms, name, form) = (K::terms(&spec), Self::name(&spec, object), K::form(&spec));
        let wish = Wish {
            name: &name,
            version: terms.version,
            rotate: object.rotate.as_deref(),
            every: terms.every,
            renew_before: terms.renew_before,
            grace: terms.grace,
            recreate: terms.recreate,
            class: K::CLASS,
            form: form.as_deref(),
            recipe: recipe.as_ref().map(|recipe| recipe.made_of.as_str()),
        };
        let course = course(&wish, look.taken, &look.kept, &self.record(object), now);
        Decision { course, recipe, obstacle }
    }

    fn make(&self, making: &Making<'_>) -> Result<Made, Failure> {
        K::make(&Self::spec(making.object)?, making)
    }

    fn until(&self, content: &Content) -> Option<SystemTime> {
        K::until(content)
    }

    fn salvage(&self, object: &Object, kept: &Kept, content: &Content, marks: &Marks) -> Vec<Made> {
        let Ok(spec) = Self::spec(object) else { return Vec::new() };
        let (algorithm, status) = (kept.facts.algorithm.as_deref(), object.status());
        K::salvage(&spec, &Salvage { object, marks, content, algorithm, status: &status })
    }

    fn adopt(
        &self,
        object: &Object,
        content: &Content,
        marks: &Marks,
        making: Option<&Making<'_>>,
    ) -> Result<Made, Failure> {
        let (spec, status) = (Self::spec(object)?, object.status());
        K::adopt(&spec, &Salvage { object, marks, content, algorithm: None, status: &status }, making)
    }

    fn status(
        &self,
        look: &Look,
        decision: &Decision,
        content: Option<&Content>,
        now: SystemTime,
    ) -> Option<Value> {
        let object = &look.object;
        let before = before::<K>(object);
        let spec = Self::spec(object);
        let active = decision.course.active.as_deref();
        let terms = spec.as_ref().map(K::terms).unwrap_or_default();
        let extras = spec.as_ref().map(|spec| K::conditions(spec, decision.recipe.as_ref(), active));
        let account = Account {
            object,
            before: K::standing(&before),
            class: K::CLASS,
            course: &decision.course,
            kept: &look.kept,
            recipe: decision.recipe.as_ref(),
            obstacle: decision.obstacle.as_ref(),
            extras: extras.unwrap_or_default(),
            dependants: &look.dependants,
            pinned: terms.version.is_some(),
            grace: terms.grace,
            was_made: self.record(object).was_made,
        };
        let standing = account.standing(now);
        let Ok(spec) = spec else { return Some(overlaid(object, K::standing(&before), standing, now)) };
        let theirs = former(object).is_some() && K::standing(&before).full_fingerprint.is_none();
        let undecided = decision.course.blocked.is_none() && theirs;
        let unseen = matches!(decision.obstacle, Some(Obstacle::NoAccess { .. })) || undecided;
        if active.is_none() && unseen {
            // What is in use is what it was: nobody could look, or say what it is.
            return Some(overlaid(object, K::standing(&before), standing, now));
        }
        let secret =
            active.map(|kept| Reference { name: kept.name.clone(), namespace: Some(kept.namespace.clone()) });
        let after = K::show(&spec, Shown { object, standing, active, content, secret }, &before)?;
        let value = serde_json::to_value(after).unwrap_or_default();
        Some(stamped(value, object, now))
    }
}

/// The name of the Secret that a status refers to, whoever wrote it.
pub(crate) fn former(object: &Object) -> Option<String> {
    let status = object.status();
    let mut fields = status.as_object()?.iter();
    let (_, reference) = fields.find(|(field, _)| field.ends_with("Reference"))?;
    reference["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The status as it was, with how the object stands now.
pub(crate) fn overlaid(object: &Object, before: &Standing, now_is: Standing, now: SystemTime) -> Value {
    let kept = Standing {
        status: now_is.status,
        error: now_is.error,
        conditions: now_is.conditions,
        observed_generation: now_is.observed_generation,
        ..before.clone()
    };
    let mut value = match object.status() {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    if let Ok(Value::Object(standing)) = serde_json::to_value(kept) {
        value.retain(|name, _| name != "error");
        value.extend(standing);
    }
    stamped(Value::Object(value), object, now)
}

/// With the time of this change, if it is one.
pub(crate) fn stamped(mut status: Value, object: &Object, now: SystemTime) -> Value {
    const TIME: &str = "lastUpdateTime";
    let before = object.status();
    status[TIME] = before[TIME].clone();
    if status[TIME].is_null() {
        status.as_object_mut().map(|fields| fields.remove(TIME));
    }
    if status != before {
        status[TIME] = Value::String(rfc3339(now));
    }
    status
}
