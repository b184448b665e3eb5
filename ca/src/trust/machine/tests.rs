//! Rotations from beginning to end, with members that follow, lag, hide and die.

mod companion;
mod operators;
mod renewal;

use std::collections::BTreeSet;

use trellis_api::{
    proto::ca::Holding,
    trust::{Denial, Force, SignedBy},
};

use super::*;
use crate::trust::{
    census::Origin,
    keys::TokenKey,
    state::{Anchor, Pending},
};

const ECDSA: Issuing =
    Issuing { algorithm: KeyAlgorithm::EcdsaP256, generation: 1, signed_by: SignedBy::Itself };
const ML_DSA: Issuing =
    Issuing { algorithm: KeyAlgorithm::MlDsa65, generation: 1, signed_by: SignedBy::Itself };
const OLD: &str = "old";
const NEW: &str = "new";

fn anchor(fingerprint: &str, kind: Issuing) -> Anchor {
    Anchor {
        fingerprint: fingerprint.to_owned(),
        kind,
        certificate: String::new(),
        token: None,
        parents: String::new(),
    }
}

fn bounds() -> Bounds {
    let leaves = KeyAlgorithm::ALL.into_iter().filter(|one| *one != KeyAlgorithm::MlDsa44).collect();
    Bounds {
        leaves,
        own: SpiffeId::new("cluster.local", "trellis-system", "trellis-ca").unwrap(),
        advance: Duration::ZERO,
    }
}

/// A mesh that obeys at once, unless told otherwise.
struct Mesh {
    state: TrustState,
    wished: TrustDomainSpec,
    census: Census,
    now: u64,
}

impl Mesh {
    fn new(from: Issuing, to: Issuing, members: &[&str]) -> Self {
        let mut mesh = Self {
            state: TrustState::new(anchor(OLD, from)),
            wished: TrustDomainSpec::of(to),
            census: Census::default(),
            now: 1_000,
        };
        let pods: BTreeSet<String> = members.iter().map(ToString::to_string).collect();
        mesh.census.alive(&pods);
        for pod in members {
            mesh.obey(pod);
        }
        mesh
    }

    fn holding(&self, pod: &str) -> Holding {
        Holding {
            pod: pod.to_owned(),
            revision: self.state.revision,
            anchors: self.state.trusted().map(|anchor| anchor.fingerprint.clone()).collect(),
            leaf_anchor: self.state.issuing.clone(),
            companion_anchor: self.state.companion.clone().unwrap_or_default(),
            ..Holding::default()
        }
    }

    /// `pod` holds what it should.
    fn obey(&mut self, pod: &str) {
        self.say(self.holding(pod));
    }

    fn say(&mut self, holding: Holding) {
        self.census.holds(Origin::Member(0), holding);
    }

    fn decide(&self) -> Verdict {
        let wished = self.wished.renewed(&self.state.renewed);
        decide(&wished, &bounds(), &self.state, &self.census, self.now)
    }

    /// Takes what is decided; says what it was.
    fn step(&mut self) -> Verdict {
        let verdict = self.decide();
        self.now += 10;
        match verdict.clone() {
            Verdict::Begin { of, kind, cut_off } => {
                let name = match of {
                    Part::Issuing if self.state.anchor(NEW).is_some() => format!("newer-{kind}"),
                    Part::Issuing => NEW.to_owned(),
                    Part::Companion => format!("companion-{}", kind.generation),
                };
                let step = Step::Begin { of, anchor: anchor(&name, kind) };
                self.state = self.state.after(step, self.now, cut_off);
            }
            Verdict::Take { step, cut_off } => self.state = self.state.after(step, self.now, cut_off),
            _ => {}
        }
        verdict
    }

    fn phase(&self) -> Option<Phase> {
        self.state.rotation.as_ref().map(|rotation| rotation.phase)
    }

    fn trusts(&self) -> Vec<&str> {
        self.state.trusted().map(|anchor| anchor.fingerprint.as_str()).collect()
    }
}

fn waiting_for(verdict: &Verdict) -> Vec<&str> {
    match verdict {
        Verdict::Waiting(missing) => missing.iter().map(|one| one.pod.as_str()).collect(),
        other => panic!("it does not wait: {other:?}"),
    }
}

