//! An object as it is remembered: spec and status as text, which is a fraction of what they take as values.

use kube::{Resource, api::DynamicObject};
use serde_json::Value;
use trellis_api::crypto::{Kind, ROTATE};

use crate::{
    id::{Group, Id},
    tally::Shown,
};

/// One object of the nine kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub id: Id,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub deleting: bool,
    /// The value of the annotation that asks for another version.
    pub rotate: Option<String>,
    pub spec: Box<str>,
    pub status: Box<str>,
    pub shown: Shown,
}

impl Object {
    /// Nothing where it lacks what every object has.
    pub fn of(group: Group, kind: Kind, object: &DynamicObject) -> Option<Self> {
        let meta = object.meta();
        let text = |part: &str| object.data.get(part).unwrap_or(&Value::Null).to_string().into_boxed_str();
        let status = text("status");
        Some(Self {
            id: Id::new(group, kind, meta.namespace.as_deref()?, meta.name.as_deref()?),
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
            generation: meta.generation.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            rotate: meta.annotations.as_ref().and_then(|all| all.get(ROTATE)).cloned(),
            spec: text("spec"),
            shown: Shown::of(&status),
            status,
        })
    }

    pub fn spec(&self) -> Value {
        serde_json::from_str(&self.spec).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.status).unwrap_or_default()
    }

    /// Whether this is a later state of the same object than `other`: what was read a moment ago must not be
    /// replaced by what a watch still has to tell of the time before.
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.uid == other.uid && is_older(&self.resource_version, &other.resource_version)
    }
}

/// Versions are numbers that grow; of what is none, nobody can say.
pub(crate) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}
