//! What one handshake showed, noted while it ran: rustls tells the signature schemes and the offers
//! only to its verifiers and resolvers, so these write them down here.

use std::sync::{Arc, OnceLock};

use rustls::{CommonState, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme};

use crate::algorithm::Algorithm;
use crate::credential::Credential;
use crate::leaf::Leaf;
use crate::policy::Policy;
use crate::posture::{Class, Fallback, Posture, group_name, is_post_quantum_group};
use crate::refusal::Refusal;
use crate::spiffe::SpiffeId;

/// The notes of one handshake. Clones share them.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Notes>);

#[derive(Default)]
struct Notes {
    /// What was demanded of it.
    policy: Policy,
    own: OnceLock<Arc<Leaf>>,
    peer: OnceLock<Arc<Leaf>>,
    credential: OnceLock<Arc<Credential>>,
    own_anchor: OnceLock<Arc<str>>,
    fallback: OnceLock<Fallback>,
    peer_signature: OnceLock<Algorithm>,
    claimed: OnceLock<SpiffeId>,
    rejection: OnceLock<Rejection>,
    offer: OnceLock<Offer>,
}

/// Why our verifier turned a peer away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    pub refusal: Refusal,
    pub detail: String,
}

/// What a client's hello offered: how ready it is, whether or not it was then accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub groups: Vec<String>,
    /// Whether any of the groups resists a quantum computer.
    pub post_quantum_group: bool,
    /// The signatures of ours that it can verify.
    pub signatures: Vec<Algorithm>,
}

impl Recorder {
    pub(crate) fn under(policy: Policy) -> Self {
        Self(Arc::new(Notes { policy, ..Notes::default() }))
    }

    /// What was demanded of the handshake.
    pub fn policy(&self) -> Policy {
        self.0.policy
    }

    /// What the connection negotiated, or `None` before its handshake has ended.
    pub fn posture(&self, connection: &CommonState) -> Option<Posture> {
        if connection.is_handshaking() || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        let group = connection.negotiated_key_exchange_group()?.name();
        let own = self.0.own.get();
        let peer = self.0.peer.get();
        let peer_signature = self.0.peer_signature.get().copied();
        Some(Posture {
            tls: "1.3",
            group: group_name(group),
            local_signature: own.map(|leaf| leaf.algorithm),
            peer_signature,
            peer_issuer_post_quantum: peer.is_some_and(|leaf| leaf.issuer_algorithm.is_post_quantum()),
            peer: peer.map(|leaf| leaf.identity.clone()),
            peer_serial: peer.map(|leaf| leaf.serial.clone()),
            credential: self.0.credential.get().cloned(),
            own_anchor: self.0.own_anchor.get().cloned(),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            policy: self.0.policy,
            fallback: self.0.fallback.get().copied(),
            class: Class::of(is_post_quantum_group(group), own.map(Arc::as_ref), peer.map(Arc::as_ref)),
        })
    }

    /// Why our verifier turned the peer away, if it did.
    pub fn rejection(&self) -> Option<&Rejection> {
        self.0.rejection.get()
    }

    /// Who the peer says it is. Nothing has been verified: only for what is logged about a refusal.
    pub fn claimed(&self) -> Option<&SpiffeId> {
        self.0.claimed.get()
    }

    /// The certificate that we presented, which need not be the one of the moment any more.
    pub fn presented(&self) -> Option<&Arc<Leaf>> {
        self.0.own.get()
    }

    /// What the client offered; on the accepting side only.
    pub fn offer(&self) -> Option<&Offer> {
        self.0.offer.get()
    }

    pub(crate) fn presents(&self, own: &Arc<Leaf>, anchor: &Arc<str>, fallback: Option<Fallback>) {
        if let Some(fallback) = fallback {
            let _ = self.0.fallback.set(fallback);
        }
        let _ = self.0.own.set(Arc::clone(own));
        let _ = self.0.own_anchor.set(Arc::clone(anchor));
    }

    pub(crate) fn claims(&self, identity: &SpiffeId) {
        let _ = self.0.claimed.set(identity.clone());
    }

    pub(crate) fn verified(&self, peer: Leaf, credential: Credential) {
        let _ = self.0.peer.set(Arc::new(peer));
        let _ = self.0.credential.set(Arc::new(credential));
    }

    pub(crate) fn signed(&self, scheme: SignatureScheme) {
        if let Some(algorithm) = Algorithm::of_scheme(scheme) {
            let _ = self.0.peer_signature.set(algorithm);
        }
    }

    pub(crate) fn rejects(&self, rejection: Rejection) {
        let _ = self.0.rejection.set(rejection);
    }

    pub(crate) fn offers(&self, groups: &[NamedGroup], schemes: &[SignatureScheme]) {
        let _ = self.0.offer.set(Offer {
            groups: groups.iter().map(|group| group_name(*group)).collect(),
            post_quantum_group: groups.iter().any(|group| is_post_quantum_group(*group)),
            signatures: Algorithm::ALL.into_iter().filter(|a| schemes.contains(&a.scheme())).collect(),
        });
    }
}
