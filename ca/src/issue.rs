//! Issues leaves: who asks is attested, what they may be called is looked up, and of the request only
//! the public key is used.

use std::{net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tonic::{Request, Response, Status, metadata::MetadataMap};
use trellis_api::proto::ca::{IssueRequest, IssueResponse, issuance_server::Issuance};
use trellis_channel::server::Peer;
use trellis_pki::{
    algorithm::Algorithm,
    clock::{Clock, rfc3339},
    credential::Denied,
    csr::{self, CsrError},
    issue::{IssuedLeaf, Issuer, LeafRequest},
    key::PublicKey,
    spiffe::SpiffeId,
};
use trellis_telemetry::{Counter, Family, Histogram, Registry};

use crate::{
    attest::{Attestor, Caller, find_pod},
    audit::{Audit, Event},
    companion,
    limit::Limit,
    refuse::{Reason, Refusal},
    trust::authority::{Authority, Current},
    view::View,
};

/// Requests that are worked on at once; each may cost a question to the API server.
const CONCURRENCY: usize = 64;
/// How long a request may wait for its turn.
const TURN: Duration = Duration::from_secs(5);
/// What one pod may ask for: far more than it needs, and too little to keep the CA busy.
const PER_POD: (u32, Duration) = (60, Duration::from_secs(1));
/// Refused requests that one address may cause before it is no longer listened to.
const REFUSED_PER_SOURCE: (u32, Duration) = (100, Duration::from_secs(1));
/// The shortest life that makes sense for a renewal in its last sixth.
const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// What is issued, and to what.
#[derive(Clone, Debug)]
pub struct Terms {
    pub trust_domain: String,
    pub cluster_domain: String,
    pub algorithms: Vec<Algorithm>,
    pub validity: Duration,
}

/// The gRPC service.
pub struct Issuing {
    authority: Authority,
    attestor: Attestor,
    view: View,
    terms: Terms,
    audit: Audit,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    per_pod: Mutex<Limit<String>>,
    per_source: Mutex<Limit<IpAddr>>,
    metrics: Metrics,
}

/// What was issued, and to whom.
struct Granted {
    caller: Caller,
    identity: SpiffeId,
    algorithm: Algorithm,
    dns_names: Vec<String>,
    leaf: IssuedLeaf,
    /// What was in force when it was signed.
    current: Arc<Current>,
    issuer: Arc<Issuer>,
    companion: bool,
}

impl Issuing {
    pub fn new(
        authority: Authority,
        attestor: Attestor,
        view: View,
        terms: Terms,
        audit: Audit,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Self {
        let metrics = Metrics::new(registry);
        Self {
            authority,
            attestor,
            view,
            terms,
            audit,
            clock,
            turns: Semaphore::new(CONCURRENCY),
            per_pod: Mutex::new(Limit::new(PER_POD.0, PER_POD.1)),
            per_source: Mutex::new(Limit::new(REFUSED_PER_SOURCE.0, REFUSED_PER_SOURCE.1)),
            metrics,
        }
    }

    async fn decide(
        &self,
        metadata: &MetadataMap,
        request: &IssueRequest,
        who: &mut Option<Caller>,
        source: Option<IpAddr>,
    ) -> Result<Granted, Refusal> {
        self.check_source(source)?;
        let validity = self.validity(request.validity_seconds)?;
        let token = bearer(metadata)?;
        let _turn = self.turn().await?;
        let caller = self.attestor.attest(token).await?;
        *who = Some(caller.clone());
        self.check_pod_rate(&caller)?;
        let pod = find_pod(&caller, &self.view)?;
        let identity = SpiffeId::new(&self.terms.trust_domain, &caller.namespace, &caller.service_account)
            .map_err(|error| Refusal::new(Reason::InvalidToken, format!("token: {error}")))?;
        let names = self.view.names(&caller.namespace, &self.terms.cluster_domain, &pod.labels);
        if names.left_out > 0 {
            tracing::warn!(
                pod = %format_args!("{}/{}", caller.namespace, caller.pod),
                left_out = names.left_out,
                "more services select the pod than its certificate names"
            );
        }
        let companion = request.companion;
        let algorithms = if companion { companion::ALGORITHMS } else { self.terms.algorithms.as_slice() };
        let key = csr::check(&request.csr, algorithms).map_err(|error| csr_refusal(&error))?;
        check_names(&csr::names(&request.csr), &identity, &names.dns)?;
        let current = self.authority.current();
        check_denials(&current, &identity, &key)?;
        let issuer = match companion {
            true => companion::issuer(&current, &pod, &caller)?,
            false => Arc::clone(&current.issuer),
        };
        let leaf = self.sign(&issuer, &key, &identity, &names.dns, validity)?;
        let (algorithm, dns_names) = (key.algorithm, names.dns);
        Ok(Granted { caller, identity, algorithm, dns_names, leaf, current, issuer, companion })
    }

    fn sign(
        &self,
        issuer: &Issuer,
        public_key: &PublicKey,
        identity: &SpiffeId,
        dns_names: &[String],
        validity: Duration,
    ) -> Result<IssuedLeaf, Refusal> {
        let now = self.clock.now();
        let request = LeafRequest { public_key, identity, dns_names, now, validity };
        issuer.issue(&request).map_err(|error| {
            tracing::error!(%identity, %error, "cannot issue");
            Refusal::new(Reason::Internal, format!("the CA cannot issue: {error}"))
        })
    }

    fn validity(&self, seconds: u32) -> Result<Duration, Refusal> {
        let longest = self.terms.validity;
        let shortest = SHORTEST.min(longest);
        match Duration::from_secs(seconds.into()) {
            Duration::ZERO => Ok(longest),
            wanted if (shortest..=longest).contains(&wanted) => Ok(wanted),
            _ => Err(Refusal::new(
                Reason::Validity,
                format!(
                    "validity_seconds is {seconds}; ask for {} to {}, or for 0 to let the CA decide",
                    shortest.as_secs(),
                    longest.as_secs()
                ),
            )),
        }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::new(Reason::Overloaded, "the CA has too much to do; try again in a moment")),
        }
    }

    fn check_source(&self, source: Option<IpAddr>) -> Result<(), Refusal> {
        let Some(source) = source else { return Ok(()) };
        self.per_source.lock().check(&source.to_canonical(), Instant::now()).map_err(|wait| {
            Refusal::new(
                Reason::RateLimited,
                format!("too many requests from {source} were refused; wait {} ms", wait.as_millis()),
            )
        })
    }

    fn check_pod_rate(&self, caller: &Caller) -> Result<(), Refusal> {
        self.per_pod.lock().take(&caller.pod_uid, Instant::now()).map_err(|wait| {
            Refusal::new(
                Reason::RateLimited,
                format!(
                    "pod {}/{} asks too often; wait {} ms",
                    caller.namespace,
                    caller.pod,
                    wait.as_millis()
                ),
            )
        })
    }

    /// Nothing leaves that was not recorded.
    fn granted(&self, granted: Granted, source: Option<IpAddr>) -> Result<IssueResponse, Refusal> {
        let Granted { caller, identity, algorithm, dns_names, leaf, current, issuer, companion } = granted;
        let recorded = self.audit.record(
            Event::Issued,
            json!({
                "identity": identity.as_str(),
                "serial": leaf.serial,
                "anchor": &**issuer.anchor().fingerprint(),
                "companion": companion.then_some(true),
                "algorithm": algorithm.name(),
                "dnsNames": dns_names,
                "notBefore": rfc3339(leaf.not_before),
                "notAfter": rfc3339(leaf.not_after),
                "namespace": caller.namespace,
                "pod": caller.pod,
                "podUid": caller.pod_uid,
                "source": source,
            }),
        );
        recorded.map_err(|error| Refusal::new(Reason::Overloaded, error.to_string()))?;
        self.metrics.issued.with(&[("algorithm", algorithm.name())]).inc();
        if companion {
            self.metrics.companions.with(&[("namespace", &caller.namespace)]).inc();
        }
        tracing::info!(
            %identity,
            serial = leaf.serial,
            namespace = caller.namespace,
            pod = caller.pod,
            algorithm = algorithm.name(),
            companion,
            not_after = rfc3339(leaf.not_after),
            "issued a certificate"
        );
        Ok(IssueResponse {
            leaf: leaf.der,
            trusted: Some(current.trusted(0)),
            identity: identity.to_string(),
        })
    }

    fn refused(&self, refusal: Refusal, caller: Option<Caller>, source: Option<IpAddr>) -> Status {
        let reason = refusal.reason.as_str();
        self.metrics.refused.with(&[("reason", reason)]).inc();
        if let Some(source) = source.filter(|_| refusal.reason.is_callers_fault()) {
            // Without a token left it is no longer listened to; that is said at its next request.
            let _ = self.per_source.lock().take(&source.to_canonical(), Instant::now());
        }
        let caller = caller.as_ref();
        let fields = json!({
            "reason": reason,
            "message": refusal.message,
            "namespace": caller.map(|caller| &caller.namespace),
            "serviceAccount": caller.map(|caller| &caller.service_account),
            "pod": caller.map(|caller| &caller.pod),
            "podUid": caller.map(|caller| &caller.pod_uid),
            "source": source,
        });
        // Where it finds no place, that is counted; who is refused is refused all the same.
        let _ = match refusal.reason {
            Reason::RateLimited => {
                let kind = format!("{source:?} {:?}", caller.map(|caller| &caller.pod_uid));
                self.audit.record_repeated(Event::Refused, &kind, fields)
            }
            _ => self.audit.record(Event::Refused, fields),
        };
        tracing::warn!(
            reason,
            namespace = caller.map(|caller| caller.namespace.as_str()),
            service_account = caller.map(|caller| caller.service_account.as_str()),
            pod = caller.map(|caller| caller.pod.as_str()),
            pod_uid = caller.map(|caller| caller.pod_uid.as_str()),
            source = source.map(tracing::field::display),
            "refused a certificate: {}",
            refusal.message
        );
        refusal.into()
    }
}

