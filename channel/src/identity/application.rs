//! The identity of an application that does its own TLS: of the same workload, with a key of its own that
//! is handed to it. The process beside it asks for it, hears of trust for it, and answers for it to the CA.

use std::sync::Arc;

use tokio::sync::watch;
use trellis_pki::{
    clock::Clock,
    policy::{Ladder, Policy},
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

use super::{BootstrapError, BundleFile, Heard, IdentityConfig, Issue, Lifecycle, Resting, TrustSource};

/// Makes one life of such an identity after another.
pub struct Application {
    config: IdentityConfig,
    issue: Arc<dyn Issue>,
    heard: watch::Receiver<Heard>,
    clock: Arc<dyn Clock>,
}

impl Application {
    /// `config` is that of the workload with the algorithm of the application. The CA is dialled with the
    /// trust of `own`, the workload's side of the mesh, and `heard` is what that one hears of trust.
    pub fn new(
        config: IdentityConfig,
        own: &MeshTls,
        heard: watch::Receiver<Heard>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, BootstrapError> {
        let issue = Arc::new(config.ca(own, registry)?);
        Ok(Self { config, issue, heard, clock })
    }

    pub fn lifecycle(&self) -> Lifecycle {
        let IdentityConfig { pod, trust_domain, bundle_file, algorithm, pinned, .. } = self.config.clone();
        // What the application's peers accept is between them: here it only has to be an identity.
        let policy = Policy { signatures: Ladder::Prefer, ..Policy::default() };
        Lifecycle {
            name: format!("{pod} (application)"),
            trust_domain: trust_domain.clone(),
            algorithm,
            pinned,
            // What is handed out is one certificate: of which algorithm, the application has chosen.
            dual: Some(false),
            issue: self.issue.clone(),
            bundle: Some(BundleFile::new(bundle_file, trust_domain.clone())),
            tls: Arc::new(MeshTls::new(policy, trust_domain, self.clock.clone())),
            clock: self.clock.clone(),
            // The pod is ready without it: the application may never ask.
            health: Health::new(&[]),
            jitter: rand::random(),
            trust: TrustSource::Told(self.heard.clone()),
            resting: Resting::default(),
        }
    }
}
