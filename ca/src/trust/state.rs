//! What the replicas of the CA share: the anchors, which of them issues, the rotation that is under way,
//! and those that ended. It is stored together with the keys, in one write, so that no crash can leave
//! the one without the other.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use trellis_api::trust::{Issuing, KeyAlgorithm, Phase};

use super::keys::TokenKey;
use crate::federation::Held;

/// Rotations that are remembered.
const PAST: usize = 20;
/// Names of those cut off that are remembered per rotation.
const CUT_OFF: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustState {
    /// Grows with every change that members are told.
    pub revision: u64,
    /// The revision in which the anchors that members trust last changed: what other trust domains are
    /// told. If it grew with every revision, two domains that follow each other would never come to rest.
    #[serde(default = "first")]
    pub anchors_revision: u64,
    /// The oldest first.
    pub anchors: Vec<Anchor>,
    /// Fingerprint of the anchor that certificates are issued from.
    pub issuing: String,
    /// The algorithm of leaves, for workloads that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<KeyAlgorithm>,
    /// Who is denied, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<String>,
    /// What is held of other trust domains, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Held>,
    /// The number of the last rotation that began.
    #[serde(default)]
    pub rotations: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// The key that the next rotation is to begin with, while its certificate is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// Keys in tokens that nothing rests on any more, and that are to be destroyed there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doomed: Vec<TokenKey>,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub past: VecDeque<Past>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anchor {
    pub fingerprint: String,
    #[serde(flatten)]
    pub kind: Issuing,
    /// PEM.
    pub certificate: String,
    /// Where its key is, unless that is kept with the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenKey>,
    /// PEM of the certificates above it, where an outside CA signed it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parents: String,
}

/// A key that waits for its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pending {
    #[serde(flatten)]
    pub kind: Issuing,
    /// Where the key is, or is to be made, unless it is kept with the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenKey>,
    /// SHA-256 of its SubjectPublicKeyInfo, once it is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The signing request, as PEM, once it is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    pub since: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    pub number: u32,
    /// Fingerprints.
    pub from: String,
    pub to: String,
    pub phase: Phase,
    #[serde(default)]
    pub rolling_back: bool,
    /// The algorithm of leaves before the rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_before: Option<KeyAlgorithm>,
    /// Seconds since 1970.
    pub started: u64,
    pub since: u64,
    #[serde(default)]
    pub phases: Vec<Done>,
    #[serde(default)]
    pub cut_off: Vec<String>,
}

/// A phase that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Done {
    pub phase: Phase,
    pub seconds: u64,
    #[serde(default)]
    pub forced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Past {
    pub number: u32,
    pub from: Issuing,
    pub to: Issuing,
    pub rolled_back: bool,
    pub started: u64,
    pub ended: u64,
    pub phases: Vec<Done>,
    #[serde(default)]
    pub cut_off: Vec<String>,
}

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
    Begin(Anchor),
    /// Certificates are issued from the new anchor, and from now on of this algorithm.
    Issue { leaf: Option<KeyAlgorithm> },
    /// The old anchor leaves the bundle.
    Remove,
    /// The rotation has ended; the old anchor's key is destroyed.
    Settle,
    /// Old and new anchor change places.
    RollBack { leaf: Option<KeyAlgorithm> },
    /// What needs no rotation.
    Adopt { leaf: Option<KeyAlgorithm>, denied: Vec<String> },
    /// What is held of other trust domains from now on.
    Federate(Vec<Held>),
}

/// What makes a stored state unusable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    #[error("it holds no anchor")]
    NoAnchor,
    #[error("{what} names the anchor {fingerprint}, which is not among the {anchors} that it holds")]
    Unknown { what: &'static str, fingerprint: String, anchors: usize },
}

fn first() -> u64 {
    1
}

impl TrustState {
    pub fn new(anchor: Anchor) -> Self {
        Self {
            revision: 1,
            anchors_revision: 1,
            issuing: anchor.fingerprint.clone(),
            anchors: vec![anchor],
            leaf: None,
            denied: Vec::new(),
            foreign: Vec::new(),
            rotations: 0,
            rotation: None,
            pending: None,
            doomed: Vec::new(),
            past: VecDeque::new(),
        }
    }

    pub fn check(&self) -> Result<(), StateError> {
        if self.anchors.is_empty() {
            return Err(StateError::NoAnchor);
        }
        let known = |what, fingerprint: &str| match self.anchor(fingerprint) {
            Some(_) => Ok(()),
            None => Err(StateError::Unknown {
                what,
                fingerprint: fingerprint.to_owned(),
                anchors: self.anchors.len(),
            }),
        };
        known("issuing", &self.issuing)?;
        if let Some(rotation) = &self.rotation {
            known("the rotation's new anchor", &rotation.to)?;
            known("the rotation's old anchor", &rotation.from)?;
        }
        Ok(())
    }

