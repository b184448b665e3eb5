//! The socket as its callers meet it: real connections, a CA of ML-DSA behind it, and days that pass in an
//! instant.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use trellis_api::proto::{
    ca::{Holding, Trusted},
    workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svid,
        X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use trellis_channel::identity::{Heard, Issue, IssueError, Issued, Lifecycle, Resting, TrustSource};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::Clock,
    csr,
    identity::Identity,
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    leaf::Leaf as Certificate,
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

use super::{
    Leaf, WorkloadApi,
    callers::{MOST, PAUSE},
    socket::CONNECTIONS,
};

const DOMAIN: &str = "cluster.local";
const HOUR: Duration = Duration::from_secs(60 * 60);
const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

type Client = SpiffeWorkloadApiClient<Channel>;

struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }
}

/// A CA, and what it tells of trust.
struct Ca {
    issuer: Mutex<Arc<Issuer>>,
    trusted: Mutex<Trusted>,
    away: AtomicBool,
    clock: Arc<dyn Clock>,
}

impl Ca {
    fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let issuer = root(&clock);
        let trusted = Trusted { revision: 1, ..trusted(&[&issuer]) };
        Arc::new(Self {
            issuer: Mutex::new(issuer),
            trusted: Mutex::new(trusted),
            away: AtomicBool::default(),
            clock,
        })
    }
}

impl Issue for Ca {
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            sleep(Duration::from_millis(5)).await;
            let address = "ca:15012".to_owned();
            if self.away.load(SeqCst) {
                return Err(IssueError::Unreachable { address, reason: "refused".to_owned() });
            }
            let key = csr::check(&csr, &Algorithm::ALL).unwrap();
            let identity = ID.parse().unwrap();
            let (now, validity) = (self.clock.now(), 24 * HOUR);
            let request =
                LeafRequest { public_key: &key, identity: &identity, dns_names: &[], now, validity };
            let leaf = self.issuer.lock().issue(&request).unwrap();
            Ok(Issued { leaf: leaf.der, trusted: self.trusted.lock().clone() })
        })
    }
}

fn root(clock: &Arc<dyn Clock>) -> Arc<Issuer> {
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    Arc::new(Issuer::new_root(DOMAIN, key, clock.now(), 3650 * 24 * HOUR).unwrap())
}

/// Trust in all of these, issuing from the last.
fn trusted(issuers: &[&Arc<Issuer>]) -> Trusted {
    Trusted {
        anchors: issuers.iter().map(|issuer| issuer.anchor().der.clone()).collect(),
        issuing: issuers.last().unwrap().anchor().fingerprint().to_string(),
        ..Trusted::default()
    }
}

/// A proxy's workload API beside a pod.
struct Pod {
    ca: Arc<Ca>,
    api: Option<WorkloadApi>,
    own: Arc<MeshTls>,
    heard: watch::Sender<Heard>,
    holding: watch::Sender<Holding>,
    beside: watch::Receiver<Option<Holding>>,
    leaf: Mutex<Option<Leaf>>,
    registry: Registry,
    stop: watch::Sender<bool>,
    folder: TempDir,
}

impl Pod {
    fn start() -> Self {
        let pod = Self::closed();
        pod.open();
        pod
    }

