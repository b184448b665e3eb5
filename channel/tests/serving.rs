//! Services on a listener, over loopback: how many newcomers are in work at once, and how a connection is
//! ended in good order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, future::join_all, stream};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use support::{DAY, HOUR, TokioClock, bundle, counter, id, root, tls_of};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Request, Response, Status, Streaming,
    service::Routes,
    transport::{Channel, Endpoint},
};
use trellis_api::proto::ca::{
    Holding, IssueRequest, IssueResponse, RelayAck, Relayed, Trusted,
    issuance_client::IssuanceClient,
    issuance_server::{Issuance, IssuanceServer},
    trust_client::TrustClient,
    trust_server::{Trust, TrustServer},
};
use trellis_channel::{
    client::Dialer,
    identity::Follower,
    server::{
        Limits, Listener,
        grpc::{self, Terms},
    },
};
use trellis_pki::{
    bundle::Bundle,
    clock::Clock,
    identity::Identity,
    issue::Issuer,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::Registry;

const TERMS: Terms = Terms { streams: 8, headers: 16 << 10, keep_alive: Duration::from_secs(20) };
const CONNECTIONS_ENDED: &str = "trellis_connections_ended_total";
/// Ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody stalls for so long in a test.
const NEVER: Duration = HOUR;

/// Answers as slowly as it is told to, and follows for ever.
#[derive(Clone)]
struct Service {
    /// Each answer takes one.
    turns: Arc<Semaphore>,
    asked: Arc<Mutex<Vec<u8>>>,
    answered: Arc<AtomicU64>,
    /// Those who are being listened to.
    followers: Arc<AtomicU64>,
    /// The most that were through with their handshake and had no answer yet.
    most: Arc<AtomicU64>,
    registry: Registry,
}

impl Service {
    fn handshakes(&self) -> u64 {
        counter(&self.registry, "trellis_handshakes_total", &[("result", "ok")])
    }
}

#[tonic::async_trait]
impl Issuance for Service {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let csr = request.into_inner().csr;
        self.asked.lock().extend(&csr);
        self.most.fetch_max(self.handshakes() - self.answered.load(SeqCst), SeqCst);
        self.turns.acquire().await.unwrap().forget();
        self.most.fetch_max(self.handshakes() - self.answered.load(SeqCst), SeqCst);
        self.answered.fetch_add(1, SeqCst);
        Ok(Response::new(IssueResponse { leaf: csr, ..IssueResponse::default() }))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Trust for Service {
    type FollowStream = Answers<Trusted>;
    type RelayStream = Answers<RelayAck>;

    async fn follow(
        &self,
        request: Request<Streaming<Holding>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (followers, mut says) = (self.followers.clone(), request.into_inner());
        followers.fetch_add(1, SeqCst);
        // What is said has a task of its own, which knows nothing of the answers.
        tokio::spawn(async move {
            while let Some(Ok(_)) = says.next().await {}
            followers.fetch_sub(1, SeqCst);
        });
        let once = stream::once(async { Ok(Trusted::default()) });
        Ok(Response::new(Box::pin(once.chain(stream::pending()))))
    }

    async fn relay(&self, _: Request<Streaming<Relayed>>) -> Result<Response<Self::RelayStream>, Status> {
        Err(Status::unimplemented("nobody relays in this test"))
    }
}

struct Server {
    service: Service,
    address: SocketAddr,
    issuer: Arc<Issuer>,
    clock: Arc<TokioClock>,
    tls: Arc<MeshTls>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits, turns: usize) -> Self {
        let clock = TokioClock::new();
        let issuer = root(clock.now());
        let tls = tls_of(&issuer, "server", clock.clone(), DAY);
        let registry = Registry::new();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener =
            Listener::new(tcp, tls.clone(), ClientAuth::Optional, limits, clock.clone(), &registry);
        let address = listener.local_addr().unwrap();
        let service = Service {
            turns: Arc::new(Semaphore::new(turns)),
            asked: Arc::default(),
            answered: Arc::default(),
            followers: Arc::default(),
            most: Arc::default(),
            registry,
        };
        let routes =
            Routes::new(IssuanceServer::new(service.clone())).add_service(TrustServer::new(service.clone()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(grpc::serve(listener.incoming(), routes, TERMS, stopped));
        Self { service, address, issuer, clock, tls, stop, task }
    }

    fn client(&self) -> Arc<MeshTls> {
        tls_of(&self.issuer, "client", self.clock.clone(), DAY)
    }

    fn channel(&self, tls: &Arc<MeshTls>) -> Channel {
        Dialer::new(tls.clone(), id("server"), true).channel(&self.address.to_string().parse().unwrap())
    }

    fn ended(&self, reason: &str) -> u64 {
        counter(&self.service.registry, CONNECTIONS_ENDED, &[("reason", reason)])
    }

    async fn until(&self, holds: impl Fn(&Service) -> bool) {
        while !holds(&self.service) {
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

fn limits(newcomers: usize, stalled: Duration) -> Limits {
    Limits {
        handshakes_in_flight: newcomers,
        handshakes_per_source: newcomers,
        stalled,
        connections_per_source: 1_000,
        ..Limits::default()
    }
}

/// Asks on a connection that is there already, and keeps it.
async fn ask(tcp: TcpStream, tls: Arc<MeshTls>, number: u8) -> Result<(Vec<u8>, Channel), Status> {
    let tcp = Arc::new(Mutex::new(Some(tcp)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let (tcp, tls) = (tcp.lock().take(), tls.clone());
        async move {
            let tcp = tcp.ok_or_else(|| std::io::Error::other("it was closed"))?;
            let connecting = tls.connect(vec![id("server")], true).unwrap();
            let stream = TlsConnector::from(connecting.config).connect(connecting.server_name, tcp).await;
            stream.map(TokioIo::new)
        }
    });
    let channel = Endpoint::from_static("http://server").connect_with_connector_lazy(connector);
    let request = IssueRequest { csr: vec![number], ..IssueRequest::default() };
    let leaf = IssuanceClient::new(channel.clone()).issue(request).await?.into_inner().leaf;
    Ok((leaf, channel))
}

#[tokio::test]
async fn a_crowd_is_served_in_order_and_no_more_of_it_is_in_work_than_there_are_places() {
    const CROWD: u8 = 60;
    for places in [1, 8] {
        let server = Server::start(limits(places, NEVER), 0).await;
        let tls = server.client();
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            // One after another, so that it is known who came first.
            let tcp = TcpStream::connect(server.address).await.unwrap();
            crowd.push(tokio::spawn(ask(tcp, tls.clone(), number)));
        }
        server.until(|service| service.asked.lock().len() >= places).await;
        server.service.turns.add_permits(CROWD.into());
        let answers = timeout(PATIENCE, join_all(crowd)).await.expect("who was served makes no room");
        let mut open = Vec::new();
        for (number, one) in (0..CROWD).zip(answers) {
            let (leaf, channel) = one.unwrap().unwrap();
            assert_eq!(leaf, [number]);
            open.push(channel);
        }
        assert_eq!(server.service.most.load(SeqCst), places as u64);
        let order = server.service.asked.lock().clone();
        for (at, number) in order.iter().enumerate() {
            assert!(usize::from(*number) < at + places, "{number} was the {at}th to be served");
        }
        drop(open);
        server.end().await;
    }
}

#[tokio::test]
async fn who_stalls_after_its_handshake_loses_its_place_and_nothing_else() {
    let server = Server::start(limits(4, Duration::from_millis(20)), 100).await;
    let (tls, address) = (server.client(), server.address.to_string().parse().unwrap());
    let dialer = Dialer::new(tls.clone(), id("server"), true);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(dialer.dial(&address).await.unwrap());
    }
    server.until(|service| service.handshakes() == 12).await;
    let mut client = IssuanceClient::new(server.channel(&tls));
    client.issue(IssueRequest::default()).await.unwrap();
    for stream in silent {
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.lock().take().ok_or_else(|| std::io::Error::other("it was closed"));
            async move { stream }
        });
        let channel = Endpoint::from_static("http://server").connect_with_connector_lazy(connector);
        IssuanceClient::new(channel).issue(IssueRequest::default()).await.unwrap();
    }
    server.end().await;
}

#[tokio::test]
async fn many_behind_one_address_are_all_served() {
    let limits = Limits { handshakes_per_source: 2, ..limits(64, NEVER) };
    let server = Server::start(limits, 0).await;
    let tls = server.client();
    let mut crowd = Vec::new();
    for number in 0..20 {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        crowd.push(tokio::spawn(ask(tcp, tls.clone(), number)));
        // All are in work at once, from the same address.
        server.until(|service| service.asked.lock().len() == usize::from(number) + 1).await;
    }
    server.service.turns.add_permits(20);
    for one in join_all(crowd).await {
        one.unwrap().unwrap();
    }
    server.end().await;
}

/// A stream of trust that has heard its first word.
async fn follow(server: &Server, tls: &Arc<MeshTls>) -> Streaming<Trusted> {
    let says = stream::once(async { Holding::default() }).chain(stream::pending());
    let mut told = TrustClient::new(server.channel(tls)).follow(says).await.unwrap().into_inner();
    told.message().await.unwrap().unwrap();
    told
}

/// A certificate of `issuer` in place of the one that is held, and `bundle` beside it.
fn renew(tls: &MeshTls, issuer: &Issuer, account: &str, bundle: Bundle, clock: &Arc<TokioClock>) {
    let (identity, now) = (id(account), clock.now());
    let key = trellis_pki::key::PrivateKey::generate(trellis_pki::algorithm::Algorithm::MlDsa65).unwrap();
    let request = trellis_pki::issue::LeafRequest {
        public_key: key.public_key(),
        identity: &identity,
        dns_names: &[],
        now,
        validity: DAY,
    };
    let leaf = issuer.issue(&request).unwrap();
    let algorithm = trellis_pki::algorithm::Algorithm::MlDsa65;
    tls.install(Identity::new(key, leaf.der, &bundle, algorithm, now).unwrap(), bundle).unwrap();
}

#[tokio::test(start_paused = true)]
async fn connections_on_a_removed_anchor_end_in_good_order_within_seconds_and_others_stay() {
    let server = Server::start(Limits::default(), 0).await;
    let new = root(server.clock.now());
    let both =
        Bundle::new(support::DOMAIN, vec![server.issuer.anchor().clone(), new.anchor().clone()]).unwrap();
    let old = server.client();
    let mut following = follow(&server, &old).await;
    let mut asking = IssuanceClient::new(server.channel(&old));
    let asked =
        tokio::spawn(
            async move { asking.issue(IssueRequest { csr: vec![1], ..IssueRequest::default() }).await },
        );
    server.until(|service| service.asked.lock().len() == 1).await;
    // An anchor joins, and issues: who connects from now on rests on it, at both ends.
    renew(&server.tls, &new, "server", both.clone(), &server.clock);
    let renewed = server.client();
    renew(&renewed, &new, "client", both.clone(), &server.clock);
    let mut staying = follow(&server, &renewed).await;
    // Only the server's certificate is of the new one here.
    old.trust(both).unwrap();
    let mut falling = follow(&server, &old).await;

    let removed = Instant::now();
    server.tls.trust(bundle(&new)).unwrap();
    assert_eq!(following.message().await.unwrap(), None, "it ends without an error");
    assert_eq!(falling.message().await.unwrap(), None);
    assert!(removed.elapsed() <= Duration::from_secs(2), "{:?}", removed.elapsed());
    // What is under way is finished.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(server.ended("anchor_removed"), 3);
    assert_eq!(server.service.followers.load(SeqCst), 1, "nobody is listened to who is told nothing");
    server.service.turns.add_permits(1);
    asked.await.unwrap().unwrap();
    // Whoever comes again is served.
    follow(&server, &renewed).await;
    tokio::select! {
        biased;
        message = staying.message() => panic!("it had no reason to end: {message:?}"),
        () = sleep(Duration::from_secs(30)) => {}
    }
    assert_eq!(server.ended("anchor_removed"), 3);
    drop(staying);
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_with_a_new_certificate_leaves_nothing_of_its_old_stream() {
    let server = Server::start(Limits::default(), 0).await;
    let dialer = Dialer::new(server.client(), id("server"), true);
    let follower = Follower::new(server.address.to_string().parse().unwrap(), dialer, &Registry::new());
    let (heard, mut hears) = watch::channel(None);
    let holding = watch::Sender::new(Holding { leaf_anchor: "old".to_owned(), ..Holding::default() });
    let following = tokio::spawn(follower.run(heard, holding.subscribe(), 0.5));
    hears.changed().await.unwrap();
    holding.send_modify(|holding| holding.leaf_anchor = "new".to_owned());
    hears.changed().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((server.service.handshakes(), server.service.followers.load(SeqCst)), (2, 1));
    following.abort();
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_does_not_hold_a_connection_that_is_to_end() {
    let server = Server::start(Limits::default(), 0).await;
    let new = root(server.clock.now());
    let tls = server.client();
    let mut asking = IssuanceClient::new(server.channel(&tls));
    let asked =
        tokio::spawn(
            async move { asking.issue(IssueRequest { csr: vec![1], ..IssueRequest::default() }).await },
        );
    server.until(|service| service.asked.lock().len() == 1).await;
    server.tls.trust(bundle(&new)).unwrap();
    let status = asked.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_age_of_its_connection_and_when_the_process_stops() {
    let server = Server::start(Limits::default(), 0).await;
    let tls = server.client();
    let began = Instant::now();
    let mut old = follow(&server, &tls).await;
    assert_eq!(old.message().await.unwrap(), None);
    let age = began.elapsed().as_secs() / 60;
    assert!((55..=65).contains(&age), "{age} minutes");
    let mut young = follow(&server, &tls).await;
    server.stop.send_replace(true);
    assert_eq!(young.message().await.unwrap(), None);
    server.end().await;
}
