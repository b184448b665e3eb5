//! Which workload a pod belongs to, as users name it.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

/// `namespace` and `kind/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
}

impl Workload {
    /// By the pod's controller; of a ReplicaSet that a Deployment made, the Deployment.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let own = || format!("pod/{}", meta.name.as_deref().unwrap_or_default());
        let controller =
            meta.owner_references.iter().flatten().find(|owner| owner.controller.unwrap_or(false));
        let name = controller.map_or_else(own, |owner| {
            let hash = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
            let made_by = hash
                .filter(|_| owner.kind == "ReplicaSet")
                .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            match made_by {
                Some(deployment) => format!("deployment/{deployment}"),
                None => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
            }
        });
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_its_controllers() {
        let table = [
            (json!({"kind": "ReplicaSet", "name": "web-5d9c7b", "controller": true}), "deployment/web"),
            (json!({"kind": "ReplicaSet", "name": "hand-made", "controller": true}), "replicaset/hand-made"),
            (json!({"kind": "StatefulSet", "name": "web", "controller": true}), "statefulset/web"),
            (json!({"kind": "Node", "name": "a"}), "pod/web-5d9c7b-x2"),
        ];
        for (mut owner, expected) in table {
            owner["apiVersion"] = "v1".into();
            owner["uid"] = "u".into();
            let pod = json!({"metadata": {
                "namespace": "shop", "name": "web-5d9c7b-x2", "ownerReferences": [owner],
                "labels": {"pod-template-hash": "5d9c7b"}
            }});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(Workload::of(&pod).to_string(), format!("shop/{expected}"));
        }
    }
}