    /// Before the proxy has a certificate itself.
    fn closed() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(Instant::now()));
        let ca = Ca::new(clock.clone());
        let own = Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone()));
        own.trust(bundle(&ca.trusted.lock())).unwrap();
        let registry = Registry::new();
        let folder = tempfile::tempdir().unwrap();
        let (stop, stopped) = watch::channel(false);
        let api = WorkloadApi::open(folder.path().join("socket"), stopped, &registry).unwrap();
        let (heard, hears) = watch::channel(None);
        let (holding, held) = watch::channel(Holding::default());
        let (tells, beside) = watch::channel(None);
        let lifecycle = {
            let (ca, clock) = (ca.clone(), clock.clone());
            move || Lifecycle {
                name: "shop/web".to_owned(),
                trust_domain: DOMAIN.to_owned(),
                algorithm: Algorithm::MlDsa65,
                pinned: true,
                dual: Some(false),
                issue: ca.clone(),
                bundle: None,
                tls: Arc::new(MeshTls::new(Policy::default(), DOMAIN, clock.clone())),
                clock: clock.clone(),
                health: Health::new(&[]),
                jitter: 0.5,
                trust: TrustSource::Told(hears.clone()),
                resting: Resting::default(),
            }
        };
        let leaf = Leaf {
            identity: ID.parse().unwrap(),
            lifecycle: Box::new(lifecycle),
            own: own.clone(),
            holding: held,
            beside: tells,
            clock,
            registry: registry.clone(),
        };
        Self {
            ca,
            api: Some(api),
            own,
            heard,
            holding,
            beside,
            leaf: Mutex::new(Some(leaf)),
            registry,
            stop,
            folder,
        }
    }

    fn open(&self) {
        let leaf = self.leaf.lock().take().unwrap();
        self.api.as_ref().unwrap().offer(leaf, self.stop.subscribe());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    async fn client(&self) -> Client {
        let uri = format!("unix://{}", self.socket().display());
        SpiffeWorkloadApiClient::new(Endpoint::try_from(uri).unwrap().connect().await.unwrap())
    }

    /// The CA says something new; both identities of the pod hear it.
    fn tell(&self, trusted: Trusted) {
        let revision = self.ca.trusted.lock().revision + 1;
        let trusted = Trusted { revision, spread_seconds: 2, ..trusted };
        *self.ca.trusted.lock() = trusted.clone();
        self.own.trust(bundle(&trusted)).unwrap();
        let denied: Vec<_> = trusted.denied.iter().map(|denied| denied.parse().unwrap()).collect();
        self.own.deny(trellis_pki::credential::Denials::new(denied).unwrap());
        self.heard.send_replace(Some(Arc::new(trusted)));
        self.holding.send_modify(|holding| holding.revision = revision);
    }

    fn metric(&self, line: &str) -> bool {
        self.registry.prometheus().lines().any(|found| found == line)
    }
}

fn bundle(trusted: &Trusted) -> Bundle {
    Bundle::from_der(DOMAIN, trusted.anchors.iter().cloned()).unwrap()
}

