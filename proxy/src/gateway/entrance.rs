//! Where one connection's requests came in.

use std::{net::SocketAddr, sync::Arc};

use http::request::Parts;

use super::{forwarded, listener::Listener, port::Port};
use crate::{http::Failure, ledger::Row, route::Routes};

pub struct Entrance {
    pub port: Port,
    /// The listener that the handshake chose; without TLS each request chooses its own.
    pub listener: Option<Arc<Listener>>,
    pub client: SocketAddr,
    /// What its connection negotiated.
    pub row: Arc<Row>,
}

impl Entrance {
    pub fn tls(&self) -> bool {
        self.listener.is_some()
    }

    /// Makes a request say where it came from.
    pub fn mark(&self, parts: &mut Parts) -> Result<(), Failure> {
        forwarded::mark(parts, self.client, self.tls())
    }

    /// The routes for requests to `host`.
    pub fn routes(&self, host: &str) -> Result<Arc<Routes>, Failure> {
        let listener = self.port.listener(host, self.listener.as_deref(), self.row.class)?;
        Ok(listener.routes.clone())
    }

    /// Resolves when the connection may not go on.
    pub async fn gone(&self) {
        match &self.listener {
            Some(listener) => self.port.gone(listener, self.row.class).await,
            None => self.port.denies_plaintext().await,
        }
    }
}
