//! Keeps the stream to discovery: carries the directory's wishes there and the answers back, and begins
//! again when it breaks, with everything that is still wanted.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tonic::transport::Channel;
use tracing::{info, warn};
use trellis_api::proto::discovery::{
    Destination, GatewayName as WireGateway, PodName as WirePod, ResolveRequest, ResolveResponse,
    discovery_client::DiscoveryClient, resolve_request::Action, resolve_response as wire,
};
use trellis_telemetry::health::Health;

use crate::directory::{Backend, Directory, GatewayName, PodName, Subject, Wish};

/// The condition that holds once discovery has answered; it is not lost again, because what is known
/// stays in use.
pub const CONDITION: &str = "discovery";

const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A stream that lived this long was healthy: the next failure starts the backoff anew.
const HEALTHY: Duration = Duration::from_secs(30);
/// What nobody used for this long is forgotten.
const FORGET: Duration = Duration::from_secs(300);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Requests on their way; more wait in the directory's own queue.
const QUEUE: usize = 256;

/// Runs until the directory is gone.
pub async fn run(
    channel: Channel,
    directory: Directory,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
    health: Health,
    jitter: impl Fn() -> f64,
) {
    let mut backoff = BACKOFF;
    let mut older = false;
    loop {
        let begun = Instant::now();
        let mut client = DiscoveryClient::new(channel.clone());
        let ended = stream(&mut client, &directory, &mut wishes, &health, older).await;
        // One from before there were policies takes the question for nonsense. Everything else it answers, and
        // the policies of before hold.
        older = !older && matches!(&ended, Err(status) if status.code() == tonic::Code::InvalidArgument);
        match ended {
            Ok(Ended::DirectoryGone) => return,
            Ok(Ended::ByPeer) => info!("discovery ended the stream; connecting again"),
            Err(status) => warn!(
                code = ?status.code(),
                message = status.message(),
                known = directory.size(),
                "discovery is away; what is known stays in use"
            ),
        }
        if begun.elapsed() >= HEALTHY {
            backoff = BACKOFF;
        }
        directory.sweep_unanswered(FORGET);
        // Wishes need not be kept: the next stream subscribes to all that the directory still wants.
        time::sleep(backoff.mul_f64(0.5 + jitter().clamp(0.0, 1.0))).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

enum Ended {
    ByPeer,
    DirectoryGone,
}

async fn stream(
    client: &mut DiscoveryClient<Channel>,
    directory: &Directory,
    wishes: &mut mpsc::UnboundedReceiver<Wish>,
    health: &Health,
    older: bool,
) -> Result<Ended, tonic::Status> {
    while wishes.try_recv().is_ok() {}
    let (requests, outgoing) = mpsc::channel(QUEUE);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = client.resolve(outgoing).await?.into_inner();
    health.set(CONDITION, Ok(()));
    // First everything that was wanted before, then wishes as they come.
    let mut again = directory.subjects();
    again.retain(|subject| !older || !matches!(subject, Subject::Pod(_)));
    let mut sweep = time::interval(SWEEP_EVERY);
    loop {
        // Nothing is taken from either before there is room to send it.
        let more = !again.is_empty();
        let wish = async {
            let place = requests.reserve().await.ok()?;
            let wish = if more { None } else { Some(wishes.recv().await) };
            Some((place, wish))
        };
        tokio::select! {
            answer = answers.message() => match answer? {
                Some(answer) => learn(directory, answer),
                None => return Ok(Ended::ByPeer),
            },
            next = wish => match next {
                None => return Ok(Ended::ByPeer),
                Some((_, Some(None))) => return Ok(Ended::DirectoryGone),
                Some((place, Some(Some(wish)))) => if let Some(wish) = request(wish) { place.send(wish) },
                Some((place, None)) => {
                    if let Some(wish) = again.pop().and_then(|subject| request(Wish::Subscribe(subject))) {
                        place.send(wish);
                    }
                }
            },
            _ = sweep.tick() => directory.sweep(FORGET),
        }
    }
}

fn request(wish: Wish) -> Option<ResolveRequest> {
    let destination =
        |address: SocketAddr| Destination { address: address.ip().to_string(), port: address.port().into() };
    let action = match wish {
        Wish::Subscribe(Subject::Address(address)) => Action::Subscribe(destination(address)),
        Wish::Unsubscribe(Subject::Address(address)) => Action::Unsubscribe(destination(address)),
        Wish::Subscribe(Subject::Backend(backend)) => Action::SubscribeBackend((&backend).into()),
        Wish::Unsubscribe(Subject::Backend(backend)) => Action::UnsubscribeBackend((&backend).into()),
        Wish::Subscribe(Subject::Gateway(gateway)) => Action::SubscribeGateway(WireGateway {
            namespace: gateway.namespace.to_string(),
            name: gateway.name.to_string(),
        }),
        Wish::Subscribe(Subject::Pod(pod)) => Action::SubscribePolicy(WirePod {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
        }),
        // What a proxy serves and demands it wants to know for as long as it lives.
        Wish::Unsubscribe(Subject::Gateway(_) | Subject::Pod(_)) => return None,
    };
    Some(ResolveRequest { action: Some(action) })
}

/// What cannot be understood is left out: the connection that waits for it fails, and says so.
fn learn(directory: &Directory, response: ResolveResponse) {
    let ResolveResponse { subject, answer: Some(answer) } = response else { return };
    let known = match &subject {
        Some(wire::Subject::Destination(destination)) => address(destination).map(Subject::Address),
        Some(wire::Subject::Backend(backend)) => Backend::read(backend).map(Subject::Backend),
        Some(wire::Subject::Gateway(WireGateway { namespace, name })) => {
            let (namespace, name) = (namespace.as_str().into(), name.as_str().into());
            Some(Subject::Gateway(GatewayName { namespace, name }))
        }
        Some(wire::Subject::Pod(WirePod { namespace, name })) => {
            let (namespace, name) = (namespace.as_str().into(), name.as_str().into());
            Some(Subject::Pod(PodName { namespace, name }))
        }
        None => None,
    };
    match known {
        Some(known) => directory.learn(&known, answer),
        None => warn!(?subject, "discovery answered what nobody can have asked"),
    }
}

fn address(destination: &Destination) -> Option<SocketAddr> {
    Some(SocketAddr::new(destination.address.parse().ok()?, u16::try_from(destination.port).ok()?))
}

#[cfg(test)]
mod tests;
