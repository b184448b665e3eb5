//! What this replica issues from and tells members to trust: the state that was stored last, ready for
//! use. Everything in the CA that needs an anchor asks here, each time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, task::spawn_blocking};
use trellis_api::{
    proto::ca::{ForeignBundle, Trusted},
    trust::Part,
};
use trellis_pki::{
    bundle::{Anchor, Bundle},
    credential::{Denials, Denied},
    foreign::Foreign,
    issue::{IssueError, IssuedLeaf, Issuer, LeafRequest, Purposes},
    key::PublicKey,
    signer::SignerError,
    spiffe::SpiffeId,
};

use crate::federation::held_bundles;

use super::{
    keys::Keys,
    state::TrustState,
    store::{Read, Version},
    vault::{Vault, certificate},
};

/// One state, ready for use.
pub struct Current {
    pub vault: Vault,
    pub version: Version,
    pub issuer: Arc<Issuer>,
    /// What companion certificates are issued from, if anything is.
    pub companion: Option<Arc<Issuer>>,
    pub bundle: Bundle,
    pub foreign: Foreign,
    pub denials: Denials,
}

/// A leaf that is to be issued.
pub struct Wanted {
    pub public_key: PublicKey,
    pub identity: SpiffeId,
    pub dns_names: Vec<String>,
    pub now: SystemTime,
    pub validity: Duration,
    pub purposes: Purposes,
    /// How far before now it begins.
    pub backdate: Duration,
}

impl Wanted {
    /// Has `issuer` issue it. A key that is elsewhere is asked where waiting holds up nobody.
    pub async fn issued_by(self, issuer: &Arc<Issuer>) -> Result<IssuedLeaf, IssueError> {
        if !issuer.signer().is_remote() {
            return issuer.issue_for(&self.request(), self.purposes, self.backdate);
        }
        let issuer = issuer.clone();
        match spawn_blocking(move || issuer.issue_for(&self.request(), self.purposes, self.backdate)).await {
            Ok(issued) => issued,
            Err(error) => Err(IssueError::Signer(SignerError::Local(error.to_string()))),
        }
    }

    fn request(&self) -> LeafRequest<'_> {
        LeafRequest {
            public_key: &self.public_key,
            identity: &self.identity,
            dns_names: &self.dns_names,
            now: self.now,
            validity: self.validity,
        }
    }
}

/// The newest state of this replica. Clones are the same.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    keys: Keys,
    current: ArcSwap<Current>,
    revision: watch::Sender<u64>,
    pem: watch::Sender<String>,
}

impl Authority {
    pub fn new(trust_domain: &str, keys: Keys, read: Read) -> Result<Self, String> {
        let current = Current::new(trust_domain, &keys, read)?;
        let revision = watch::Sender::new(current.state().revision);
        let pem = watch::Sender::new(current.pem());
        Ok(Self(Arc::new(Inner { keys, current: ArcSwap::from_pointee(current), revision, pem })))
    }

    pub fn current(&self) -> Arc<Current> {
        self.0.current.load_full()
    }

    /// The revision, as it changes.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// The bundle as it is published, as it changes.
    pub fn pem(&self) -> watch::Receiver<String> {
        self.0.pem.subscribe()
    }

    /// Takes what was read or written, unless something newer is known already.
    pub fn take(&self, read: Read) -> Result<(), String> {
        let before = self.current();
        if read.vault.state.revision < before.state().revision || read.version == before.version {
            return Ok(());
        }
        let current = Current::new(before.bundle.trust_domain(), &self.0.keys, read)?;
        let (revision, pem) = (current.state().revision, current.pem());
        self.0.current.store(Arc::new(current));
        self.0.revision.send_replace(revision);
        self.0.pem.send_replace(pem);
        tracing::info!(revision, "trust changed");
        Ok(())
    }
}

impl Current {
    fn new(trust_domain: &str, keys: &Keys, read: Read) -> Result<Self, String> {
        let Read { vault, version } = read;
        let issuing = vault.state.anchor(&vault.state.issuing).ok_or("no anchor issues")?;
        let issuer = |anchor| vault.issuer(trust_domain, anchor, keys).map(Arc::new);
        let companion = vault.state.issuing(Part::Companion).map(issuer).transpose()?;
        let issuer = issuer(issuing)?;
        let anchors = vault
            .state
            .trusted()
            .map(|anchor| Anchor::parse(&certificate(anchor)?).map_err(|error| error.to_string()))
            .collect::<Result<Vec<_>, String>>()?;
        let bundle = Bundle::new(trust_domain, anchors).map_err(|error| error.to_string())?;
        let denied = vault.state.denied.iter().map(|denied| denied.parse::<Denied>());
        let denied = denied.collect::<Result<Vec<_>, _>>().map_err(|error| format!("denied: {error}"))?;
        let denials = Denials::new(denied).map_err(|error| error.to_string())?;
        let foreign = held_bundles(&bundle, &vault.state.foreign)?;
        Ok(Self { vault, version, issuer, companion, bundle, foreign, denials })
    }

    pub fn state(&self) -> &TrustState {
        &self.vault.state
    }

    /// As members are told.
    pub fn trusted(&self, spread_seconds: u32) -> Trusted {
        let state = self.state();
        Trusted {
            revision: state.revision,
            anchors: self.bundle.anchors().iter().map(|anchor| anchor.der.clone()).collect(),
            issuing: state.issuing.clone(),
            leaf_algorithm: state.leaf.map(|leaf| leaf.as_str().to_owned()).unwrap_or_default(),
            spread_seconds,
            denied: state.denied.clone(),
            companion: state.companion.clone().unwrap_or_default(),
            dual: state.dual,
            foreign: self.foreign.bundles().map(told).collect(),
        }
    }

    /// The bundle as it is published, our own anchors only: the revision stands above it, for those who also hear of trust in
    /// other ways.
    pub fn pem(&self) -> String {
        trellis_pki::bundle::published(&self.bundle, self.state().revision)
    }
}

fn told(bundle: &Bundle) -> ForeignBundle {
    ForeignBundle {
        trust_domain: bundle.trust_domain().to_owned(),
        anchors: bundle.anchors().iter().map(|anchor| anchor.der.clone()).collect(),
    }
}
