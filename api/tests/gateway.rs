//! The kinds of Gateway API are read as they are written, and what a later version adds hides nothing.
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

use serde_saphyr::from_str;
use trellis_api::{
    gateway::{
        BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant, TcpRoute,
        TlsRoute,
    },
    source::Watched,
};

#[test]
fn every_kind_can_be_watched_by_the_name_the_cluster_has_for_it() {
    fn name<K: Watched>() -> String {
        format!("{} {} {}", K::api_version(&()), K::kind(&()), K::plural(&()))
    }
    let names = [
        name::<GatewayClass>(),
        name::<Gateway>(),
        name::<ListenerSet>(),
        name::<HttpRoute>(),
        name::<GrpcRoute>(),
        name::<TcpRoute>(),
        name::<TlsRoute>(),
        name::<ReferenceGrant>(),
        name::<BackendTlsPolicy>(),
    ];
    let kinds = [
        "GatewayClass gatewayclasses",
        "Gateway gateways",
        "ListenerSet listenersets",
        "HTTPRoute httproutes",
        "GRPCRoute grpcroutes",
        "TCPRoute tcproutes",
        "TLSRoute tlsroutes",
        "ReferenceGrant referencegrants",
        "BackendTLSPolicy backendtlspolicies",
    ];
    assert_eq!(names, kinds.map(|kind| format!("gateway.networking.k8s.io/v1 {kind}")));
}

#[test]
fn a_value_of_a_later_version_is_read_as_text() {
    let route: HttpRoute = from_str(
        "
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{path: {type: Glob, value: /a*}}]
    filters: [{type: Compress}]
    retry: {attempts: 2, codes: [503]}
    backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}]}]
",
    )
    .unwrap();
    let rule = &route.spec.rules.unwrap()[0];
    assert_eq!(rule.filters.as_ref().unwrap()[0].r#type, "Compress");
    assert_eq!(rule.matches.as_ref().unwrap()[0].path.as_ref().unwrap().r#type.as_deref(), Some("Glob"));
    assert_eq!(rule.retry.as_ref().unwrap().attempts, Some(2));
    let filters = rule.backend_refs.as_ref().unwrap()[0].filters.as_ref().unwrap();
    assert_eq!(filters[0].request_header_modifier.as_ref().unwrap().set.as_ref().unwrap()[0].value, "b");
}
