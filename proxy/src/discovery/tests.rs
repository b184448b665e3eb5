use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures::{StreamExt, stream::BoxStream};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{io::DuplexStream, sync::watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, Uri},
};
use trellis_api::proto::discovery::{
    self as proto,
    discovery_server::{Discovery, DiscoveryServer},
};

use super::*;
use crate::directory::NoAnswer;

/// A discovery that can be away, and that tells everybody the same.
#[derive(Clone)]
struct Stub {
    there: watch::Receiver<bool>,
    /// Times that somebody came.
    came: Arc<AtomicUsize>,
    /// What they asked about.
    asked: Arc<Mutex<Vec<Destination>>>,
}

#[tonic::async_trait]
impl Discovery for Stub {
    type ResolveStream = BoxStream<'static, Result<ResolveResponse, Status>>;

    async fn resolve(
        &self,
        request: Request<Streaming<ResolveRequest>>,
    ) -> Result<Response<Self::ResolveStream>, Status> {
        self.came.fetch_add(1, Relaxed);
        if !*self.there.borrow() {
            return Err(Status::unavailable("it is away"));
        }
        let (answers, answered) = mpsc::unbounded_channel();
        let (mut requests, asked, mut there) = (request.into_inner(), self.asked.clone(), self.there.clone());
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    request = requests.next() => request,
                    _ = there.wait_for(|there| !there) => {
                        let _ = answers.send(Err(Status::unavailable("it goes")));
                        return;
                    }
                };
                let Some(Ok(ResolveRequest { action: Some(action) })) = request else { return };
                let Action::Subscribe(to) = action else { continue };
                asked.lock().push(to.clone());
                let endpoint = proto::Endpoint {
                    address: to.address.clone(),
                    port: to.port,
                    reach: Some(proto::endpoint::Reach::Plaintext(proto::Plaintext::default())),
                    ..Default::default()
                };
                let answer = wire::Answer::Workload(proto::Workload { endpoint: Some(endpoint) });
                let subject = wire::Subject::Destination(to);
                let _ = answers.send(Ok(ResolveResponse { subject: Some(subject), answer: Some(answer) }));
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answered).boxed()))
    }
}

/// A channel to it, without a network in between.
fn channel(stub: Stub) -> Channel {
    let (connections, incoming) = mpsc::unbounded_channel::<Result<DuplexStream, Infallible>>();
    let server = Server::builder().add_service(DiscoveryServer::new(stub));
    tokio::spawn(server.serve_with_incoming(UnboundedReceiverStream::new(incoming)));
    Endpoint::from_static("http://discovery").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let _ = connections.send(Ok(theirs));
        async { Ok::<_, Infallible>(TokioIo::new(ours)) }
    }))
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_discovery_is_outlasted() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (up, there) = watch::channel(true);
    let stub = Stub { there, came: Arc::default(), asked: Arc::default() };
    let (came, asked) = (stub.came.clone(), stub.asked.clone());
    let (directory, wishes) = Directory::new();
    let health = Health::new(&[CONDITION]);
    tokio::spawn(run(channel(stub), directory.clone(), wishes, health.clone(), || 0.5));
    let subject = |last: u8| Subject::from(SocketAddr::from(([10, 0, 0, last], 80)));
    assert!(directory.resolve(&subject(1)).await.is_ok());
    up.send_replace(false);
    let before = came.load(Relaxed);
    for minute in 0..60 {
        time::sleep(HOUR / 60).await;
        assert!(directory.resolve(&subject(1)).await.is_ok(), "after {minute} minutes");
        assert!(health.unmet().is_empty(), "readiness is not lost");
    }
    assert_eq!(directory.resolve(&subject(2)).await.err(), Some(NoAnswer::Unavailable));
    let tries = came.load(Relaxed) - before;
    assert!((100..400).contains(&tries), "{tries} times");
    assert_eq!(asked.lock().len(), 1);
    up.send_replace(true);
    let began = Instant::now();
    while directory.resolve(&subject(3)).await.is_err() {
        assert!(began.elapsed() <= 2 * BACKOFF_MAX, "{:?}", began.elapsed());
    }
    // What is still wanted was asked about again.
    let address = |destination: &Destination| destination.address.clone();
    assert!(asked.lock().iter().skip(1).map(address).any(|address| address == "10.0.0.1"));
}
