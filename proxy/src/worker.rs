//! One thread that serves connections: a single-threaded runtime with tunnels of its own, so that no
//! connection is handed from core to core and many streams share each write.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{Notify, Semaphore, mpsc, watch},
    time,
};
use trellis_api::names::{ADMIN_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, READY_PORT, TUNNEL_PORT};
use trellis_channel::identity::Resting;
use trellis_pki::{clock::Clock, spiffe::SpiffeId, tls::MeshTls};

use crate::{
    account::{Carried, Moved},
    alarm::Alarms,
    detect::Protocol,
    directory::Directory,
    gateway::{self, Proof},
    handshake::{self, ConnectError, Handshaker, Secured},
    http::Upstreams,
    inbound,
    ledger::{Direction, Flow, Ledger},
    outbound,
    policy::Demands,
    pool::Pool,
    quota::Quota,
    relay::{End, Relay},
    requests::Requests,
    roster::Roster,
    standing,
    tunnel::Tunnel,
    webroots::WebRoots,
};

/// A tunnel that carried nothing for this long is closed.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(300);
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long the application, or a peer without a proxy, may take to accept a connection.
const DIAL: Duration = Duration::from_secs(5);
/// Connections of applications that one worker carries in each direction.
const CONNECTIONS: usize = 20_000;
/// Requests that one worker carries at a time.
const REQUESTS: usize = 20_000;
/// Copies of requests that are under way.
const MIRRORS: usize = 1_000;

/// Tunnels by address and the identity that must answer there.
pub type Tunnels = Pool<(SocketAddr, SpiffeId), Tunnel, ConnectError>;

/// What the operator decided about this pod's traffic.
#[derive(Debug, Default)]
pub struct Rules {
    pub pod_ips: HashSet<IpAddr>,
    /// Where the application listens, when that is not the pod's own address.
    pub application: Option<IpAddr>,
    pub opaque_ports: trellis_api::annotations::Ports,
    pub probe_ports: trellis_api::annotations::Ports,
    /// Addresses from which the node's kubelet probes the application.
    pub node_ips: HashSet<IpAddr>,
    pub egress: trellis_api::annotations::Egress,
    /// Ports of the proxy itself, which nobody reaches through it.
    pub own_ports: HashSet<u16>,
    /// How long a tunnel may finish what is open on it once its anchor is trusted no more.
    pub removal_grace: Duration,
}

/// Everything that a connection needs; one for all workers but for the tunnels.
#[derive(Clone)]
pub struct Shared {
    pub tls: Arc<MeshTls>,
    pub clock: Arc<dyn Clock>,
    pub alarms: Alarms,
    pub handshaker: Handshaker,
    pub directory: Directory,
    pub ledger: Arc<Ledger>,
    pub requests: Arc<Requests>,
    /// What connections must be.
    pub demands: Demands,
    pub rules: Arc<Rules>,
    pub quota: Quota,
    /// What the tunnels that are open rest on.
    pub resting: Resting,
    /// The tunnels themselves, for who asks.
    pub roster: Arc<Roster>,
    pub web_roots: Arc<WebRoots>,
    /// What a gateway proves itself with to applications.
    pub proof: Arc<Mutex<Proof>>,
    /// Changes when tunnels must be retired: a new leaf, a new bundle, or the end of this process.
    pub stage: watch::Receiver<Stage>,
}

/// What is there before any traffic is.
pub struct Base {
    pub tls: Arc<MeshTls>,
    pub clock: Arc<dyn Clock>,
    pub directory: Directory,
    pub ledger: Arc<Ledger>,
    pub requests: Arc<Requests>,
    pub demands: Demands,
    pub resting: Resting,
    pub roster: Arc<Roster>,
    pub web_roots: Arc<WebRoots>,
}

impl Shared {
    /// Within the runtime that outlives all workers.
    pub fn new(
        base: &Base,
        handshaker: Handshaker,
        rules: Arc<Rules>,
        quota: Quota,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        Self {
            tls: base.tls.clone(),
            clock: base.clock.clone(),
            alarms: Alarms::here(),
            handshaker,
            directory: base.directory.clone(),
            ledger: base.ledger.clone(),
            requests: base.requests.clone(),
            demands: base.demands.clone(),
            rules,
            quota,
            resting: base.resting.clone(),
            roster: base.roster.clone(),
            web_roots: base.web_roots.clone(),
            proof: Arc::default(),
            stage,
        }
    }
}

/// Where the proxy is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    pub epoch: u64,
    pub draining: bool,
}

pub struct Worker {
    pub shared: Shared,
    pub tunnels: Tunnels,
    /// Places for connections of each direction: peers cannot take those of the application.
    pub inbound: Arc<Semaphore>,
    pub outbound: Arc<Semaphore>,
    /// Places for requests that are under way.
    pub requests: Arc<Semaphore>,
    /// Places for copies of requests, which take none of those.
    pub mirrors: Arc<Semaphore>,
    /// Connections to applications that requests share.
    pub upstreams: Upstreams,
    /// Everything that a drain must wait for.
    pub open: Open,
}