#[test]
fn a_rotation_waits_for_every_member_in_every_phase() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a", "shop/b"]);
    assert!(matches!(mesh.step(), Verdict::Begin { kind: ML_DSA, cut_off: None, .. }));
    assert_eq!((mesh.phase(), mesh.trusts()), (Some(Phase::Distributing), vec![OLD, NEW]));
    assert_eq!(mesh.state.issuing, OLD, "nobody gets a certificate that others would refuse");
    assert_eq!(waiting_for(&mesh.step()), ["shop/a", "shop/b"]);
    mesh.obey("shop/a");
    assert_eq!(waiting_for(&mesh.step()), ["shop/b"]);
    mesh.obey("shop/b");

    assert!(matches!(mesh.step(), Verdict::Take { step: Step::Issue { .. }, .. }));
    assert_eq!((mesh.phase(), mesh.state.issuing.as_str()), (Some(Phase::Issuing), NEW));
    assert_eq!(waiting_for(&mesh.step()), ["shop/a", "shop/b"]);
    mesh.obey("shop/b");
    assert_eq!(waiting_for(&mesh.step()), ["shop/a"]);
    mesh.obey("shop/a");

    assert!(matches!(mesh.step(), Verdict::Take { step: Step::Remove, .. }));
    assert_eq!((mesh.phase(), mesh.trusts()), (Some(Phase::Removing), vec![NEW]));
    let draining = Holding { draining: 2, ..mesh.holding("shop/a") };
    mesh.say(draining);
    mesh.obey("shop/b");
    assert_eq!(waiting_for(&mesh.step()), ["shop/a"], "it has connections that rest on the old anchor");
    mesh.obey("shop/a");

    assert!(matches!(mesh.step(), Verdict::Take { step: Step::Settle, .. }));
    assert_eq!(mesh.phase(), None);
    assert_eq!(mesh.state.anchors.len(), 1, "with the anchor goes its key");
    assert_eq!(mesh.decide(), Verdict::Settled);
    let past = &mesh.state.past[0];
    assert_eq!(
        (past.from, past.to, past.rolled_back, past.phases.len()),
        (Some(ECDSA), Some(ML_DSA), false, 3)
    );
}

#[test]
fn who_is_alive_and_out_of_reach_is_waited_for_until_it_is_gone() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a", "shop/b"]);
    mesh.step();
    mesh.obey("shop/a");
    mesh.obey("shop/b");
    mesh.census.left(Origin::Member(0), "shop/b");
    let Verdict::Waiting(missing) = mesh.step() else { panic!("it does not wait") };
    assert_eq!(missing[0].why, "is alive and not in reach of the CA");
    // A stream that was replaced takes nothing with it when it ends.
    mesh.census.holds(Origin::Member(7), mesh.holding("shop/b"));
    mesh.census.left(Origin::Member(0), "shop/b");
    assert!(matches!(mesh.decide(), Verdict::Take { .. }));
    // Nor does it take the word from its successor, if it still speaks.
    mesh.census.holds(Origin::Member(6), mesh.holding("shop/b"));
    mesh.census.lost(Origin::Member(6));
    assert!(matches!(mesh.decide(), Verdict::Take { .. }));
    mesh.census.lost(Origin::Member(7));
    assert_eq!(waiting_for(&mesh.decide()), ["shop/b"]);
    mesh.census.alive(&BTreeSet::from(["shop/a".to_owned()]));
    assert!(matches!(mesh.step(), Verdict::Take { step: Step::Issue { .. }, .. }));
}

#[test]
fn a_rotation_can_be_rolled_back_until_the_old_anchor_is_being_removed() {
    for renewed in [false, true] {
        let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
        mesh.step();
        mesh.obey("shop/a");
        if renewed {
            mesh.step();
            mesh.obey("shop/a");
        }
        mesh.wished.issuing = ECDSA;
        assert!(matches!(mesh.step(), Verdict::Take { step: Step::RollBack { .. }, .. }));
        assert_eq!((mesh.phase(), mesh.state.issuing.as_str()), (Some(Phase::Issuing), OLD));
        assert_eq!(mesh.trusts(), [OLD, NEW], "until nobody's certificate needs it");
        if renewed {
            assert_eq!(waiting_for(&mesh.step()), ["shop/a"]);
        }
        mesh.obey("shop/a");
        mesh.step();
        mesh.obey("shop/a");
        mesh.step();
        assert_eq!((mesh.phase(), mesh.trusts()), (None, vec![OLD]));
        assert!(mesh.state.past[0].rolled_back);
    }
    let mut late = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    while late.phase() != Some(Phase::Removing) {
        late.step();
        late.obey("shop/a");
    }
    late.wished.issuing = ECDSA;
    assert!(matches!(late.step(), Verdict::Take { step: Step::Settle, .. }), "it is finished first");
    assert!(matches!(late.decide(), Verdict::Begin { kind: ECDSA, .. }), "and then it is another rotation");
}

#[test]
fn a_paused_rotation_stays_where_it_is() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.wished.paused = true;
    assert_eq!(mesh.step(), Verdict::Paused(Vec::new()));
    mesh.wished.paused = false;
    mesh.step();
    mesh.obey("shop/a");
    mesh.wished.paused = true;
    assert_eq!(mesh.step(), Verdict::Paused(Vec::new()));
    assert_eq!(mesh.phase(), Some(Phase::Distributing));
}

