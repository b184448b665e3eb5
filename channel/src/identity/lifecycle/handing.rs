//! An identity that is not for this process: each certificate is handed out with its key, to whoever runs
//! in the same pod and does its own TLS.

use std::sync::Arc;

use tokio::sync::watch;
use trellis_pki::{key::PrivateKey, leaf::Leaf};
use trellis_telemetry::Registry;
use zeroize::Zeroizing;

use super::{BootstrapError, Companion, IdentityTask, Lifecycle, Metrics, TrustSource};
use crate::identity::{issue::IssueError, trust::Heard};
use trellis_api::proto::ca::Holding;

/// A certificate with its key. It has no `Debug`, and the key is wiped when the last one drops it.
pub struct Handed {
    pub leaf: Leaf,
    /// DER.
    pub certificate: Vec<u8>,
    /// PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
}

pub(super) type Handout = watch::Sender<Option<Arc<Handed>>>;

/// What will be handed out, once the certificate is found to be good.
pub(super) struct Export {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Export {
    pub fn of(key: &PrivateKey, leaf: &[u8]) -> Result<Self, IssueError> {
        let key = key.pkcs8().map_err(|error| IssueError::Key(error.to_string()))?;
        Ok(Self { certificate: leaf.to_vec(), key })
    }
}

impl Lifecycle {
    /// Obtains the first certificate, and hands out this and every later one.
    pub async fn hand_out(
        self,
        handout: watch::Sender<Option<Arc<Handed>>>,
        registry: &Registry,
    ) -> Result<IdentityTask, BootstrapError> {
        let companion = Companion::new(self.dual, registry);
        self.begin(Metrics::handed(registry), companion, Some(handout)).await
    }
}

impl IdentityTask {
    /// What the CA says, for other identities of the same pod: the CA knows one member for each pod.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        match &self.lifecycle.trust {
            TrustSource::Told(told) => told.clone(),
            TrustSource::Follow(_) => self.heard.subscribe(),
        }
    }

    /// From now on the CA is told of another identity of the same pod as well.
    pub fn speak_for(&mut self, beside: watch::Receiver<Option<Holding>>) {
        self.beside = beside;
    }

    pub(super) fn hand_over(&self, export: Option<Export>, leaf: &Leaf) {
        if let (Some(handout), Some(Export { certificate, key })) = (&self.handout, export) {
            handout.send_replace(Some(Arc::new(Handed { leaf: leaf.clone(), certificate, key })));
        }
    }
}
