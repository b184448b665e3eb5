//! One port of a gateway while it is open: what it serves at this moment, and what its connections share.

use std::{net::TcpListener as StdListener, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::watch;
use trellis_api::evidence::Class;

use super::{
    listener::{Family, Layout, Listener},
    proxied::Proxied,
    sources::Sources,
};
use crate::http::Failure;

/// An open port. Once its sender is gone, it is closed. Clones are the same.
#[derive(Clone)]
pub struct Port {
    /// As clients know it.
    pub number: u16,
    pub family: Family,
    pub edge: Arc<Edge>,
    layout: watch::Receiver<Arc<Layout>>,
}

/// What all ports of a gateway have in common.
pub struct Edge {
    /// `namespace/name` of the gateway.
    pub gateway: Arc<str>,
    pub proxied: Proxied,
    pub sources: Sources,
    /// How long a client may be waited for in the middle of a request.
    pub stall: Duration,
}

/// A socket to accept from.
pub struct Opening {
    pub port: Port,
    pub socket: StdListener,
}

impl Port {
    pub fn new(number: u16, layout: Arc<Layout>, edge: Arc<Edge>) -> (watch::Sender<Arc<Layout>>, Self) {
        let family = layout.family;
        let (sender, layout) = watch::channel(layout);
        (sender, Self { number, family, edge, layout })
    }

    pub fn now(&self) -> Arc<Layout> {
        self.layout.borrow().clone()
    }

    /// Resolves when the port is closed.
    pub async fn closed(&self) {
        let mut layout = self.layout.clone();
        while layout.changed().await.is_ok() {}
    }

    /// Resolves when connections of `listener` may not go on: it is gone, or its terms are others.
    pub async fn gone(&self, listener: &Listener, class: Class) {
        let mut layout = self.layout.clone();
        // Without a sender the port is closed, and all of its listeners with it.
        let _ = layout.wait_for(|layout| layout.still(listener, class).is_none()).await;
    }

    /// Resolves when nobody may come without TLS, or the port is closed.
    pub async fn denies_plaintext(&self) {
        let mut layout = self.layout.clone();
        let _ = layout.wait_for(|layout| layout.denies_plaintext()).await;
    }

    /// The listener for a request to `host`; `own` is the one that the connection came in by, where its
    /// handshake has decided that.
    pub fn listener(
        &self,
        host: &str,
        own: Option<&Listener>,
        class: Class,
    ) -> Result<Arc<Listener>, Failure> {
        let layout = self.now();
        let Some(listener) = layout.of(host) else {
            return Err(Failure::new(
                StatusCode::NOT_FOUND,
                "no_listener_for_host",
                "no listener of this port is for this host",
            ));
        };
        match own {
            None if !listener.admits(class) => {
                Err(Failure::new(StatusCode::FORBIDDEN, "plaintext", "policy wants TLS here"))
            }
            None => Ok(listener.clone()),
            Some(own) if layout.still(own, class).is_some_and(|own| Arc::ptr_eq(own, listener)) => {
                Ok(listener.clone())
            }
            Some(_) => Err(Failure::new(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "the connection was made for another host; make one for this host",
            )),
        }
    }
}
