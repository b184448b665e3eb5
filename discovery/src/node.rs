//! What discovery keeps of a Node: its zone.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use kube::api::ObjectMeta;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub fn name(meta: &ObjectMeta) -> Arc<str> {
    meta.name.as_deref().unwrap_or_default().into()
}

pub fn zone(node: &k8s::Node) -> Option<Arc<str>> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).map(|zone| zone.as_str().into())
}
