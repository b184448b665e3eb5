//! Who asks. Most answers are the same for everybody; some hold for one namespace, or for one gateway.

use std::sync::Arc;

use trellis_pki::spiffe::SpiffeId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    identity: SpiffeId,
    trust_domain: Arc<str>,
}

impl Viewer {
    /// `trust_domain` is the one of this cluster.
    pub fn new(identity: SpiffeId, trust_domain: &Arc<str>) -> Self {
        Self { identity, trust_domain: trust_domain.clone() }
    }

    /// The trust domain of this cluster, in which its pods have their identities.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The namespace of this cluster that it is in. Another trust domain has namespaces of its own.
    pub fn namespace(&self) -> Option<&str> {
        (self.identity.trust_domain() == &*self.trust_domain).then(|| self.identity.namespace())
    }

    /// Whether it runs as this ServiceAccount of this cluster.
    pub fn runs_as(&self, namespace: &str, service_account: &str) -> bool {
        self.namespace() == Some(namespace) && self.identity.service_account() == service_account
    }
}
