//! Certificates that are asked for by an object in the Kubernetes API: a CertificateSigningRequest or a
//! PodCertificateRequest. Whoever asks this way gets what the gRPC service would issue to the same pod, and
//! nothing else; only the leader answers.

mod desk;
mod kind;
mod pod;
mod signing;

use std::time::Duration;

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::names::CA;
use trellis_telemetry::{Counter, Family, Registry};

pub use self::{desk::Desk, pod::PodRequests, signing::SigningRequests};
use crate::{
    attest::Caller,
    issue::Issuing,
    refuse::{Reason, Refusal},
};

#[cfg(test)]
mod tests;

/// What became of a look at one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It needs nothing more: it is answered, or is not ours to answer.
    Done,
    /// Something stands in the way that may pass.
    Later(String),
}

/// Answers requests of one kind.
#[tonic::async_trait]
pub trait Clerk: Send + Sync + 'static {
    /// Lower case, as in paths.
    fn plural(&self) -> &'static str;

    /// Whether anything is left to do, as far as the object itself shows.
    fn is_open(&self, object: &DynamicObject) -> bool;

    /// Looks at a request that is open, and answers it. `waited` is for how long it has been looked at.
    async fn look(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        waited: Duration,
    ) -> Result<Look, kube::Error>;

    /// Says in the object that it will not be answered.
    async fn give_up(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        why: &str,
    ) -> Result<(), kube::Error>;
}

/// How long a pod may be unknown: what the API server shows to the kubelet may reach the CA a little later.
const UNKNOWN: Duration = Duration::from_secs(10);

/// Whether a refusal may be gone at the next look.
fn may_pass(refusal: &Refusal, waited: Duration) -> bool {
    match refusal.reason {
        Reason::PodAbsent | Reason::PodReplaced => waited < UNKNOWN,
        reason => !reason.is_callers_fault(),
    }
}

/// Refuses a caller whom this replica does not know yet and may know at the next look. What may pass is put on
/// record when it has not passed.
fn await_pod(issuing: &Issuing, caller: &Caller, waited: Duration) -> Result<(), Refusal> {
    match issuing.knows(caller) {
        Err(refusal) if may_pass(&refusal, waited) => Err(refusal),
        _ => Ok(()),
    }
}

/// Writes into one subresource of a request.
async fn write(
    api: &Api<DynamicObject>,
    object: &DynamicObject,
    subresource: &str,
    status: &Value,
) -> Result<(), kube::Error> {
    let mut body = json!({
        "apiVersion": object.types.as_ref().map(|types| &types.api_version),
        "kind": object.types.as_ref().map(|types| &types.kind),
        // Another object of the same name is none of this answer's.
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    if let Some(namespace) = object.namespace() {
        body["metadata"]["namespace"] = namespace.into();
    }
    let params = PatchParams::apply(CA).force();
    api.patch_subresource(subresource, &object.name_any(), &params, &Patch::Apply(&body)).await?;
    Ok(())
}

/// What became of requests, by API.
#[derive(Clone)]
pub struct Outcomes(Family<Counter>);

impl Outcomes {
    pub fn new(registry: &Registry) -> Self {
        Self(registry.counter(
            "trellis_ca_requests_total",
            "Requests in the Kubernetes API that were answered, by API and outcome (issued, denied, failed).",
        ))
    }

    fn count(&self, api: &'static str, outcome: &'static str) {
        self.0.with(&[("api", api), ("outcome", outcome)]).inc();
    }
}
