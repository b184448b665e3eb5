//! From the application to the world: original destination, discovery's answer, an endpoint, a tunnel to
//! it. An endpoint that has a proxy is reached through its tunnel or not at all.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use rand::rngs::SmallRng;
use tokio::net::TcpStream;
use tracing::debug;
use trellis_api::evidence::{Class, OUTSIDE_MESH};
use trellis_pki::spiffe::SpiffeId;

use crate::{
    balance,
    directory::{Answer, Endpoint, NoAnswer, Reach},
    handshake::ConnectError,
    ledger::Direction,
    original,
    relay::{End, Refused, Tunnelled, Unanswered},
    tunnel::{self, OpenError, Peer, Place, Tunnel},
    worker::{self, TUNNEL_IDLE, Worker},
};

/// Endpoints that are tried before a connection is given up.
const ATTEMPTS: usize = 3;
/// Tunnels to one endpoint that are tried: during a rotation each end changes several times, and may do so
/// in the very moment in which a tunnel comes to be.
const MAKINGS: usize = 3;

/// Serves one connection of the application.
pub async fn connection(worker: &Worker, mut socket: TcpStream) {
    let Ok(destination) = original::destination(&socket) else { return socket.abort() };
    let shared = &worker.shared;
    // Whoever connects to the proxy's own port would be led in a circle.
    if original::is_loopback(destination.ip()) && shared.rules.own_ports.contains(&destination.port()) {
        return socket.abort();
    }
    let answer = match shared.directory.resolve(destination).await {
        Ok(answer) => answer,
        Err(error) => {
            debug!(%destination, %error, "connection refused");
            let reason = match error {
                NoAnswer::Unavailable => "discovery_unavailable",
                NoAnswer::Full => "too_many_destinations",
            };
            refuse(worker, "unverified:unknown".into(), reason);
            return socket.abort();
        }
    };
    match &*answer {
        Answer::Unknown => plaintext(worker, socket, destination, "unverified:outside", OUTSIDE_MESH).await,
        known => balanced(worker, socket, destination, known).await,
    }
}

/// Tries endpoints until one takes the connection.
async fn balanced(worker: &Worker, mut socket: TcpStream, destination: SocketAddr, answer: &Answer) {
    let endpoints = answer.endpoints();
    let mut tried = Vec::new();
    while tried.len() < ATTEMPTS {
        let picked = balance::pick(endpoints, &tried, &mut rand::make_rng::<SmallRng>());
        let Some((index, endpoint)) = picked.and_then(|index| Some((index, endpoints.get(index)?))) else {
            break;
        };
        let (identity, address) = match &endpoint.reach {
            Reach::Tunnel { identity, address } => (identity, *address),
            Reach::Plaintext { reason } => {
                let _busy = Busy::new(endpoint);
                let peer = format!("unverified:{}", endpoint.workload);
                return plaintext(worker, socket, endpoint.address, &peer, reason).await;
            }
        };
        match open(worker, identity, address, endpoint.address).await {
            Ok((stream, peer, place)) => {
                let _busy = Busy::new(endpoint);
                let port = destination.port();
                let carried = worker::carry(
                    worker,
                    Direction::Outbound,
                    port,
                    &peer.flow,
                    socket,
                    stream,
                    Some(place.falling()),
                )
                .await;
                if let Err(error) = carried {
                    debug!(%destination, endpoint = %endpoint.address, %error, "connection broke");
                    let refused = refused_by_peer(&error);
                    if refused.is_none() {
                        place.cut();
                    }
                    if let Some(reason) = refused {
                        let (ledger, class) = (&worker.shared.ledger, peer.row.class);
                        ledger.refused(Direction::Outbound, identity.to_string(), class, reason);
                    }
                }
                return;
            }
            Err(error) => {
                debug!(%destination, endpoint = %endpoint.address, %error, "endpoint failed");
                if tried.len() + 1 == ATTEMPTS.min(endpoints.len()) {
                    refuse(worker, identity.to_string(), error.reason());
                }
                tried.push(index);
            }
        }
    }
    if endpoints.is_empty() {
        debug!(%destination, "no endpoint");
        refuse(worker, "unverified:unknown".into(), "no_endpoint");
    }
    socket.abort();
}

