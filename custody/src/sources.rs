//! What an object is made from: other objects and what they keep, and items of Secrets and ConfigMaps that
//! somebody else wrote. Why one cannot be had is a type, and the reason of a condition.

use std::sync::Arc;

use trellis_api::crypto::{Kind, MessageKind, Problem, Reference, Word, condition};

use crate::{id::Id, issuer::Anchors, kept::Kept};

/// The reason of a condition: an object would be made from itself.
pub(crate) const CIRCLE: &str = "CircularReference";

/// One thing that an object reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Another object, of one of these kinds.
    Object { field: &'static str, kinds: Vec<Kind>, to: Reference },
    /// The CA of the mesh.
    Mesh { field: &'static str },
    /// An item of a Secret or ConfigMap.
    Item { field: &'static str, kind: MessageKind, namespace: Option<String>, name: String, item: String },
}

/// What was found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Object(Box<Source>),
    Mesh(Box<Anchors>),
    Item(Item),
}

/// An object, what it keeps, and its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub id: Id,
    pub uid: String,
    pub spec: serde_json::Value,
    /// In use.
    pub active: Arc<Kept>,
    /// Kept beside it, the newest first.
    pub archives: Vec<Arc<Kept>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub kind: MessageKind,
    pub namespace: String,
    pub name: String,
    pub item: String,
    /// In full.
    pub mark: String,
}

/// A part of what a content is made from, whose bytes are needed to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Kept(Arc<Kept>),
    Item(Item),
}

/// Why something is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The spec cannot be obeyed.
    Invalid(Problem),
    /// The controller may not keep Secrets in this namespace.
    NoAccess {
        namespace: String,
        said: Option<String>,
    },
    NotFound {
        field: &'static str,
        what: String,
    },
    /// It is there, and keeps nothing yet.
    NotReady {
        field: &'static str,
        what: String,
    },
    /// What it kept is lost.
    SourceLost {
        field: &'static str,
        what: String,
    },
    NotPermitted {
        field: &'static str,
        what: String,
        grant: String,
    },
    Denied {
        field: &'static str,
        what: String,
        account: Option<String>,
    },
    /// The name is that of two objects.
    Ambiguous {
        field: &'static str,
        name: String,
    },
    /// The references lead back to the object itself.
    Circle {
        field: &'static str,
        what: String,
    },
    Mismatch {
        field: &'static str,
        what: String,
        wanted: String,
        found: String,
    },
    /// A decapsulated secret is not the one that was encapsulated.
    NotConfirmed {
        what: String,
    },
    /// It is not what the algorithm needs.
    Unfit {
        field: &'static str,
        why: String,
    },
    /// A Secret that was not written here is not what the object keeps.
    NotAdopted {
        name: String,
        why: Arc<str>,
    },
    /// The cryptographic library, or the API server, would not have it.
    Refused {
        why: String,
    },
}

impl Obstacle {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidSpec",
            Self::NoAccess { .. } => condition::NO_ACCESS,
            Self::NotFound { .. } => "SourceNotFound",
            Self::NotReady { .. } => "SourceNotReady",
            Self::SourceLost { .. } => "SourceLost",
            Self::NotPermitted { .. } => condition::REF_NOT_PERMITTED,
            Self::Denied { .. } => condition::DENIED,
            Self::Ambiguous { .. } => "AmbiguousReference",
            Self::Circle { .. } => CIRCLE,
            Self::Mismatch { .. } => "AlgorithmMismatch",
            Self::NotConfirmed { .. } => "KeyNotConfirmed",
            Self::Unfit { .. } => "UnfitSource",
            Self::NotAdopted { .. } => "NotAdopted",
            Self::Refused { .. } => "Refused",
        }
    }

    /// The further condition that is true with it, if there is one.
    pub fn condition(&self) -> Option<&'static str> {
        match self {
            Self::NoAccess { .. } => Some(condition::NO_ACCESS),
            Self::NotPermitted { .. } => Some(condition::REF_NOT_PERMITTED),
            Self::Denied { .. } => Some(condition::DENIED),
            _ => None,
        }
    }

    /// Whether it will pass by itself, so that what was made before stays good.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NotReady { .. } | Self::SourceLost { .. })
    }

    /// Whether what it is made from is not there at all.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::SourceLost { .. })
    }

    /// The word for an object that has nothing yet.
    pub fn word(&self) -> Word {
        match self {
            Self::NotFound { .. } | Self::NotReady { .. } => Word::Pending,
            _ => Word::Failed,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::Invalid(problem) => problem.to_string(),
            Self::NoAccess { namespace, said } => {
                let said = said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
                format!(
                    "Secrets of namespace {namespace} may not be kept{said}: run `trellis crypto allow \
                     {namespace}`, or bind ClusterRole {} there to ServiceAccount {}",
                    trellis_api::crypto::SECRETS_ROLE,
                    trellis_api::names::CA,
                )
            }
            Self::NotFound { field, what } => format!("{field}: {what} is not there yet"),
            Self::NotReady { field, what } => format!("{field}: {what} has nothing to give yet"),
            Self::SourceLost { field, what } => {
                format!("{field}: {what} has lost what it kept: restore it, and this goes on")
            }
            Self::NotPermitted { field, what, grant } => format!(
                "{field}: {what} is of another namespace, which does not allow it: make a ReferenceGrant there \
                 {grant}"
            ),
            Self::Denied { field, what, account: Some(account) } => format!(
                "{field}: {what} is not for ServiceAccount {account}: name one of its allowedServiceAccounts in \
                 spec.serviceAccountName"
            ),
            Self::Denied { field, what, account: None } => format!(
                "{field}: {what} is for certain ServiceAccounts only: name one of its allowedServiceAccounts in \
                 spec.serviceAccountName"
            ),
            Self::Ambiguous { field, name } => format!(
                "{field}: {name} is the name of a QuantumEncapsulateSecret and of a QuantumDecapsulateSecret: \
                 say which in {field}.kind"
            ),
            Self::Circle { field, what } => format!("{field}: {what} is itself made from this object"),
            Self::Mismatch { field, what, wanted, found } => {
                format!("{field}: {what} is of {found}, and spec.algorithm says {wanted}: make them the same")
            }
            Self::NotConfirmed { what } => format!(
                "the secret is not the one that {what} encapsulated: it was encapsulated under another key, or \
                 its ciphertext was changed"
            ),
            Self::Unfit { field, why } => format!("{field}: {why}"),
            Self::NotAdopted { name, why } => format!(
                "Secret {name} is not taken over, and is left as it is: {why}; mend it, or delete it, and it is \
                 treated as lost"
            ),
            Self::Refused { why } => why.clone(),
        }
    }
}

impl Source {
    /// What it keeps with this fingerprint, in use or kept beside it.
    pub fn with_fingerprint(&self, fingerprint: &str) -> Option<&Arc<Kept>> {
        [&self.active].into_iter().chain(&self.archives).find(|kept| kept.facts.fingerprint == fingerprint)
    }

    /// In the order of use.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kept>> {
        [&self.active].into_iter().chain(&self.archives)
    }
}

impl Ask {
    pub fn item(field: &'static str, to: &trellis_api::crypto::MessageReference, item: &str) -> Self {
        Self::Item {
            field,
            kind: to.kind(),
            namespace: to.namespace.clone(),
            name: to.name.clone(),
            item: item.to_owned(),
        }
    }
}
