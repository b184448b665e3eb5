//! The kinds of Gateway API that Trellis reads, as its definitions have them; `api/gateway/generate` makes
//! them. Types that several kinds share have the name here that the API's documents give them.

#![allow(clippy::all, clippy::pedantic)] // generated

mod backend_tls_policy;
#[allow(clippy::module_inception)] // named by its kind, as the others
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod listener_set;
mod reference_grant;
mod tcp_route;
mod tls_route;

pub use self::{
    backend_tls_policy::{
        BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsPolicyStatus,
        BackendTlsPolicyStatusAncestors as PolicyAncestorStatus,
    },
    gateway::{
        Gateway, GatewayInfrastructure, GatewayListeners as Listener,
        GatewayListenersAllowedRoutes as AllowedRoutes,
        GatewayListenersAllowedRoutesNamespacesSelector as LabelSelector, GatewayListenersTls as ListenerTls,
        GatewayListenersTlsCertificateRefs as SecretRef, GatewaySpec, GatewayStatus,
        GatewayStatusAddresses as GatewayAddress, GatewayStatusListeners as ListenerStatus,
        GatewayStatusListenersSupportedKinds as RouteGroupKind,
        GatewayTlsFrontendDefaultValidation as FrontendValidation,
    },
    gateway_class::{
        GatewayClass, GatewayClassSpec, GatewayClassStatus,
        GatewayClassStatusSupportedFeatures as SupportedFeature,
    },
    grpc_route::{
        GrpcRoute, GrpcRouteRules as GrpcRule, GrpcRouteRulesMatches as GrpcMatch,
        GrpcRouteRulesMatchesMethod as GrpcMethodMatch, GrpcRouteSpec,
    },
    http_route::{
        HttpRoute, HttpRouteParentRefs as ParentRef, HttpRouteRules as HttpRule,
        HttpRouteRulesBackendRefs as BackendRef, HttpRouteRulesFilters as HttpFilter,
        HttpRouteRulesFiltersCors as HttpCors, HttpRouteRulesFiltersRequestHeaderModifier as HeaderModifier,
        HttpRouteRulesFiltersRequestHeaderModifierAdd as Header,
        HttpRouteRulesFiltersRequestMirror as RequestMirror,
        HttpRouteRulesFiltersRequestMirrorBackendRef as BackendObjectRef,
        HttpRouteRulesFiltersRequestRedirect as RequestRedirect,
        HttpRouteRulesFiltersRequestRedirectPath as PathModifier,
        HttpRouteRulesFiltersUrlRewrite as UrlRewrite, HttpRouteRulesMatches as HttpMatch,
        HttpRouteRulesMatchesHeaders as NamedMatch, HttpRouteRulesMatchesPath as HttpPathMatch,
        HttpRouteRulesRetry as HttpRetry, HttpRouteRulesTimeouts as HttpTimeouts, HttpRouteSpec,
        HttpRouteStatus, HttpRouteStatusParents as RouteParentStatus,
    },
    listener_set::{ListenerSet, ListenerSetSpec, ListenerSetStatus},
    reference_grant::{ReferenceGrant, ReferenceGrantSpec},
    tcp_route::{TcpRoute, TcpRouteRules as ByteRule, TcpRouteSpec},
    tls_route::{TlsRoute, TlsRouteSpec},
};

/// Their group.
pub const GROUP: &str = "gateway.networking.k8s.io";
