//! The companion comes, is replaced and goes, and waits for everybody each time.

use super::*;
use crate::trust::{keys::TokenKey, state::Pending};

const SECOND: Issuing = Issuing { generation: 2, ..ECDSA };
const FIRST: &str = "companion-1";

fn dual(members: &[&str]) -> Mesh {
    let mut mesh = Mesh::new(ML_DSA, ML_DSA, members);
    mesh.wished.companion = Some(ECDSA);
    mesh
}

fn settled(members: &[&str]) -> Mesh {
    let mut mesh = dual(members);
    while mesh.decide() != Verdict::Settled {
        mesh.step();
        members.iter().for_each(|pod| mesh.obey(pod));
    }
    mesh
}

#[test]
fn it_is_trusted_by_all_before_anything_is_issued_from_it() {
    let mut mesh = dual(&["shop/a", "shop/b"]);
    assert!(matches!(mesh.step(), Verdict::Begin { of: Part::Companion, kind: ECDSA, cut_off: None }));
    assert_eq!((mesh.phase(), mesh.trusts()), (Some(Phase::Distributing), vec![OLD, FIRST]));
    assert_eq!((mesh.state.issuing.as_str(), &mesh.state.companion), (OLD, &None));
    mesh.obey("shop/a");
    assert_eq!(waiting_for(&mesh.step()), ["shop/b"]);
    mesh.obey("shop/b");
    assert!(matches!(mesh.step(), Verdict::Take { step: Step::Issue { .. }, .. }));
    assert_eq!(
        (mesh.phase(), mesh.state.companion.as_deref()),
        (None, Some(FIRST)),
        "nothing is to be removed"
    );
    assert_eq!(mesh.state.issuing, OLD);
    assert_eq!(mesh.decide(), Verdict::Settled);
    let past = &mesh.state.past[0];
    assert_eq!((past.of, past.from, past.to), (Part::Companion, None, Some(ECDSA)));
}

#[test]
fn it_is_replaced_without_a_moment_in_which_somebody_is_not_believed() {
    let mut mesh = settled(&["shop/a", "shop/b"]);
    mesh.wished.companion = Some(SECOND);
    assert!(matches!(mesh.step(), Verdict::Begin { of: Part::Companion, kind: SECOND, .. }));
    assert_eq!(mesh.state.companion.as_deref(), Some(FIRST));
    for pod in ["shop/a", "shop/b"] {
        assert!(waiting_for(&mesh.step()).contains(&pod));
        mesh.obey(pod);
    }
    mesh.step();
    assert_eq!((mesh.phase(), mesh.state.companion.as_deref()), (Some(Phase::Issuing), Some("companion-2")));
    let Verdict::Waiting(missing) = mesh.step() else { panic!("it does not wait") };
    assert_eq!(missing[0].why, "its companion certificate chains to the old anchor");
    // Who has none, or has renewed it, is not waited for.
    mesh.say(Holding { companion_anchor: String::new(), ..mesh.holding("shop/a") });
    assert_eq!(waiting_for(&mesh.step()), ["shop/b"]);
    assert_eq!(mesh.census.leaves(FIRST), 1);
    mesh.obey("shop/b");
    mesh.step();
    assert_eq!(mesh.trusts(), [OLD, "companion-2"]);
    let draining = Holding { draining: 1, ..mesh.holding("shop/a") };
    mesh.say(draining);
    mesh.obey("shop/b");
    assert_eq!(waiting_for(&mesh.step()), ["shop/a"]);
    mesh.obey("shop/a");
    mesh.step();
    assert_eq!((mesh.decide(), mesh.state.anchors.len()), (Verdict::Settled, 2));
}

#[test]
fn it_goes_when_nobodys_certificate_needs_it() {
    let mut mesh = settled(&["shop/a", "shop/b"]);
    let lagging = mesh.holding("shop/b");
    mesh.wished.companion = None;
    assert_eq!(mesh.step(), Verdict::Take { step: Step::Forgo, cut_off: None });
    assert_eq!(
        (mesh.phase(), &mesh.state.companion),
        (Some(Phase::Issuing), &None),
        "all are told to drop it"
    );
    assert_eq!(mesh.trusts(), [OLD, FIRST], "and believe those who have not yet");
    mesh.obey("shop/a");
    mesh.say(lagging.clone());
    assert_eq!(waiting_for(&mesh.step()), ["shop/b"]);
    mesh.obey("shop/b");
    mesh.step();
    assert_eq!((mesh.phase(), mesh.trusts()), (Some(Phase::Removing), vec![OLD]));
    mesh.say(Holding { companion_anchor: String::new(), ..lagging });
    mesh.obey("shop/a");
    assert_eq!(waiting_for(&mesh.step()), ["shop/b"], "it still trusts the anchor");
    mesh.obey("shop/b");
    mesh.step();
    assert_eq!((mesh.decide(), mesh.state.anchors.len()), (Verdict::Settled, 1));
    assert_eq!((mesh.state.past[0].from, mesh.state.past[0].to), (Some(ECDSA), None));
}

