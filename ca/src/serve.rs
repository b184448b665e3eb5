//! Serves the gRPC API under the CA's own identity, which it issues to itself and renews as everybody
//! else does.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tonic::transport::Server;
use trellis_api::{names::CA, proto::ca::issuance_server::IssuanceServer};
use trellis_channel::{
    identity::{Issue, IssueError, Issued, Lifecycle},
    server::{Limits, Listener},
};
use trellis_pki::{
    algorithm::Algorithm,
    clock::Clock,
    csr,
    issue::{Issuer, LeafRequest},
    policy::Policy,
    spiffe::SpiffeId,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::{
    Registry,
    health::Health,
    shutdown::{Shutdown, requested},
};

use crate::issue::Issuing;

/// The CA's own key. Callers verify it with what they require of anybody.
const ALGORITHM: Algorithm = Algorithm::MlDsa65;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A request is one certification request and one token.
const MAX_REQUEST: usize = 64 << 10;
const MAX_HEADERS: u32 = 32 << 10;
/// Whoever comes once a day has no need of a connection for longer.
const CONNECTION_AGE: Duration = Duration::from_secs(5 * 60);
const CONNECTION_GRACE: Duration = Duration::from_secs(20);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Issues the CA's own serving leaf.
pub struct OwnIssue {
    pub issuer: Arc<Issuer>,
    pub identity: SpiffeId,
    pub clock: Arc<dyn Clock>,
    pub validity: Duration,
}

impl OwnIssue {
    fn issue_now(&self, csr: &[u8]) -> Result<Issued, IssueError> {
        let refused = |error: &dyn std::fmt::Display| IssueError::Answer(error.to_string());
        let key = csr::check(csr, &[ALGORITHM]).map_err(|error| refused(&error))?;
        let leaf = self
            .issuer
            .issue(&LeafRequest {
                public_key: &key,
                identity: &self.identity,
                dns_names: &[],
                now: self.clock.now(),
                validity: self.validity,
            })
            .map_err(|error| refused(&error))?;
        Ok(Issued { leaf: leaf.der, anchors: vec![self.issuer.anchor().der.clone()] })
    }
}

impl Issue for OwnIssue {
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move { self.issue_now(&csr) })
    }
}

/// The CA's TLS, and the lifecycle of the certificate in it.
pub fn own_identity(issue: OwnIssue, health: Health) -> (Arc<MeshTls>, Lifecycle) {
    let clock = issue.clock.clone();
    let trust_domain = issue.identity.trust_domain().to_owned();
    let tls = Arc::new(MeshTls::new(Policy::default(), trust_domain.clone(), clock.clone()));
    let lifecycle = Lifecycle {
        name: CA.to_owned(),
        trust_domain,
        algorithm: ALGORITHM,
        issue: Arc::new(issue),
        bundle: None,
        tls: tls.clone(),
        clock,
        health,
        jitter: rand::random(),
    };
    (tls, lifecycle)
}

/// Serves until asked to stop, then finishes what is under way.
pub async fn serve(
    tcp: TcpListener,
    tls: Arc<MeshTls>,
    issuing: Issuing,
    clock: Arc<dyn Clock>,
    registry: &Registry,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    // Who has no certificate yet comes here to get one: callers prove who they are by their tokens.
    let listener = Listener::new(tcp, tls, ClientAuth::None, Limits::default(), clock, registry);
    Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .concurrency_limit_per_connection(8)
        .max_concurrent_streams(8)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_connection_age(CONNECTION_AGE)
        .max_connection_age_grace(CONNECTION_GRACE)
        .add_service(IssuanceServer::new(issuing).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming_shutdown(listener.incoming(), requested(shutdown))
        .await
}
