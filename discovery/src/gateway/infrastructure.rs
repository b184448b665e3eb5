//! What a gateway consists of in the cluster: who it is, its pods, the Service that leads to them, and how
//! many of them may be missing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, api::ApiResource};
use serde_json::{Value, json};
use trellis_api::{
    gateway::GROUP,
    injection::{Settings, gateway_annotations, gateway_pod},
    names::{DISABLED, GATEWAY, INJECT, MANAGED_BY, MANAGER, gateway_port, gateway_workload},
};

use super::serving::{Gateway, Serving};
use crate::name::Name;

/// Label of everything that belongs to a Gateway, as Gateway API has it.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
/// By this label the pods of one gateway are known.
const INSTANCE: &str = "app.kubernetes.io/instance";
const MAX_LABEL: usize = 63;

/// An object as it is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub resource: ApiResource,
    pub object: Value,
}

/// Nothing, where there is nothing that could be served: a Service has a port.
pub fn made(
    name: &Name,
    gateway: &Gateway,
    serving: &Serving,
    settings: &Settings,
    replicas: u16,
) -> Vec<Made> {
    let ports = ports(serving);
    if serving.accepted.is_err() || ports.is_empty() {
        return Vec::new();
    }
    let workload = gateway_workload(&name.name);
    let meta = meta(name, gateway, &workload);
    let selector = json!({ INSTANCE: workload });
    let mut all = vec![
        object::<ServiceAccount>(&meta, json!({"automountServiceAccountToken": false})),
        object::<Deployment>(&meta, json!({"spec": deployment(name, &meta, &selector, settings, replicas)})),
        object::<Service>(&meta, json!({"spec": service(gateway, &ports, &selector)})),
    ];
    if replicas > 1 {
        let budget = json!({
            "maxUnavailable": 1,
            // A pod that is not ready serves nobody: it must not stand in the way of a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        });
        all.push(object::<PodDisruptionBudget>(&meta, json!({ "spec": budget })));
    }
    all
}

/// Of listeners that may be, even of those whose certificate is still missing: a gateway has its address
/// before anything can be served there.
fn ports(serving: &Serving) -> BTreeSet<u16> {
    let own = serving.listeners.iter();
    let all = own.chain(serving.sets.iter().flat_map(|(_, set)| &set.listeners));
    all.filter(|one| one.accepted.is_ok()).map(|one| one.port).filter(|port| *port != 0).collect()
}

fn meta(name: &Name, gateway: &Gateway, workload: &str) -> Value {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let given = |map: Option<&BTreeMap<String, String>>| map.cloned().unwrap_or_default();
    let mut labels = given(infrastructure.and_then(|given| given.labels.as_ref()));
    labels.extend(labels_of(name, gateway, workload));
    json!({
        "namespace": &*name.namespace,
        "name": workload,
        "labels": labels,
        "annotations": given(infrastructure.and_then(|given| given.annotations.as_ref())),
        // With the Gateway all of it goes.
        "ownerReferences": [{
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "Gateway",
            "name": &*name.name,
            "uid": gateway.uid,
            "controller": true,
        }],
    })
}

fn labels_of(name: &Name, gateway: &Gateway, workload: &str) -> Vec<(String, String)> {
    let all = [
        ("app.kubernetes.io/name", "trellis-gateway"),
        (INSTANCE, workload),
        (MANAGED_BY, MANAGER),
        (GATEWAY_NAME, &*name.name),
        (CLASS_NAME, gateway.spec.gateway_class_name.as_str()),
    ];
    let fits = all.into_iter().filter(|(_, value)| value.len() <= MAX_LABEL);
    fits.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn object<K: Resource<DynamicType = ()>>(meta: &Value, more: Value) -> Made {
    let mut object = more;
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    object["metadata"] = meta.clone();
    Made { resource: ApiResource::erase::<K>(&()), object }
}

fn deployment(name: &Name, meta: &Value, selector: &Value, settings: &Settings, replicas: u16) -> Value {
    // A Gateway whose wishes cannot be read is not accepted, and nothing is made for it.
    let wishes = serde_json::from_value(meta["annotations"].clone()).unwrap_or_default();
    let wishes = gateway_annotations(&wishes).unwrap_or_default();
    let mut pod = json!(gateway_pod(&name.namespace, &name.name, wishes, settings));
    let spread = |key: &str| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            // Better two replicas on one node than one replica.
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        })
    };
    pod["topologySpreadConstraints"] =
        json!([spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")]);
    let mut annotations = meta["annotations"].clone();
    annotations[GATEWAY] = json!(&*name.name);
    annotations[INJECT] = json!(DISABLED);
    json!({
        "replicas": replicas,
        "selector": {"matchLabels": selector},
        // A pod goes when another has come.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {"labels": meta["labels"], "annotations": annotations},
            "spec": pod,
        },
    })
}

fn service(gateway: &Gateway, ports: &BTreeSet<u16>, selector: &Value) -> Value {
    let port = |port: &u16| {
        json!({
            "name": format!("port-{port}"),
            "port": port,
            "targetPort": gateway_port(*port),
            "protocol": "TCP",
        })
    };
    let mut service = json!({
        "type": "LoadBalancer",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": selector,
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
    });
    let asked = gateway.spec.addresses.iter().flatten().find_map(|one| one.value.as_deref());
    if let Some(asked) = asked {
        service["loadBalancerIP"] = json!(asked);
    }
    service
}
