//! What can happen to the state of trust, one change at a time.

use trellis_api::trust::{KeyAlgorithm, Part, Renewed};

use super::{
    keys::TokenKey,
    state::{Anchor, Pending},
};
use crate::federation::Held;

/// One step of a rotation. Who is named was cut off by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key is made, or about to be, that the new anchor shall have.
    Prepare(Pending),
    /// The pending key is not wanted any more.
    Forget,
    /// These keys were destroyed.
    Destroyed(Vec<TokenKey>),
    /// The new anchor joins the bundle.
    Begin { of: Part, anchor: Anchor },
    /// The companion issues no more; who holds a certificate of it drops it.
    Forgo,
    /// Certificates are issued from the new anchor, and those of the issuing one from now on of this
    /// algorithm.
    Issue { leaf: Option<KeyAlgorithm> },
    /// The old anchor leaves the bundle.
    Remove,
    /// The rotation has ended; the old anchor's key is destroyed.
    Settle,
    /// Old and new anchor change places.
    RollBack { leaf: Option<KeyAlgorithm> },
    /// A fresh key is due.
    Renew(Renewed),
    /// What needs no rotation.
    Adopt { leaf: Option<KeyAlgorithm>, dual: bool, denied: Vec<String> },
    /// What is held of other trust domains from now on.
    Federate(Vec<Held>),
}

impl Step {
    /// For logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "Prepare",
            Self::Forget => "Forget",
            Self::Destroyed(_) => "Destroyed",
            Self::Begin { .. } => "Begin",
            Self::Forgo => "Forgo",
            Self::Issue { .. } => "Issue",
            Self::Remove => "Remove",
            Self::Settle => "Settle",
            Self::RollBack { .. } => "RollBack",
            Self::Renew(_) => "Renew",
            Self::Adopt { .. } => "Adopt",
            Self::Federate(_) => "Federate",
        }
    }
}
