//! A workload's identity: a key made here and kept here, a certificate from the CA, renewed for as long
//! as the process lives.

mod bundle;
mod issue;
mod lifecycle;
mod rotation;

use std::{path::PathBuf, sync::Arc};

use trellis_pki::{algorithm::Algorithm, clock::Clock, policy::Policy, spiffe::SpiffeId, tls::MeshTls};
use trellis_telemetry::{Registry, health::Health};

pub use self::{
    bundle::{BundleError, BundleFile},
    issue::{CaClient, Issue, IssueError, Issued},
    lifecycle::{BootstrapError, CONDITION, IdentityTask, Lifecycle},
    rotation::{RotateError, Rotated, Rotator},
};
use crate::{client::Address, handshakes::Handshakes};

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
    /// Who must answer at `ca_address`.
    pub ca_identity: SpiffeId,
    /// `NAMESPACE/NAME`, for the log.
    pub pod: String,
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
    // The CA is spoken to as strictly as can be, whatever this workload's peers are allowed.
    let control = Arc::new(tls.under(Policy::default()));
    let issue =
        CaClient::new(address, control, config.ca_identity, config.token_file, Handshakes::new(registry));
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
    };
    lifecycle.start(registry).await
}
