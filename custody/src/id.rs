//! Which object is meant.

use std::{fmt, sync::Arc};

use trellis_api::crypto::{GROUP, Kind, QUBESEC_GROUP};

/// A group under which the kinds are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    Trellis,
    /// For taking over what QubeSec's controller kept.
    Qubesec,
}

/// One object. References never lead from one group to the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub group: Group,
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Group {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trellis => GROUP,
            Self::Qubesec => QUBESEC_GROUP,
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        [Self::Trellis, Self::Qubesec].into_iter().find(|group| group.as_str() == name)
    }
}

impl Id {
    pub fn new(group: Group, kind: Kind, namespace: &str, name: &str) -> Self {
        Self { group, kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}
