//! Issues leaves: who asks is attested, what they may be called is looked up, and of the request only
//! the public key is used. However a request came in, it is weighed and granted here.

mod grpc;
mod record;
mod rules;

use std::{net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use trellis_pki::{
    algorithm::Algorithm,
    clock::Clock,
    csr,
    issue::{IssuedLeaf, Issuer, Purposes, backdate},
    key::PublicKey,
    spiffe::SpiffeId,
};
use trellis_telemetry::Registry;

use self::record::Metrics;
pub use self::rules::{bearer_token, csr_pem};
use crate::{
    attest::{Attestor, Caller, find_pod},
    audit::Audit,
    companion,
    limit::Limit,
    refuse::{Reason, Refusal},
    trust::authority::{Authority, Current, Wanted},
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

/// What is issued, and to what.
#[derive(Clone, Debug)]
pub struct Terms {
    pub trust_domain: String,
    pub cluster_domain: String,
    pub algorithms: Vec<Algorithm>,
    /// Of keys that come through an API of Kubernetes, which knows fewer of them.
    pub request_algorithms: Vec<Algorithm>,
    pub validity: Duration,
}

/// The API that a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Grpc,
    Https,
    SigningRequest,
    PodCertificate,
}

impl Way {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Https => "https",
            Self::SigningRequest => "certificate_signing_request",
            Self::PodCertificate => "pod_certificate_request",
        }
    }

    /// What the caller calls the field that holds the lifetime.
    fn validity_field(self) -> &'static str {
        match self {
            Self::Grpc => "validity_seconds",
            Self::Https => "validityHours",
            Self::SigningRequest => "spec.expirationSeconds",
            Self::PodCertificate => "spec.maxExpirationSeconds",
        }
    }

    /// The API server takes no PodCertificateRequest whose certificate began more than five minutes ago. Half
    /// of that is left for its own clock, which may be ahead of ours.
    fn backdate(self, validity: Duration) -> Duration {
        const MOST_FOR_PODS: Duration = Duration::from_secs(150);
        match self {
            Self::PodCertificate => backdate(validity).min(MOST_FOR_PODS),
            Self::Grpc | Self::Https | Self::SigningRequest => backdate(validity),
        }
    }

    fn csr_field(self) -> &'static str {
        match self {
            Self::Grpc | Self::Https => "csr",
            Self::SigningRequest => "spec.request",
            Self::PodCertificate => "spec.stubPKCS10Request",
        }
    }
}

/// Who asks.
pub enum Claim<'a> {
    /// Whoever this token, or the lack of one, shows.
    Token(Result<&'a str, Refusal>),
    /// The API server has vouched for the caller.
    Vouched(Caller),
}

/// How the key is shown to be the caller's.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// PKCS#10, DER.
    Request(&'a [u8]),
    /// A SubjectPublicKeyInfo, and its signature over a message.
    Signature { key: &'a [u8], message: &'a [u8], signature: &'a [u8] },
}

/// How long the leaf shall live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Longest,
    Exactly(Duration),
    AtMost(Duration),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub way: Way,
    pub proof: Proof<'a>,
    /// Names that are asked for outside of the proof.
    pub names: &'a [String],
    pub life: Life,
    pub purposes: Purposes,
    /// Below the companion anchor instead of the issuing one. Only proxies ask for that.
    pub companion: bool,
    pub source: Option<IpAddr>,
}

/// Decides about requests, whoever brings them.
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

/// A request that may be granted.
#[derive(Clone, Debug)]
pub struct Weighed {
    pub caller: Caller,
    pub identity: SpiffeId,
    pub key: PublicKey,
    pub dns_names: Vec<String>,
    way: Way,
    validity: Duration,
    purposes: Purposes,
    companion: bool,
    source: Option<IpAddr>,
}

/// What was issued, and to whom.
pub struct Granted {
    pub identity: SpiffeId,
    pub algorithm: Algorithm,
    pub dns_names: Vec<String>,
    pub leaf: IssuedLeaf,
    /// What was in force when it was signed.
    pub current: Arc<Current>,
    /// What it was signed with.
    pub issuer: Arc<Issuer>,
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

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whether the caller's pod is there and is the caller's.
    pub fn knows(&self, caller: &Caller) -> Result<(), Refusal> {
        find_pod(caller, &self.view).map(|_| ())
    }

    pub async fn issue(&self, claim: Claim<'_>, ask: &Ask<'_>) -> Result<Granted, Refusal> {
        let weighed = self.weigh(claim, ask).await?;
        self.grant(weighed).await
    }

