//! Gateway API: from its objects to what proxies are told and what the objects' statuses say. Everything
//! here is a function of objects; who watches and who writes is elsewhere.

pub mod duration;
pub mod filter;
pub mod grpc;
pub mod http;
pub mod mesh;
pub mod reference;
pub mod route;
pub mod routing;
