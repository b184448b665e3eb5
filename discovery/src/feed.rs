//! From the source to the hub. Changes that are there at the same time are applied together, so that a
//! roll-out does not make a proxy's answer a hundred times over.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use thiserror::Error;
use tokio::sync::oneshot;
use trellis_api::source::{Selection, Source};

use crate::{
    event::Event,
    gateway::vault::{Drawer, Kind},
    hub::Hub,
};

/// The only Secrets that are of interest.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";
/// Changes applied before those waiting for answers get their turn.
const AT_ONCE: usize = 256;

#[derive(Debug, Error)]
#[error("the watch of {0} ended, which a source's never should; restart discovery to watch it again")]
pub struct Ended(&'static str);

/// Runs until a watch ends. A source that has lost its world says nothing here, so that what was known
/// last goes on being answered. `report` is told which kinds have not been seen whole yet.
pub async fn run(source: &impl Source, hub: &Hub, report: impl Fn(&[&'static str])) -> Ended {
    fn watch<T: Send + 'static>(
        kind: &'static str,
        changes: impl Stream<Item = T> + Send + 'static,
        event: fn(T) -> Event,
    ) -> Events {
        changes.map(move |change| Ok(event(change))).chain(stream::iter([Err(Ended(kind))])).boxed()
    }
    let mut events = stream::select_all([
        watch("Services", source.watch(), Event::Services),
        watch("EndpointSlices", source.watch(), Event::Slices),
        watch("Pods", source.watch(), Event::Pods),
        watch("Nodes", source.watch(), Event::Nodes),
        watch("Namespaces", source.watch(), Event::Namespaces),
        // A cluster may be without Gateway API.
        watch("HTTPRoutes", source.watch_if_known(), Event::HttpRoutes),
        watch("GRPCRoutes", source.watch_if_known(), Event::GrpcRoutes),
        watch("TCPRoutes", source.watch_if_known(), Event::TcpRoutes),
        watch("TLSRoutes", source.watch_if_known(), Event::TlsRoutes),
        watch("ReferenceGrants", source.watch_if_known(), Event::Grants),
        watch("GatewayClasses", source.watch_if_known(), Event::Classes),
        watch("Gateways", source.watch_if_known(), Event::Gateways),
        watch("ListenerSets", source.watch_if_known(), Event::ListenerSets),
        watch("BackendTLSPolicies", source.watch_if_known(), Event::Policies),
        watch("PQPolicies", source.watch_if_known(), Event::PqPolicies),
    ]);
    let mut drawers = Drawers::default();
    report(&hub.missing());
    let mut missing = usize::MAX;
    while let Some(first) = events.next().await {
        let mut batch = vec![first];
        while batch.len() < AT_ONCE
            && let Some(Some(event)) = events.next().now_or_never()
        {
            batch.push(event);
        }
        let mut ended = None;
        hub.apply(batch.into_iter().map_while(|event| event.map_err(|end| ended = Some(end)).ok()));
        if let Some(ended) = ended {
            return ended;
        }
        let wanted = hub.wanted();
        if !Arc::ptr_eq(&wanted, &drawers.wanted) {
            drawers.open(source, wanted).into_iter().for_each(|opened| events.push(opened));
        }
        if missing > 0 {
            let kinds = hub.missing();
            missing = kinds.len();
            report(&kinds);
        }
    }
    Ended("everything")
}

type Events = stream::BoxStream<'static, Result<Event, Ended>>;

/// The watches of those namespaces whose Secrets or ConfigMaps something refers to.
#[derive(Default)]
struct Drawers {
    wanted: Arc<BTreeSet<Drawer>>,
    /// Dropped to end the watch.
    open: HashMap<Drawer, oneshot::Sender<()>>,
}

impl Drawers {
    /// Ends watches that are no longer wanted, and begins those that are.
    fn open(&mut self, source: &impl Source, wanted: Arc<BTreeSet<Drawer>>) -> Vec<Events> {
        self.open.retain(|drawer, _| wanted.contains(drawer));
        let mut opened = Vec::new();
        for (kind, namespace) in wanted.iter() {
            let Entry::Vacant(entry) = self.open.entry((*kind, namespace.clone())) else { continue };
            let (closing, closed) = oneshot::channel();
            entry.insert(closing);
            let namespace = namespace.clone();
            let named = namespace.to_string();
            let events: Events = match kind {
                Kind::Secret => {
                    let fields = Some(TLS_SECRETS);
                    let sights = source.watch_in(Selection { namespace: named, fields });
                    sights.map(move |sight| Ok(Event::Secrets(namespace.clone(), sight))).boxed()
                }
                Kind::ConfigMap => {
                    let sights = source.watch_in(Selection { namespace: named, fields: None });
                    sights.map(move |sight| Ok(Event::ConfigMaps(namespace.clone(), sight))).boxed()
                }
            };
            opened.push(events.take_until(closed).boxed());
        }
        self.wanted = wanted;
        opened
    }
}
