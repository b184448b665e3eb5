//! Routes of connections whose bytes are nobody's business: TCPRoute and TLSRoute.

use std::sync::Arc;

use rand::Rng;
use trellis_api::proto::discovery as wire;

use super::rule::{Backends, Choice, Identity};

#[derive(Debug)]
pub struct ByteRoute {
    pub route: Arc<Identity>,
    pub backends: Backends,
}

impl ByteRoute {
    pub fn read(kind: &'static str, wire: &wire::ByteRoute) -> Self {
        Self {
            route: Arc::new(Identity::new(kind, &wire.namespace, &wire.name)),
            backends: Backends::read(&wire.backends),
        }
    }

    /// Where the next connection goes; what would be a 500 is a connection that is closed.
    pub fn choose(&self, random: &mut impl Rng) -> Choice<'_> {
        self.backends.choose(random)
    }
}
