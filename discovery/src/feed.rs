//! From the source to the hub. Changes that are there at the same time are applied together, so that a
//! roll-out does not make a proxy's answer a hundred times over.

use futures::{StreamExt, stream};
use thiserror::Error;
use trellis_api::source::Source;

use crate::{event::Event, hub::Hub};

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
        changes: impl futures::Stream<Item = T> + Send + 'static,
        event: fn(T) -> Event,
    ) -> stream::BoxStream<'static, Result<Event, Ended>> {
        changes.map(move |change| Ok(event(change))).chain(stream::iter([Err(Ended(kind))])).boxed()
    }
    let mut events = stream::select_all([
        watch("Services", source.watch(), Event::Services),
        watch("EndpointSlices", source.watch(), Event::Slices),
        watch("Pods", source.watch(), Event::Pods),
        watch("Nodes", source.watch(), Event::Nodes),
        // A cluster may be without Gateway API.
        watch("HTTPRoutes", source.watch_if_known(), Event::HttpRoutes),
        watch("GRPCRoutes", source.watch_if_known(), Event::GrpcRoutes),
        watch("TCPRoutes", source.watch_if_known(), Event::TcpRoutes),
        watch("TLSRoutes", source.watch_if_known(), Event::TlsRoutes),
    ])
    .ready_chunks(AT_ONCE);
    report(&hub.missing());
    let mut missing = usize::MAX;
    while let Some(events) = events.next().await {
        let mut ended = None;
        hub.apply(events.into_iter().map_while(|event| event.map_err(|end| ended = Some(end)).ok()));
        if let Some(ended) = ended {
            return ended;
        }
        if missing > 0 {
            let kinds = hub.missing();
            missing = kinds.len();
            report(&kinds);
        }
    }
    Ended("everything")
}
