//! Two operators who wish at once. There is one wish, which the later one replaces: before the rotation to
//! the first has begun the second takes its place, and from then on it comes after it.

use super::*;

/// Runs until all is settled, with a member that obeys at once. Never are more than two anchors trusted, and
/// never does one kind stand for two of them.
fn to_the_end(mesh: &mut Mesh) {
    for _ in 0..30 {
        let kinds: Vec<Issuing> = mesh.state.anchors.iter().map(|anchor| anchor.kind).collect();
        assert!(kinds.len() <= 2, "{kinds:?}");
        assert!(kinds.len() < 2 || kinds[0] != kinds[1], "{kinds:?}");
        if mesh.step() == Verdict::Settled {
            return;
        }
        mesh.obey("shop/a");
    }
    panic!("it never settled: {:?}", mesh.state);
}

#[test]
fn a_second_wish_takes_the_place_of_one_that_nothing_was_begun_for() {
    let second = Issuing { generation: 2, ..ML_DSA };
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.wished = wish(second);
    to_the_end(&mut mesh);
    assert_eq!(mesh.state.past.len(), 1, "one rotation, to what was wished last");
    assert_eq!((mesh.state.rotations, mesh.state.past[0].to), (1, Some(second)));
}

#[test]
fn a_second_wish_comes_after_the_rotation_that_is_under_way_in_whatever_phase() {
    let mldsa87 = Issuing { algorithm: KeyAlgorithm::MlDsa87, ..ML_DSA };
    let fresh = Issuing { generation: 2, ..ML_DSA };
    for (second, phases) in [(fresh, 1..4), (mldsa87, 1..4)] {
        for phases in phases {
            let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
            for _ in 0..phases {
                mesh.step();
                mesh.obey("shop/a");
            }
            let phase = mesh.phase().unwrap();
            mesh.wished = wish(second);
            to_the_end(&mut mesh);
            let past: Vec<_> = mesh.state.past.iter().map(|past| (past.number, past.from, past.to)).collect();
            let wanted = [(2, Some(ML_DSA), Some(second)), (1, Some(ECDSA), Some(ML_DSA))];
            assert_eq!(past, wanted, "wished in {phase}");
            assert!(mesh.state.past.iter().all(|past| !past.rolled_back && past.cut_off.is_empty()));
        }
    }
}

#[test]
fn the_same_wish_twice_is_one_rotation() {
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    mesh.step();
    mesh.wished = wish(ML_DSA);
    to_the_end(&mut mesh);
    assert_eq!(mesh.state.rotations, 1);
}

#[test]
fn a_leader_that_has_lost_its_place_decides_on_what_is_over_and_its_step_does_not_follow() {
    // What it read before anybody began, over what the other one has made of it since: the store refuses the
    // write, and even the step alone changes nothing where a rotation is under way.
    let mut mesh = Mesh::new(ECDSA, ML_DSA, &["shop/a"]);
    let stale = mesh.state.clone();
    mesh.step();
    let late = decide(&mesh.wished, &bounds(), &stale, &mesh.census, 0);
    let Verdict::Begin { of, kind, .. } = late else { panic!("{late:?}") };
    let step = Step::Begin { of, anchor: anchor("another-key", kind) };
    assert_eq!(mesh.state.after(step, 5, None), mesh.state);
}
