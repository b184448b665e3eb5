//! What the requests of one connection have in common.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderValue, Version, header, request::Parts};

use crate::{
    directory::Followed,
    route::{Slashes, filter::Entry},
    worker::Worker,
};

/// What the requests of one connection have in common.
pub struct Context {
    pub worker: Arc<Worker>,
    /// What discovery says of where the client connected to, as it changes.
    pub destination: Followed,
    pub address: SocketAddr,
    pub slashes: Slashes,
}

impl Context {
    /// Where requests come in, as redirects need to know.
    pub fn entry(&self) -> Entry {
        Entry { tls: false, port: self.address.port() }
    }

    /// HTTP/1.0 need not say whom it is for: then it is for whom it came to.
    pub fn complete(&self, parts: &mut Parts) {
        if parts.version <= Version::HTTP_10
            && !parts.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&self.address.to_string())
        {
            parts.headers.insert(header::HOST, host);
        }
    }
}
