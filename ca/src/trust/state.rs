//! What the replicas of the CA share: the anchors, which of them issues, the rotation that is under way,
//! and those that ended. It is stored together with the keys, in one write, so that no crash can leave
//! the one without the other.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use trellis_api::trust::{Issuing, KeyAlgorithm, Part, Phase, Renewed};

use super::{keys::TokenKey, step::Step};
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
    /// Fingerprint of the anchor that companions are issued from, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<String>,
    /// The algorithm of leaves, for workloads that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<KeyAlgorithm>,
    /// Whether workloads that do not decide for themselves hold a companion.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dual: bool,
    /// Who is denied, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<String>,
    /// What is held of other trust domains, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Held>,
    /// Fresh keys that renewal has come to, at most one of each part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<Renewed>,
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
    /// What the rotation that begins with it is of.
    #[serde(default, skip_serializing_if = "is_issuing")]
    pub of: Part,
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
    #[serde(default, skip_serializing_if = "is_issuing")]
    pub of: Part,
    /// Fingerprints. A companion may come where there was none, and go without another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
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
    #[serde(default, skip_serializing_if = "is_issuing")]
    pub of: Part,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Issuing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Issuing>,
    pub rolled_back: bool,
    pub started: u64,
    pub ended: u64,
    pub phases: Vec<Done>,
    #[serde(default)]
    pub cut_off: Vec<String>,
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
            companion: None,
            leaf: None,
            dual: false,
            denied: Vec::new(),
            foreign: Vec::new(),
            renewed: Vec::new(),
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
        let rotation = self.rotation.as_ref();
        for (what, fingerprint) in [
            ("companion", self.companion.as_ref()),
            ("the rotation's new anchor", rotation.and_then(|rotation| rotation.to.as_ref())),
            ("the rotation's old anchor", rotation.and_then(|rotation| rotation.from.as_ref())),
        ] {
            fingerprint.map_or(Ok(()), |fingerprint| known(what, fingerprint))?;
        }
        Ok(())
    }

    /// What is issued from, of either part.
    pub fn issuing(&self, of: Part) -> Option<&Anchor> {
        match of {
            Part::Issuing => self.anchor(&self.issuing),
            Part::Companion => self.anchor(self.companion.as_ref()?),
        }
    }

    /// What is issued from once the rotation that is under way has ended.
    pub fn destined(&self, of: Part) -> Option<&Anchor> {
        match &self.rotation {
            Some(rotation) if rotation.of == of => self.anchor(rotation.to.as_ref()?),
            _ => self.issuing(of),
        }
    }

    /// The renewal that the rotation came of, if it did.
    pub fn renewal_of(&self, rotation: &Rotation) -> Option<Renewed> {
        let kind = self.anchor(rotation.to.as_ref()?)?.kind;
        let is = |renewed: &&Renewed| (renewed.of, renewed.kind) == (rotation.of, kind);
        self.renewed.iter().find(is).copied()
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
            .and_then(|rotation| rotation.from.as_deref());
        self.anchors.iter().filter(move |anchor| Some(anchor.fingerprint.as_str()) != removed)
    }

    /// The state after `step`, taken at `now`; `forced` names those whom it cuts off. A step that does not
    /// follow from this state changes nothing.
    #[must_use]
    pub fn after(&self, step: Step, now: u64, forced: Option<Vec<String>>) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        match (step, next.rotation.take()) {
            (Step::Begin { of, anchor }, None) => {
                let cut_off = forced.unwrap_or_default().into_iter().take(CUT_OFF).collect();
                let to = Some(anchor.fingerprint.clone());
                next.rotation = Some(Rotation { cut_off, ..next.begun(of, to, now) });
                next.anchors.push(anchor);
                next.pending = None;
            }
            (Step::Forgo, None) if next.companion.is_some() => {
                let phase = Phase::Issuing;
                next.rotation = Some(Rotation { phase, ..next.begun(Part::Companion, None, now) });
                next.companion = None;
            }
            (Step::Issue { leaf }, Some(rotation)) if rotation.phase == Phase::Distributing => {
                next.issue_from(&rotation, leaf);
                next.go_on(rotation.then(Phase::Issuing, now, forced), now);
            }
            (Step::Remove, Some(rotation)) if rotation.phase == Phase::Issuing => {
                next.rotation = Some(rotation.then(Phase::Removing, now, forced));
            }
            (Step::Settle, Some(rotation)) if rotation.phase == Phase::Removing => {
                next.end(rotation.then(Phase::Removing, now, forced), now);
            }
            (Step::RollBack { leaf }, Some(rotation)) if rotation.phase != Phase::Removing => {
                let mut back = rotation.then(Phase::Issuing, now, None);
                back.rolling_back = !back.rolling_back;
                std::mem::swap(&mut back.from, &mut back.to);
                next.issue_from(&back, leaf);
                next.go_on(back, now);
            }
            (Step::Adopt { leaf, dual, denied }, rotation) => {
                next.rotation = rotation;
                next.leaf = leaf;
                next.dual = dual;
                next.denied = denied;
            }
            (Step::Federate(foreign), rotation) => {
                next.rotation = rotation;
                next.foreign = foreign;
            }
            (Step::Renew(renewed), None) => {
                next.renewed.retain(|before| before.of != renewed.of);
                next.renewed.push(renewed);
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

    fn begun(&mut self, of: Part, to: Option<String>, now: u64) -> Rotation {
        self.rotations += 1;
        Rotation {
            number: self.rotations,
            of,
            from: self.issuing(of).map(|anchor| anchor.fingerprint.clone()),
            to,
            phase: Phase::Distributing,
            rolling_back: false,
            leaf_before: self.leaf,
            started: now,
            since: now,
            phases: Vec::new(),
            cut_off: Vec::new(),
        }
    }

    fn issue_from(&mut self, rotation: &Rotation, leaf: Option<KeyAlgorithm>) {
        match (rotation.of, &rotation.to) {
            (Part::Issuing, Some(to)) => {
                self.leaf = leaf;
                self.issuing.clone_from(to);
            }
            // Something always issues.
            (Part::Issuing, None) => {}
            (Part::Companion, to) => self.companion.clone_from(to),
        }
    }

    /// Where nothing is to be removed, a rotation has ended.
    fn go_on(&mut self, rotation: Rotation, now: u64) {
        match rotation.from {
            Some(_) => self.rotation = Some(rotation),
            None => self.end(rotation, now),
        }
    }

    fn end(&mut self, rotation: Rotation, now: u64) {
        let kind = |fingerprint: Option<&String>| self.anchor(fingerprint?).map(|anchor| anchor.kind);
        let (from, to) = (kind(rotation.from.as_ref()), kind(rotation.to.as_ref()));
        self.past.push_front(Past {
            number: rotation.number,
            of: rotation.of,
            from,
            to,
            rolled_back: rotation.rolling_back,
            started: rotation.started,
            ended: now,
            phases: rotation.phases,
            cut_off: rotation.cut_off,
        });
        self.past.truncate(PAST);
        let removed = rotation.from.as_ref().and_then(|from| self.anchor(from));
        let token = removed.and_then(|anchor| anchor.token.clone());
        self.doomed.extend(token);
        self.anchors.retain(|anchor| Some(&anchor.fingerprint) != rotation.from.as_ref());
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_issuing(of: &Part) -> bool {
    *of == Part::Issuing
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
