//! A change of one of the kinds that answers are made of.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use trellis_api::{
    gateway::{GrpcRoute, HttpRoute, TcpRoute, TlsRoute},
    source::Change,
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
}

impl Event {
    /// Every kind that has an event.
    pub const KINDS: [&str; 8] =
        ["Service", "EndpointSlice", "Pod", "Node", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

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
        }
    }
}