#[test]
fn what_would_cut_somebody_off_is_refused_with_the_name_and_can_be_forced() {
    let mut mesh = Mesh::new(ML_DSA, ECDSA, &["shop/a", "shop/b"]);
    let strict = Holding { refuses_classical: true, ..mesh.holding("shop/b") };
    mesh.say(strict);
    let Verdict::WouldCutOff(missing) = mesh.step() else { panic!("it was begun") };
    assert_eq!(missing[0].pod, "shop/b");
    mesh.wished.force = Some(Force { rotation: 7, phase: Phase::Distributing });
    assert!(
        matches!(mesh.step(), Verdict::WouldCutOff(_)),
        "a force for another rotation counts for nothing"
    );
    mesh.wished.force = Some(Force { rotation: 1, phase: Phase::Distributing });
    assert_eq!(
        mesh.step(),
        Verdict::Begin { of: Part::Issuing, kind: ECDSA, cut_off: Some(vec!["shop/b".to_owned()]) }
    );
    assert_eq!(mesh.state.rotation.as_ref().unwrap().cut_off, ["shop/b"]);
    // Forcing one step forces that one: the members that have not confirmed are cut off by it.
    assert!(matches!(mesh.step(), Verdict::Take { cut_off: Some(_), .. }));
    assert!(matches!(mesh.step(), Verdict::Waiting(_)));
}

#[test]
fn the_algorithm_of_leaves_changes_together_with_the_anchor() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.wished.leaf.algorithm = Some(KeyAlgorithm::MlDsa87);
    mesh.step();
    assert_eq!(mesh.state.leaf, None, "nobody renews twice");
    mesh.obey("shop/a");
    mesh.step();
    assert_eq!(mesh.state.leaf, Some(KeyAlgorithm::MlDsa87));

    let mut settled = Mesh::new(ML_DSA, ML_DSA, &["shop/a"]);
    settled.wished.leaf.algorithm = Some(KeyAlgorithm::MlDsa87);
    settled.step();
    assert_eq!(settled.state.leaf, Some(KeyAlgorithm::MlDsa87), "without a rotation at once");
    let strict = Holding { refuses_classical: true, ..settled.holding("shop/a") };
    settled.say(strict);
    settled.wished.leaf.algorithm = Some(KeyAlgorithm::EcdsaP256);
    assert!(matches!(settled.step(), Verdict::WouldCutOff(_)));
    assert_eq!(settled.state.leaf, Some(KeyAlgorithm::MlDsa87));
}

#[test]
fn denials_wait_for_nothing() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.step();
    mesh.wished.paused = true;
    let denied = |what: &str| Denial { what: what.to_owned(), reason: String::new() };
    mesh.wished.denied = vec![denied("serial=0aff"), denied("nonsense"), denied("serial=AFF")];
    let revision = mesh.state.revision;
    mesh.step();
    assert_eq!(mesh.state.denied, ["serial=0aff"], "what can be read, once");
    assert_eq!((mesh.state.revision, mesh.phase()), (revision + 1, Some(Phase::Distributing)));
    assert!(matches!(mesh.decide(), Verdict::Paused(_)));
}

#[test]
fn a_certificate_that_the_ca_would_not_issue_is_not_asked_for() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.wished.leaf.algorithm = Some(KeyAlgorithm::MlDsa44);
    let Verdict::Refused(why) = mesh.step() else { panic!("it was begun") };
    assert!(why.contains("leaf.algorithm is ml-dsa-44") && why.contains("ca.leafAlgorithms"), "{why}");
    mesh.wished.denied = vec![Denial { what: "serial=01".to_owned(), reason: String::new() }];
    mesh.step();
    assert_eq!(mesh.state.denied, ["serial=01"], "and keeps nobody from being denied");
}

#[test]
fn the_ca_itself_cannot_be_denied() {
    let mut mesh = Mesh::new(ML_DSA, ML_DSA, &["shop/a"]);
    let what = format!("identity={}", bounds().own);
    mesh.wished.denied = vec![Denial { what, reason: String::new() }];
    assert_eq!(mesh.step(), Verdict::Settled);
    assert!(mesh.state.denied.is_empty());
}

#[test]
fn what_was_replaced_does_not_come_back() {
    let second = Issuing { generation: 2, ..ML_DSA };
    let mesh = Mesh::new(second, ML_DSA, &[]);
    let Verdict::Refused(why) = mesh.decide() else { panic!("it was begun") };
    assert!(why.contains("generation is 1") && why.contains("generation 2 is in use"), "{why}");
    let mut fresh = Mesh::new(ML_DSA, second, &[]);
    assert!(matches!(fresh.step(), Verdict::Begin { .. }));
}

