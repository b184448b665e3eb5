//! Serves the gRPC API under the CA's own identity, which it issues to itself and renews as everybody
//! else does.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Server;
use trellis_api::proto::ca::{issuance_server::IssuanceServer, trust_server::TrustServer};
use trellis_channel::{
    identity::{Heard, Issue, IssueError, Issued, Lifecycle, Resting, TrustSource},
    server::{Limits, Listener},
};
use trellis_pki::{
    algorithm::Algorithm,
    clock::Clock,
    csr,
    issue::{Purposes, backdate},
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::{
    Registry,
    health::Health,
    shutdown::{Shutdown, requested},
};

use crate::{
    issue::Issuing,
    trust::{Authority, Trusting, authority::Wanted},
};

/// The CA's own key. Callers verify it with what they require of anybody.
const ALGORITHM: Algorithm = Algorithm::MlDsa65;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A request is one certification request and one token.
const MAX_REQUEST: usize = 64 << 10;
const MAX_HEADERS: u32 = 32 << 10;
/// A batch of what members hold.
const MAX_RELAYED: usize = 4 << 20;
/// The CA's own certificate is renewed within this many seconds of a new anchor.
const OWN_SPREAD: u32 = 2;
/// Streams of trust come back to another replica, so that none of them keeps all.
const CONNECTION_AGE: Duration = Duration::from_secs(60 * 60);
const CONNECTION_GRACE: Duration = Duration::from_secs(20);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Issues the CA's own serving leaf.
pub struct OwnIssue {
    pub authority: Authority,
    pub identity: SpiffeId,
    /// Under which programs reach the CA that know of no SPIFFE ID.
    pub dns_names: Vec<String>,
    pub clock: Arc<dyn Clock>,
    pub validity: Duration,
}

impl OwnIssue {
    async fn issue_now(&self, csr: &[u8]) -> Result<Issued, IssueError> {
        let refused = |error: &dyn std::fmt::Display| IssueError::Answer(error.to_string());
        let key = csr::check(csr, &[ALGORITHM]).map_err(|error| refused(&error))?;
        let current = self.authority.current();
        let wanted = Wanted {
            public_key: key,
            identity: self.identity.clone(),
            dns_names: self.dns_names.clone(),
            now: self.clock.now(),
            validity: self.validity,
            purposes: Purposes::BOTH,
            backdate: backdate(self.validity),
        };
        let leaf = wanted.issued_by(&current.issuer).await.map_err(|error| refused(&error))?;
        Ok(Issued { leaf: leaf.der, trusted: current.trusted(0) })
    }
}

impl Issue for OwnIssue {
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move { self.issue_now(&csr).await })
    }
}

/// The CA's TLS, and the lifecycle of the certificate in it. `pod` is NAMESPACE/NAME.
pub fn own_identity(
    issue: OwnIssue,
    pod: String,
    signatures: Ladder,
    health: Health,
) -> (Arc<MeshTls>, Lifecycle) {
    let clock = issue.clock.clone();
    let trust_domain = issue.identity.trust_domain().to_owned();
    let policy = Policy { signatures, ..Policy::default() };
    let tls = Arc::new(MeshTls::new(policy, trust_domain.clone(), clock.clone()));
    let trust = TrustSource::Told(told(&issue.authority));
    let lifecycle = Lifecycle {
        name: pod,
        trust_domain,
        algorithm: ALGORITHM,
        pinned: true,
        // Whoever speaks to the CA can verify ML-DSA.
        dual: Some(false),
        issue: Arc::new(issue),
        bundle: None,
        tls: tls.clone(),
        clock,
        health,
        jitter: rand::random(),
        trust,
        resting: Resting::default(),
    };
    (tls, lifecycle)
}

/// Trust as this replica's own identity hears of it: without the network in between.
fn told(authority: &Authority) -> watch::Receiver<Heard> {
    let hear = |authority: &Authority| Some(Arc::new(authority.current().trusted(OWN_SPREAD)));
    let (sender, receiver) = watch::channel(hear(authority));
    let (authority, mut revision) = (authority.clone(), authority.revision());
    tokio::spawn(async move {
        while revision.changed().await.is_ok() {
            if sender.send(hear(&authority)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Serves until asked to stop, then finishes what is under way.
pub async fn serve(
    tcp: TcpListener,
    tls: Arc<MeshTls>,
    issuing: Arc<Issuing>,
    trusting: Trusting,
    clock: Arc<dyn Clock>,
    registry: &Registry,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    // Who has no certificate yet comes here to get one: callers prove who they are by their tokens.
    // What is shown must be good all the same, and is what streams of trust are known by.
    let listener = Listener::new(tcp, tls, ClientAuth::Optional, Limits::default(), clock, registry);
    Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .concurrency_limit_per_connection(8)
        .max_concurrent_streams(8)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(CONNECTION_GRACE)
        .add_service(IssuanceServer::from_arc(issuing).max_decoding_message_size(MAX_REQUEST))
        .add_service(TrustServer::new(trusting).max_decoding_message_size(MAX_RELAYED))
        .serve_with_incoming_shutdown(listener.incoming(), requested(shutdown))
        .await
}
