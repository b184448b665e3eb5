//! Gateway API: from its objects to what proxies are told and what the objects' statuses say. Everything
//! here is a function of objects; who watches and who writes is elsewhere.

use std::collections::HashMap;

use self::{grant::Grants, namespace::Namespaces, vault::Vault};
use crate::{name::Name, policing::Policing, service::Service};

pub mod attachment;
pub mod duration;
pub mod filter;
pub mod frontend;
pub mod gateways;
pub mod grant;
pub mod grpc;
pub mod hostname;
pub mod http;
pub mod infrastructure;
pub mod listener;
pub mod mesh;
pub mod namespace;
pub mod policies;
pub mod reference;
pub mod route;
pub mod routing;
pub mod serving;
pub mod status;
pub mod vault;

/// What gateways depend on besides their own objects and their routes.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    pub services: &'a HashMap<Name, Service>,
    pub namespaces: &'a Namespaces,
    pub grants: &'a Grants,
    pub vault: &'a Vault,
    pub policing: &'a Policing,
}
