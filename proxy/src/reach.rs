//! One endpoint, reached: through a tunnel that proves who it is, or without one where it has none, and in TLS
//! of the application's own where that is to be. What cannot be reached is passed over for another, as long as
//! nothing was said.

use std::{
    future::{poll_fn, ready},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use tokio::{net::TcpStream, time::Instant};
use tracing::debug;
use trellis_api::evidence::Class;
use trellis_pki::spiffe::SpiffeId;

use crate::{
    application::{self, Held, Seal},
    balance::Busy,
    directory::{Answer, ApplicationTls, Endpoint, Reach, Subject},
    handshake::ConnectError,
    http::FarEnd,
    ledger::{self, Direction, Flow, OpenConnection, Row},
    outbound::Onward,
    relay::{Begun, End, Refused, Tunnelled, Unanswered},
    route::{ByteRoute, Choice},
    trace::Open,
    tunnel::{self, OpenError, Peer, Place, Tunnel},
    worker::{self, BROKE, TUNNEL_IDLE, Tally, Worker},
};

/// Endpoints that are tried before a connection is given up.
const ATTEMPTS: usize = 3;
/// Tunnels to one endpoint that are tried: during a rotation each end changes several times, and may do so
/// in the very moment in which a tunnel comes to be.
const MAKINGS: usize = 3;

/// An endpoint that was reached.
pub struct Reached {
    address: SocketAddr,
    far: Far,
    /// What it said before anybody asked it to.
    first: Option<std::io::Result<Option<Bytes>>>,
    busy: Busy,
}

enum Far {
    Tunnel {
        stream: Tunnelled,
        peer: Arc<Peer>,
        place: Place,
        identity: String,
    },
    Plain {
        socket: TcpStream,
        row: Arc<Row>,
        open: OpenConnection,
    },
    /// Boxed: what few connections are must not make all of them larger.
    Sealed(Box<Sealed>),
}

/// In TLS of the application's own.
struct Sealed {
    end: FarEnd,
    flow: Arc<Flow>,
    row: Arc<Row>,
    held: Held,
}

/// Who is behind the backend that a route for bytes names for the next connection.
pub async fn routed(worker: &Worker, route: Option<&Arc<ByteRoute>>) -> Result<Arc<Answer>, &'static str> {
    let backend = match route.ok_or("no_route")?.choose(&mut rand::rng()) {
        Choice::Backend(backend, _) => backend.clone(),
        Choice::Invalid(_) | Choice::Nobody => return Err("route_invalid"),
    };
    match worker.shared.directory.resolve(&Subject::Backend(backend)).await {
        Ok(answer) if !answer.is_outside() => Ok(answer),
        // It was there when the route was resolved.
        Ok(_) => Err("route_invalid"),
        Err(_) => Err("discovery_unavailable"),
    }
}

/// Tries endpoints until one takes the connection, and says in `tls` who it is where that is to be. What went
/// wrong is on record when there is none.
pub async fn endpoint(
    worker: &Worker,
    destination: SocketAddr,
    answer: &Answer,
    tls: Option<&Arc<ApplicationTls>>,
) -> Option<Reached> {
    let endpoints = answer.endpoints();
    if let Some(why) = tls.and_then(|tls| tls.invalid()) {
        debug!(%destination, why, "the application cannot be spoken to in TLS");
        let peer = endpoints.first().map_or("unverified:unknown", |endpoint| &*endpoint.peer);
        refuse(worker, peer.to_owned(), "backend_tls_invalid");
        return None;
    }
    let mut tried = Vec::new();
    while tried.len() < ATTEMPTS {
        let picked = answer.pick(&tried, Instant::now(), &mut rand::rng());
        let Some((index, endpoint)) = picked.and_then(|index| Some((index, endpoints.get(index)?))) else {
            break;
        };
        let busy = Busy::new(&endpoint.fitness);
        let far = match tls {
            None => far(worker, endpoint).await,
            // Apart, so that who needs none does not carry room for its making.
            Some(tls) => Box::pin(sealed(worker, endpoint, tls)).await,
        };
        match far {
            Ok(far) => {
                endpoint.fitness.succeeded();
                return Some(Reached { address: endpoint.address, far, first: None, busy });
            }
            Err(error) => {
                debug!(%destination, endpoint = %endpoint.address, %error, "endpoint failed");
                endpoint.fitness.failed(Instant::now());
                tried.push(index);
                if tried.len() == ATTEMPTS.min(endpoints.len()) {
                    refuse(worker, endpoint.peer.to_string(), error.reason());
                }
            }
        }
    }
    if endpoints.is_empty() {
        debug!(%destination, "no endpoint");
        refuse(worker, "unverified:unknown".into(), "no_endpoint");
    }
    None
}