    pub fn anchor(&self, fingerprint: &str) -> Option<&Anchor> {
        self.anchors.iter().find(|anchor| anchor.fingerprint == fingerprint)
    }

    /// What members are told to trust. The anchor that is being removed is kept only for its key's sake,
    /// until the rotation has ended.
    pub fn trusted(&self) -> impl Iterator<Item = &Anchor> {
        let removed = self
            .rotation
            .as_ref()
            .filter(|rotation| rotation.phase == Phase::Removing)
            .map(|rotation| rotation.from.as_str());
        self.anchors.iter().filter(move |anchor| Some(anchor.fingerprint.as_str()) != removed)
    }

    /// The state after `step`, taken at `now`; `forced` names those whom it cuts off. A step that does not
    /// follow from this state changes nothing.
    #[must_use]
    pub fn after(&self, step: Step, now: u64, forced: Option<Vec<String>>) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        match (step, next.rotation.take()) {
            (Step::Begin(anchor), None) => {
                next.rotations += 1;
                next.rotation = Some(Rotation {
                    number: next.rotations,
                    from: next.issuing.clone(),
                    to: anchor.fingerprint.clone(),
                    phase: Phase::Distributing,
                    rolling_back: false,
                    leaf_before: next.leaf,
                    started: now,
                    since: now,
                    phases: Vec::new(),
                    cut_off: forced.unwrap_or_default().into_iter().take(CUT_OFF).collect(),
                });
                next.anchors.push(anchor);
                next.pending = None;
            }
            (Step::Issue { leaf }, Some(rotation)) if rotation.phase == Phase::Distributing => {
                next.leaf = leaf;
                next.issuing.clone_from(&rotation.to);
                next.rotation = Some(rotation.then(Phase::Issuing, now, forced));
            }
            (Step::Remove, Some(rotation)) if rotation.phase == Phase::Issuing => {
                next.rotation = Some(rotation.then(Phase::Removing, now, forced));
            }
            (Step::Settle, Some(rotation)) if rotation.phase == Phase::Removing => {
                let rotation = rotation.then(Phase::Removing, now, forced);
                if let (Some(from), Some(to)) = (self.anchor(&rotation.from), self.anchor(&rotation.to)) {
                    next.past.push_front(Past {
                        number: rotation.number,
                        from: from.kind,
                        to: to.kind,
                        rolled_back: rotation.rolling_back,
                        started: rotation.started,
                        ended: now,
                        phases: rotation.phases,
                        cut_off: rotation.cut_off,
                    });
                }
                next.past.truncate(PAST);
                next.doomed.extend(self.anchor(&rotation.from).and_then(|anchor| anchor.token.clone()));
                next.anchors.retain(|anchor| anchor.fingerprint != rotation.from);
            }
            (Step::RollBack { leaf }, Some(rotation)) if rotation.phase != Phase::Removing => {
                next.leaf = leaf;
                let mut back = rotation.then(Phase::Issuing, now, None);
                back.rolling_back = !back.rolling_back;
                std::mem::swap(&mut back.from, &mut back.to);
                next.issuing.clone_from(&back.to);
                next.rotation = Some(back);
            }
            (Step::Adopt { leaf, denied }, rotation) => {
                next.rotation = rotation;
                next.leaf = leaf;
                next.denied = denied;
            }
            (Step::Federate(foreign), rotation) => {
                next.rotation = rotation;
                next.foreign = foreign;
            }
            (Step::Prepare(pending), None) => next.pending = Some(pending),
            (Step::Forget, rotation) => {
                next.rotation = rotation;
                next.doomed.extend(next.pending.take().and_then(|pending| pending.token));
            }
            (Step::Destroyed(keys), rotation) => {
                next.rotation = rotation;
                next.doomed.retain(|key| !keys.contains(key));
            }
            _ => return self.clone(),
        }
        if !next.trusted().eq(self.trusted()) {
            next.anchors_revision = next.revision;
        }
        next
    }
}

impl Rotation {
    fn then(mut self, phase: Phase, now: u64, forced: Option<Vec<String>>) -> Self {
        let seconds = now.saturating_sub(self.since);
        self.phases.push(Done { phase: self.phase, seconds, forced: forced.is_some() });
        let room = CUT_OFF.saturating_sub(self.cut_off.len());
        self.cut_off.extend(forced.into_iter().flatten().take(room));
        self.phase = phase;
        self.since = now;
        self
    }
}

impl Step {
    /// For logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "Prepare",
            Self::Forget => "Forget",
            Self::Destroyed(_) => "Destroyed",
            Self::Begin(_) => "Begin",
            Self::Issue { .. } => "Issue",
            Self::Remove => "Remove",
            Self::Settle => "Settle",
            Self::RollBack { .. } => "RollBack",
            Self::Adopt { .. } => "Adopt",
            Self::Federate(_) => "Federate",
        }
    }
}