/// Counts what is open. Whoever waits is told when it is nothing: a request tells nobody.
#[derive(Clone, Default)]
pub struct Open(Arc<Count>);

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    none: Notify,
}

/// One more that is open.
pub struct Opened(Open);

impl Open {
    pub fn enter(&self) -> Opened {
        self.0.open.fetch_add(1, Relaxed);
        Opened(self.clone())
    }

    /// Resolves once nothing is open.
    async fn none(&self) {
        loop {
            let mut none = std::pin::pin!(self.0.none.notified());
            // From here on it is heard, so that it cannot come between the look and the wait.
            none.as_mut().enable();
            if self.0.open.load(Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.0.0.open.fetch_sub(1, Release) == 1 {
            self.0.0.none.notify_waiters();
        }
    }
}

/// Sockets that a worker accepts from.
#[derive(Default)]
pub struct Listeners {
    pub outbound: Vec<StdListener>,
    pub inbound: Vec<StdListener>,
}

/// What other threads hand to a worker.
pub enum Delivery {
    /// A tunnel of a peer.
    Tunnel(Box<Secured>),
    /// A listener of a gateway whose connections this worker accepts.
    Opening(gateway::Opening),
    /// A client of a gateway that is through with its handshake.
    Client(Box<gateway::Arrival>),
}

/// Runs a worker on the calling thread until the proxy drains and the last connection has ended.
pub fn run(
    shared: Shared,
    listeners: Listeners,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
) -> io::Result<()> {
    runtime::Builder::new_current_thread()
        .enable_all()
        // Look for new readiness often enough that one busy connection does not delay the others.
        .event_interval(31)
        .build()?
        .block_on(serve(shared, listeners, deliveries))
}

async fn serve(
    shared: Shared,
    listeners: Listeners,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
) -> io::Result<()> {
    let worker = Arc::new(Worker {
        shared,
        tunnels: Tunnels::default(),
        inbound: Arc::new(Semaphore::new(CONNECTIONS)),
        outbound: Arc::new(Semaphore::new(CONNECTIONS)),
        requests: Arc::new(Semaphore::new(REQUESTS)),
        mirrors: Arc::new(Semaphore::new(MIRRORS)),
        upstreams: Upstreams::default(),
        open: Open::default(),
    });
    for listener in listeners.outbound {
        let (listener, worker) = (TcpListener::from_std(listener)?, worker.clone());
        tokio::spawn(accept(listener, worker, Direction::Outbound));
    }
    for listener in listeners.inbound {
        let (listener, worker) = (TcpListener::from_std(listener)?, worker.clone());
        tokio::spawn(accept(listener, worker, Direction::Inbound));
    }
    tokio::spawn(sweep(worker.clone()));
    let mut stage = worker.shared.stage.clone();
    loop {
        tokio::select! {
            Some(delivery) = deliveries.recv() => receive(&worker, delivery),
            drained = stage.wait_for(|stage| stage.draining) => {
                drop(drained);
                break;
            }
        }
    }
    // Tunnels whose handshake ended in this very moment are let in, to be told that this is the end.
    while let Ok(delivery) = deliveries.try_recv() {
        receive(&worker, delivery);
    }
    tokio::task::yield_now().await;
    worker.open.none().await;
    Ok(())
}

fn receive(worker: &Arc<Worker>, delivery: Delivery) {
    match delivery {
        Delivery::Tunnel(secured) => {
            tokio::spawn(inbound::tunnel(worker.clone(), *secured));
        }
        Delivery::Opening(opening) => {
            tokio::spawn(gateway::accept(worker.clone(), opening));
        }
        Delivery::Client(arrival) => {
            tokio::spawn(gateway::serve(worker.clone(), *arrival));
        }
    }
}

/// Accepts connections that the pod's rules sent here, until the proxy drains.
async fn accept(listener: TcpListener, worker: Arc<Worker>, direction: Direction) {
    let mut stage = worker.shared.stage.clone();
    loop {
        let (socket, remote) = tokio::select! {
            accepted = handshake::accept(&listener) => accepted,
            _ = stage.wait_for(|stage| stage.draining) => return,
        };
        let places = match direction {
            Direction::Outbound => &worker.outbound,
            Direction::Inbound => &worker.inbound,
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            let peer = "unverified:unknown".to_owned();
            worker.shared.ledger.refused(
                direction,
                peer,
                trellis_api::evidence::Class::Plaintext,
                "too_many_connections",
            );
            continue;
        };
        let _ = socket.set_nodelay(true);
        if direction == Direction::Outbound {
            uncongested(&socket);
        }
        let held = (place, worker.open.enter());
        let worker = worker.clone();
        match direction {
            Direction::Outbound => {
                tokio::spawn(async move {
                    let _held = held;
                    // What it took to find out where it goes is given back before it is carried there.
                    let onward = Box::pin(outbound::connection(worker, socket)).await;
                    if let Some(onward) = onward {
                        onward.await;
                    }
                });
            }
            Direction::Inbound => {
                tokio::spawn(async move {
                    let _held = held;
                    inbound::plaintext(&worker, socket, remote).await;
                });
            }
        }
    }
}

/// Closes what is no longer of use.
async fn sweep(worker: Arc<Worker>) {
    let mut stage = worker.shared.stage.clone();
    let mut demands = worker.shared.demands.changes();
    loop {
        tokio::select! {
            () = worker.shared.alarms.sleep(SWEEP_EVERY) => {}
            changed = stage.changed() => if changed.is_err() { return },
            Ok(()) = demands.changed() => {}
        }
        let (now, epoch) = (worker.shared.clock.now(), worker.shared.tls.epoch());
        worker.upstreams.sweep(&worker.shared);
        worker.tunnels.sweep(|tunnel| tunnel.is_current(now, epoch));
    }
}

/// Connects in plaintext.
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = time::timeout(DIAL, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    handshake::tune(&socket);
    Ok(socket)
}

/// Connects to the application in this pod.
pub async fn dial_application(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = dial(address).await?;
    uncongested(&socket);
    Ok(socket)
}

/// Nothing between here and the application can be congested. A node whose operator chose BBR would look for it all
/// the same, by spacing out what is sent: that halves what a loopback carries. Reno is in every kernel, and does
/// nothing until something is lost.
fn uncongested(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_tcp_congestion(b"reno");
}

/// Why a connection ended otherwise than in good order, where nothing better is known.
pub const BROKE: &str = "connection_broke";

/// Where the bytes of a connection are counted.
pub struct Tally {
    flow: Arc<Flow>,
    account: Option<Arc<Moved>>,
}

impl Tally {
    pub fn of(flow: &Arc<Flow>, account: Option<&Carried>) -> Self {
        Self { flow: flow.clone(), account: account.map(|account| account.moved.clone()) }
    }
}

/// Carries a connection to its end and counts what it moved. `near` is always the application. `falling`
/// turns true when it is to end at the next moment of rest.
///
/// No async function: what it is given would be kept beside what is made of it, for every idle connection.
pub fn carry<N: End, F: End>(
    worker: &Worker,
    direction: Direction,
    port: u16,
    tally: Tally,
    near: N,
    far: F,
    falling: Option<watch::Receiver<bool>>,
) -> impl Future<Output = io::Result<()>> + use<N, F> {
    let ledger = worker.shared.ledger.clone();
    let client_is_near = direction == Direction::Outbound;
    let seen = std::cell::Cell::new(false);
    if worker.shared.rules.opaque_ports.contains(port) {
        seen.set(true);
        ledger.protocol(direction, Protocol::Opaque);
    }
    let seen = Seen(seen);
    let mut relay = Relay::new(near, far, move |outward: bool, data: &bytes::Bytes| {
        tally.flow.add(outward, data.len());
        if let Some(account) = &tally.account {
            account.add(outward == client_is_near, data.len());
        }
        if !seen.0.replace(true) {
            let from_client = outward == client_is_near;
            let protocol = if from_client { Protocol::of_client(data) } else { Protocol::ServerFirst };
            ledger.protocol(direction, protocol);
        }
    });
    async move { standing::carry(&mut relay, falling, direction == Direction::Inbound).await }
}

/// Whether the first bytes went by. A relay is polled by one thread at a time.
struct Seen(std::cell::Cell<bool>);

impl Rules {
    /// Whether a peer may be led to `target`: the pod itself, and not the proxy in it.
    pub fn admits(&self, target: SocketAddr) -> bool {
        self.pod_ips.contains(&target.ip()) && !self.own_ports.contains(&target.port())
    }

    /// Where the application behind `target` listens.
    pub fn application(&self, target: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.application.unwrap_or(target.ip()), target.port())
    }

    /// Whether a connection without TLS is the node asking after the application's health.
    pub fn is_probe(&self, from: IpAddr, port: u16) -> bool {
        self.node_ips.contains(&from) && self.probe_ports.contains(port)
    }

    pub fn reserved_ports() -> HashSet<u16> {
        HashSet::from([OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT, ADMIN_PORT, METRICS_PORT, READY_PORT])
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_the_last_that_is_open() {
        let open = Open::default();
        assert!(poll!(std::pin::pin!(open.none())).is_ready());
        let (first, second) = (open.enter(), open.enter());
        let mut none = std::pin::pin!(open.none());
        assert!(poll!(&mut none).is_pending());
        drop(first);
        assert!(poll!(&mut none).is_pending());
        drop(second);
        // Something new may have come before the one that waits looks again.
        let third = open.enter();
        assert!(poll!(&mut none).is_pending());
        drop(third);
        assert!(poll!(&mut none).is_ready());
    }

    #[tokio::test]
    async fn what_goes_to_the_application_is_not_paced() {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = dial_application(application.local_addr().unwrap()).await.unwrap();
        let congestion = socket2::SockRef::from(&socket).tcp_congestion().unwrap();
        assert_eq!(congestion.split(|byte| *byte == 0).next(), Some(&b"reno"[..]));
    }
}