async fn far(worker: &Worker, endpoint: &Endpoint) -> Result<Far, ConnectError> {
    match &endpoint.reach {
        Reach::Tunnel { identity, address } => {
            let (stream, peer, place) = open(worker, identity, *address, endpoint.address, None).await?;
            Ok(Far::Tunnel { stream, peer, place, identity: identity.to_string() })
        }
        Reach::Plaintext { reason } => {
            let (socket, row) = plaintext(worker, endpoint, reason).await?;
            let open = row.opened();
            Ok(Far::Plain { socket, row, open })
        }
    }
}

async fn sealed(
    worker: &Worker,
    endpoint: &Endpoint,
    tls: &Arc<ApplicationTls>,
) -> Result<Far, ConnectError> {
    let seal = Some(Seal { tls, protocol: None });
    let application::Connection { far, flow, row, held, .. } =
        application::connect(worker, endpoint, seal, false, None).await?;
    let (_, end, _) = far.into_end();
    Ok(Far::Sealed(Box::new(Sealed { end, flow, row, held })))
}

/// A connection to an endpoint without a proxy, and where it is counted with the reason.
pub async fn plaintext(
    worker: &Worker,
    endpoint: &Endpoint,
    reason: &'static str,
) -> Result<(TcpStream, Arc<Row>), ConnectError> {
    if worker.shared.demands.is_strict(Direction::Outbound) {
        return Err(ConnectError::PlaintextDenied { address: endpoint.address });
    }
    let socket = socket(endpoint.address).await?;
    let row = worker.shared.ledger.plaintext(Direction::Outbound, endpoint.peer.to_string(), reason);
    Ok((socket, row))
}

pub async fn socket(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let socket = worker::dial(address).await;
    socket.map_err(|error| ConnectError::Unreachable { address, kind: error.kind() })
}

impl Reached {
    /// Resolves when the endpoint has said something, or has ended. What it said is not lost.
    pub async fn spoke(&mut self) {
        if self.first.is_none() {
            let far = &mut self.far;
            self.first = Some(
                poll_fn(|cx| match far {
                    Far::Tunnel { stream, .. } => stream.poll_recv(cx),
                    Far::Plain { socket, .. } => socket.poll_recv(cx),
                    Far::Sealed(sealed) => sealed.end.poll_recv(cx),
                })
                .await,
            );
        }
    }

    /// Leaves it without a word.
    pub fn leave(mut self) {
        match &mut self.far {
            Far::Tunnel { stream, .. } => stream.abort(),
            Far::Plain { socket, .. } => socket.abort(),
            Far::Sealed(sealed) => sealed.end.abort(),
        }
    }

