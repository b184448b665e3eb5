//! A workload's identity: a key made here and kept here, a certificate from the CA, renewed for as long
//! as the process lives.

mod apart;
mod application;
mod bundle;
mod issue;
mod lifecycle;
mod resting;
mod rotation;
mod trust;

use std::{path::PathBuf, sync::Arc};

use trellis_pki::{
    algorithm::Algorithm,
    clock::Clock,
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
};
use trellis_telemetry::{Registry, health::Health};

pub use self::{
    application::Application,
    bundle::{BundleError, BundleFile},
    issue::{CaClient, Issue, IssueError, Issued},
    lifecycle::{BootstrapError, CONDITION, Handed, IdentityTask, Lifecycle, TrustSource},
    resting::{Resting, Rests},
    rotation::{RotateError, Rotated, Rotator},
    trust::{Follower, Heard},
};
use crate::{
    client::{Address, Dialer},
    handshakes::Handshakes,
};

/// Where a workload's identity comes from.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// `HOST:PORT`.
    pub ca_address: String,
    pub trust_domain: String,
    /// The projected ServiceAccount token; read anew for each request, since it is rotated.
    pub token_file: PathBuf,
    /// The trust bundle in PEM; followed while the process runs.
    pub bundle_file: PathBuf,
    pub algorithm: Algorithm,
    /// Whether that is this workload's own choice, which the CA's does not change.
    pub pinned: bool,
    /// Whether it holds a companion certificate as well: its own choice, or nothing where the mesh's holds.
    pub dual: Option<bool>,
    /// What the CA's own certificate may be signed with.
    pub control: Ladder,
    /// Who must answer at `ca_address`.
    pub ca_identity: SpiffeId,
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// The connections whose ends this identity is.
    pub resting: Resting,
}

impl IdentityConfig {
    /// The CA is spoken to as the mesh is, whatever this workload's peers are allowed.
    fn control(&self, tls: &MeshTls) -> Arc<MeshTls> {
        Arc::new(tls.under(Policy { signatures: self.control, ..Policy::default() }))
    }

    fn ca(&self, tls: &MeshTls, registry: &Registry) -> Result<CaClient, BootstrapError> {
        let address = self.ca_address.parse().map_err(BootstrapError::Address)?;
        let (identity, token) = (self.ca_identity.clone(), self.token_file.clone());
        Ok(CaClient::new(address, self.control(tls), identity, token, Handshakes::new(registry)))
    }
}

/// Obtains the first certificate, in five attempts at most, and installs it into `tls`. The task that
/// comes back renews it; until it runs, nothing does.
pub async fn start(
    config: IdentityConfig,
    tls: Arc<MeshTls>,
    clock: Arc<dyn Clock>,
    health: Health,
    registry: &Registry,
) -> Result<IdentityTask, BootstrapError> {
    let address: Address = config.ca_address.parse().map_err(BootstrapError::Address)?;
    let control = config.control(&tls);
    let dialer = Dialer::new(control, config.ca_identity.clone(), true);
    let follower = Follower::new(address, dialer.counting(Handshakes::new(registry)), registry);
    let issue = config.ca(&tls, registry)?;
    let lifecycle = Lifecycle {
        name: config.pod,
        trust_domain: config.trust_domain.clone(),
        algorithm: config.algorithm,
        issue: Arc::new(issue),
        bundle: Some(BundleFile::new(config.bundle_file, config.trust_domain)),
        tls,
        clock,
        health,
        jitter: rand::random(),
        pinned: config.pinned,
        dual: config.dual,
        trust: TrustSource::Follow(follower),
        resting: config.resting,
    };
    lifecycle.start(registry).await
}
