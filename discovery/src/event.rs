//! A change of one of the kinds that answers are made of.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use trellis_api::{
    gateway::{
        BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant, TcpRoute,
        TlsRoute,
    },
    pq_policy::PqPolicy,
    source::{Change, Sight},
};

#[derive(Clone, Debug)]
pub enum Event {
    Services(Change<core::Service>),
    Slices(Change<discovery::EndpointSlice>),
    Pods(Change<core::Pod>),
    Nodes(Change<core::Node>),
    HttpRoutes(Change<HttpRoute>),
    GrpcRoutes(Change<GrpcRoute>),
    TcpRoutes(Change<TcpRoute>),
    TlsRoutes(Change<TlsRoute>),
    Namespaces(Change<core::Namespace>),
    Grants(Change<ReferenceGrant>),
    Classes(Change<GatewayClass>),
    Gateways(Change<Gateway>),
    ListenerSets(Change<ListenerSet>),
    Policies(Change<BackendTlsPolicy>),
    PqPolicies(Change<PqPolicy>),
    /// Of one namespace.
    Secrets(Arc<str>, Sight<core::Secret>),
    ConfigMaps(Arc<str>, Sight<core::ConfigMap>),
}

impl Event {
    /// Every kind that is watched as a whole.
    pub const KINDS: [&str; 15] = [
        "Service",
        "EndpointSlice",
        "Pod",
        "Node",
        "HTTPRoute",
        "GRPCRoute",
        "TCPRoute",
        "TLSRoute",
        "Namespace",
        "ReferenceGrant",
        "GatewayClass",
        "Gateway",
        "ListenerSet",
        "BackendTLSPolicy",
        "PQPolicy",
    ];

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Services(_) => "Service",
            Self::Slices(_) => "EndpointSlice",
            Self::Pods(_) => "Pod",
            Self::Nodes(_) => "Node",
            Self::HttpRoutes(_) => "HTTPRoute",
            Self::GrpcRoutes(_) => "GRPCRoute",
            Self::TcpRoutes(_) => "TCPRoute",
            Self::TlsRoutes(_) => "TLSRoute",
            Self::Namespaces(_) => "Namespace",
            Self::Grants(_) => "ReferenceGrant",
            Self::Classes(_) => "GatewayClass",
            Self::Gateways(_) => "Gateway",
            Self::ListenerSets(_) => "ListenerSet",
            Self::Policies(_) => "BackendTLSPolicy",
            Self::PqPolicies(_) => "PQPolicy",
            Self::Secrets(..) => "Secret",
            Self::ConfigMaps(..) => "ConfigMap",
        }
    }

    /// Whether it shows every object of its kind.
    pub fn is_whole(&self) -> bool {
        fn whole<K>(change: &Change<K>) -> bool {
            matches!(change, Change::Reset(_))
        }
        match self {
            Self::Services(change) => whole(change),
            Self::Slices(change) => whole(change),
            Self::Pods(change) => whole(change),
            Self::Nodes(change) => whole(change),
            Self::HttpRoutes(change) => whole(change),
            Self::GrpcRoutes(change) => whole(change),
            Self::TcpRoutes(change) => whole(change),
            Self::TlsRoutes(change) => whole(change),
            Self::Namespaces(change) => whole(change),
            Self::Grants(change) => whole(change),
            Self::Classes(change) => whole(change),
            Self::Gateways(change) => whole(change),
            Self::ListenerSets(change) => whole(change),
            Self::Policies(change) => whole(change),
            Self::PqPolicies(change) => whole(change),
            Self::Secrets(..) | Self::ConfigMaps(..) => false,
        }
    }
}