    /// What carries a connection to its end.
    pub fn carry<N: End + Send + 'static>(
        self,
        worker: &Arc<Worker>,
        mut near: Begun<N>,
        destination: SocketAddr,
        came: Option<(SocketAddr, &Row)>,
    ) -> Onward {
        let Self { address, far, first, busy } = self;
        let said = match first {
            Some(Ok(said)) => said.unwrap_or_default(),
            Some(Err(error)) => {
                debug!(%destination, endpoint = %address, %error, "connection broke");
                if let Far::Tunnel { peer, identity, .. } = &far {
                    refused(worker, &error, identity, peer);
                }
                near.abort();
                return Box::pin(ready(()));
            }
            None => Bytes::new(),
        };
        let (direction, port, worker) = (Direction::Outbound, destination.port(), worker.clone());
        let account = |row: &Row| {
            let mut account = worker.shared.ledger.audience().connection(direction, row);
            if let Some(account) = &mut account {
                account.to(address);
                if let Some((client, row)) = came {
                    account.from(client, row);
                }
            }
            account
        };
        match far {
            Far::Tunnel { stream, peer, place, identity } => {
                let mut account = account(&peer.row);
                let (far, falling) = (Begun::new(said, stream), Some(place.falling()));
                let tally = Tally::of(&peer.flow, account.as_deref());
                // Apart: what is moved into a future is kept twice, for every idle connection.
                let carried = Box::pin(worker::carry(&worker, direction, port, tally, near, far, falling));
                Box::pin(async move {
                    let _busy = busy;
                    let Err(error) = carried.await else { return };
                    debug!(%destination, endpoint = %address, %error, "connection broke");
                    let refused = refused(&worker, &error, &identity, &peer);
                    if !refused {
                        place.cut();
                    }
                    match &mut account {
                        Some(account) if refused => account.withdraw(),
                        Some(account) => account.broke(BROKE),
                        None => {}
                    }
                })
            }
            Far::Plain { socket, row, open } => {
                let mut account = account(&row);
                let flow = worker.shared.ledger.flow(direction, Class::Plaintext);
                let far = Begun::new(said, socket);
                let falling = Some(worker.shared.demands.strict(direction));
                let tally = Tally::of(&flow, account.as_deref());
                let carried = Box::pin(worker::carry(&worker, direction, port, tally, near, far, falling));
                Box::pin(async move {
                    let _held = (busy, open);
                    let demands = &worker.shared.demands;
                    // Boxed: what hardly ever comes must not make every connection larger.
                    let over = Box::pin(demands.strict_for(direction, worker.shared.rules.removal_grace));
                    let carried = tokio::select! {
                        carried = carried => carried,
                        () = over => Ok(()),
                    };
                    if let Err(error) = carried {
                        debug!(%destination, endpoint = %address, %error, "connection broke");
                        if let Some(account) = &mut account {
                            account.broke(BROKE);
                        }
                    }
                    if demands.is_strict(direction) {
                        demands.plaintext_ended(direction, &row.terms.destination);
                    }
                })
            }
            Far::Sealed(sealed) => {
                let Sealed { end, flow, row, held } = *sealed;
                let mut account = account(&row);
                let falling = held.place.as_ref().map(Place::falling);
                let tally = Tally::of(&flow, account.as_deref());
                let far = Begun::new(said, end);
                let carried = Box::pin(worker::carry(&worker, direction, port, tally, near, far, falling));
                Box::pin(async move {
                    let (_busy, held) = (busy, held);
                    let Err(error) = carried.await else { return };
                    debug!(%destination, endpoint = %address, %error, "connection broke");
                    if let Some(place) = &held.place {
                        place.cut();
                    }
                    if let Some(account) = &mut account {
                        account.broke(BROKE);
                    }
                })
            }
        }
    }
}

/// Puts on record that the peer's proxy did not lead us to its application, if that is what went wrong.
fn refused(worker: &Worker, error: &std::io::Error, identity: &str, peer: &Peer) -> bool {
    let Some(reason) = refused_by_peer(error) else { return false };
    worker.shared.ledger.refused(Direction::Outbound, identity.to_owned(), peer.row.class, reason);
    true
}

/// Why the peer's proxy did not lead us to its application, if that is what went wrong.
pub fn refused_by_peer(error: &std::io::Error) -> Option<&'static str> {
    let inner = error.get_ref()?;
    if inner.is::<Unanswered>() {
        return Some("peer_did_not_answer");
    }
    inner.downcast_ref::<Refused>().map(Refused::reason)
}

/// A stream to `target` on a tunnel to the proxy at `address`, which must prove to be `identity`.
pub async fn open(
    worker: &Worker,
    identity: &SpiffeId,
    address: SocketAddr,
    target: SocketAddr,
    within: Option<&Open>,
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
                |tunnel| {
                    tunnel.is_current(shared.clock.now(), shared.tls.epoch())
                        && shared.demands.admits(Direction::Outbound, &tunnel.peer.posture)
                },
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
        match opener.open(target, within).await {
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
            flow: shared.ledger.flow(Direction::Outbound, ledger::class(secured.posture.class)),
            expires: secured.expires,
            epoch: secured.epoch,
            posture: secured.posture.clone(),
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

pub fn refuse(worker: &Worker, peer: String, reason: &str) {
    worker.shared.ledger.refused(Direction::Outbound, peer, Class::Plaintext, reason);
}
