//! A mesh in a test: a clock that follows tokio's, a CA that can be told to fail, and metrics to read.
#![allow(dead_code, reason = "each test uses its part of it")]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use trellis_api::proto::ca::Trusted;
use trellis_channel::identity::{Issue, IssueError, Issued};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Bundle,
    clock::Clock,
    csr,
    identity::Identity,
    issue::{Issuer, LeafRequest},
    key::{PrivateKey, PublicKey},
    policy::Policy,
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, Value};

pub const DOMAIN: &str = "cluster.local";
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub const HOUR: Duration = Duration::from_secs(60 * 60);

/// Wall-clock time that moves exactly as tokio's does, so that pausing one pauses both.
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now() })
    }
}

pub fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        epoch() + self.start.elapsed()
    }
}

pub fn root(now: SystemTime) -> Arc<Issuer> {
    root_of(Algorithm::MlDsa65, now)
}

pub fn root_of(algorithm: Algorithm, now: SystemTime) -> Arc<Issuer> {
    let key = PrivateKey::generate(algorithm).unwrap();
    Arc::new(Issuer::new_root(DOMAIN, key, now, 3650 * DAY).unwrap())
}

pub fn bundle(issuer: &Issuer) -> Bundle {
    Bundle::new(DOMAIN, vec![issuer.anchor().clone()]).unwrap()
}

pub fn id(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "test", account).unwrap()
}

/// TLS of one workload, with a leaf of `validity` from `now`.
pub fn tls_of(issuer: &Issuer, account: &str, clock: Arc<dyn Clock>, validity: Duration) -> Arc<MeshTls> {
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let (identity, now) = (id(account), clock.now());
    let request =
        LeafRequest { public_key: key.public_key(), identity: &identity, dns_names: &[], now, validity };
    let leaf = issuer.issue(&request).unwrap();
    let identity = Identity::new(key, leaf.der, &bundle(issuer), Algorithm::MlDsa65, now).unwrap();
    let tls = MeshTls::new(Policy::default(), DOMAIN, clock);
    tls.install(identity, bundle(issuer)).unwrap();
    Arc::new(tls)
}

/// How the CA answers one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Leaf,
    Unreachable,
    /// A good leaf, for a key that nobody asked for.
    OtherKey,
    /// A leaf of an ECDSA key.
    EcdsaLeaf,
}

/// A CA whose answers are scripted; without a script it issues.
pub struct FakeCa {
    pub issuer: Mutex<Arc<Issuer>>,
    /// What companions are issued from.
    pub companion: Mutex<Option<Arc<Issuer>>>,
    /// How often it was asked for one, and how often it will not be reached for that.
    pub companions_asked: AtomicUsize,
    pub companions_failing: AtomicUsize,
    /// Whether workloads that do not say are dual.
    pub dual: AtomicBool,
    /// Trusted beside the issuer, DER.
    pub also: Mutex<Vec<Vec<u8>>>,
    pub revision: AtomicU64,
    pub script: Mutex<VecDeque<Answer>>,
    /// What it answers when the script is over.
    pub otherwise: Mutex<Answer>,
    pub asked: AtomicUsize,
    pub takes: Duration,
    clock: Arc<dyn Clock>,
}

impl FakeCa {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            issuer: Mutex::new(root(clock.now())),
            companion: Mutex::default(),
            companions_asked: AtomicUsize::new(0),
            companions_failing: AtomicUsize::new(0),
            dual: AtomicBool::new(false),
            also: Mutex::default(),
            revision: AtomicU64::new(0),
            script: Mutex::default(),
            otherwise: Mutex::new(Answer::Leaf),
            asked: AtomicUsize::new(0),
            takes: Duration::from_millis(5),
            clock,
        })
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn bundle(&self) -> Bundle {
        bundle(&self.issuer.lock())
    }

    /// What it tells of trust.
    pub fn trusted(&self) -> Trusted {
        let issuer = self.issuer.lock();
        let mut anchors = self.also.lock().clone();
        anchors.push(issuer.anchor().der.clone());
        let companion = self.companion.lock();
        anchors.extend(companion.iter().map(|companion| companion.anchor().der.clone()));
        let companion = companion.as_ref().map(|companion| companion.anchor().fingerprint().to_string());
        Trusted {
            companion: companion.unwrap_or_default(),
            dual: self.dual.load(Ordering::SeqCst),
            revision: self.revision.load(Ordering::SeqCst),
            anchors,
            issuing: issuer.anchor().fingerprint().to_string(),
            ..Trusted::default()
        }
    }

    fn answer(&self, csr: &[u8]) -> Result<Issued, IssueError> {
        let answer = self.script.lock().pop_front().unwrap_or(*self.otherwise.lock());
        let issuer = self.issuer.lock().clone();
        let other = |algorithm| PrivateKey::generate(algorithm).unwrap().public_key().clone();
        let key = match answer {
            Answer::Leaf => csr::check(csr, &Algorithm::ALL).unwrap(),
            Answer::OtherKey => other(Algorithm::MlDsa65),
            Answer::EcdsaLeaf => other(Algorithm::EcdsaP256),
            Answer::Unreachable => {
                let reason = "connection refused".to_owned();
                return Err(IssueError::Unreachable { address: "ca:15012".to_owned(), reason });
            }
        };
        self.issue_from(&issuer, &key)
    }

    fn issue_from(&self, issuer: &Issuer, key: &PublicKey) -> Result<Issued, IssueError> {
        let request = LeafRequest {
            public_key: key,
            identity: &id("web"),
            dns_names: &[],
            now: self.clock.now(),
            validity: DAY,
        };
        let leaf = issuer.issue(&request).unwrap();
        Ok(Issued { leaf: leaf.der, trusted: self.trusted() })
    }
}

impl Issue for FakeCa {
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            self.answer(&csr)
        })
    }

    fn issue_companion(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(async move {
            self.companions_asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            let fails = |left: usize| left.checked_sub(1);
            if self.companions_failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
                let reason = "connection refused".to_owned();
                return Err(IssueError::Unreachable { address: "ca:15012".to_owned(), reason });
            }
            let issuer = self.companion.lock().clone().unwrap();
            self.issue_from(&issuer, &csr::check(&csr, &[Algorithm::EcdsaP256]).unwrap())
        })
    }
}

/// Sum of a counter over all series that carry these labels.
pub fn counter(registry: &Registry, name: &str, labels: &[(&str, &str)]) -> u64 {
    let families = registry.snapshot();
    let samples = families.iter().filter(|family| family.name == name).flat_map(|family| &family.samples);
    samples
        .filter(|sample| labels.iter().all(|(label, value)| sample.label(label) == Some(value)))
        .map(|sample| match sample.value {
            Value::Counter(count) => count,
            _ => 0,
        })
        .sum()
}