#[test]
fn a_replica_that_dies_anywhere_leaves_a_state_to_go_on_from() {
    // Whoever reads the stored state decides the same as who wrote it.
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    for _ in 0..12 {
        let stored = serde_json::to_string(&mesh.state).unwrap();
        let read: TrustState = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, mesh.state);
        assert_eq!(decide(&mesh.wished, &bounds(), &read, &mesh.census, mesh.now), mesh.decide());
        read.check().unwrap();
        mesh.step();
        mesh.obey("shop/a");
    }
    assert_eq!(mesh.decide(), Verdict::Settled);
}

#[test]
fn a_step_that_does_not_follow_changes_nothing() {
    let state = TrustState::new(anchor(OLD, ECDSA));
    for step in
        [Step::Issue { leaf: None }, Step::Forgo, Step::Remove, Step::Settle, Step::RollBack { leaf: None }]
    {
        assert_eq!(state.after(step, 5, None), state);
    }
}

#[test]
fn other_trust_domains_have_time_to_fetch_a_new_anchor_before_it_is_used() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    let patient = Bounds { advance: Duration::from_secs(900), ..bounds() };
    mesh.step();
    mesh.obey("shop/a");
    let shown = |seconds: u64| decide(&mesh.wished, &patient, &mesh.state, &mesh.census, seconds);
    assert_eq!(waiting_for(&shown(0)), ["other trust domains"]);
    assert_eq!(waiting_for(&shown(899)), ["other trust domains"]);
    assert!(matches!(shown(900), Verdict::Take { step: Step::Issue { .. }, cut_off: None }));
    mesh.wished.force = Some(Force { rotation: 1, phase: Phase::Distributing });
    let forced = decide(&mesh.wished, &patient, &mesh.state, &mesh.census, 0);
    assert!(matches!(forced, Verdict::Take { cut_off: Some(names), .. } if names == ["other trust domains"]));
}

#[test]
fn what_others_are_told_changes_only_with_the_anchors() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    let mut told = vec![mesh.state.anchors_revision];
    mesh.state = mesh.state.after(Step::Federate(Vec::new()), 1, None);
    mesh.state =
        mesh.state.after(Step::Adopt { leaf: None, dual: false, denied: vec!["serial=01".into()] }, 1, None);
    told.push(mesh.state.anchors_revision);
    mesh.wished.denied = vec![Denial { what: "serial=01".into(), reason: String::new() }];
    for _ in 0..4 {
        mesh.step();
        mesh.obey("shop/a");
        told.push(mesh.state.anchors_revision);
    }
    let at = mesh.state.revision;
    // Begun, issued from, removed, settled: the second and the last changed nothing for others.
    assert_eq!(told, [1, 1, at - 3, at - 3, at - 1, at - 1]);
}

fn reference(id: &str) -> TokenKey {
    TokenKey { token: "mesh".to_owned(), id: id.to_owned() }
}

#[test]
fn a_pending_key_is_forgotten_when_it_is_wished_no_more_and_destroyed_where_it_is() {
    let outside = Issuing { signed_by: SignedBy::Import, ..ML_DSA };
    let mut mesh = Mesh::new(ECDSA, outside, &[]);
    let pending = Pending {
        of: Part::Issuing,
        kind: outside,
        token: Some(reference("01")),
        key: String::new(),
        request: String::new(),
        since: 1_000,
    };
    mesh.state = mesh.state.after(Step::Prepare(pending), 1_000, None);
    assert!(matches!(mesh.decide(), Verdict::Begin { kind, .. } if kind == outside), "it goes on with it");
    assert_eq!(mesh.trusts(), [OLD], "nobody trusts what has no certificate");
    mesh.wished = TrustDomainSpec::of(ECDSA);
    assert_eq!(mesh.step(), Verdict::Take { step: Step::Forget, cut_off: None });
    assert_eq!((mesh.state.pending.as_ref(), mesh.state.doomed.as_slice()), (None, &[reference("01")][..]));
    assert_eq!(mesh.decide(), Verdict::Settled);
    mesh.state = mesh.state.after(Step::Destroyed(vec![reference("01")]), 2_000, None);
    assert!(mesh.state.doomed.is_empty());
}

#[test]
fn the_key_of_a_removed_anchor_is_doomed_only_when_the_rotation_has_ended() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &[]);
    mesh.state.anchors[0].token = Some(reference("0a"));
    while mesh.decide() != Verdict::Settled {
        assert!(mesh.state.doomed.is_empty(), "a way back needs the key");
        mesh.step();
    }
    assert_eq!(mesh.state.doomed, [reference("0a")]);
}
