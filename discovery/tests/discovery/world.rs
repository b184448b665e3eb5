//! Manifests as events, and answers as a line that a table can hold.

use std::{collections::BTreeSet, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;
use trellis_api::{
    proto::discovery as proto,
    source::{Change, Sight},
};
use trellis_discovery::{
    answer::Answer,
    destination::Destination,
    event::Event,
    gateway::vault::{Drawer, Kind},
    state::{State, Touched},
    subject::Subject,
    viewer::Viewer,
};
use trellis_pki::spiffe::SpiffeId;

pub const WORLD: &str = include_str!("world.yaml");

pub fn manifests(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

pub fn parse<K: DeserializeOwned>(manifest: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(manifest.clone()).unwrap())
}

/// The one object of the world that has this kind and name, to be changed.
pub fn object(kind: &str, name: &str) -> Value {
    let all = manifests(WORLD).into_iter();
    let mut found = all.filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.next().unwrap()
}

pub fn applied(object: &Value) -> Event {
    change(object, false)
}

pub fn deleted(object: &Value) -> Event {
    change(object, true)
}

/// A change whatever the kind is.
fn change(object: &Value, gone: bool) -> Event {
    fn how<K: DeserializeOwned>(object: &Value, gone: bool) -> Change<K> {
        if gone { Change::Deleted(parse(object)) } else { Change::Applied(parse(object)) }
    }
    match object["kind"].as_str().unwrap() {
        "Service" => Event::Services(how(object, gone)),
        "EndpointSlice" => Event::Slices(how(object, gone)),
        "Pod" => Event::Pods(how(object, gone)),
        "Node" => Event::Nodes(how(object, gone)),
        "HTTPRoute" => Event::HttpRoutes(how(object, gone)),
        "GRPCRoute" => Event::GrpcRoutes(how(object, gone)),
        "TCPRoute" => Event::TcpRoutes(how(object, gone)),
        "TLSRoute" => Event::TlsRoutes(how(object, gone)),
        "Namespace" => Event::Namespaces(how(object, gone)),
        "ReferenceGrant" => Event::Grants(how(object, gone)),
        "GatewayClass" => Event::Classes(how(object, gone)),
        "Gateway" => Event::Gateways(how(object, gone)),
        "ListenerSet" => Event::ListenerSets(how(object, gone)),
        "BackendTLSPolicy" => Event::Policies(how(object, gone)),
        "PQPolicy" => Event::PqPolicies(how(object, gone)),
        "Secret" => Event::Secrets(namespace(object), Sight::Seen(how(object, gone))),
        "ConfigMap" => Event::ConfigMaps(namespace(object), Sight::Seen(how(object, gone))),
        other => panic!("no {other} in discovery"),
    }
}

/// The whole world at once, as a source begins.
pub fn resets(objects: &[Value]) -> Vec<Event> {
    fn all<K: DeserializeOwned>(kind: &str, objects: &[Value]) -> Change<K> {
        Change::Reset(objects.iter().filter(|object| object["kind"] == kind).map(parse).collect())
    }
    vec![
        Event::Services(all("Service", objects)),
        Event::Slices(all("EndpointSlice", objects)),
        Event::Pods(all("Pod", objects)),
        Event::Nodes(all("Node", objects)),
        Event::HttpRoutes(all("HTTPRoute", objects)),
        Event::GrpcRoutes(all("GRPCRoute", objects)),
        Event::TcpRoutes(all("TCPRoute", objects)),
        Event::TlsRoutes(all("TLSRoute", objects)),
        Event::Namespaces(all("Namespace", objects)),
        Event::Grants(all("ReferenceGrant", objects)),
        Event::Classes(all("GatewayClass", objects)),
        Event::Gateways(all("Gateway", objects)),
        Event::ListenerSets(all("ListenerSet", objects)),
        Event::Policies(all("BackendTLSPolicy", objects)),
        Event::PqPolicies(all("PQPolicy", objects)),
    ]
}

fn namespace(object: &Value) -> Arc<str> {
    object["metadata"]["namespace"].as_str().unwrap().into()
}

/// What is seen of the Secrets and ConfigMaps that are wanted, as a source sees them afterwards.
pub fn drawers(wanted: &BTreeSet<Drawer>, objects: &[Value]) -> Vec<Event> {
    let within = |kind: &str, name: &str| {
        let all = objects.iter().filter(|object| object["kind"] == kind);
        all.filter(|object| object["metadata"]["namespace"] == name).cloned().collect::<Vec<_>>()
    };
    let open = |(kind, name): &Drawer| match kind {
        Kind::Secret => {
            let all = within("Secret", name).iter().map(parse).collect();
            Event::Secrets(name.clone(), Sight::Seen(Change::Reset(all)))
        }
        Kind::ConfigMap => {
            let all = within("ConfigMap", name).iter().map(parse).collect();
            Event::ConfigMaps(name.clone(), Sight::Seen(Change::Reset(all)))
        }
    };
    wanted.iter().map(open).collect()
}

pub fn state(objects: &[Value]) -> State {
    let (mut state, mut touched) = (State::default(), Touched::default());
    for event in resets(objects) {
        state.apply(event, &mut touched);
    }
    state.settle(&mut touched);
    for event in drawers(&state.wanted().clone(), objects) {
        state.apply(event, &mut touched);
    }
    state.settle(&mut touched);
    state
}

/// Somebody who runs as this ServiceAccount of this namespace.
pub fn viewer(namespace: &str, account: &str) -> Viewer {
    let trust_domain = Arc::from("cluster.local");
    Viewer::new(SpiffeId::new(&trust_domain, namespace, account).unwrap(), &trust_domain)
}

/// `ADDRESS PORT`, since a table of IPv6 addresses in brackets reads badly.
pub fn destination(text: &str) -> Destination {
    let (address, port) = text.split_once(' ').unwrap();
    Destination::new(address.parse().unwrap(), port.parse().unwrap())
}

pub fn told(answer: &Answer, at: impl Into<Subject>) -> String {
    line(answer.to_proto(&at.into(), &viewer("shop", "web")).answer.unwrap())
}

pub fn line(answer: proto::resolve_response::Answer) -> String {
    use proto::resolve_response::Answer as Wire;
    match answer {
        Wire::Service(service) => {
            let endpoints: Vec<_> = service.endpoints.iter().map(endpoint).collect();
            format!("service {}/{} [{}]", service.namespace, service.name, endpoints.join(", "))
        }
        Wire::Workload(workload) => format!("workload {}", endpoint(&workload.endpoint.unwrap())),
        Wire::Unknown(_) => "unknown".into(),
        Wire::Serving(_) => "a gateway".into(),
        Wire::Policy(policy) => format!("{policy:?}"),
    }
}

fn endpoint(endpoint: &proto::Endpoint) -> String {
    use proto::endpoint::Reach;
    let reach = match &endpoint.reach {
        Some(Reach::Tunnel(tunnel)) => format!("tunnel {} {}", tunnel.port, tunnel.identity),
        Some(Reach::Plaintext(plaintext)) => plaintext.reason().as_str_name().to_owned(),
        None => "no reach".into(),
    };
    let (namespace, pod, account) = (&endpoint.namespace, &endpoint.pod, &endpoint.service_account);
    format!("{} {} {namespace}/{pod}/{account} {reach}", endpoint.address, endpoint.port)
}