#[test]
fn its_coming_and_its_going_can_be_taken_back() {
    let mut mesh = dual(&["shop/a"]);
    mesh.step();
    mesh.wished.companion = None;
    assert!(matches!(mesh.step(), Verdict::Take { step: Step::RollBack { .. }, .. }));
    while mesh.decide() != Verdict::Settled {
        mesh.obey("shop/a");
        mesh.step();
    }
    assert_eq!((mesh.trusts(), mesh.state.past[0].rolled_back), (vec![OLD], true));

    let mut mesh = settled(&["shop/a"]);
    mesh.wished.companion = None;
    mesh.step();
    mesh.wished.companion = Some(ECDSA);
    assert!(matches!(mesh.step(), Verdict::Take { step: Step::RollBack { .. }, .. }));
    assert_eq!((mesh.phase(), mesh.state.companion.as_deref()), (None, Some(FIRST)));
    assert_eq!((mesh.decide(), mesh.trusts()), (Verdict::Settled, vec![OLD, FIRST]));
}

#[test]
fn one_rotation_at_a_time_and_the_issuing_anchor_goes_first() {
    let mut mesh = settled(&["shop/a"]);
    mesh.wished.companion = Some(SECOND);
    mesh.wished.issuing = Issuing { generation: 2, ..ML_DSA };
    let mut order = Vec::new();
    while mesh.decide() != Verdict::Settled {
        if let Verdict::Begin { of, .. } = mesh.step() {
            order.push(of);
        }
        assert!(mesh.state.companion.is_some(), "the companion issues through all of it");
        mesh.obey("shop/a");
    }
    assert_eq!(order, [Part::Issuing, Part::Companion]);
    assert_eq!(mesh.trusts(), [NEW, "companion-2"]);
    mesh.wished.paused = true;
    mesh.wished.companion = None;
    assert_eq!(mesh.step(), Verdict::Paused(Vec::new()));
}

#[test]
fn a_key_that_waits_is_for_one_of_the_two_and_given_up_where_the_other_is_wished_first() {
    let mut mesh = dual(&["shop/a"]);
    let key = |id: &str| TokenKey { token: "mesh".to_owned(), id: id.to_owned() };
    let pending = |of, kind, id| Pending {
        of,
        kind,
        token: Some(key(id)),
        key: String::new(),
        request: String::new(),
        since: 1_000,
    };
    // Its token cannot be reached, and meanwhile something else is wished.
    let waits = Step::Prepare(pending(Part::Companion, ECDSA, "1"));
    mesh.state = mesh.state.after(waits, mesh.now, None);
    let stored = serde_json::to_string(&mesh.state).unwrap();
    assert_eq!(serde_json::from_str::<TrustState>(&stored).unwrap(), mesh.state);
    assert!(matches!(mesh.decide(), Verdict::Begin { of: Part::Companion, .. }));
    mesh.wished.issuing = Issuing { generation: 2, ..ML_DSA };
    assert_eq!(mesh.step(), Verdict::Take { step: Step::Forget, cut_off: None });
    assert_eq!((&mesh.state.pending, &mesh.state.doomed), (&None, &vec![key("1")]));
    assert!(matches!(mesh.decide(), Verdict::Begin { of: Part::Issuing, .. }));

    // One that is not wished any more is given up as well.
    let mut mesh = dual(&["shop/a"]);
    mesh.state = mesh.state.after(Step::Prepare(pending(Part::Companion, ECDSA, "2")), mesh.now, None);
    mesh.wished.companion = None;
    assert_eq!(mesh.step(), Verdict::Take { step: Step::Forget, cut_off: None });
    assert_eq!((mesh.decide(), &mesh.state.doomed), (Verdict::Settled, &vec![key("2")]));
}

