//! The gRPC service: mutual TLS in front, one conversation per proxy behind. Whoever has a mesh identity
//! may ask; nobody may take more than its share.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use trellis_api::proto::discovery::{
    ResolveRequest, ResolveResponse,
    discovery_server::{Discovery, DiscoveryServer},
};
use trellis_channel::{
    client::KEEP_ALIVE,
    server::{
        Incoming, Peer,
        grpc::{self, Terms},
    },
};
use trellis_telemetry::{Counter, Registry, shutdown};

use crate::{hub::Hub, session::Conversation, viewer::Viewer};

/// A request names one subject; whatever is longer is not one.
const MAX_REQUEST: usize = 4 * 1024;
/// Streams of one certificate: the one in use, the one that is about to replace it, and as many again.
const STREAMS_PER_CERTIFICATE: usize = 4;
/// HTTP/2's own bound on the same, per connection.
const TERMS: Terms = Terms { streams: 4, headers: 16 << 10, keep_alive: KEEP_ALIVE };

/// The service before TLS and transport.
#[derive(Clone)]
pub struct Service {
    hub: Arc<Hub>,
    trust_domain: Arc<str>,
    updates: Counter,
    streams: Arc<Streams>,
    stop: shutdown::Shutdown,
}

impl Service {
    /// Registers its metrics, too.
    pub fn new(hub: Arc<Hub>, trust_domain: &str, registry: &Registry, stop: shutdown::Shutdown) -> Self {
        measure(&hub, registry);
        let updates =
            registry.counter("trellis_discovery_updates_total", "Answers sent to proxies.").with(&[]);
        Self { hub, trust_domain: trust_domain.into(), updates, streams: Arc::default(), stop }
    }
}

/// Serves until the process is asked to stop and every stream has been told.
pub async fn run(service: Service, incoming: Incoming) {
    let stop = service.stop.clone();
    let routes = Routes::new(DiscoveryServer::new(service).max_decoding_message_size(MAX_REQUEST));
    grpc::serve(incoming, routes, TERMS, stop).await;
}

#[tonic::async_trait]
impl Discovery for Service {
    type ResolveStream = BoxStream<'static, Result<ResolveResponse, Status>>;

    async fn resolve(
        &self,
        request: Request<Streaming<ResolveRequest>>,
    ) -> Result<Response<Self::ResolveStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let (Some(identity), Some(peer)) = (peer.and_then(|peer| peer.identity.clone()), peer) else {
            return Err(Status::unauthenticated(
                "this connection proved no identity; connect with the workload's certificate",
            ));
        };
        let missing = self.hub.missing();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(Status::unavailable(format!(
                "this replica has not yet seen every {missing}; try another"
            )));
        }
        let serial = peer.posture.peer_serial.clone().unwrap_or_default();
        let place = self.streams.enter(serial).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "this certificate has {STREAMS_PER_CERTIFICATE} streams open, the most there may be; end one first"
            ))
        })?;
        let session = self.hub.join(Viewer::new(identity.clone(), &self.trust_domain));
        tracing::info!(%identity, remote = %peer.remote, "a proxy asks");
        let stop = self.stop.clone();
        let until = Box::pin(async move {
            shutdown::requested(stop).await;
            // Given back with the stream, also when the proxy ends it.
            drop(place);
        });
        let conversation =
            Conversation { session, requests: request.into_inner(), updates: self.updates.clone(), until };
        Ok(Response::new(conversation.answers().boxed()))
    }
}

fn measure(hub: &Arc<Hub>, registry: &Registry) {
    let streams = registry.gauge("trellis_discovery_streams", "Streams of proxies now.").with(&[]);
    let subscriptions = registry
        .gauge(
            "trellis_discovery_subscriptions",
            "What proxies are subscribed to now: addresses, backends and gateways.",
        )
        .with(&[]);
    let objects = registry.gauge("trellis_discovery_objects", "Objects kept, by kind.");
    let hub = Arc::downgrade(hub);
    registry.on_collect(Box::new(move || {
        let Some(figures) = Weak::upgrade(&hub).map(|hub| hub.figures()) else { return };
        streams.set(figures.sessions as f64);
        subscriptions.set(figures.subscriptions as f64);
        for (kind, count) in figures.objects {
            objects.with(&[("kind", kind)]).set(count as f64);
        }
    }));
}

/// Open streams by the serial number of the certificate they came with.
#[derive(Default)]
struct Streams(Mutex<HashMap<String, usize>>);

impl Streams {
    fn enter(self: &Arc<Self>, serial: String) -> Option<Place> {
        let mut open = self.0.lock();
        let count = open.entry(serial.clone()).or_insert(0);
        if *count >= STREAMS_PER_CERTIFICATE {
            return None;
        }
        *count += 1;
        Some(Place { streams: self.clone(), serial })
    }
}

struct Place {
    streams: Arc<Streams>,
    serial: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock();
        if let Some(count) = open.get_mut(&self.serial) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.serial);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_has_a_bounded_number_of_streams() {
        let streams = Arc::new(Streams::default());
        let mut places: Vec<_> =
            (0..STREAMS_PER_CERTIFICATE).map(|_| streams.enter("aa".into()).unwrap()).collect();
        assert!(streams.enter("aa".into()).is_none());
        assert!(streams.enter("bb".into()).is_some());
        places.pop();
        assert!(streams.enter("aa".into()).is_some());
        drop(places);
        assert!(streams.0.lock().is_empty());
    }
}