    /// Whether the request would be granted. A refusal is on record.
    pub async fn weigh(&self, claim: Claim<'_>, ask: &Ask<'_>) -> Result<Weighed, Refusal> {
        let began = Instant::now();
        let mut caller = None;
        let outcome = self.decide(claim, ask, &mut caller).await;
        self.metrics.seconds.observe_duration(began.elapsed());
        outcome.inspect_err(|refusal| self.refused(refusal, caller.as_ref(), ask.way, ask.source))
    }

    /// Nothing leaves that was not recorded.
    pub async fn grant(&self, weighed: Weighed) -> Result<Granted, Refusal> {
        let outcome = self.sign(&weighed).await.and_then(|granted| {
            self.granted(&granted, &weighed)?;
            Ok(granted)
        });
        let Weighed { caller, way, source, .. } = &weighed;
        outcome.inspect_err(|refusal| self.refused(refusal, Some(caller), *way, *source))
    }

    /// A refusal that was made elsewhere, before there was anything to weigh.
    pub fn turn_away(&self, refusal: &Refusal, way: Way, source: Option<IpAddr>) {
        self.refused(refusal, None, way, source);
    }

    /// A refusal that was made elsewhere, of what had been weighed.
    pub fn withhold(&self, weighed: &Weighed, refusal: &Refusal) {
        self.refused(refusal, Some(&weighed.caller), weighed.way, weighed.source);
    }

    /// Whether this address is listened to at all.
    pub fn hears(&self, source: IpAddr) -> Result<(), Refusal> {
        self.check_source(Some(source))
    }

    /// The bundle as it is published, as it changes.
    pub fn pem(&self) -> tokio::sync::watch::Receiver<String> {
        self.authority.pem()
    }

    async fn decide(
        &self,
        claim: Claim<'_>,
        ask: &Ask<'_>,
        who: &mut Option<Caller>,
    ) -> Result<Weighed, Refusal> {
        self.check_source(ask.source)?;
        let validity = rules::validity(ask, self.terms.validity)?;
        let caller = match claim {
            Claim::Token(token) => {
                let token = token?;
                let _turn = self.turn().await?;
                self.attestor.attest(token).await?
            }
            Claim::Vouched(caller) => caller,
        };
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
        let field = ask.way.csr_field();
        let key = self.key(ask).map_err(|error| rules::csr_refusal(field, &error))?;
        if let Proof::Request(request) = ask.proof {
            rules::check_names(field, &csr::names(request), &identity, &names.dns)?;
        }
        rules::check_names("sans", ask.names, &identity, &names.dns)?;
        let current = self.authority.current();
        rules::check_denials(&current, &identity, &key)?;
        if ask.companion {
            companion::check(&current, &pod, &caller)?;
        }
        let (way, purposes, companion, source) = (ask.way, ask.purposes, ask.companion, ask.source);
        let dns_names = names.dns;
        Ok(Weighed { caller, identity, key, dns_names, way, validity, purposes, companion, source })
    }

    fn key(&self, ask: &Ask<'_>) -> Result<PublicKey, csr::CsrError> {
        let allowed = match ask.way {
            _ if ask.companion => companion::ALGORITHMS,
            Way::Grpc | Way::Https => self.terms.algorithms.as_slice(),
            Way::SigningRequest | Way::PodCertificate => self.terms.request_algorithms.as_slice(),
        };
        match ask.proof {
            Proof::Request(request) => csr::check(request, allowed),
            Proof::Signature { key, message, signature } => csr::check_key(key, message, signature, allowed),
        }
    }

    async fn sign(&self, weighed: &Weighed) -> Result<Granted, Refusal> {
        let Weighed { identity, key, dns_names, way, validity, purposes, companion, .. } = weighed;
        let current = self.authority.current();
        // Trust may have changed since the request was weighed.
        rules::check_denials(&current, identity, key)?;
        let issuer = match companion {
            true => companion::issuer(&current)?,
            false => &current.issuer,
        };
        let issuer = Arc::clone(issuer);
        let wanted = Wanted {
            public_key: key.clone(),
            identity: identity.clone(),
            dns_names: dns_names.clone(),
            now: self.clock.now(),
            validity: *validity,
            purposes: *purposes,
            backdate: way.backdate(*validity),
        };
        let issued = wanted.issued_by(&issuer).await;
        let leaf = issued.map_err(|error| rules::cannot_issue(identity, &error))?;
        Ok(Granted {
            identity: identity.clone(),
            algorithm: key.algorithm,
            dns_names: dns_names.clone(),
            leaf,
            current,
            issuer,
        })
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
}
