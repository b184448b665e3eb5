//! A Secret of ours, as it is remembered: everything that it says of itself, and whether that is so. What is
//! in it is looked at once, when it comes, and not kept.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use k8s_openapi::{
    api::core::v1 as core, apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp,
};
use kube::api::ObjectMeta;
use trellis_api::crypto::{
    ADOPT, ADOPTED, ALGORITHM, CONTENT, FINGERPRINT, FORM, FORMERLY, KIND_LABEL, Kind, MADE_OF, OWNER_LABEL,
    RETIRED, ROTATED, SECRET_VERSION, SINCE, UNTIL, VERSION, VERSION_LABEL,
};
use trellis_api::names::{MANAGED_BY, MANAGER};
use trellis_pki::clock::rfc3339;

use crate::{content::Content, id::Id, marks::Marks, object::Object};

/// A Secret that belongs to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// The uid of the object.
    pub owner: String,
    /// Whether it keeps a version that may be out of use.
    pub archive: bool,
    pub state: State,
    /// The mark that it carries.
    pub content_mark: Option<String>,
    pub type_: String,
    pub facts: Facts,
    pub labelled: bool,
}

/// What a Secret says of what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub version: u32,
    /// In full.
    pub fingerprint: String,
    /// By which it was known under the cluster's former key.
    pub formerly: Option<String>,
    pub algorithm: Option<String>,
    pub made_of: String,
    pub form: String,
    pub since: Option<SystemTime>,
    /// When it ends by itself.
    pub until: Option<SystemTime>,
    pub retired: Option<SystemTime>,
    /// When it was taken over from somebody else.
    pub adopted: Option<SystemTime>,
    pub rotated: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is as we wrote it.
    Sound,
    /// It does not say what it is: another controller made it, or its annotations are gone.
    Unread,
    /// It was marked with another key than the cluster has now.
    OtherMark,
    /// It is not as we wrote it.
    Damaged,
    /// It was looked into, and nothing can be made of it.
    Hopeless,
    /// The same of one that we did not write, and why it is not taken over: it may be of use to somebody, so that
    /// nothing is ever written over it.
    Unfit(Arc<str>),
}

/// Who has a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An object, by its uid.
    Object(String),
    /// Nobody, and its owner gives it to an object.
    Given(String),
    Foreign,
}

impl Holder {
    /// By the owner that controls it, which alone counts: labels can be copied.
    pub fn of(meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let given = meta.annotations.as_ref().and_then(|all| all.get(ADOPT));
        match (controller, given) {
            (Some(owner), _) if Kind::of(&owner.kind).is_some() => Self::Object(owner.uid.clone()),
            (None, Some(to)) => Self::Given(to.clone()),
            _ => Self::Foreign,
        }
    }
}

impl Kept {
    /// Of a Secret that belongs to the object `owner`, and its content.
    pub fn of(mut secret: core::Secret, owner: &str, marks: &Marks) -> Option<(Self, Content)> {
        let content = Content::take(&mut secret);
        let meta = secret.metadata;
        let labels = meta.labels.unwrap_or_default();
        let annotations = meta.annotations.unwrap_or_default();
        let text = |name: &str| annotations.get(name).cloned();
        let time = |name: &str| annotations.get(name).and_then(|text| moment(text));
        let number = |text: &String| text.parse::<u32>().ok().filter(|version| *version > 0);
        let version = annotations.get(SECRET_VERSION).and_then(number);
        let labelled = labels.get(VERSION_LABEL).and_then(number);
        let facts = Facts {
            version: version.or(labelled).unwrap_or_default(),
            fingerprint: text(FINGERPRINT).unwrap_or_default(),
            formerly: text(FORMERLY),
            algorithm: text(ALGORITHM),
            made_of: text(MADE_OF).unwrap_or_default(),
            form: text(FORM).unwrap_or_default(),
            since: time(SINCE),
            until: time(UNTIL),
            retired: time(RETIRED),
            adopted: time(ADOPTED),
            rotated: text(ROTATED),
        };
        let state =
            match text(CONTENT) {
                Some(mark) if version.is_some() && marks.made(&mark) => {
                    if mark == facts.mark(&content, marks) { State::Sound } else { State::Damaged }
                }
                Some(_) if version.is_some() => State::OtherMark,
                _ => State::Unread,
            };
        let content_mark = text(CONTENT);
        let kept = Self {
            namespace: meta.namespace?,
            name: meta.name?,
            uid: meta.uid?,
            resource_version: meta.resource_version?,
            owner: owner.to_owned(),
            archive: labels.contains_key(VERSION_LABEL),
            labelled: labels.contains_key(KIND_LABEL)
                && labels.get(OWNER_LABEL).is_some_and(|uid| uid == owner),
            state,
            content_mark,
            type_: secret.type_.unwrap_or_default(),
            facts,
        };
        Some((kept, content))
    }

    pub fn version(&self) -> u32 {
        self.facts.version
    }

    pub fn is_sound(&self) -> bool {
        self.state == State::Sound
    }

    /// Whether it holds the same as another.
    pub fn same_as(&self, other: &Self) -> bool {
        self.version() == other.version() && self.facts.fingerprint == other.facts.fingerprint
    }

    /// Whether it is what somebody knew under this fingerprint.
    pub fn known_as(&self, fingerprint: &str) -> bool {
        self.facts.fingerprint == fingerprint || self.facts.formerly.as_deref() == Some(fingerprint)
    }
}

impl Facts {
    pub fn mark(&self, content: &Content, marks: &Marks) -> String {
        marks.content(self.version, &self.fingerprint, self.algorithm.as_deref().unwrap_or(""), content)
    }

    /// As the annotations of a Secret with this content.
    pub fn annotations(&self, content: &Content, marks: &Marks) -> BTreeMap<String, String> {
        let time = |time: Option<SystemTime>| time.map(rfc3339);
        let all = [
            (SECRET_VERSION, Some(self.version.to_string())),
            (FINGERPRINT, Some(self.fingerprint.clone())),
            (FORMERLY, self.formerly.clone()),
            (ALGORITHM, self.algorithm.clone()),
            (MADE_OF, Some(self.made_of.clone())),
            (FORM, Some(self.form.clone())),
            (SINCE, time(self.since)),
            (UNTIL, time(self.until)),
            (RETIRED, time(self.retired)),
            (ADOPTED, time(self.adopted)),
            (ROTATED, self.rotated.clone()),
            (CONTENT, Some(self.mark(content, marks))),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Labels of a Secret of an object; of one that keeps a version, with that.
pub(crate) fn labels(object: &Object, version: Option<u32>) -> BTreeMap<String, String> {
    let all = [
        (MANAGED_BY, Some(MANAGER.to_owned())),
        (KIND_LABEL, Some(object.id.kind.as_str().to_owned())),
        (OWNER_LABEL, Some(object.uid.clone())),
        (VERSION_LABEL, version.map(|version| version.to_string())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// By which a Secret goes when its object goes. It does not hold up the object's end, which would need a right
/// over the object's finalizers.
pub(crate) fn owner(object: &Object) -> OwnerReference {
    let Id { group, kind, name, .. } = &object.id;
    OwnerReference {
        api_version: format!("{}/{VERSION}", group.as_str()),
        kind: kind.as_str().to_owned(),
        name: name.to_string(),
        uid: object.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// A time as annotations and statuses hold it.
pub(crate) fn moment(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}
