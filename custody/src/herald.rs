//! Events on the objects that they are about, said by whoever runs this room.

use k8s_openapi::api::core::v1::ObjectReference;
use trellis_api::crypto::VERSION;

use crate::object::Object;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Normal,
    Warning,
}

/// Says what happened where operators look for it. A courtesy: nothing depends on it.
pub trait Herald: Send + Sync {
    fn say(&self, about: &ObjectReference, tone: Tone, reason: &'static str, note: &str);
}

/// Says nothing.
pub struct Silent;

impl Herald for Silent {
    fn say(&self, _: &ObjectReference, _: Tone, _: &'static str, _: &str) {}
}

pub(crate) fn about(object: &Object) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{VERSION}", object.id.group.as_str())),
        kind: Some(object.id.kind.as_str().to_owned()),
        name: Some(object.id.name.to_string()),
        namespace: Some(object.id.namespace.to_string()),
        uid: Some(object.uid.clone()),
        ..ObjectReference::default()
    }
}
