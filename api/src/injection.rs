//! Turning a pod into a meshed pod: whether to, and how. The admission webhook and `trellis inject` do
//! it by the same code, which does no I/O.
//!
//! What is added: `trellis-capture`, which writes the redirect rules and ends; `trellis-proxy` behind it
//! as a native sidecar, so that it runs before and after everything else in the pod; the volume with
//! the token and the trust bundle, and an empty one that keeps the application's own token out of our
//! containers; where it is asked for, the socket of the SPIFFE Workload API; and an annotation that says
//! so. [`decide`] holds the truth table.
//!
//! `trellis-capture` needs user 0 with NET_ADMIN, which Pod Security's levels `baseline` and
//! `restricted` refuse: a namespace that enforces one of them gets a warning before it gets the
//! refusal. The proxy itself satisfies `restricted`.

mod decide;
mod gateway;
mod patch;
mod probes;
mod settings;
mod sidecar;
mod workload_api;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::names;
pub use decide::{Decision, Plan, Refusal, Skip, decide};
pub use gateway::{GATEWAY_DRAIN, gateway_annotations, gateway_pod};
pub use patch::patch;
pub use settings::{Amounts, Images, Ladder, LogFormat, PullPolicy, Resources, Settings, SettingsError};
pub use sidecar::inject;

/// What of a namespace matters to its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// What became of a pod that may be admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    pub pod: Pod,
    pub outcome: Outcome,
    /// What whoever created the pod should know.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    Skipped(Skip),
}

/// Decides about a pod and does what was decided. Doing it again to the result changes nothing.
pub fn admit(pod: &Pod, namespace: &Namespace, settings: &Settings) -> Result<Admission, Refusal> {
    match decide(pod, namespace, settings) {
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Inject(plan) => Ok(Admission {
            pod: inject(pod, &plan, settings),
            outcome: Outcome::Injected,
            warnings: plan.warnings,
        }),
        Decision::Skip(skip) => {
            let mut after = pod.clone();
            let mut warnings = Vec::new();
            match skip {
                Skip::AlreadyInjected => warnings = sidecar::refresh(&mut after, settings),
                _ if decide::is_mirror(pod) => {}
                _ => annotate_skipped(&mut after, skip),
            }
            if skip.was_asked_for() {
                warnings.push(format!("trellis: not injected: {}", skip.explanation()));
            }
            Ok(Admission { pod: after, outcome: Outcome::Skipped(skip), warnings })
        }
    }
}

/// Discovery believes the annotation `trellis.dev/injected`, so a pod without a proxy must not carry
/// it; copied from a meshed pod it would make this one unreachable.
fn annotate_skipped(pod: &mut Pod, skip: Skip) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(names::INJECTED);
    }
    if skip.was_asked_for() {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(names::NOT_INJECTED.to_owned(), skip.as_str().to_owned());
    }
}
