//! What an operator sees of the trust domain: the state, who holds what, and what is being waited for.

use std::time::{Duration, UNIX_EPOCH};

use trellis_api::trust::{
    AnchorStatus, Condition, FederationStatus, Issuing, Part, PastPhase, PastRotation, PendingStatus,
    RotationStatus, SignedBy, TrustDomainSpec, TrustDomainStatus, WaitingFor,
};
use trellis_pki::{clock::rfc3339, credential::Denied, spiffe::SpiffeId};

use super::{
    authority::Current,
    census::{Census, Missing},
    machine::{self, Bounds, Verdict},
    signing::Signing,
    state::{Done, Past, Step, TrustState},
};

/// Names in a status; the count tells of the rest.
const NAMED: usize = 20;
const DIGITS: usize = 12;
/// Where a companion comes from, and goes to.
pub const NONE: &str = "none";

pub const SETTLED: &str = "Settled";
pub const AWAITING: &str = "AwaitingSignature";
pub const DENIALS: &str = "DenialsApplied";
pub const FEDERATED: &str = "Federated";

/// What is known of other trust domains.
pub struct Federation {
    pub statuses: Vec<FederationStatus>,
    pub condition: (bool, &'static str, String),
}

#[expect(clippy::too_many_arguments, reason = "a status is made of all that is known")]
pub fn of(
    wished: &TrustDomainSpec,
    bounds: &Bounds,
    generation: i64,
    current: &Current,
    census: &Census,
    (verdict, signing): (&Verdict, &Signing),
    federation: Federation,
    before: &TrustDomainStatus,
    now: u64,
) -> TrustDomainStatus {
    let state = current.state();
    let name = |fingerprint: &str| {
        state.anchor(fingerprint).map_or_else(|| short(fingerprint), |anchor| named(anchor.kind, fingerprint))
    };
    let missing: &[Missing] = match verdict {
        Verdict::Waiting(missing) | Verdict::Paused(missing) | Verdict::WouldCutOff(missing) => missing,
        _ => &[],
    };
    let named_or_none = |end: &Option<String>| end.as_deref().map_or_else(|| NONE.to_owned(), name);
    let rotation = state.rotation.as_ref().map(|rotation| RotationStatus {
        number: rotation.number,
        of: rotation.of,
        phase: rotation.phase,
        from: named_or_none(&rotation.from),
        to: named_or_none(&rotation.to),
        from_kind: rotation.from.as_deref().and_then(|from| Some(state.anchor(from)?.kind)),
        leaf_before: rotation.leaf_before,
        started: at(rotation.started),
        since: at(rotation.since),
        rolling_back: rotation.rolling_back,
        paused: wished.paused,
        waiting: count(missing.len()),
        waiting_for: waiting_for(missing),
    });
    let (holds, reason, message) = federation.condition;
    let federated = Said { type_: FEDERATED, holds, reason, message };
    let mut settled = settled(wished, state.rotation.is_some(), verdict, signing);
    if let Some(words) = later(wished, state, &named_or_none) {
        settled.message = format!("{words}: {}", settled.message);
    }
    let conditions = [settled, denials(wished, &bounds.own), federated];
    TrustDomainStatus {
        observed_generation: generation,
        phase: phase_of(state),
        issuing: name(&state.issuing),
        issuing_kind: state.anchor(&state.issuing).map(|anchor| anchor.kind),
        leaf: state.leaf,
        companion: state.companion.as_deref().map(name).unwrap_or_default(),
        companion_kind: state.issuing(Part::Companion).map(|anchor| anchor.kind),
        dual: state.dual,
        revision: state.revision,
        anchors: current
            .vault
            .state
            .anchors
            .iter()
            .map(|anchor| AnchorStatus {
                fingerprint: anchor.fingerprint.clone(),
                algorithm: anchor.kind.algorithm.to_string(),
                generation: anchor.kind.generation,
                not_after: not_after(current, &anchor.fingerprint),
                held_by: count(census.held_by(&anchor.fingerprint)),
                leaves: count(census.leaves(&anchor.fingerprint)),
                key: anchor.token.as_ref().map(ToString::to_string).unwrap_or_default(),
                chain: match anchor.parents.is_empty() {
                    true => String::new(),
                    false => format!("{}{}", anchor.certificate, anchor.parents),
                },
            })
            .collect(),
        members: count(census.in_reach()),
        rotation,
        pending: state.pending.as_ref().map(|pending| PendingStatus {
            kind: pending.kind,
            key: pending.key.clone(),
            request: pending.request.clone(),
            since: at(pending.since),
        }),
        past: state.past.iter().map(past).collect(),
        federation: federation.statuses,
        conditions: conditions.into_iter().map(|one| dated(one, before, generation, now)).collect(),
    }
}

/// A wish that has to wait until the rotation that is under way has ended.
fn later(
    wished: &TrustDomainSpec,
    state: &TrustState,
    named: &dyn Fn(&Option<String>) -> String,
) -> Option<String> {
    let rotation = state.rotation.as_ref()?;
    let kind = |end: &Option<String>| Some(state.anchor(end.as_deref()?)?.kind);
    let target = machine::target(wished, rotation.of);
    if target == kind(&rotation.to) || target == kind(&rotation.from) {
        return None;
    }
    let target = target.map_or_else(|| NONE.to_owned(), |target| target.to_string());
    let (number, to) = (rotation.number, named(&rotation.to));
    Some(format!("rotation {number} to {to} is finished first, and {target} comes after it"))
}

fn phase_of(state: &TrustState) -> String {
    let outside = state.pending.as_ref().is_some_and(|pending| !pending.kind.signed_by.is_self());
    match &state.rotation {
        Some(rotation) => rotation.phase.to_string(),
        None if outside => AWAITING.to_owned(),
        None => SETTLED.to_owned(),
    }
}

fn not_after(current: &Current, fingerprint: &str) -> String {
    let anchors = current.bundle.anchors();
    let found = anchors.iter().find(|anchor| &**anchor.fingerprint() == fingerprint);
    found.map(|anchor| rfc3339(anchor.not_after)).unwrap_or_default()
}

/// As a condition, but for its dates.
struct Said {
    type_: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn settled(wished: &TrustDomainSpec, rotating: bool, verdict: &Verdict, signing: &Signing) -> Said {
    let (holds, reason, message) = match verdict {
        Verdict::Settled => (true, "AsWished", "certificates are issued as wished".to_owned()),
        Verdict::Begin { kind, .. } if *signing != Signing::Idle => {
            (false, signing.reason(), unsigned(*kind, signing))
        }
        Verdict::Begin { of: Part::Companion, .. } | Verdict::Take { step: Step::Forgo, .. } => {
            let companion = wished.companion.map_or_else(|| NONE.to_owned(), |kind| kind.to_string());
            (false, "Rotating", format!("moving the companion to {companion}"))
        }
        Verdict::Begin { .. } => (false, "Rotating", format!("moving to {}", wished.issuing)),
        Verdict::Take { .. } => (false, "Rotating", "taking the next step".to_owned()),
        Verdict::Waiting(missing) => (false, "Waiting", waits("waits for", missing)),
        Verdict::Paused(_) if !rotating => (false, "Paused", "paused is set: no rotation begins".to_owned()),
        Verdict::Paused(missing) => (false, "Paused", waits("paused is set; it would wait for", missing)),
        Verdict::WouldCutOff(missing) => (
            false,
            "WouldCutOff",
            format!(
                "{}: they would refuse every certificate of it. Change their policy, choose an ML-DSA algorithm, \
                 or force it",
                waits(&format!("{} is refused for the sake of", wished.issuing), missing)
            ),
        ),
        Verdict::Refused(why) => (false, "Refused", why.clone()),
    };
    Said { type_: SETTLED, holds, reason, message }
}

fn unsigned(kind: Issuing, signing: &Signing) -> String {
    match signing {
        Signing::Refused(why) => format!("the certificate for {kind} is refused: {why}"),
        Signing::Unavailable(why) => format!("{kind} is not signed yet, and is asked for again: {why}"),
        Signing::Key(why) => format!("the key of {kind} cannot be used: {why}"),
        Signing::Awaits | Signing::Idle if kind.signed_by == SignedBy::Import => format!(
            "{kind} waits for its certificate: have signed what trellis trust csr prints, and hand it over with \
             trellis trust import"
        ),
        Signing::Awaits | Signing::Idle => format!("{kind} waits for its certificate"),
    }
}

fn denials(wished: &TrustDomainSpec, own: &SpiffeId) -> Said {
    let wrong: Vec<_> = wished
        .denied
        .iter()
        .enumerate()
        .filter_map(|(index, denial)| {
            let error = match denial.what.parse::<Denied>() {
                Ok(Denied::Identity(identity)) if identity == *own => format!(
                    "{identity} is the CA itself: nobody could be told to let it in again; deny a serial or a key"
                ),
                Ok(_) => return None,
                Err(error) => error.to_string(),
            };
            Some(format!("denied[{index}].what: {error}"))
        })
        .collect();
    match wrong.is_empty() {
        true => Said {
            type_: DENIALS,
            holds: true,
            reason: "Applied",
            message: format!("{} denied", wished.denied.len()),
        },
        false => Said { type_: DENIALS, holds: false, reason: "Unreadable", message: wrong.join("; ") },
    }
}

/// A condition keeps the time of its last change of status.
fn dated(said: Said, before: &TrustDomainStatus, generation: i64, now: u64) -> Condition {
    let status = if said.holds { "True" } else { "False" };
    let same = before.conditions.iter().find(|known| known.type_ == said.type_ && known.status == status);
    Condition {
        type_: said.type_.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_owned(),
        message: said.message,
        last_transition_time: same.map_or_else(|| at(now), |known| known.last_transition_time.clone()),
        observed_generation: generation,
    }
}

fn waits(words: &str, missing: &[Missing]) -> String {
    let first: Vec<_> = missing.iter().take(3).map(|one| format!("{} ({})", one.pod, one.why)).collect();
    match missing.len().saturating_sub(first.len()) {
        0 => format!("{words} {}", first.join(", ")),
        more => format!("{words} {} and {more} more", first.join(", ")),
    }
}

fn waiting_for(missing: &[Missing]) -> Vec<WaitingFor> {
    let named = missing.iter().take(NAMED);
    named.map(|one| WaitingFor { pod: one.pod.clone(), why: one.why.clone() }).collect()
}

fn past(past: &Past) -> PastRotation {
    let kind = |kind: Option<Issuing>| kind.map_or_else(|| NONE.to_owned(), |kind| kind.to_string());
    PastRotation {
        number: past.number,
        of: past.of,
        from: kind(past.from),
        to: kind(past.to),
        rolled_back: past.rolled_back,
        started: at(past.started),
        ended: at(past.ended),
        phases: past.phases.iter().map(phase).collect(),
        cut_off: past.cut_off.clone(),
    }
}

fn phase(done: &Done) -> PastPhase {
    PastPhase { phase: done.phase, seconds: done.seconds, forced: done.forced }
}

/// Algorithm, generation and the first digits of the fingerprint.
pub fn named(kind: Issuing, fingerprint: &str) -> String {
    format!("{}.{} {}", kind.algorithm, kind.generation, short(fingerprint))
}

fn short(fingerprint: &str) -> String {
    fingerprint.get(..DIGITS).unwrap_or(fingerprint).to_owned()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn at(seconds: u64) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_secs(seconds))
}
