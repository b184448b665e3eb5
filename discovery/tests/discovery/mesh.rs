//! The whole of it in one process: manifests in a folder, discovery behind mutual TLS on loopback, and
//! proxies with certificates of a test CA.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use trellis_api::proto::discovery::{
    Backend, Destination, GatewayName, ResolveRequest, ResolveResponse, discovery_client::DiscoveryClient,
    resolve_request::Action, resolve_response::Subject,
};
use trellis_channel::{
    client::channel,
    server::{Limits, Listener},
};
use trellis_discovery::{
    feed,
    hub::Hub,
    serve::{self, Service},
};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    identity::Identity,
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    policy::Policy,
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_source::AnySource;
use trellis_telemetry::Registry;

use crate::world::{WORLD, line};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Never waited for when all is well.
const PATIENCE: Duration = Duration::from_secs(30);
const WEB_0: &str = "10.244.1.5 8080 shop/web-0/web tunnel 15008 spiffe://cluster.local/ns/shop/sa/web";

struct Ca(Issuer);

impl Ca {
    fn new() -> Self {
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        Self(Issuer::new_root("cluster.local", key, SystemClock.now(), 10 * DAY).unwrap())
    }

    /// Somebody of this CA, who trusts it.
    fn somebody(&self, identity: &SpiffeId) -> Arc<MeshTls> {
        let bundle = Bundle::new("cluster.local", vec![self.0.anchor().clone()]).unwrap();
        let (key, now) = (PrivateKey::generate(Algorithm::MlDsa65).unwrap(), SystemClock.now());
        let leaf = self.0.issue(&LeafRequest {
            public_key: key.public_key(),
            identity,
            dns_names: &[],
            now,
            validity: DAY,
        });
        let own = Identity::new(key, leaf.unwrap().der, &bundle, Algorithm::MlDsa65, now).unwrap();
        let tls = MeshTls::new(Policy::default(), "cluster.local", Arc::new(SystemClock));
        tls.install(own, bundle).unwrap();
        Arc::new(tls)
    }
}

struct Running {
    ca: Ca,
    address: String,
    hub: Arc<Hub>,
    registry: Registry,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    feed: Option<JoinHandle<()>>,
}

fn discovery() -> SpiffeId {
    SpiffeId::new("cluster.local", "trellis-system", "trellis-discovery").unwrap()
}

impl Running {
    async fn start() -> Self {
        let (ca, registry, hub) = (Ca::new(), Registry::new(), Arc::new(Hub::default()));
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tls = ca.somebody(&discovery());
        let listener = Listener::new(tcp, tls, ClientAuth::Required, Limits::default(), clock, &registry);
        let (stop, stopped) = watch::channel(false);
        let service = Service::new(hub.clone(), "cluster.local", &registry, stopped);
        let server = tokio::spawn(async move { serve::run(service, listener.incoming()).await });
        Self { ca, address, hub, registry, stop, server, feed: None }
    }

    /// With the world in a folder.
    async fn with(folder: &Path) -> Self {
        let mut running = Self::start().await;
        fs::write(folder.join("world.yaml"), WORLD).unwrap();
        let source = AnySource::folder(folder.to_owned()).await.unwrap();
        let (hub, (known, mut all)) = (running.hub.clone(), watch::channel(false));
        running.feed = Some(tokio::spawn(async move {
            let report = |missing: &[&str]| {
                known.send_replace(missing.is_empty());
            };
            feed::run(&source, &hub, report).await;
        }));
        timeout(PATIENCE, all.wait_for(|all| *all)).await.unwrap().unwrap();
        running
    }

    fn web(&self) -> Arc<MeshTls> {
        self.ca.somebody(&SpiffeId::new("cluster.local", "shop", "web").unwrap())
    }

    async fn ask(&self, tls: &Arc<MeshTls>, present: bool) -> Result<Proxy, Status> {
        let channel = channel(&self.address, tls.clone(), discovery(), present).unwrap();
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = DiscoveryClient::new(channel);
        let answers = timeout(PATIENCE, client.resolve(ReceiverStream::new(outgoing))).await.unwrap()?;
        Ok(Proxy { requests, answers: answers.into_inner() })
    }

    async fn end(self) {
        if let Some(feed) = self.feed {
            feed.abort();
        }
        self.stop.send_replace(true);
        timeout(PATIENCE, self.server).await.unwrap().unwrap();
    }
}

struct Proxy {
    requests: mpsc::Sender<ResolveRequest>,
    answers: Streaming<ResolveResponse>,
}

impl Proxy {
    async fn send(&self, action: Option<Action>) {
        self.requests.send(ResolveRequest { action }).await.unwrap();
    }

    async fn subscribe(&self, address: &str, port: u32) {
        self.send(Some(Action::Subscribe(Destination { address: address.into(), port }))).await;
    }

    async fn next(&mut self) -> Result<Option<String>, Status> {
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(answer.map(|answer| {
            let subject = match answer.subject.unwrap() {
                Subject::Destination(Destination { address, port }) => format!("{address} {port}"),
                Subject::Backend(Backend { namespace, name, port }) => format!("{namespace}/{name} {port}"),
                Subject::Gateway(GatewayName { namespace, name }) => format!("{namespace}/{name}"),
                Subject::Pod(pod) => format!("{}/{}", pod.namespace, pod.name),
            };
            format!("{subject}: {}", line(answer.answer.unwrap()))
        }))
    }

