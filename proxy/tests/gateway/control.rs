//! A control plane in this process: a CA that believes every token, and a discovery that is told what to say.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use trellis_api::proto::{
    ca::{
        IssueRequest, IssueResponse, Trusted,
        issuance_server::{Issuance, IssuanceServer},
    },
    discovery::{
        self as wire, ResolveRequest, ResolveResponse,
        discovery_server::{Discovery, DiscoveryServer},
        resolve_request::Action,
        resolve_response::{Answer, Subject},
    },
};
use trellis_channel::server::{
    Limits, Listener,
    grpc::{self, Terms},
};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::{Clock, SystemClock},
    csr,
    identity::Identity,
    issue::{Issuer, LeafRequest},
    key::PrivateKey,
    policy::Policy,
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::Registry;

const DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);
const TERMS: Terms = Terms { streams: 100, headers: 16 << 10, keep_alive: Duration::from_secs(60) };

#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    issuer: Issuer,
    world: Mutex<World>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct World {
    gateway: wire::Gateway,
    policy: wire::Policy,
    /// It is from before there were policies.
    older: bool,
    backends: HashMap<String, wire::Service>,
    workloads: HashMap<SocketAddr, wire::Endpoint>,
    /// Who asked, and what they asked for.
    asked: Vec<(Answers, Vec<Action>)>,
}

type Answers = mpsc::UnboundedSender<Result<ResolveResponse, Status>>;

fn key(backend: &wire::Backend) -> String {
    format!("{}/{}:{}", backend.namespace, backend.name, backend.port)
}

impl Control {
    /// Listens on both addresses.
    pub async fn start(ca: SocketAddr, discovery: SocketAddr) -> Self {
        let root = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let issuer = Issuer::new_root(DOMAIN, root, SystemClock.now(), 10 * DAY).unwrap();
        let inner = Inner { issuer, world: Mutex::default(), stop: watch::Sender::new(false) };
        let control = Self(Arc::new(inner));
        let issuance = Routes::new(IssuanceServer::new(control.clone()));
        control.serve(ca, "trellis-ca", ClientAuth::None, issuance).await;
        let resolving = Routes::new(DiscoveryServer::new(control.clone()));
        control.serve(discovery, "trellis-discovery", ClientAuth::Required, resolving).await;
        control
    }

    async fn serve(&self, address: SocketAddr, account: &str, auth: ClientAuth, routes: Routes) {
        let tcp = TcpListener::bind(address).await.unwrap();
        let identity = SpiffeId::new(DOMAIN, "trellis-system", account).unwrap();
        let (key, now) = (PrivateKey::generate(Algorithm::MlDsa65).unwrap(), SystemClock.now());
        let request = LeafRequest {
            public_key: key.public_key(),
            identity: &identity,
            dns_names: &[],
            now,
            validity: DAY,
        };
        let leaf = self.0.issuer.issue(&request).unwrap().der;
        let own = Identity::new(key, leaf, &self.bundle(), Algorithm::MlDsa65, now).unwrap();
        let tls = MeshTls::new(Policy::default(), DOMAIN, Arc::new(SystemClock));
        tls.install(own, self.bundle()).unwrap();
        let (limits, clock) = (Limits::default(), Arc::new(SystemClock));
        let listener = Listener::new(tcp, Arc::new(tls), auth, limits, clock, &Registry::new());
        tokio::spawn(grpc::serve(listener.incoming(), routes, TERMS, self.0.stop.subscribe()));
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(DOMAIN, vec![self.0.issuer.anchor().clone()]).unwrap()
    }

    /// PEM, as proxies read it.
    pub fn bundle_pem(&self) -> String {
        trellis_pki::x509_pem("CERTIFICATE", &self.0.issuer.anchor().der)
    }

    /// What the gateway serves from now on.
    pub fn gateway(&self, listeners: Vec<wire::Listener>) {
        self.change(|world| world.gateway.listeners = listeners);
    }

    /// What it is to prove itself with, or why it cannot.
    pub fn proof(&self, proof: Result<wire::Certificate, &str>) {
        self.change(|world| {
            world.gateway.client_certificate_invalid =
                proof.as_ref().err().copied().unwrap_or_default().into();
            world.gateway.client_certificate = proof.ok();
        });
    }

    /// Knows nothing of policies from now on, and ends every stream.
    pub fn older(&self) {
        let mut world = self.0.world.lock();
        world.older = true;
        for (to, _) in std::mem::take(&mut world.asked) {
            let _ = to.send(Err(Status::unavailable("rolled back")));
        }
    }

