//! Certificates as people ask for them: for any name and use, signed by their own key or by a CA that is
//! another such certificate. Certificates of the mesh's workloads are [`crate::issue`]'s.
//!
//! What is asked for comes as types that hold what they say, never as a text that something else would take
//! apart: no name can become two, and no attribute another.

mod key;
mod mesh;
mod name;
mod parent;
mod seen;
mod usage;

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa};
use time::OffsetDateTime;

pub use self::key::{Key, KeyKind, UnknownKind};
pub use self::name::{Name, NameError, Subject};
pub use self::parent::{MAX_CHAIN, Parent};
pub use self::seen::{Seen, certificates};
pub use self::usage::{Usage, Usages};

use crate::clock::rfc3339;
use crate::issue::{IssueError, SHORTEST_LEAF, backdate, dated};
use crate::key::KeyError;
use crate::signer::SignerError;

/// The shortest life that a certificate can be asked for.
pub const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// What a certificate shall say, whoever signs it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub subject: Subject,
    pub names: Vec<Name>,
    pub usages: Usages,
    pub role: Role,
    /// From its beginning, which is before the time of issue.
    pub life: Duration,
}

/// Whether a certificate may issue others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leaf,
    /// With so many CAs at most between it and a leaf, if there is a limit.
    Ca {
        path_length: Option<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CertifyError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("the certificate could not be signed: {0}")]
    Signer(#[from] SignerError),
    #[error("the life of {0:?} is too short: at least {SHORTEST:?}")]
    Life(Duration),
    #[error("a certificate that issues, or signs itself, needs a subject: give it a common name")]
    NoSubject,
    #[error("a certificate for nobody is good for nothing: give it a common name, or an alternative name")]
    Nobody,
    #[error(
        "its subject is that of its issuer, which verifiers take for a certificate that signs itself: choose another common name"
    )]
    SubjectOfIssuer,
    #[error("the issuer's chain is not PEM of 1 to {MAX_CHAIN} well-formed certificates")]
    Chain,
    #[error("the issuer's key is not that of its certificate")]
    OtherKey,
    #[error("the issuer's certificate {subject:?} is no CA: it must be CA:TRUE with key usage keyCertSign")]
    NotACa { subject: String },
    #[error("{subject:?} allows {allowed} CAs below it, and this would be one more: raise its maxPathLength")]
    PathLength { subject: String, allowed: u32 },
    #[error("a path length of {wanted} is more than the {allowed} that the issuers above leave")]
    PathLengthWider { wanted: u8, allowed: u8 },
    #[error("the chain would have more than {MAX_CHAIN} certificates")]
    TooDeep,
    #[error("the issuer's certificate {subject:?} is valid from {from} to {until}, and it is {now}")]
    IssuerNotValid { subject: String, from: String, until: String, now: String },
    #[error(
        "the issuer's certificate ends at {until}, too soon for another below it: renew the issuer first"
    )]
    IssuerEnds { until: String },
    #[error("the certificate that was made cannot be read back")]
    Unreadable,
}

impl Wanted {
    /// A certificate over `key` that is signed by it.
    pub fn self_signed(&self, key: &Key, now: SystemTime) -> Result<Vec<u8>, CertifyError> {
        if self.subject.is_empty() {
            return Err(CertifyError::NoSubject);
        }
        let (params, _) = self.params(now)?;
        let certificate = params.self_signed(key).map_err(signing)?;
        Ok(certificate.der().to_vec())
    }

    /// All that does not depend on the issuer.
    fn params(&self, now: SystemTime) -> Result<(CertificateParams, Role), CertifyError> {
        if self.life < SHORTEST {
            return Err(CertifyError::Life(self.life));
        }
        if self.subject.is_empty() && self.names.is_empty() {
            return Err(CertifyError::Nobody);
        }
        if self.subject.is_empty() && self.role != Role::Leaf {
            return Err(CertifyError::NoSubject);
        }
        let mut params = dated(now, self.life, backdate(self.life))?;
        params.distinguished_name = self.subject.distinguished()?;
        params.subject_alt_names = self.names.iter().map(Name::general).collect::<Result<_, _>>()?;
        params.is_ca = is_ca(self.role);
        params.key_usages = self.usages.of_key(self.role);
        params.extended_key_usages = self.usages.extended();
        params.use_authority_key_identifier_extension = true;
        Ok((params, self.role))
    }
}

fn is_ca(role: Role) -> IsCa {
    match role {
        Role::Leaf => IsCa::ExplicitNoCa,
        Role::Ca { path_length: None } => IsCa::Ca(BasicConstraints::Unconstrained),
        Role::Ca { path_length: Some(length) } => IsCa::Ca(BasicConstraints::Constrained(length)),
    }
}

/// Puts the life of a certificate inside that of its issuer.
fn within(params: &mut CertificateParams, issuer: &Seen, now: SystemTime) -> Result<(), CertifyError> {
    let (from, until) = (issuer.not_before, issuer.not_after);
    if now < from || until <= now {
        return Err(CertifyError::IssuerNotValid {
            subject: issuer.subject.clone(),
            from: rfc3339(from),
            until: rfc3339(until),
            now: rfc3339(now),
        });
    }
    if SystemTime::from(params.not_after) > until {
        if until.duration_since(now).unwrap_or_default() < SHORTEST_LEAF {
            return Err(CertifyError::IssuerEnds { until: rfc3339(until) });
        }
        params.not_after = OffsetDateTime::from(until);
    }
    if SystemTime::from(params.not_before) < from {
        params.not_before = OffsetDateTime::from(from);
    }
    Ok(())
}

fn signing(error: rcgen::Error) -> CertifyError {
    CertifyError::Signer(SignerError::Local(error.to_string()))
}

#[cfg(test)]
mod tests;