#[tonic::async_trait]
impl Issuance for Issuing {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let began = Instant::now();
        let source = request.extensions().get::<Peer>().map(|peer| peer.remote.ip());
        let (metadata, _, request) = request.into_parts();
        let mut caller = None;
        let outcome = self.decide(&metadata, &request, &mut caller, source).await;
        self.metrics.seconds.observe_duration(began.elapsed());
        match outcome {
            Ok(granted) => match self.granted(granted, source) {
                Ok(response) => Ok(Response::new(response)),
                Err(refusal) => Err(self.refused(refusal, caller, source)),
            },
            Err(refusal) => Err(self.refused(refusal, caller, source)),
        }
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            Reason::MissingToken,
            format!("authorization: {what}; send \"Bearer\" and the pod's ServiceAccount token"),
        )
    };
    let mut values = metadata.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing("the metadata must hold it exactly once"));
    };
    let text = value.to_str().map_err(|_| missing("it is not text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(missing("it is no bearer token")),
    }
}

fn csr_refusal(error: &CsrError) -> Refusal {
    let reason = match error {
        CsrError::TooLarge { .. } | CsrError::Malformed => Reason::MalformedCsr,
        CsrError::TrailingBytes(_) => Reason::TrailingBytes,
        CsrError::KeyTypeNotAllowed { .. } | CsrError::AlgorithmMismatch { .. } => Reason::KeyType,
        CsrError::BadSignature => Reason::BadSelfSignature,
    };
    Refusal::new(reason, format!("csr: {error}"))
}