fn meant<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn svids(client: &mut Client) -> Result<Streaming<X509svidResponse>, Status> {
    Ok(client.fetch_x509svid(meant(X509svidRequest {})).await?.into_inner())
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> Result<X509svid, Status> {
    let mut answer = stream.message().await?.ok_or_else(|| Status::unknown("it ended"))?;
    assert_eq!(answer.svids.len(), 1);
    Ok(answer.svids.remove(0))
}

fn anchors(trusted: &Trusted) -> Vec<u8> {
    trusted.anchors.concat()
}

fn serial(svid: &X509svid) -> String {
    Certificate::parse(&svid.x509_svid).unwrap().serial
}

#[tokio::test(start_paused = true)]
async fn who_calls_early_waits_and_then_gets_a_certificate_whose_key_is_with_it() {
    let pod = Pod::closed();
    let mut client = pod.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    assert!(timeout(HOUR, stream.message()).await.is_err(), "there is nothing yet, and that is no error");
    pod.open();
    let svid = next(&mut stream).await.unwrap();
    assert_eq!(svid.spiffe_id, ID);
    let trusted = pod.ca.trusted.lock().clone();
    assert_eq!(svid.bundle, anchors(&trusted));
    // What fits is checked by who would use it: key, certificate, identity and anchor belong together.
    let key = PrivateKey::from_pkcs8(&svid.x509_svid_key).unwrap();
    let now = pod.ca.clock.now();
    let identity = Identity::new(key, svid.x509_svid, &bundle(&trusted), Algorithm::MlDsa65, now).unwrap();
    assert_eq!(identity.leaf().identity, ID.parse::<SpiffeId>().unwrap());
    assert_eq!(*identity.anchor().to_string(), trusted.issuing, "directly below an anchor of ML-DSA");
    // The CA is told what the application rests on.
    assert_eq!(pod.beside.borrow().as_ref().unwrap().leaf_anchor, trusted.issuing);
    assert!(pod.metric("trellis_workload_api_callers{method=\"FetchX509SVID\"} 1"));
    assert!(pod.metric("trellis_workload_api_responses_total{code=\"Ok\",method=\"FetchX509SVID\"} 1"));
    let ends = identity.leaf().not_after.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(pod.metric(&format!("trellis_workload_api_leaf_expiry_timestamp_seconds {ends}")));
}

#[tokio::test(start_paused = true)]
async fn renewals_and_changes_of_trust_arrive_on_the_open_stream() {
    let pod = Pod::start();
    let mut client = pod.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    let mut anchors_alone =
        client.fetch_x509_bundles(meant(X509BundlesRequest {})).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap();
    let began = Instant::now();
    let domain = "spiffe://cluster.local";
    assert_eq!(anchors_alone.message().await.unwrap().unwrap().bundles[domain], first.bundle);

    let second = next(&mut stream).await.unwrap();
    let age = began.elapsed();
    assert!((20 * HOUR..22 * HOUR).contains(&age), "renewed after {age:?}");
    assert_ne!(second.x509_svid_key, first.x509_svid_key, "each certificate has a fresh key");
    assert_eq!(second.bundle, first.bundle);

    // A rotation: the new anchor beside the old one, certificates of the new one, the old one gone.
    let old = pod.ca.issuer.lock().clone();
    let new = root(&pod.ca.clock);
    pod.tell(trusted(&[&new, &old]));
    let both = next(&mut stream).await.unwrap();
    assert_eq!((serial(&both), both.bundle.len() > first.bundle.len()), (serial(&second), true));
    assert_eq!(anchors_alone.message().await.unwrap().unwrap().bundles[domain], both.bundle);

    *pod.ca.issuer.lock() = new.clone();
    pod.tell(trusted(&[&old, &new]));
    let renewed = loop {
        let svid = next(&mut stream).await.unwrap();
        if serial(&svid) != serial(&second) {
            break svid;
        }
    };
    let told = pod.beside.borrow().clone().unwrap();
    assert_eq!(told.leaf_anchor, new.anchor().fingerprint().to_string());
    pod.tell(trusted(&[&new]));
    let alone = next(&mut stream).await.unwrap();
    assert_eq!((serial(&alone), &alone.bundle), (serial(&renewed), &new.anchor().der));

    pod.api.as_ref().unwrap().rotate().now();
    let asked = timeout(HOUR, next(&mut stream)).await.unwrap().unwrap();
    assert_ne!(serial(&asked), serial(&alone));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_answered_without_the_header_and_there_are_no_jwts() {
    let pod = Pod::start();
    let mut client = pod.client().await;
    let bare = [
        client.fetch_x509svid(X509svidRequest {}).await.map(drop),
        client.fetch_x509_bundles(X509BundlesRequest {}).await.map(drop),
        client.fetch_jwtsvid(JwtsvidRequest::default()).await.map(drop),
        client.fetch_jwt_bundles(JwtBundlesRequest {}).await.map(drop),
        client.validate_jwtsvid(ValidateJwtsvidRequest::default()).await.map(drop),
    ];
    for answer in bare {
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("workload.spiffe.io: true"), "{status}");
    }
    for wrong in ["True", "1", ""] {
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", wrong.parse().unwrap());
        assert_eq!(client.fetch_x509svid(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for answer in [
        client.fetch_jwtsvid(meant(JwtsvidRequest::default())).await.map(drop),
        client.fetch_jwt_bundles(meant(JwtBundlesRequest {})).await.map(drop),
        client.validate_jwtsvid(meant(ValidateJwtsvidRequest::default())).await.map(drop),
    ] {
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    assert!(pod.beside.borrow().is_none(), "none of them made a key");
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_is_turned_away_and_comes_back_when_that_is_lifted() {
    let pod = Pod::start();
    let mut client = pod.client().await;
    let issuer = pod.ca.issuer.lock().clone();
    for by_identity in [true, false] {
        let mut open = svids(&mut client).await.unwrap();
        let svid = next(&mut open).await.unwrap();
        let denied = if by_identity { format!("identity={ID}") } else { format!("serial={}", serial(&svid)) };
        pod.tell(Trusted { denied: vec![denied.clone()], ..trusted(&[&issuer]) });
        let status = next(&mut open).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(&denied), "{status}");
        let mut late = svids(&mut client).await.unwrap();
        assert_eq!(next(&mut late).await.unwrap_err().code(), Code::PermissionDenied);
        // Long enough for the key to be gone.
        sleep(2 * PAUSE).await;
        let mut later = svids(&mut client).await.unwrap();
        match by_identity {
            true => assert_eq!(next(&mut later).await.unwrap_err().code(), Code::PermissionDenied),
            false => assert_ne!(serial(&next(&mut later).await.unwrap()), serial(&svid)),
        }
        drop(later);
        pod.tell(trusted(&[&issuer]));
        let mut again = svids(&mut client).await.unwrap();
        next(&mut again).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_in_number_and_room_comes_back() {
    let pod = Pod::start();
    let mut client = pod.client().await;
    let mut open = Vec::new();
    for _ in 0..MOST {
        open.push(svids(&mut client).await.unwrap());
    }
    let status = svids(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains(&MOST.to_string()), "{status}");
    let other = client.fetch_x509_bundles(meant(X509BundlesRequest {})).await;
    assert_eq!(other.unwrap_err().code(), Code::ResourceExhausted);
    for stream in &mut open {
        next(stream).await.unwrap();
    }
    open.pop();
    let again = async {
        while svids(&mut client).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), again).await.unwrap();
}

#[tokio::test]
async fn connections_are_bounded_in_number_and_room_comes_back() {
    let pod = Pod::start();
    let connect = || UnixStream::connect(pod.socket());
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect().await.unwrap();
        // The server speaks first as soon as it has taken one.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert_ne!(stream.read(&mut [0]).await.unwrap(), 0);
        open.push(stream);
    }
    let mut one_more = connect().await.unwrap();
    assert!(matches!(one_more.read(&mut [0]).await, Ok(0) | Err(_)), "it was closed at once");
    open.clear();
    let served = async {
        loop {
            // Those that were there may still be on their way out.
            let uri = format!("unix://{}", pod.socket().display());
            if let Ok(channel) = Endpoint::try_from(uri).unwrap().connect().await
                && let Ok(mut stream) = svids(&mut SpiffeWorkloadApiClient::new(channel)).await
            {
                return next(&mut stream).await.unwrap();
            }
        }
    };
    timeout(Duration::from_secs(10), served).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_key_goes_a_while_after_the_last_caller_and_the_next_one_gets_another() {
    let pod = Pod::start();
    let mut client = pod.client().await;
    let first = next(&mut svids(&mut client).await.unwrap()).await.unwrap();
    sleep(PAUSE / 2).await;
    let back = next(&mut svids(&mut client).await.unwrap()).await.unwrap();
    assert_eq!(serial(&back), serial(&first), "who comes back soon finds it still there");
    assert!(pod.beside.borrow().is_some());
    sleep(PAUSE + Duration::from_secs(1)).await;
    assert!(pod.beside.borrow().is_none(), "nothing is held for the application any more");
    assert!(pod.metric("trellis_workload_api_leaf_expiry_timestamp_seconds 0"));
    let next = next(&mut svids(&mut client).await.unwrap()).await.unwrap();
    assert_ne!(next.x509_svid_key, first.x509_svid_key);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_away_is_waited_for_and_then_named() {
    let pod = Pod::start();
    pod.ca.away.store(true, SeqCst);
    let mut client = pod.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("ca:15012"), "{status}");
    pod.ca.away.store(false, SeqCst);
    sleep(Duration::from_secs(6)).await;
    next(&mut svids(&mut client).await.unwrap()).await.unwrap();

    // A certificate that there is stays, whatever becomes of the CA, until its end.
    let mut stream = svids(&mut client).await.unwrap();
    next(&mut stream).await.unwrap();
    pod.ca.away.store(true, SeqCst);
    sleep(23 * HOUR).await;
    next(&mut svids(&mut client).await.unwrap()).await.unwrap();
    sleep(HOUR).await;
    let mut late = svids(&mut client).await.unwrap();
    assert!(timeout(HOUR, late.message()).await.is_err(), "what has ended is not handed out");
}

#[tokio::test(start_paused = true)]
async fn open_streams_are_told_that_the_proxy_ends() {
    let mut pod = Pod::start();
    let mut client = pod.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    next(&mut stream).await.unwrap();
    // This one never reads.
    let _idle = svids(&mut client).await.unwrap();
    pod.stop.send_replace(true);
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let api = pod.api.take().unwrap();
    timeout(Duration::from_secs(2), api.close()).await.unwrap();
    assert!(!pod.socket().exists());
}

#[tokio::test]
async fn the_socket_takes_the_place_of_an_old_one_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (_stop, stopped) = watch::channel(false);
    let open = |path: PathBuf| WorkloadApi::open(path, stopped.clone(), &Registry::new());
    let refused = |path: PathBuf| open(path).map(drop).unwrap_err().to_string();

    drop(UnixListener::bind(&path).unwrap());
    let first = open(path.clone()).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o666, "whatever user the application is");
    assert!(refused(path.clone()).contains("another process answers there"));
    drop(first);

    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(refused(file.clone()).contains("something else than a socket"));
    assert_eq!(fs::read_to_string(file).unwrap(), "precious");
    let nowhere = folder.path().join("missing/socket");
    let error = refused(nowhere);
    assert!(error.starts_with("workload-api-socket: ") && error.contains("name a path"), "{error}");
    assert!(refused(folder.path().join("x".repeat(120))).contains("less than 108 bytes"));
}
