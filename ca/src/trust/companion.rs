//! What is wished of the companion: the classical anchor beside the issuing one, from which workloads with
//! a dual identity get the certificate for peers that cannot verify ML-DSA. It comes, is replaced and goes
//! by the same rotations as the issuing anchor, one at a time.

use trellis_api::trust::{KeyAlgorithm, Part, TrustDomainSpec};

use super::{machine::Verdict, state::TrustState, step::Step};

/// The rotation that the wish asks for, if any.
pub fn begin(wished: &TrustDomainSpec, state: &TrustState) -> Verdict {
    let held = state.issuing(Part::Companion).map(|anchor| anchor.kind);
    if wished.companion == held {
        return Verdict::Settled;
    }
    if let (Some(wished), Some(held)) = (wished.companion, held)
        && wished.generation < held.generation
    {
        return Verdict::Refused(format!(
            "companion.generation is {}, and generation {} is in use: what was replaced does not come back; raise it",
            wished.generation, held.generation
        ));
    }
    match wished.companion {
        _ if wished.paused => Verdict::Paused(Vec::new()),
        Some(kind) => Verdict::Begin { of: Part::Companion, kind, cut_off: None },
        None => Verdict::Take { step: Step::Forgo, cut_off: None },
    }
}

/// Why what is wished cannot be a companion.
pub fn refused(wished: &TrustDomainSpec) -> Option<String> {
    let companion = wished.companion?;
    if companion.algorithm != KeyAlgorithm::EcdsaP256 {
        return Some(format!(
            "companion.algorithm is {}: a companion is for peers that cannot verify ML-DSA; use ecdsa-p256",
            companion.algorithm
        ));
    }
    if !companion.signed_by.is_self() {
        return Some(format!(
            "companion.signedBy is {}: a companion signs itself; remove signedBy",
            companion.signed_by
        ));
    }
    (wished.issuing.algorithm == KeyAlgorithm::EcdsaP256).then(|| {
        "companion is set and issuing.algorithm is ecdsa-p256: what is issued is classical already; choose an ML-DSA \
         algorithm for issuing, or remove companion"
            .to_owned()
    })
}
