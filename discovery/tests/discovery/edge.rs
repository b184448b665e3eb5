//! A gateway, what belongs to it, and verdicts as a line that a table can hold.

use std::sync::Arc;

use rcgen::{CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use trellis_api::proto::discovery as proto;
use trellis_discovery::{
    gateway::{
        listener::Problem,
        serving::{ListenerVerdict, Serving},
    },
    name::Name,
    state::State,
    subject::Subject,
};

use crate::world::{manifests, state, viewer};

pub const EDGE: &str = include_str!("edge.yaml");

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub fn pair() -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["example.org".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().pem();
    Pair { certificate, key: key.serialize_pem() }
}

pub fn secret(namespace: &str, name: &str, certificate: &str, key: &str) -> Value {
    use k8s_openapi::{ByteString, api::core::v1::Secret};
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.map(|(item, text)| (item.to_owned(), ByteString(text.as_bytes().to_vec())));
    let mut secret = json!(Secret { data: Some(data.into()), ..Secret::default() });
    secret["kind"] = json!("Secret");
    secret["type"] = json!("kubernetes.io/tls");
    secret["metadata"] = json!({"namespace": namespace, "name": name});
    secret
}

pub fn authority(namespace: &str, name: &str, pem: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": {"ca.crt": pem}})
}

/// Gateway edge/main with these listeners, in flow style.
pub fn gateway(listeners: &str) -> Value {
    manifests(&format!(
        "
kind: Gateway
metadata: {{name: main, namespace: edge, generation: 3}}
spec: {{gatewayClassName: trellis, listeners: [{listeners}]}}"
    ))
    .remove(0)
}

/// A route of a kind in a namespace; the parent, and what more is in its spec, in flow style.
pub fn route(kind: &str, namespace: &str, name: &str, parent: &str, more: &str) -> Value {
    manifests(&format!(
        "
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: main, namespace: edge{parent}}}]{more}}}"
    ))
    .remove(0)
}

pub const TO_WEB: &str = ", rules: [{backendRefs: [{name: web, port: 80}]}]";

pub fn world(more: &[Value]) -> State {
    let mut objects = manifests(EDGE);
    objects.extend(more.iter().cloned());
    state(&objects)
}

pub fn main_gateway() -> Subject {
    Subject::Gateway(Name::new("edge", "main"))
}

pub fn serving(state: &State) -> Arc<Serving> {
    state.serving(&Name::new("edge", "main")).unwrap().clone()
}

pub fn served(state: &State) -> proto::Gateway {
    let answer = state.lookup(&main_gateway()).to_proto(&main_gateway(), &viewer("edge", "main-trellis"));
    match answer.answer {
        Some(proto::resolve_response::Answer::Serving(gateway)) => gateway,
        other => panic!("{other:?}"),
    }
}

pub fn line(verdict: &ListenerVerdict) -> String {
    let said = |result: &Result<(), Problem>| match result {
        Ok(()) => "ok".to_owned(),
        Err(problem) => problem.reason.to_owned(),
    };
    let conflicted = verdict.conflicted.as_ref().map_or("", |problem| problem.reason);
    let kinds: Vec<_> = verdict.kinds.iter().map(|kind| kind.name()).collect();
    format!(
        "{} accepted={} resolved={} conflicted={conflicted} serves={} attached={} {}",
        verdict.name,
        said(&verdict.accepted),
        said(&verdict.resolved),
        verdict.serves,
        verdict.attached,
        kinds.join("+"),
    )
}