    /// What connections of every proxy must be from now on.
    pub fn policy(&self, policy: wire::Policy) {
        self.change(|world| world.policy = policy);
    }

    pub fn backend(&self, service: wire::Service) {
        let key = format!("{}/{}:{}", service.namespace, service.name, service.port);
        self.change(|world| _ = world.backends.insert(key, service));
    }

    pub fn workload(&self, endpoint: wire::Endpoint) {
        let address = SocketAddr::new(endpoint.address.parse().unwrap(), endpoint.port.try_into().unwrap());
        self.change(|world| _ = world.workloads.insert(address, endpoint));
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.0.world.lock();
        change(&mut world);
        let mut asked = std::mem::take(&mut world.asked);
        asked.retain(|(to, actions)| {
            actions.iter().filter_map(|action| world.answer(action)).all(|answer| to.send(Ok(answer)).is_ok())
        });
        world.asked = asked;
    }
}

impl World {
    fn answer(&self, action: &Action) -> Option<ResolveResponse> {
        let (subject, answer) = match action {
            Action::Subscribe(to) => {
                let unknown = || Answer::Unknown(wire::Unknown {});
                let at = SocketAddr::new(to.address.parse().unwrap(), to.port.try_into().unwrap());
                let answer = self.workloads.get(&at).map_or_else(unknown, |endpoint| {
                    Answer::Workload(wire::Workload { endpoint: Some(endpoint.clone()) })
                });
                (Subject::Destination(to.clone()), answer)
            }
            Action::SubscribeBackend(backend) => {
                let unknown = || Answer::Unknown(wire::Unknown {});
                let service = self.backends.get(&key(backend)).cloned();
                (Subject::Backend(backend.clone()), service.map_or_else(unknown, Answer::Service))
            }
            Action::SubscribeGateway(gateway) => {
                (Subject::Gateway(gateway.clone()), Answer::Serving(self.gateway.clone()))
            }
            Action::SubscribePolicy(pod) => (Subject::Pod(pod.clone()), Answer::Policy(self.policy.clone())),
            Action::Unsubscribe(_) | Action::UnsubscribeBackend(_) => return None,
        };
        Some(ResolveResponse { subject: Some(subject), answer: Some(answer) })
    }
}

#[tonic::async_trait]
impl Issuance for Control {
    /// The token is the account itself.
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        let (namespace, account) = token.strip_prefix("Bearer ").unwrap().split_once('/').unwrap();
        let identity = SpiffeId::new(DOMAIN, namespace, account).unwrap();
        let public_key = csr::check(&request.get_ref().csr, &Algorithm::ALL).unwrap();
        let issuer = &self.0.issuer;
        let leaf = issuer.issue(&LeafRequest {
            public_key: &public_key,
            identity: &identity,
            dns_names: &[],
            now: SystemClock.now(),
            validity: DAY,
        });
        let trusted = Trusted {
            anchors: vec![issuer.anchor().der.clone()],
            issuing: issuer.anchor().fingerprint().to_string(),
            ..Trusted::default()
        };
        Ok(Response::new(IssueResponse {
            leaf: leaf.unwrap().der,
            trusted: Some(trusted),
            identity: identity.to_string(),
        }))
    }
}

#[tonic::async_trait]
impl Discovery for Control {
    type ResolveStream = BoxStream<'static, Result<ResolveResponse, Status>>;

    async fn resolve(
        &self,
        request: Request<Streaming<ResolveRequest>>,
    ) -> Result<Response<Self::ResolveStream>, Status> {
        let (answers, answered) = mpsc::unbounded_channel();
        let mut requests = request.into_inner();
        let control = self.clone();
        self.0.world.lock().asked.push((answers.clone(), Vec::new()));
        tokio::spawn(async move {
            while let Some(Ok(ResolveRequest { action: Some(action) })) = requests.next().await {
                let mut world = control.0.world.lock();
                if world.older && matches!(action, Action::SubscribePolicy(_)) {
                    let _ =
                        answers.send(Err(Status::invalid_argument("action: none that this version knows")));
                    world.asked.retain(|(to, _)| !to.same_channel(&answers));
                    return;
                }
                if let Some(answer) = world.answer(&action) {
                    let _ = answers.send(Ok(answer));
                }
                if let Some((_, actions)) = world.asked.iter_mut().find(|(to, _)| to.same_channel(&answers)) {
                    actions.push(action);
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answered).boxed()))
    }
}
