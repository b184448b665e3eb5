//! Decides the next step of a rotation from what is wished, what is, and what the members hold. It
//! stores nothing and asks nobody; the same answer comes from the same facts, however often and by
//! whichever replica it is asked.

use std::{collections::BTreeSet, time::Duration};

use trellis_api::trust::{Issuing, KeyAlgorithm, Part, Phase, TrustDomainSpec};
use trellis_pki::{
    credential::{Denied, MAX_DENIALS},
    spiffe::SpiffeId,
};

use super::{
    census::{Census, Missing},
    companion,
    state::{Anchor, Rotation, Step, TrustState},
};

/// Who has no pod of ours, where those are named that a phase waits for.
const OTHERS: &str = "other trust domains";

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is as it is wished.
    Settled,
    /// A new anchor of this kind is to be made, and the rotation to it begun.
    Begin { of: Part, kind: Issuing, cut_off: Option<Vec<String>> },
    /// This step is to be taken; those named are cut off by it, since the operator forces it.
    Take { step: Step, cut_off: Option<Vec<String>> },
    /// The phase waits for these.
    Waiting(Vec<Missing>),
    /// The operator holds it where it is; these would be waited for.
    Paused(Vec<Missing>),
    /// What is wished would cut these off.
    WouldCutOff(Vec<Missing>),
    /// What is wished cannot follow from where the rotation is.
    Refused(String),
}

/// What no wish may go beyond.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Algorithms that certificates may be issued with.
    pub leaves: Vec<KeyAlgorithm>,
    /// Who cannot be denied: the CA itself, since nobody could be told of it any more.
    pub own: SpiffeId,
    /// How long other trust domains are shown a new anchor before certificates are issued from it: members
    /// say what they hold, others do not.
    pub advance: Duration,
}

/// `shown` is for how many seconds this replica has itself seen the rotation that is under way. What the state
/// says of its beginning is by the clock of whoever led then.
pub fn decide(
    wished: &TrustDomainSpec,
    bounds: &Bounds,
    state: &TrustState,
    census: &Census,
    shown: u64,
) -> Verdict {
    if let Some(refused) = refused(wished, bounds) {
        let denied = denied(wished, &bounds.own);
        return match denied == state.denied {
            true => Verdict::Refused(refused),
            // What is wrong elsewhere keeps nobody from being denied.
            false => Verdict::Take {
                step: Step::Adopt { leaf: state.leaf, dual: state.dual, denied },
                cut_off: None,
            },
        };
    }
    if let Some(step) = adopt(wished, bounds, state, census) {
        return Verdict::Take { step, cut_off: None };
    }
    let forget = Verdict::Take { step: Step::Forget, cut_off: None };
    let pending = state.pending.as_ref();
    if pending.is_some_and(|pending| Some(pending.kind) != target(wished, pending.of)) {
        return forget;
    }
    match &state.rotation {
        None => match begin(wished, state, census) {
            // The key was made for the other part, whose turn comes later.
            Verdict::Begin { of, .. } if pending.is_some_and(|pending| pending.of != of) => forget,
            verdict => verdict,
        },
        Some(rotation) => go_on(wished, state, rotation, census, rotation.unpublished(bounds, shown)),
    }
}

/// What the part is wished to be in the end.
pub fn target(wished: &TrustDomainSpec, of: Part) -> Option<Issuing> {
    match of {
        Part::Issuing => Some(wished.issuing),
        Part::Companion => wished.companion,
    }
}

/// What needs no rotation. Denials never wait; the algorithm of leaves changes together with the anchor
/// that signs them, so that nobody renews twice.
fn adopt(wished: &TrustDomainSpec, bounds: &Bounds, state: &TrustState, census: &Census) -> Option<Step> {
    let denied = denied(wished, &bounds.own);
    let issuing = state.anchor(&state.issuing).map(|anchor| anchor.kind);
    let leaf = match wished.leaf.algorithm {
        _ if issuing != Some(wished.issuing) => state.leaf,
        Some(KeyAlgorithm::EcdsaP256) if !census.refusing_classical().is_empty() => state.leaf,
        leaf => leaf,
    };
    let dual = wished.leaf.dual;
    let differs = denied != state.denied || leaf != state.leaf || dual != state.dual;
    differs.then_some(Step::Adopt { leaf, dual, denied })
}

/// A certificate that the CA would not issue is not asked for: every renewal would fail from then on.
fn refused(wished: &TrustDomainSpec, bounds: &Bounds) -> Option<String> {
    if let Some(refused) = companion::refused(wished) {
        return Some(refused);
    }
    let leaf = wished.leaf.algorithm.filter(|leaf| !bounds.leaves.contains(leaf))?;
    let known: Vec<_> = bounds.leaves.iter().map(|one| one.as_str()).collect();
    Some(format!(
        "leaf.algorithm is {leaf}, and the CA issues only {}: choose one of these, or add it to ca.leafAlgorithms",
        known.join(", ")
    ))
}

