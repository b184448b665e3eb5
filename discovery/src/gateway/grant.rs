//! ReferenceGrants: which namespaces let others refer to what is theirs.

use std::{collections::HashMap, sync::Arc};

use trellis_api::gateway::{GROUP, ReferenceGrant};

use crate::{index::Index, name::Name};

#[derive(Debug, Default)]
pub struct Grants {
    grants: HashMap<Name, Grant>,
    by_namespace: Index<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Kinds of Gateway API, each with its namespace.
    from: Box<[(Box<str>, Box<str>)]>,
    to: Box<[To]>,
}

/// A kind of the core group, with a name or without for all.
type To = (Box<str>, Option<Box<str>>);

/// Who refers: an object of a kind of Gateway API.
#[derive(Clone, Copy, Debug)]
pub struct From<'a> {
    pub kind: &'a str,
    pub namespace: &'a Arc<str>,
}

impl Grant {
    /// Nothing that could be referred to by anybody here is of another group.
    pub fn of(grant: &ReferenceGrant) -> Self {
        let from = grant.spec.from.iter().filter(|from| from.group == GROUP);
        let to = grant.spec.to.iter().filter(|to| to.group.is_empty());
        Self {
            from: from.map(|from| (from.kind.as_str().into(), from.namespace.as_str().into())).collect(),
            to: to.map(|to| (to.kind.as_str().into(), to.name.as_deref().map(Into::into))).collect(),
        }
    }
}

impl Grants {
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.grants.keys()
    }

    /// Whether that changes anything.
    pub fn put(&mut self, name: &Name, grant: Option<Grant>) -> bool {
        let changed = self.grants.get(name) != grant.as_ref();
        match grant {
            Some(grant) => {
                self.by_namespace.insert(name.namespace.clone(), name);
                self.grants.insert(name.clone(), grant);
            }
            None => {
                self.by_namespace.remove(&name.namespace, name);
                self.grants.remove(name);
            }
        }
        changed
    }

    /// Whether this reference to an object of a kind of the core group is allowed.
    pub fn permit(&self, from: From<'_>, kind: &str, to: &Name) -> bool {
        if *from.namespace == to.namespace {
            return true;
        }
        let grants = self.by_namespace.get(&to.namespace).iter();
        grants.filter_map(|name| self.grants.get(name)).any(|grant| {
            let mut froms = grant.from.iter();
            let mut tos = grant.to.iter();
            froms.any(|(of, namespace)| **of == *from.kind && **namespace == **from.namespace)
                && tos.any(|(of, name)| **of == *kind && name.as_deref().is_none_or(|name| *name == *to.name))
        })
    }
}
