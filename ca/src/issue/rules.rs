//! What a request may ask for, and how it is told otherwise.

use std::time::Duration;

use trellis_pki::{
    credential::Denied, csr::CsrError, issue::IssueError, key::PublicKey, signer::SignerError,
    spiffe::SpiffeId,
};

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

pub(super) fn cannot_issue(identity: &SpiffeId, error: &IssueError) -> Refusal {
    tracing::error!(%identity, %error, "cannot issue");
    let reason = match error {
        IssueError::Signer(SignerError::Away(_)) => Reason::KeyUnavailable,
        _ => Reason::Internal,
    };
    Refusal::new(reason, format!("the CA cannot issue: {error}"))
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

/// The token in the values of `authorization`, of which there must be exactly one.
pub fn bearer_token<'a>(mut values: impl Iterator<Item = Result<&'a str, ()>>) -> Result<&'a str, Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            Reason::MissingToken,
            format!("authorization: {what}; send \"Bearer\" and the pod's ServiceAccount token"),
        )
    };
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing("it must be there exactly once"));
    };
    let text = value.map_err(|()| missing("it is not text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(missing("it is no bearer token")),
    }
}

/// The DER in a certification request in PEM, which stands alone.
pub fn csr_pem(field: &str, text: &[u8]) -> Result<Vec<u8>, Refusal> {
    const BLOCK: &str = "CERTIFICATE REQUEST";
    let malformed = || {
        Refusal::new(
            Reason::MalformedCsr,
            format!("{field} ({} bytes) is not PEM of one {BLOCK}; send exactly that", text.len()),
        )
    };
    let mut blocks = pem::parse_many(text).map_err(|_| malformed())?.into_iter();
    match (blocks.next(), blocks.next()) {
        (Some(block), None) if block.tag() == BLOCK => Ok(block.into_contents()),
        _ => Err(malformed()),
    }
}
