//! What a connection must resist: one ladder for the key exchange and one for signatures.

use std::fmt;
use std::str::FromStr;

use crate::algorithm::Algorithm;
use crate::posture::{Class, Posture};

/// How far towards post-quantum a side of the handshake has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ladder {
    /// Nothing weaker is offered or accepted.
    #[default]
    Require,
    /// Post-quantum first, classical behind it.
    Prefer,
    /// Classical only, for peers and measurements from before.
    Classical,
}

/// The two ladders. The default requires post-quantum on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    pub key_exchange: Ladder,
    pub signatures: Ladder,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}: use one of require, prefer, classical")]
pub struct UnknownLadder(pub String);

impl Ladder {
    pub const ALL: [Self; 3] = [Self::Require, Self::Prefer, Self::Classical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Classical => "classical",
        }
    }
}

impl Policy {
    /// Whether a certificate's key, or the signature on it, may be of `algorithm`.
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        match self.signatures {
            Ladder::Require => algorithm.is_post_quantum(),
            Ladder::Prefer => true,
            Ladder::Classical => !algorithm.is_post_quantum(),
        }
    }
}

impl Ladder {
    /// The ladder under which is good whatever is good under one of the two.
    fn either(self, other: Self) -> Self {
        if self == other { self } else { Self::Prefer }
    }
}

impl Policy {
    /// The policy under which is good whatever is good under one of the two.
    pub fn either(self, other: Self) -> Self {
        Self {
            key_exchange: self.key_exchange.either(other.key_exchange),
            signatures: self.signatures.either(other.signatures),
        }
    }

    /// Whether a handshake under this policy could come to what a connection came to: one that is open may go
    /// on, unless none like it could begin. Our own certificate is its peer's to judge, but one that we
    /// showed in place of our identity is ours to withhold.
    pub fn admits(&self, posture: &Posture) -> bool {
        let key_exchange = match self.key_exchange {
            Ladder::Require => posture.class != Class::Classical,
            Ladder::Prefer => true,
            Ladder::Classical => posture.class == Class::Classical,
        };
        let stood_in = posture.local_signature.filter(|_| posture.fallback.is_some());
        let signed = posture.peer_signature.into_iter().chain(stood_in).all(|one| self.allows(one));
        let issued = match (posture.peer_signature, self.signatures) {
            (None, _) | (_, Ladder::Prefer) => true,
            (Some(_), Ladder::Require) => posture.peer_issuer_post_quantum,
            (Some(_), Ladder::Classical) => !posture.peer_issuer_post_quantum,
        };
        key_exchange && signed && issued
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Ladder {
    type Err = UnknownLadder;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|ladder| ladder.as_str() == text)
            .ok_or_else(|| UnknownLadder(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ladders_are_read_as_users_type_them_and_errors_name_the_choices() {
        for ladder in Ladder::ALL {
            assert_eq!(ladder.to_string().parse(), Ok(ladder));
        }
        for wrong in ["", "Require", "required", "strict"] {
            let error = wrong.parse::<Ladder>().unwrap_err().to_string();
            assert!(error.contains("require, prefer, classical"), "{error}");
        }
    }

    #[test]
    fn nothing_classical_is_allowed_unless_somebody_said_so() {
        let policy = Policy::default();
        assert_eq!((policy.key_exchange, policy.signatures), (Ladder::Require, Ladder::Require));
        let allowed: Vec<_> = Algorithm::ALL.into_iter().filter(|a| policy.allows(*a)).collect();
        assert_eq!(allowed, [Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87]);
    }
}
