//! What this replica issues from and tells members to trust: the state that was stored last, ready for
//! use. Everything in the CA that needs an anchor asks here, each time.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use trellis_api::{proto::ca::Trusted, trust::Part};
use trellis_pki::{
    bundle::{Anchor, Bundle},
    credential::{Denials, Denied},
    issue::Issuer,
};

use super::{
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
    pub denials: Denials,
}

/// The newest state of this replica. Clones are the same.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    current: ArcSwap<Current>,
    revision: watch::Sender<u64>,
    pem: watch::Sender<String>,
}

impl Authority {
    pub fn new(trust_domain: &str, read: Read) -> Result<Self, String> {
        let current = Current::new(trust_domain, read)?;
        let revision = watch::Sender::new(current.state().revision);
        let pem = watch::Sender::new(current.pem());
        Ok(Self(Arc::new(Inner { current: ArcSwap::from_pointee(current), revision, pem })))
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
        let current = Current::new(before.bundle.trust_domain(), read)?;
        let (revision, pem) = (current.state().revision, current.pem());
        self.0.current.store(Arc::new(current));
        self.0.revision.send_replace(revision);
        self.0.pem.send_replace(pem);
        tracing::info!(revision, "trust changed");
        Ok(())
    }
}

impl Current {
    fn new(trust_domain: &str, read: Read) -> Result<Self, String> {
        let Read { vault, version } = read;
        let issuing = vault.state.anchor(&vault.state.issuing).ok_or("no anchor issues")?;
        let issuer = Arc::new(vault.issuer(issuing)?);
        let companion =
            vault.state.issuing(Part::Companion).map(|anchor| vault.issuer(anchor)).transpose()?;
        let companion = companion.map(Arc::new);
        let anchors = vault
            .state
            .trusted()
            .map(|anchor| Anchor::parse(&certificate(anchor)?).map_err(|error| error.to_string()))
            .collect::<Result<Vec<_>, String>>()?;
        let bundle = Bundle::new(trust_domain, anchors).map_err(|error| error.to_string())?;
        let denied = vault.state.denied.iter().map(|denied| denied.parse::<Denied>());
        let denied = denied.collect::<Result<Vec<_>, _>>().map_err(|error| format!("denied: {error}"))?;
        let denials = Denials::new(denied).map_err(|error| error.to_string())?;
        Ok(Self { vault, version, issuer, companion, bundle, denials })
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
        }
    }

    /// The bundle as it is published: the revision stands above it, for those who also hear of trust in
    /// other ways.
    fn pem(&self) -> String {
        trellis_pki::bundle::published(&self.bundle, self.state().revision)
    }
}