/// A stream to `target` on a tunnel to the proxy at `address`, which must prove to be `identity`.
async fn open(
    worker: &Worker,
    identity: &SpiffeId,
    address: SocketAddr,
    target: SocketAddr,
) -> Result<(Tunnelled, Arc<Peer>, Place), ConnectError> {
    let shared = &worker.shared;
    let mut broken = None;
    // A tunnel that its server just retired fails once; the pool then makes another.
    for _ in 0..MAKINGS {
        let got = worker
            .tunnels
            .get(
                &(address, identity.clone()),
                // Asked anew each time: identity and trust may change while a tunnel is being made.
                |tunnel| tunnel.is_current(shared.clock.now(), shared.tls.epoch()),
                |tunnel| tunnel.has_room().then(|| (tunnel.opener(), tunnel.peer.clone(), tunnel.place())),
                || make(worker, identity.clone(), address),
            )
            .await;
        let (opener, peer, place) = match got {
            Ok(got) => got,
            Err(ConnectError::Closed(reason)) => {
                broken = Some(reason);
                continue;
            }
            Err(error) => return Err(error),
        };
        match opener.open(target).await {
            Ok(stream) => return Ok((stream, peer, place)),
            Err(error) => broken = Some(error.to_string().into()),
        }
    }
    Err(ConnectError::Closed(broken.unwrap_or_else(|| "it took no stream".into())))
}

/// Makes the tunnel itself.
fn make(
    worker: &Worker,
    identity: SpiffeId,
    address: SocketAddr,
) -> impl Future<Output = Result<Tunnel, ConnectError>> + Send + use<> {
    let shared = worker.shared.clone();
    async move {
        let secured = shared.handshaker.connect(address, identity.clone()).await?;
        let peer = Peer {
            row: shared.ledger.tunnel(Direction::Outbound, &secured.posture),
            flow: shared.ledger.flow(Direction::Outbound, crate::ledger::class(secured.posture.class)),
            expires: secured.expires,
            epoch: secured.epoch,
        };
        let expected = identity.to_string();
        tunnel::connect(&shared, secured, peer, TUNNEL_IDLE).await.map_err(|error| match error {
            OpenError::Refused(refusal) => {
                shared.ledger.client_refused(&expected, refusal.as_str());
                ConnectError::Refused { address, refusal }
            }
            other => ConnectError::Closed(other.to_string().into()),
        })
    }
}

/// Connects without a tunnel, and counts that with the reason.
async fn plaintext(
    worker: &Worker,
    mut socket: TcpStream,
    address: SocketAddr,
    peer: &str,
    reason: &'static str,
) {
    let ledger = &worker.shared.ledger;
    let far = match worker::dial(address).await {
        Ok(far) => far,
        Err(error) => {
            debug!(%address, %error, "cannot connect");
            refuse(worker, peer.to_owned(), "unreachable");
            return socket.abort();
        }
    };
    let _open = ledger.plaintext(Direction::Outbound, peer.to_owned(), reason).opened();
    let flow = ledger.flow(Direction::Outbound, Class::Plaintext);
    let carried = worker::carry(worker, Direction::Outbound, address.port(), &flow, socket, far, None).await;
    if let Err(error) = carried {
        debug!(%address, %error, "connection broke");
    }
}

/// Why the peer's proxy did not lead us to its application, if that is what went wrong.
fn refused_by_peer(error: &std::io::Error) -> Option<&'static str> {
    let inner = error.get_ref()?;
    if inner.is::<Unanswered>() {
        return Some("peer_did_not_answer");
    }
    Some(match inner.downcast_ref::<Refused>()?.0 {
        StatusCode::SERVICE_UNAVAILABLE => "peer_unavailable",
        StatusCode::FORBIDDEN => "peer_forbade",
        _ => "peer_refused",
    })
}

fn refuse(worker: &Worker, peer: String, reason: &str) {
    worker.shared.ledger.refused(Direction::Outbound, peer, Class::Plaintext, reason);
}

/// One more connection of ours on an endpoint.
struct Busy(Arc<std::sync::atomic::AtomicUsize>);

impl Busy {
    fn new(endpoint: &Endpoint) -> Self {
        endpoint.open.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(endpoint.open.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
