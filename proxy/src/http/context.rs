//! What the requests of one connection have in common.

use std::{net::SocketAddr, sync::Arc};

use crate::{directory::Followed, worker::Worker};

/// What the requests of one connection have in common.
pub struct Context {
    pub worker: Arc<Worker>,
    /// What discovery says of where the client connected to, as it changes.
    pub destination: Followed,
    pub address: SocketAddr,
}
