//! TLS configurations of the mesh: one per handshake, from the identity and the bundle of the moment.
//!
//! A configuration is never shared between handshakes, so nothing can be resumed, a swapped identity
//! counts from the very next connection, and each connection's notes are its own. Building one costs
//! about a microsecond beside a handshake's hundreds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoClientAuth, NoServerSessionStorage, danger::ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::algorithm::Algorithm;
use crate::bundle::Bundle;
use crate::clock::{Clock, TlsTime, rfc3339};
use crate::credential::{Denials, Standing};
use crate::foreign::Foreign;
use crate::identity::Identity;
use crate::leaf::Leaf;
use crate::policy::{Ladder, Policy};
use crate::posture::Posture;
use crate::presenting::Presenting;
use crate::provider;
use crate::record::{Recorder, Rejection};
use crate::spiffe::SpiffeId;
use crate::verify::{PeerVerifier, check_policy};

/// One workload's side of every handshake. Share it behind an `Arc`.
pub struct MeshTls {
    demand: ArcSwap<Demand>,
    /// What was demanded in the beginning.
    begun: Policy,
    trust_domain: String,
    clock: Arc<dyn Clock>,
    alpn: Vec<Vec<u8>>,
    /// Whether peers of other trust domains may come.
    federated: bool,
    held: Arc<ArcSwap<Held>>,
}

/// What is demanded of handshakes at this moment.
struct Demand {
    policy: Policy,
    provider: Arc<CryptoProvider>,
    /// Some of our handshakes accept nothing classical, whatever may be installed.
    refuses_classical: bool,
}

#[derive(Clone, Default)]
struct Held {
    epoch: u64,
    identity: Option<Arc<Identity>>,
    /// The classical one beside it, for peers that cannot verify ML-DSA.
    companion: Option<Arc<Identity>>,
    bundle: Option<Arc<Bundle>>,
    foreign: Foreign,
    denials: Denials,
}

/// Whether an accepted peer must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
    /// For those who have no certificate yet and ask for one; what is shown must be good.
    Optional,
    None,
}

/// For one connection that is accepted.
pub struct Accepting {
    pub config: Arc<ServerConfig>,
    pub recorder: Recorder,
}

/// For one connection that is made.
pub struct Connecting {
    pub config: Arc<ClientConfig>,
    /// What rustls wants to be told; it is neither sent nor checked, identities are.
    pub server_name: ServerName<'static>,
    pub recorder: Recorder,
}

/// Why no handshake can begin.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotReady {
    #[error("no certificate has been issued to this workload yet")]
    NoIdentity,
    #[error("this workload's own certificate ended at {0} and has not been renewed")]
    Expired(String),
    #[error("this workload's own certificate begins only at {0}: this clock was set back, so set it by NTP")]
    NotYetValid(String),
    #[error("no trust bundle has been loaded yet")]
    NoBundle,
    #[error("the TLS configuration was refused: {0}")]
    Config(rustls::Error),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    #[error("the {what} is for trust domain {found:?}, this workload belongs to {wanted:?}")]
    TrustDomain { what: &'static str, found: String, wanted: String },
    #[error("peers would refuse this workload's certificate: {0}")]
    Policy(#[from] Rejection),
    #[error("a companion stands beside an ML-DSA certificate of the same workload, and there is none yet")]
    NoIdentity,
    #[error("the companion is for {found}, this workload's certificate for {wanted}")]
    OtherIdentity { found: SpiffeId, wanted: SpiffeId },
    #[error(
        "the companion's {what} is {}: peers that need a companion verify only {}",
        found.name(), Algorithm::EcdsaP256.name()
    )]
    NotClassical { what: &'static str, found: Algorithm },
    #[error("the companion's anchor {0} is not trusted here")]
    AnchorUnknown(Arc<str>),
}

