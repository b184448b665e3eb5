//! The manifests that describe a workload on loopback, as a cluster would show it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use trellis_api::names::{ENABLED, IDENTITY, INJECT, INJECTED};

/// One pod: an application and, unless it stays outside the mesh, its proxy.
#[derive(Clone, Debug)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub uid: String,
    pub pod: Ipv4Addr,
    /// Where the application listens, behind the pod's address.
    pub application: Ipv4Addr,
    pub services: Vec<Service>,
    pub meshed: bool,
}

/// The Service that leads to a workload.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl Service {
    /// One more endpoint of the Service: another workload of its namespace.
    pub fn also(&self, workload: &Workload) -> Value {
        let Self { name, port, .. } = self;
        let Workload { namespace, name: pod, pod: address, .. } = workload;
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("{name}-{pod}"),
                         "uid": format!("{name}-{pod}-slice-uid"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address],
                           "conditions": {"ready": true, "serving": true, "terminating": false},
                           "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod}}],
        })
    }

    /// The Service without endpoints: those come and go by themselves.
    pub fn alone(&self, namespace: &str) -> Value {
        let Self { name, address, port } = self;
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "uid": format!("{name}-uid")},
            "spec": {"clusterIP": address, "clusterIPs": [address],
                     "ports": [{"name": "main", "port": port, "targetPort": port, "protocol": "TCP"}]},
        })
    }

    /// The Service without a selector, and its one endpoint, which is a workload of another trust domain.
    pub fn elsewhere(&self, namespace: &str, endpoint: Ipv4Addr, identity: &str) -> Vec<Value> {
        let Self { name, address, port } = self;
        let ports = json!([{"name": "main", "port": port, "protocol": "TCP"}]);
        vec![
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": namespace, "name": name, "uid": format!("{name}-uid"),
                             "annotations": {IDENTITY: identity}},
                "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports},
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": namespace, "name": format!("{name}-1"),
                             "uid": format!("{name}-slice-uid"),
                             "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": ports,
                "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
            }),
        ]
    }
}

/// What makes a namespace part of the mesh.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
           "metadata": {"name": name, "uid": format!("{name}-uid"), "labels": {INJECT: ENABLED}}})
}

impl Workload {
    /// Its Pod, and each Service of its with an EndpointSlice.
    pub fn manifests(&self) -> Vec<Value> {
        let Self { namespace, name, service_account, uid, pod, services, meshed, .. } = self;
        let annotations = if *meshed { json!({INJECTED: env!("CARGO_PKG_VERSION")}) } else { json!({}) };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let mut manifests = vec![json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "uid": uid,
                         "labels": {"app": name}, "annotations": annotations},
            "spec": {"serviceAccountName": service_account, "containers": [{"name": name}]},
            "status": {"phase": "Running", "podIP": pod, "podIPs": [{"ip": pod}], "conditions": ready},
        })];
        for Service { name: service, address, port } in services {
            manifests.push(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": namespace, "name": service, "uid": format!("{service}-uid")},
                "spec": {"clusterIP": address, "clusterIPs": [address], "selector": {"app": name},
                         "ports": [{"name": "main", "port": port, "targetPort": port, "protocol": "TCP"}]},
            }));
            manifests.push(self.slice(service, "1", *port));
        }
        manifests
    }

    /// A part of the endpoints of `service`: this workload at `port`.
    pub(crate) fn slice(&self, service: &str, part: &str, port: u16) -> Value {
        let Self { namespace, name, pod, .. } = self;
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("{service}-{part}"),
                         "uid": format!("{service}-{part}-uid"),
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [pod],
                           "conditions": {"ready": true, "serving": true, "terminating": false},
                           "targetRef": {"kind": "Pod", "namespace": namespace, "name": name}}],
        })
    }
}