/// What of the wish can be done; the rest is a condition of the object.
pub fn denied(wished: &TrustDomainSpec, own: &SpiffeId) -> Vec<String> {
    let read = wished.denied.iter().filter_map(|denial| denial.what.parse::<Denied>().ok());
    let read = read.filter(|denied| *denied != Denied::Identity(own.clone()));
    let sorted: BTreeSet<String> = read.map(|denied| denied.to_string()).collect();
    sorted.into_iter().take(MAX_DENIALS).collect()
}

fn begin(wished: &TrustDomainSpec, state: &TrustState, census: &Census) -> Verdict {
    let Some(issuing) = state.anchor(&state.issuing) else {
        return Verdict::Refused("the state names an issuing anchor that it does not hold".to_owned());
    };
    if wished.issuing == issuing.kind {
        let leaf_waits = wished.leaf.algorithm != state.leaf;
        return match leaf_waits {
            true => Verdict::WouldCutOff(census.refusing_classical()),
            false => companion::begin(wished, state),
        };
    }
    if wished.issuing.algorithm == issuing.kind.algorithm
        && wished.issuing.generation < issuing.kind.generation
    {
        return Verdict::Refused(format!(
            "issuing.generation is {}, and generation {} is in use: what was replaced does not come back; raise it",
            wished.issuing.generation, issuing.kind.generation
        ));
    }
    if wished.paused {
        return Verdict::Paused(Vec::new());
    }
    let classical =
        [Some(wished.issuing.algorithm), wished.leaf.algorithm].contains(&Some(KeyAlgorithm::EcdsaP256));
    let refusing = if classical { census.refusing_classical() } else { Vec::new() };
    let number = state.rotations + 1;
    match refusing.is_empty() {
        true => Verdict::Begin { of: Part::Issuing, kind: wished.issuing, cut_off: None },
        false if is_forced(wished, number, Phase::Distributing) => {
            let cut_off = Some(names(refusing));
            Verdict::Begin { of: Part::Issuing, kind: wished.issuing, cut_off }
        }
        false => Verdict::WouldCutOff(refusing),
    }
}

impl Rotation {
    /// Seconds that other trust domains still have to fetch the new anchor.
    pub fn unpublished(&self, bounds: &Bounds, shown: u64) -> u64 {
        match self.phase {
            Phase::Distributing => bounds.advance.as_secs().saturating_sub(shown),
            Phase::Issuing | Phase::Removing => 0,
        }
    }
}

fn go_on(
    wished: &TrustDomainSpec,
    state: &TrustState,
    rotation: &Rotation,
    census: &Census,
    unpublished: u64,
) -> Verdict {
    let kind = |fingerprint: Option<&String>| state.anchor(fingerprint?).map(|anchor: &Anchor| anchor.kind);
    let target = target(wished, rotation.of);
    let back = target == kind(rotation.from.as_ref());
    if back && rotation.phase != Phase::Removing {
        let step = Step::RollBack { leaf: wished.leaf.algorithm };
        return Verdict::Take { step, cut_off: None };
    }
    if !back && target != kind(rotation.to.as_ref()) {
        // The rotation that is under way is finished first; another wish waits for its turn, which the status
        // says.
        tracing::debug!(rotation = rotation.number, ?target, "another rotation is wished");
    }
    let of = |anchor: &Option<String>, missing: fn(&Census, &str) -> Vec<Missing>| {
        anchor.as_ref().map(|anchor| missing(census, anchor)).unwrap_or_default()
    };
    let (step, mut missing) = match rotation.phase {
        Phase::Distributing => {
            (Step::Issue { leaf: wished.leaf.algorithm }, of(&rotation.to, Census::lacking))
        }
        Phase::Issuing => (Step::Remove, of(&rotation.from, Census::living_by)),
        Phase::Removing => (Step::Settle, of(&rotation.from, Census::clinging_to)),
    };
    if unpublished > 0 {
        let why = format!("they are shown the new anchor for {unpublished} s more, to fetch it in time");
        missing.push(Missing { pod: OTHERS.to_owned(), why });
    }
    if wished.paused {
        return Verdict::Paused(missing);
    }
    match missing.is_empty() {
        true => Verdict::Take { step, cut_off: None },
        false if is_forced(wished, rotation.number, rotation.phase) => {
            Verdict::Take { step, cut_off: Some(names(missing)) }
        }
        false => Verdict::Waiting(missing),
    }
}

fn is_forced(wished: &TrustDomainSpec, number: u32, phase: Phase) -> bool {
    wished.force.as_ref().is_some_and(|force| force.rotation == number && force.phase == phase)
}

fn names(missing: Vec<Missing>) -> Vec<String> {
    missing.into_iter().map(|missing| missing.pod).collect()
}

#[cfg(test)]
mod tests;
