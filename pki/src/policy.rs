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
    use crate::posture::Fallback;

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

    fn posture(class: Class, peer: Option<Algorithm>, local: Algorithm) -> Posture {
        Posture {
            tls: "1.3",
            group: String::new(),
            local_signature: Some(local),
            peer_signature: peer,
            peer_issuer_post_quantum: peer.is_some_and(Algorithm::is_post_quantum),
            peer: None,
            peer_serial: None,
            credential: None,
            own_anchor: None,
            resumed: false,
            fallback: None,
            policy: Policy::default(),
            class,
        }
    }

    #[test]
    fn an_open_connection_is_admitted_where_one_like_it_could_begin() {
        use Algorithm::{EcdsaP256, MlDsa65, MlDsa87};
        use Ladder::{Classical, Prefer, Require};
        let strong = posture(Class::Pq, Some(MlDsa87), MlDsa65);
        let old_peer = posture(Class::Hybrid, Some(EcdsaP256), MlDsa65);
        let own_old = posture(Class::Hybrid, Some(MlDsa65), EcdsaP256);
        let stood_in = Posture { fallback: Some(Fallback::PeerCannotVerifyMlDsa), ..own_old.clone() };
        let classical = posture(Class::Classical, Some(MlDsa65), MlDsa65);
        let nameless = posture(Class::Hybrid, None, MlDsa65);
        for (connection, key_exchange, signatures) in [
            (strong, [false, true, true], [false, true, true]),
            (old_peer, [false, true, true], [true, true, false]),
            // Its own certificate is the peer's to judge, unless it was shown in place of the identity.
            (own_old, [false, true, true], [false, true, true]),
            (stood_in, [false, true, true], [false, true, false]),
            (classical, [true, true, false], [false, true, true]),
            (nameless, [false, true, true], [true, true, true]),
        ] {
            let ladders = [Classical, Prefer, Require];
            let by = |policy: Policy| policy.admits(&connection);
            let found = ladders.map(|key_exchange| by(Policy { key_exchange, signatures: Prefer }));
            assert_eq!(found, key_exchange, "{connection:?}");
            let found = ladders.map(|signatures| by(Policy { key_exchange: Prefer, signatures }));
            assert_eq!(found, signatures, "{connection:?}");
        }
    }

    #[test]
    fn what_is_weaker_says_why() {
        use Algorithm::{EcdsaP256, MlDsa65};
        let classical = posture(Class::Classical, Some(MlDsa65), MlDsa65);
        let wanted = Policy { key_exchange: Ladder::Classical, ..Policy::default() };
        let stood_in = Some(Fallback::PeerCannotVerifyMlDsa);
        for (connection, why) in [
            (posture(Class::Pq, Some(MlDsa65), MlDsa65), None),
            (Posture { policy: wanted, ..classical.clone() }, Some("policy_is_classical")),
            (classical, Some("peer_offered_no_hybrid_group")),
            (posture(Class::Hybrid, Some(EcdsaP256), MlDsa65), Some("classical_signature")),
            (posture(Class::Hybrid, Some(MlDsa65), EcdsaP256), Some("own_classical_signature")),
            (
                Posture { fallback: stood_in, ..posture(Class::Hybrid, Some(MlDsa65), EcdsaP256) },
                Some("peer_cannot_verify_ml_dsa"),
            ),
        ] {
            assert_eq!(connection.weakness(), why, "{connection:?}");
        }
    }

    #[test]
    fn what_is_good_under_either_of_two_is_good_under_both_together() {
        use Ladder::{Classical, Prefer, Require};
        for (one, other, both) in
            [(Require, Require, Require), (Require, Prefer, Prefer), (Classical, Require, Prefer)]
        {
            let policy = |ladder| Policy { key_exchange: ladder, signatures: ladder };
            assert_eq!(policy(one).either(policy(other)), policy(both));
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
