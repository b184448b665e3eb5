//! Who depends on what, so that a change brings those to be looked at whom it concerns, and nobody else.

use std::collections::{BTreeSet, HashMap, HashSet};

use trellis_api::crypto::MessageKind;

use crate::id::Id;

/// What an object can depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Dependency {
    /// Another object, whether it is there or not, and what it keeps.
    Object(Id),
    /// A Secret or ConfigMap by its name.
    Named(Name),
    /// Grants of a namespace.
    Grants(String),
    /// What the CA of the mesh issues from.
    Mesh,
}

/// A Secret or ConfigMap that is looked at by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub kind: MessageKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Default)]
pub(crate) struct Index {
    of: HashMap<Id, BTreeSet<Dependency>>,
    on: HashMap<Dependency, BTreeSet<Id>>,
}

/// What has to be watched from now on, and what not any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub begin: Vec<Name>,
    pub end: Vec<Name>,
}

impl Index {
    /// An object depends on these, and on nothing else.
    pub fn set(&mut self, id: &Id, dependencies: BTreeSet<Dependency>) -> Difference {
        let mut difference = Difference::default();
        let before = self.of.remove(id).unwrap_or_default();
        for gone in before.difference(&dependencies) {
            let Some(all) = self.on.get_mut(gone) else { continue };
            all.remove(id);
            if all.is_empty() {
                self.on.remove(gone);
                if let Dependency::Named(name) = gone {
                    difference.end.push(name.clone());
                }
            }
        }
        for new in dependencies.difference(&before) {
            let all = self.on.entry(new.clone()).or_default();
            if let (true, Dependency::Named(name)) = (all.is_empty(), new) {
                difference.begin.push(name.clone());
            }
            all.insert(id.clone());
        }
        if !dependencies.is_empty() {
            self.of.insert(id.clone(), dependencies);
        }
        difference
    }

    pub fn dependants(&self, of: &Dependency) -> impl Iterator<Item = &Id> {
        self.on.get(of).into_iter().flatten()
    }

    pub fn names_of(&self, id: &Id) -> Vec<Dependency> {
        let all = self.of.get(id).into_iter().flatten();
        all.filter(|dependency| matches!(dependency, Dependency::Named(_))).cloned().collect()
    }

    /// Whether an object depends on something that is not among these.
    pub fn loses(&self, id: &Id, dependencies: &BTreeSet<Dependency>) -> bool {
        self.of.get(id).is_some_and(|before| !before.is_subset(dependencies))
    }

    /// What is made from one object, directly or not; also by way of the Secrets that each `makes`.
    pub fn made_from(&self, id: &Id, makes: impl Fn(&Id) -> Vec<Name>) -> HashSet<Id> {
        let (mut seen, mut open) = (HashSet::new(), vec![id.clone()]);
        while let Some(id) = open.pop() {
            let names = makes(&id).into_iter().map(Dependency::Named);
            for dependency in names.chain([Dependency::Object(id)]) {
                for one in self.dependants(&dependency) {
                    if seen.insert(one.clone()) {
                        open.push(one.clone());
                    }
                }
            }
        }
        seen
    }

    /// Whether one object is made from another, directly or not; also by way of Secrets that `maker` made.
    pub fn leads<'a>(&'a self, from: &'a Id, to: &Id, maker: impl Fn(&Name) -> Option<&'a Id>) -> bool {
        let (mut seen, mut open) = (HashSet::new(), vec![from]);
        while let Some(id) = open.pop() {
            if id == to {
                return true;
            }
            if seen.insert(id) {
                let next = self.of.get(id).into_iter().flatten();
                open.extend(next.filter_map(|dependency| match dependency {
                    Dependency::Object(id) => Some(id),
                    Dependency::Named(name) => maker(name),
                    Dependency::Grants(_) | Dependency::Mesh => None,
                }));
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use trellis_api::crypto::Kind;

    use super::*;
    use crate::id::Group;

    fn id(name: &str) -> Id {
        Id::new(Group::Trellis, Kind::Certificate, "shop", name)
    }

    fn object(name: &str) -> Dependency {
        Dependency::Object(id(name))
    }

    #[test]
    fn a_name_is_watched_while_somebody_depends_on_it() {
        let mut index = Index::default();
        let name = Name { kind: MessageKind::Secret, namespace: "shop".to_owned(), name: "m".to_owned() };
        let on_it = || BTreeSet::from([Dependency::Named(name.clone())]);
        assert_eq!(index.set(&id("a"), on_it()).begin, vec![name.clone()]);
        assert_eq!(index.set(&id("b"), on_it()), Difference::default());
        assert_eq!(index.dependants(&Dependency::Named(name.clone())).count(), 2);
        assert_eq!(index.set(&id("a"), BTreeSet::new()), Difference::default());
        assert_eq!(index.set(&id("b"), BTreeSet::new()).end, [name]);
        assert!(index.on.is_empty() && index.of.is_empty(), "nothing is left behind");
    }

    #[test]
    fn circles_are_found() {
        let mut index = Index::default();
        index.set(&id("a"), BTreeSet::from([object("b")]));
        index.set(&id("b"), BTreeSet::from([object("c")]));
        let leads = |index: &Index, from: &str, to: &str| index.leads(&id(from), &id(to), |_| None);
        assert!(leads(&index, "a", "c") && !leads(&index, "c", "a"));
        index.set(&id("c"), BTreeSet::from([object("a")]));
        assert!(leads(&index, "c", "c") && leads(&index, "b", "a"));
        assert!(!leads(&index, "a", "d"), "and do not go on forever");
        let name = Name { kind: MessageKind::Secret, namespace: "shop".to_owned(), name: "d".to_owned() };
        index.set(&id("c"), BTreeSet::from([Dependency::Named(name)]));
        assert!(!leads(&index, "a", "d"));
        let d = id("d");
        assert!(index.leads(&id("a"), &d, |name| (name.name == "d").then_some(&d)), "by its Secret");
    }
}
