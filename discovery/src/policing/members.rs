//! Pods by what policies ask of them. Those that are alike are kept once: the pods of one ReplicaSet differ
//! in their names only.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1 as k8s;
use trellis_api::{
    annotations::{LEAF_ALGORITHM, SKIP_INBOUND_PORTS},
    names,
};

use crate::{
    gateway::namespace::Labels,
    name::Name,
    pod::{Sidecar, sidecar},
};

/// What policies see of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub account: Arc<str>,
    pub labels: Labels,
    pub sidecar: Sidecar,
    /// Some of its ports are not behind its proxy.
    pub skips: bool,
    /// It asks for a certificate that a quantum computer breaks.
    pub classical_leaf: bool,
}

/// A member where it is.
pub type Kind = (Arc<str>, Arc<Member>);

#[derive(Debug, Default)]
pub struct Members {
    pods: HashMap<Name, Arc<Member>>,
    kinds: HashSet<Arc<Member>>,
}

impl Member {
    /// Nothing for a pod that is over.
    pub fn of(pod: &k8s::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let note = |name: &str| pod.metadata.annotations.as_ref().and_then(|notes| notes.get(name));
        let account = spec.service_account_name.as_deref().filter(|account| !account.is_empty());
        Some(Self {
            account: account.unwrap_or("default").into(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            // A gateway is a proxy itself.
            sidecar: match note(names::GATEWAY) {
                Some(_) => Sidecar::Injected,
                None => sidecar(pod, spec),
            },
            skips: note(SKIP_INBOUND_PORTS).is_some_and(|ports| !ports.trim().is_empty()),
            classical_leaf: note(LEAF_ALGORITHM).is_some_and(|algorithm| algorithm == "ecdsa-p256"),
        })
    }
}

impl Members {
    pub fn get(&self, pod: &Name) -> Option<&Arc<Member>> {
        self.pods.get(pod)
    }

    /// Whether it is something else than before.
    pub fn put(&mut self, pod: &Name, new: Option<Member>) -> bool {
        let before = self.pods.remove(pod);
        let same = before.as_deref() == new.as_ref();
        if let Some(new) = new {
            let kind = match self.kinds.get(&new) {
                Some(known) => known.clone(),
                None => {
                    let kind = Arc::new(new);
                    self.kinds.insert(kind.clone());
                    kind
                }
            };
            self.pods.insert(pod.clone(), kind);
        }
        // The table has one, and we have one.
        if let Some(before) = before.filter(|before| Arc::strong_count(before) == 2) {
            self.kinds.remove(&before);
        }
        !same
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.pods.keys()
    }

    /// Every kind of pod that there is, in every namespace that has one.
    pub fn kinds(&self) -> HashSet<Kind> {
        self.pods.iter().map(|(name, member)| (name.namespace.clone(), member.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_are_alike_are_kept_once_and_no_longer_than_they_live() {
        let member = |version: &str| Member {
            account: "web".into(),
            labels: Labels::from([("version".to_owned(), version.to_owned())]),
            sidecar: Sidecar::Injected,
            skips: false,
            classical_leaf: false,
        };
        let mut members = Members::default();
        let pods: Vec<_> = (0..10).map(|number| Name::new("shop", &format!("web-{number}"))).collect();
        assert!(pods.iter().all(|pod| members.put(pod, Some(member("1")))));
        assert!(!members.put(&pods[0], Some(member("1"))));
        assert_eq!(members.kinds.len(), 1);
        assert!(members.put(&pods[0], Some(member("2"))));
        assert_eq!((members.kinds.len(), members.kinds().len()), (2, 2));
        assert!(pods.iter().all(|pod| members.put(pod, None)));
        assert_eq!((members.kinds.len(), members.pods.len()), (0, 0));
    }
}
