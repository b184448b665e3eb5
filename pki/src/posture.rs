//! What a connection really negotiated, and how well that resists a quantum computer.

use std::fmt;
use std::sync::Arc;

use rustls::NamedGroup;

use crate::algorithm::Algorithm;
use crate::credential::Credential;
use crate::leaf::Leaf;
use crate::policy::{Ladder, Policy};
use crate::spiffe::SpiffeId;

/// How well a TLS connection resists a quantum computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The key exchange resists, and so does every signature: each side's own and its issuer's.
    Pq,
    /// Only the key exchange resists.
    Hybrid,
    /// A recording can be opened later.
    Classical,
}

/// Why a workload presented its companion instead of its identity, as the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// None of the signatures that the peer can verify is one of ML-DSA.
    PeerCannotVerifyMlDsa,
    /// Our policy wants classical signatures, and the peer verifies them.
    PolicyIsClassical,
}

/// What one connection negotiated, read from the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Posture {
    pub tls: &'static str,
    /// The key exchange group's name.
    pub group: String,
    /// What we signed the handshake with, if we presented a certificate.
    pub local_signature: Option<Algorithm>,
    /// What the peer signed the handshake with, if it presented a certificate.
    pub peer_signature: Option<Algorithm>,
    /// Whether the issuer's signature on the peer's certificate resists a quantum computer.
    pub peer_issuer_post_quantum: bool,
    pub peer: Option<SpiffeId>,
    pub peer_serial: Option<String>,
    /// What the peer proved, to be judged again when trust changes.
    pub credential: Option<Arc<Credential>>,
    /// The anchor that the peer was to believe us by, if we presented a certificate.
    pub own_anchor: Option<Arc<str>>,
    pub resumed: bool,
    /// Why we presented something weaker than our own identity.
    pub fallback: Option<Fallback>,
    /// What was demanded of the handshake.
    pub policy: Policy,
    pub class: Class,
}

impl Fallback {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerCannotVerifyMlDsa => "peer_cannot_verify_ml_dsa",
            Self::PolicyIsClassical => POLICY_IS_CLASSICAL,
        }
    }
}

const POLICY_IS_CLASSICAL: &str = "policy_is_classical";

impl Posture {
    /// Why it is weaker than the strongest, as the metric's label.
    pub fn weakness(&self) -> Option<&'static str> {
        let classical = |one: Option<Algorithm>| one.is_some_and(|one| !one.is_post_quantum());
        match (self.class, self.fallback) {
            (Class::Pq, _) => None,
            (Class::Classical, _) if self.policy.key_exchange == Ladder::Classical => {
                Some(POLICY_IS_CLASSICAL)
            }
            (Class::Classical, _) => Some("peer_offered_no_hybrid_group"),
            (Class::Hybrid, Some(fallback)) => Some(fallback.as_str()),
            (Class::Hybrid, None) if classical(self.peer_signature) || !self.peer_issuer_post_quantum => {
                Some("classical_signature")
            }
            (Class::Hybrid, None) if self.local_signature.is_some() => Some("own_classical_signature"),
            (Class::Hybrid, None) => Some("classical_signature"),
        }
    }
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Pq, Self::Hybrid, Self::Classical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pq => "pq",
            Self::Hybrid => "hybrid",
            Self::Classical => "classical",
        }
    }

    /// Judged on the certificates that were presented; where nobody signed anything, nothing resists.
    pub(crate) fn of(group_resists: bool, own: Option<&Leaf>, peer: Option<&Leaf>) -> Self {
        let mut leaves = own.into_iter().chain(peer).peekable();
        let signed = leaves.peek().is_some();
        match group_resists {
            true if signed && leaves.all(Leaf::is_post_quantum) => Self::Pq,
            true => Self::Hybrid,
            false => Self::Classical,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn is_post_quantum_group(group: NamedGroup) -> bool {
    /// SecP384r1MLKEM1024, which rustls does not name.
    const SECP384R1_MLKEM1024: u16 = 0x11ed;
    matches!(
        group,
        NamedGroup::X25519MLKEM768
            | NamedGroup::secp256r1MLKEM768
            | NamedGroup::MLKEM512
            | NamedGroup::MLKEM768
            | NamedGroup::MLKEM1024
    ) || u16::from(group) == SECP384R1_MLKEM1024
}

/// The group's name as the documents that define it spell it.
pub(crate) fn group_name(group: NamedGroup) -> String {
    match group {
        NamedGroup::secp256r1MLKEM768 => "SecP256r1MLKEM768".to_owned(),
        other => match other.as_str() {
            Some(name) => name.to_owned(),
            None => format!("0x{:04x}", u16::from(other)),
        },
    }
}