#[test]
fn the_key_of_one_that_has_gone_is_destroyed_in_its_token() {
    let mut mesh = settled(&["shop/a"]);
    let key = TokenKey { token: "mesh".to_owned(), id: "1".to_owned() };
    mesh.state.anchors[1].token = Some(key.clone());
    mesh.wished.companion = None;
    while mesh.decide() != Verdict::Settled {
        assert_eq!(mesh.state.doomed, []);
        mesh.step();
        mesh.obey("shop/a");
    }
    assert_eq!(mesh.state.doomed, [key]);
}

#[test]
fn what_cannot_be_a_companion_is_refused_with_the_remedy() {
    for (issuing, companion, words) in [
        (ML_DSA, Issuing::own(KeyAlgorithm::MlDsa44, 1), "use ecdsa-p256"),
        (ML_DSA, Issuing { signed_by: SignedBy::Import, ..ECDSA }, "a companion signs itself"),
        (ECDSA, ECDSA, "classical already"),
    ] {
        let mut mesh = Mesh::new(issuing, issuing, &["shop/a"]);
        mesh.wished.companion = Some(companion);
        let Verdict::Refused(why) = mesh.step() else { panic!("it was begun") };
        assert!(why.starts_with("companion") && why.contains(words), "{why}");
    }
    let mut mesh = settled(&["shop/a"]);
    mesh.wished.companion = Some(SECOND);
    while mesh.decide() != Verdict::Settled {
        mesh.step();
        mesh.obey("shop/a");
    }
    mesh.wished.companion = Some(ECDSA);
    let Verdict::Refused(why) = mesh.step() else { panic!("it was begun") };
    assert!(why.contains("companion.generation is 1") && why.contains("raise it"), "{why}");
}

#[test]
fn who_requires_post_quantum_signatures_is_not_in_its_way() {
    let mut mesh = dual(&["shop/a"]);
    let strict = Holding { refuses_classical: true, ..mesh.holding("shop/a") };
    mesh.say(strict);
    assert!(
        matches!(mesh.step(), Verdict::Begin { .. }),
        "it holds the anchor, and believes nothing below it"
    );
}

#[test]
fn workloads_that_say_nothing_are_dual_when_the_mesh_is() {
    let mut mesh = dual(&["shop/a"]);
    mesh.wished.leaf.dual = true;
    mesh.step();
    assert!(mesh.state.dual);
    assert!(matches!(mesh.decide(), Verdict::Begin { of: Part::Companion, .. }));
}

#[test]
fn a_ca_that_dies_anywhere_goes_on_and_reads_what_was_written_before_there_were_companions() {
    let mut mesh = settled(&["shop/a"]);
    mesh.wished.companion = None;
    for _ in 0..8 {
        let stored = serde_json::to_string(&mesh.state).unwrap();
        let read: TrustState = serde_json::from_str(&stored).unwrap();
        assert_eq!(read, mesh.state);
        read.check().unwrap();
        assert_eq!(decide(&mesh.wished, &bounds(), &read, &mesh.census, mesh.now), mesh.decide());
        mesh.step();
        mesh.obey("shop/a");
    }
    let before = serde_json::json!({
        "revision": 5, "issuing": NEW, "rotations": 2,
        "anchors": [
            { "fingerprint": OLD, "algorithm": "ecdsa-p256", "generation": 1, "certificate": "" },
            { "fingerprint": NEW, "algorithm": "ml-dsa-65", "generation": 1, "certificate": "" },
        ],
        "rotation": { "number": 2, "from": OLD, "to": NEW, "phase": "Issuing", "started": 1, "since": 2 },
        "past": [{
            "number": 1, "from": { "algorithm": "ml-dsa-65", "generation": 1 },
            "to": { "algorithm": "ecdsa-p256", "generation": 1 },
            "rolledBack": false, "started": 0, "ended": 1, "phases": [],
        }],
    });
    let read: TrustState = serde_json::from_value(before.clone()).unwrap();
    read.check().unwrap();
    assert_eq!((read.companion.as_ref(), read.dual), (None, false));
    let rotation = read.rotation.as_ref().unwrap();
    assert_eq!((rotation.of, rotation.from.as_deref()), (Part::Issuing, Some(OLD)));
    // And who uses no companion writes nothing that an older CA could not read.
    let written = serde_json::to_string(&read).unwrap();
    assert!(
        !written.contains("companion") && !written.contains("dual") && !written.contains("\"of\""),
        "{written}"
    );
}
