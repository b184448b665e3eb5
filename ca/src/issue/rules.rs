//! What a request may ask for, and how it is told otherwise.

use std::time::Duration;

use trellis_pki::{credential::Denied, csr::CsrError, key::PublicKey, spiffe::SpiffeId};

use super::{Ask, Life};
use crate::{
    refuse::{Reason, Refusal},
    trust::authority::Current,
};

/// The shortest life that makes sense for a renewal in its last sixth.
const SHORTEST: Duration = Duration::from_secs(10 * 60);

pub(super) fn validity(ask: &Ask<'_>, longest: Duration) -> Result<Duration, Refusal> {
    let shortest = SHORTEST.min(longest);
    let wanted = match ask.life {
        Life::Longest => longest,
        Life::Exactly(wanted) => wanted,
        Life::AtMost(most) => most.min(longest),
    };
    if (shortest..=longest).contains(&wanted) {
        return Ok(wanted);
    }
    let field = ask.way.validity_field();
    let unit = if field.ends_with("Hours") { 60 * 60 } else { 1 };
    let (wanted, from) = (wanted.as_secs() / unit, shortest.as_secs().div_ceil(unit));
    Err(Refusal::new(
        Reason::Validity,
        format!(
            "{field} is {wanted}; ask for {from} to {}, or for {} to let the CA decide",
            longest.as_secs() / unit,
            if field == "validity_seconds" { "0" } else { "nothing" },
        ),
    ))
}

pub(super) fn csr_refusal(field: &str, error: &CsrError) -> Refusal {
    let reason = match error {
        CsrError::TooLarge { .. } | CsrError::Malformed | CsrError::MalformedKey => Reason::MalformedCsr,
        CsrError::TrailingBytes(_) => Reason::TrailingBytes,
        CsrError::KeyTypeNotAllowed { .. } | CsrError::AlgorithmMismatch { .. } => Reason::KeyType,
        CsrError::BadSignature | CsrError::BadProof => Reason::BadSelfSignature,
    };
    Refusal::new(reason, format!("{field}: {error}"))
}

/// Who is denied gets nothing new either.
pub(super) fn check_denials(current: &Current, identity: &SpiffeId, key: &PublicKey) -> Result<(), Refusal> {
    let denied = [Denied::Identity(identity.clone()), Denied::Key(key.fingerprint())];
    match denied.into_iter().find(|denied| current.denials.contains(denied)) {
        None => Ok(()),
        Some(denied) => Err(Refusal::new(
            Reason::Denied,
            format!("{denied} is denied; whoever operates the mesh lifts that with trellis trust allow"),
        )),
    }
}

/// Names in a request change nothing, but who asks for a foreign one is up to something.
pub(super) fn check_names(
    field: &str,
    asked: &[String],
    identity: &SpiffeId,
    own: &[String],
) -> Result<(), Refusal> {
    match asked.iter().find(|name| name.as_str() != identity.as_str() && !own.contains(name)) {
        None => Ok(()),
        Some(foreign) => Err(Refusal::new(
            Reason::ForeignName,
            format!(
                "{field}: it asks for the name {foreign:?}, which is not one of {identity}; leave names out, the CA \
                 decides them"
            ),
        )),
    }
}