impl MeshTls {
    /// Nothing can be served until an identity and a bundle are installed. Both ends speak HTTP/2
    /// unless [`MeshTls::with_alpn`] says otherwise.
    pub fn new(policy: Policy, trust_domain: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            demand: ArcSwap::from_pointee(Demand::of(policy)),
            begun: policy,
            trust_domain: trust_domain.into(),
            clock,
            alpn: vec![b"h2".to_vec()],
            federated: false,
            held: Arc::default(),
        }
    }

    /// The same identity and trust, now and after every swap, under another policy. Peers of other trust
    /// domains are admitted only by what says so itself.
    pub fn under(&self, policy: Policy) -> Self {
        Self {
            demand: ArcSwap::from_pointee(Demand::of(policy)),
            begun: policy,
            trust_domain: self.trust_domain.clone(),
            clock: Arc::clone(&self.clock),
            alpn: self.alpn.clone(),
            federated: false,
            held: Arc::clone(&self.held),
        }
    }

    /// Peers of the trust domains that we federate with may come, too: on the data path, and never on the
    /// control plane's own connections.
    #[must_use]
    pub fn federated(mut self) -> Self {
        self.federated = true;
        self
    }

    pub fn with_alpn(mut self, protocols: &[&[u8]]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self
    }

    /// Demands `policy` from the next handshake on. Connections that are open are their owner's business, who
    /// asks [`Policy::admits`] about them.
    pub fn demand(&self, policy: Policy) {
        self.demand.store(Arc::new(Demand::of(policy)));
    }

    /// Has what is installed here serve handshakes under several policies: those that were made by
    /// [`MeshTls::under`], and the one of the beginning.
    pub fn serve_under(&self, policies: &[Policy]) {
        let policy = policies.iter().copied().fold(self.begun, Policy::either);
        let refuses_classical = policies.iter().any(|one| one.signatures == Ladder::Require);
        self.demand.store(Arc::new(Demand { refuses_classical, ..Demand::of(policy) }));
    }

    /// Whether a peer with a classical certificate is turned away by some of our handshakes.
    pub fn refuses_classical(&self) -> bool {
        self.demand.load().refuses_classical
    }

    /// Serves with `identity` and believes `bundle` from the next handshake on.
    pub fn install(&self, identity: Identity, bundle: Bundle) -> Result<(), InstallError> {
        self.check_domain("certificate", identity.leaf().identity.trust_domain())?;
        self.check_domain("trust bundle", bundle.trust_domain())?;
        check_policy(identity.leaf(), self.policy())?;
        let (identity, bundle) = (Arc::new(identity), Arc::new(bundle));
        self.swap(|held| {
            held.identity = Some(Arc::clone(&identity));
            held.companion.take_if(|_| !identity.leaf().algorithm.is_post_quantum());
            held.believe(&bundle);
        });
        Ok(())
    }

    /// Holds `companion` beside the identity, for peers that cannot verify ML-DSA. It is let go by itself
    /// once its anchor is trusted no more.
    pub fn install_companion(&self, companion: Identity) -> Result<(), InstallError> {
        let leaf = companion.leaf();
        for (what, found) in [("key", leaf.algorithm), ("issuer's signature", leaf.issuer_algorithm)] {
            if found != Algorithm::EcdsaP256 {
                return Err(InstallError::NotClassical { what, found });
            }
        }
        check_policy(leaf, self.policy())?;
        let held = self.held.load();
        let primary = held.identity.as_ref().map(|identity| identity.leaf());
        let primary = primary.filter(|leaf| leaf.algorithm.is_post_quantum());
        let wanted = &primary.ok_or(InstallError::NoIdentity)?.identity;
        if leaf.identity != *wanted {
            return Err(InstallError::OtherIdentity { found: leaf.identity.clone(), wanted: wanted.clone() });
        }
        if !held.bundle.as_ref().is_some_and(|bundle| bundle.holds(companion.anchor())) {
            return Err(InstallError::AnchorUnknown(Arc::clone(companion.anchor())));
        }
        let companion = Arc::new(companion);
        self.swap(|held| held.companion = Some(Arc::clone(&companion)));
        Ok(())
    }

    /// From the next handshake on there is only the identity itself.
    pub fn drop_companion(&self) {
        if self.held.load().companion.is_some() {
            self.swap(|held| held.companion = None);
        }
    }

    /// Believes `bundle` from the next handshake on and keeps the identity.
    pub fn trust(&self, bundle: Bundle) -> Result<(), InstallError> {
        self.check_domain("trust bundle", bundle.trust_domain())?;
        let bundle = Arc::new(bundle);
        self.swap(|held| held.believe(&bundle));
        Ok(())
    }

    /// Refuses what is denied from the next handshake on. Whoever serves connections that are open asks
    /// [`MeshTls::standing`] about them.
    pub fn deny(&self, denials: Denials) {
        self.swap(|held| held.denials = denials.clone());
    }

    /// Believes these of other trust domains from the next handshake on.
    pub fn federate(&self, foreign: Foreign) {
        self.swap(|held| held.foreign = foreign.clone());
    }

    /// Whether a connection that was good once still is.
    pub fn standing(&self, posture: &Posture) -> Standing {
        let held = self.held.load();
        let Some(bundle) = &held.bundle else { return Standing::Good };
        let own_removed = posture.own_anchor.as_ref().is_some_and(|anchor| !bundle.holds(anchor));
        let peer = posture.credential.as_ref();
        match peer.map_or(Standing::Good, |peer| peer.standing(bundle, &held.foreign, &held.denials)) {
            Standing::Good if own_removed => Standing::AnchorRemoved,
            standing => standing,
        }
    }

    pub fn policy(&self) -> Policy {
        self.demand.load().policy
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The certificate that the next handshake presents.
    pub fn current(&self) -> Option<Arc<Leaf>> {
        self.held.load().identity.as_ref().map(|identity| Arc::clone(identity.shared_leaf()))
    }

    /// The anchor that signed the certificate of the moment.
    pub fn anchor(&self) -> Option<Arc<str>> {
        self.held.load().identity.as_ref().map(|identity| Arc::clone(identity.anchor()))
    }

    /// The certificate for peers that cannot verify ML-DSA, if there is one.
    pub fn companion(&self) -> Option<Arc<Leaf>> {
        self.held.load().companion.as_ref().map(|companion| Arc::clone(companion.shared_leaf()))
    }

    /// The anchor that signed it.
    pub fn companion_anchor(&self) -> Option<Arc<str>> {
        self.held.load().companion.as_ref().map(|companion| Arc::clone(companion.anchor()))
    }

    pub fn denials(&self) -> Denials {
        self.held.load().denials.clone()
    }

    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.held.load().bundle.clone()
    }

    pub fn foreign(&self) -> Foreign {
        self.held.load().foreign.clone()
    }

    /// Whether peers of `trust_domain` can be believed at all: it is our own, or we federate with it.
    pub fn knows(&self, trust_domain: &str) -> bool {
        trust_domain == self.trust_domain
            || (self.federated && self.held.load().foreign.get(trust_domain).is_some())
    }

    /// Changes with each installed identity or bundle.
    pub fn epoch(&self) -> u64 {
        self.held.load().epoch
    }

    pub fn accept(&self, client_auth: ClientAuth) -> Result<Accepting, NotReady> {
        let held = self.held.load();
        let identity = usable(&held, self.clock.now())?;
        let bundle = held.bundle.as_ref().ok_or(NotReady::NoBundle)?;
        let demand = self.demand.load();
        let recorder = Recorder::under(demand.policy);
        let verifier: Arc<dyn ClientCertVerifier> = match client_auth {
            ClientAuth::Required => Arc::new(self.verifier(&held, bundle, None, &recorder)),
            ClientAuth::Optional => {
                Arc::new(PeerVerifier { optional: true, ..self.verifier(&held, bundle, None, &recorder) })
            }
            ClientAuth::None => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_details(Arc::clone(&demand.provider), self.time())
            .with_protocol_versions(&[&TLS13])
            .map_err(NotReady::Config)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(self.presenting(identity, &held, &recorder)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Accepting { config: Arc::new(config), recorder })
    }

    /// A handshake with whoever proves to be one of `expected`; without `present` our own certificate
    /// stays at home.
    pub fn connect(&self, expected: Vec<SpiffeId>, present: bool) -> Result<Connecting, NotReady> {
        let held = self.held.load();
        let bundle = held.bundle.as_ref().ok_or(NotReady::NoBundle)?;
        let demand = self.demand.load();
        let recorder = Recorder::under(demand.policy);
        let verifier = Arc::new(self.verifier(&held, bundle, Some(expected), &recorder));
        let builder = ClientConfig::builder_with_details(Arc::clone(&demand.provider), self.time())
            .with_protocol_versions(&[&TLS13])
            .map_err(NotReady::Config)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match present {
            true => {
                let identity = usable(&held, self.clock.now())?;
                builder.with_client_cert_resolver(Arc::new(self.presenting(identity, &held, &recorder)))
            }
            false => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let server_name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        Ok(Connecting { config: Arc::new(config), server_name, recorder })
    }

    fn verifier(
        &self,
        held: &Held,
        bundle: &Arc<Bundle>,
        expected: Option<Vec<SpiffeId>>,
        recorder: &Recorder,
    ) -> PeerVerifier {
        PeerVerifier {
            policy: recorder.policy(),
            bundle: Arc::clone(bundle),
            foreign: if self.federated { held.foreign.clone() } else { Foreign::default() },
            denials: held.denials.clone(),
            optional: false,
            expected,
            recorder: recorder.clone(),
        }
    }

    fn presenting(&self, identity: &Arc<Identity>, held: &Held, recorder: &Recorder) -> Presenting {
        let now = self.clock.now();
        let companion = held.companion.as_ref().filter(|companion| {
            let leaf = companion.leaf();
            leaf.is_valid_at(now) && recorder.policy().allows(leaf.algorithm)
        });
        Presenting::new(identity, companion, recorder)
    }

    fn time(&self) -> Arc<TlsTime> {
        Arc::new(TlsTime(Arc::clone(&self.clock)))
    }

    fn check_domain(&self, what: &'static str, found: &str) -> Result<(), InstallError> {
        if found == self.trust_domain {
            return Ok(());
        }
        Err(InstallError::TrustDomain { what, found: found.to_owned(), wanted: self.trust_domain.clone() })
    }

    fn swap(&self, change: impl Fn(&mut Held)) {
        self.held.rcu(|held| {
            let mut held = Held::clone(held);
            change(&mut held);
            held.epoch += 1;
            held
        });
    }
}

impl Demand {
    fn of(policy: Policy) -> Self {
        let refuses_classical = policy.signatures == Ladder::Require;
        Self { policy, provider: provider::mesh(policy), refuses_classical }
    }
}

impl Held {
    fn believe(&mut self, bundle: &Arc<Bundle>) {
        self.companion.take_if(|companion| !bundle.holds(companion.anchor()));
        self.bundle = Some(Arc::clone(bundle));
    }
}

fn usable(held: &Held, now: SystemTime) -> Result<&Arc<Identity>, NotReady> {
    let identity = held.identity.as_ref().ok_or(NotReady::NoIdentity)?;
    let leaf = identity.leaf();
    if now > leaf.not_after {
        return Err(NotReady::Expired(rfc3339(leaf.not_after)));
    }
    if now < leaf.not_before {
        return Err(NotReady::NotYetValid(rfc3339(leaf.not_before)));
    }
    Ok(identity)
}