    async fn told(&mut self) -> String {
        self.next().await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_proxy_is_told_what_it_asks_about_and_every_change_of_it() {
    let folder = TempDir::new().unwrap();
    let running = Running::with(folder.path()).await;
    let mut web = running.ask(&running.web(), true).await.unwrap();
    web.subscribe("::ffff:10.96.0.10", 80).await;
    assert_eq!(web.told().await, format!("10.96.0.10 80: service shop/web [{WEB_0}]"));
    web.subscribe("192.0.2.99", 443).await;
    assert_eq!(web.told().await, "192.0.2.99 443: unknown");
    // Another client of the same workload, with a certificate of its own.
    let mut other = running.ask(&running.web(), true).await.unwrap();
    other.subscribe("10.244.2.9", 0).await;
    assert!(other.told().await.ends_with("NOT_INJECTED"));

    let metrics = running.registry.prometheus();
    for line in [
        "trellis_discovery_streams 2",
        "trellis_discovery_subscriptions 3",
        "trellis_discovery_updates_total 3",
        "trellis_discovery_objects{kind=\"Pod\"} 10",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line} is not in\n{metrics}");
    }

    // The pod is injected, by an edit of the folder.
    let injected = WORLD.replace(
        "metadata: {name: db-0, namespace: shop}",
        "metadata: {name: db-0, namespace: shop, annotations: {trellis.dev/injected: \"0.1.0\"}}",
    );
    fs::write(folder.path().join("world.yaml"), &injected).unwrap();
    assert!(other.told().await.ends_with("tunnel 15008 spiffe://cluster.local/ns/shop/sa/default"));

    // A broken folder changes nothing; the next answer is about what came after it.
    fs::write(folder.path().join("world.yaml"), "kind: [").unwrap();
    fs::write(folder.path().join("more.yaml"), POD).unwrap();
    web.subscribe("10.244.7.7", 80).await;
    let mut answer = web.told().await;
    if answer.ends_with("unknown") {
        answer = web.told().await;
    }
    assert_eq!(answer, "10.244.7.7 80: workload 10.244.7.7 80 shop/late/default NOT_INJECTED");

    // A backend, as a route would name it, until it is no longer wanted.
    let backend = Backend { namespace: "shop".into(), name: "web".into(), port: 80 };
    web.send(Some(Action::SubscribeBackend(backend.clone()))).await;
    assert_eq!(web.told().await, format!("shop/web 80: service shop/web [{WEB_0}]"));
    web.send(Some(Action::UnsubscribeBackend(backend))).await;
    drop((web, other));
    running.end().await;
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: shop}
spec: {containers: []}
status: {phase: Running, podIP: 10.244.7.7}
";

#[tokio::test]
async fn only_who_proves_a_mesh_identity_is_answered() {
    let folder = TempDir::new().unwrap();
    let running = Running::with(folder.path()).await;
    let refused = running.ask(&running.web(), false).await.err().map(|status| status.code());
    assert!(matches!(refused, Some(Code::Unavailable | Code::Unknown)), "{refused:?}");

    // Of another CA, though it trusts ours.
    let web = SpiffeId::new("cluster.local", "shop", "web").unwrap();
    let stranger = Ca::new().somebody(&web);
    stranger.trust(Bundle::new("cluster.local", vec![running.ca.0.anchor().clone()]).unwrap()).unwrap();
    let refused = running.ask(&stranger, true).await.err().map(|status| status.code());
    assert!(matches!(refused, Some(Code::Unavailable | Code::Unknown)), "{refused:?}");
    assert_eq!(running.hub.figures().sessions, 0);
    running.end().await;
}

#[tokio::test]
async fn a_replica_that_does_not_know_everything_yet_sends_proxies_elsewhere() {
    let running = Running::start().await;
    let status = running.ask(&running.web(), true).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().starts_with("this replica has not yet seen every Service, EndpointSlice, Pod, ")
    );
    running.end().await;
}

#[tokio::test]
async fn what_is_no_question_ends_the_stream_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let running = Running::with(folder.path()).await;
    let destination = |address: &str, port| Destination { address: address.into(), port };
    for (action, reason) in [
        (Some(Action::Subscribe(destination("web.shop", 80))), "destination.address: \"web.shop\" is not"),
        (Some(Action::Unsubscribe(destination("10.0.0.1", 70_000))), "destination.port: 70000 is not"),
        (
            Some(Action::SubscribeBackend(Backend { namespace: "shop".into(), name: "web".into(), port: 0 })),
            "backend.port: 0 is not a port of a Service",
        ),
        (None, "action: none that this version knows"),
    ] {
        let mut proxy = running.ask(&running.web(), true).await.unwrap();
        proxy.send(action).await;
        let status = proxy.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(reason), "{}", status.message());
    }
    let mut proxy = running.ask(&running.web(), true).await.unwrap();
    proxy.subscribe(&"1".repeat(5_000), 80).await;
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::OutOfRange);
    running.end().await;
}

#[tokio::test]
async fn one_certificate_has_a_bounded_number_of_streams() {
    let folder = TempDir::new().unwrap();
    let running = Running::with(folder.path()).await;
    let web = running.web();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(running.ask(&web, true).await.unwrap());
    }
    let status = running.ask(&web, true).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(running.ask(&running.web(), true).await.is_ok(), "another certificate is not concerned");
    // A stream that its proxy ends makes room.
    let mut last = streams.pop().unwrap();
    let (requests, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut last.requests, requests));
    assert_eq!(last.next().await.unwrap(), None);
    assert!(running.ask(&web, true).await.is_ok());
    drop(streams);
    running.end().await;
}

#[tokio::test]
async fn a_replica_that_stops_says_so_and_proxies_come_again() {
    let folder = TempDir::new().unwrap();
    let running = Running::with(folder.path()).await;
    let mut web = running.ask(&running.web(), true).await.unwrap();
    web.subscribe("10.96.0.10", 80).await;
    web.told().await;
    running.stop.send_replace(true);
    assert_eq!(web.next().await.unwrap(), None, "the end is no error");
    running.end().await;
}