/// Who is denied gets nothing new either.
fn check_denials(current: &Current, identity: &SpiffeId, key: &PublicKey) -> Result<(), Refusal> {
    let denied = [Denied::Identity(identity.clone()), Denied::Key(key.fingerprint())];
    match denied.into_iter().find(|denied| current.denials.contains(denied)) {
        None => Ok(()),
        Some(denied) => Err(Refusal::new(
            Reason::Denied,
            format!("{denied} is denied; whoever operates the mesh lifts that with trellis trust allow"),
        )),
    }
}

/// Names in a request change nothing, but who asks for a foreign one is up to something.
fn check_names(asked: &[String], identity: &SpiffeId, own: &[String]) -> Result<(), Refusal> {
    match asked.iter().find(|name| name.as_str() != identity.as_str() && !own.contains(name)) {
        None => Ok(()),
        Some(foreign) => Err(Refusal::new(
            Reason::ForeignName,
            format!(
                "csr: it asks for the name {foreign:?}, which is not one of {identity}; leave names out, the CA \
                 decides them"
            ),
        )),
    }
}

struct Metrics {
    issued: Family<Counter>,
    companions: Family<Counter>,
    refused: Family<Counter>,
    seconds: Histogram,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            issued: registry
                .counter("trellis_ca_issued_total", "Certificates issued, by algorithm of the key."),
            companions: registry
                .counter(
                    "trellis_ca_companions_issued_total",
                    "Certificates issued below the companion anchor, by namespace.",
                )
                .open_labels(&["namespace"]),
            refused: registry.counter("trellis_ca_refused_total", "Requests refused, by reason."),
            seconds: registry
                .histogram(
                    "trellis_ca_issue_seconds",
                    "Time to decide about one request.",
                    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
                )
                .with(&[]),
        }
    }
}
