//! The SPIFFE Workload API, for an application that does its own TLS: on a Unix socket it gets a
//! certificate of the pod's identity, with a key of its own, and each later one when it comes.
//!
//! The proxy's own key stays where it is. The application has another one, made here, that leaves by the
//! socket and no other way. One for all callers of the pod: they are one workload to everybody else, and
//! whoever reaches the socket reaches it as the pod. It lives from the first caller until a while after the
//! last one has left, and to the CA it is part of what this pod holds.

mod callers;
mod leaf;
mod offer;
mod serve;
mod socket;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use trellis_telemetry::{Registry, shutdown::Shutdown};

use self::{callers::Callers, offer::Offers, serve::Workload, socket::Socket};
pub use self::{leaf::Leaf, socket::SocketError};

/// What an open stream needs to be told that it is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// The open socket. Who calls before there is anything to give waits.
pub struct WorkloadApi {
    offers: Offers,
    callers: Callers,
    rotate: Rotate,
    serving: JoinHandle<()>,
}

/// Asks for another certificate of the application. Clones ask for the same.
#[derive(Clone, Default)]
pub struct Rotate(Arc<Notify>);

impl Rotate {
    /// Without effect while the application has none.
    pub fn now(&self) {
        self.0.notify_waiters();
    }
}

impl WorkloadApi {
    pub fn open(path: PathBuf, stop: Shutdown, registry: &Registry) -> Result<Self, SocketError> {
        let socket = Socket::bind(path)?;
        let offers = Offers::default();
        let callers = Callers::new(registry);
        let service = Workload::new(offers.clone(), callers.clone(), stop.clone(), registry);
        let serving = tokio::spawn(serve::serve(socket, service, stop));
        Ok(Self { offers, callers, rotate: Rotate::default(), serving })
    }

    pub fn rotate(&self) -> Rotate {
        self.rotate.clone()
    }

    /// Lets callers know, once the process was asked to stop.
    pub async fn close(self) {
        if timeout(GOODBYE, self.serving).await.is_err() {
            tracing::debug!("a caller of the workload API does not read; it is left");
        }
    }
}

#[cfg(test)]
mod tests;
