//! Who gets a companion certificate: the ECDSA one beside the ML-DSA one, for peers that cannot verify
//! ML-DSA. The pod says so itself or by its namespace, or else the mesh does; a proxy that only asks gets
//! none.

use std::sync::Arc;

use trellis_api::annotations::{DUAL_IDENTITY, Switch};
use trellis_pki::{algorithm::Algorithm, issue::Issuer};

use crate::{
    attest::Caller,
    refuse::{Reason, Refusal},
    trust::authority::Current,
    view::PodFacts,
};

/// Of what a companion's key may be, whatever other certificates are made of.
pub const ALGORITHMS: &[Algorithm] = &[Algorithm::EcdsaP256];

/// What companions are issued from.
pub fn issuer(current: &Current) -> Result<&Arc<Issuer>, Refusal> {
    current.companion.as_ref().ok_or_else(|| {
        Refusal::new(
            Reason::NoCompanion,
            "companion is true, and the mesh has no companion anchor to issue from; whoever operates the mesh makes \
             one with trellis trust companion --to ecdsa-p256",
        )
    })
}

/// Whether this pod gets one.
pub fn check(current: &Current, pod: &PodFacts, caller: &Caller) -> Result<(), Refusal> {
    issuer(current)?;
    match pod.dual_identity.map_or(current.state().dual, |switch| switch == Switch::Enabled) {
        true => Ok(()),
        false => Err(Refusal::new(
            Reason::NotDual,
            format!(
                "companion is true, and pod {}/{} is not to have a dual identity; annotate it, or its namespace, with \
                 {DUAL_IDENTITY}: enabled, or set leaf.dual in the TrustDomain",
                caller.namespace, caller.pod
            ),
        )),
    }
}
