//! Anchors that give way by themselves: after a time, near their end, and not where that is unwanted.

use trellis_api::trust::{Declined, Renewal, Renewed};

use super::*;
use crate::trust::renewal::{Life, due};

const DAY: u64 = 24 * 60 * 60;
const LEAF: Duration = Duration::from_secs(DAY);
/// Ten years, as by default.
const LIFE: Life = Life { begin: 0, end: 3650 * DAY };
const FRESH: Issuing = Issuing { generation: 2, ..ML_DSA };

impl Mesh {
    fn due(&self, life: Life) -> Option<Step> {
        let wished = self.wished.renewed(&self.state.renewed);
        due(&wished, &self.state, |_| Some(life), LEAF, self.now)
    }

    /// On to where nothing more is to be done.
    fn settle(&mut self, pod: &str) {
        for _ in 0..12 {
            if self.step() == Verdict::Settled {
                return;
            }
            self.obey(pod);
        }
        panic!("it does not settle: {:?}", self.decide());
    }
}

fn settled(renewal: Renewal) -> Mesh {
    let mut mesh = Mesh::new(ML_DSA, ML_DSA, &["shop/a"]);
    mesh.wished.renewal = renewal;
    mesh
}

fn every(days: u32) -> Renewal {
    Renewal { every_days: Some(days), ..Renewal::default() }
}

fn fresh(of: Part) -> Option<Step> {
    Some(Step::Renew(Renewed { of, kind: FRESH }))
}

#[test]
fn an_anchor_gives_way_at_its_age_or_near_its_end_whatever_comes_first() {
    let never = Renewal { at_end: false, ..Renewal::default() };
    let year = Life { begin: DAY, end: 366 * DAY };
    for (life, renewal, at) in [
        (LIFE, Renewal::default(), Some(3285 * DAY)),
        (LIFE, every(90), Some(90 * DAY)),
        (LIFE, every(3_600), Some(3285 * DAY)),
        (LIFE, Renewal { at_end: false, ..every(3_600) }, Some(3_600 * DAY)),
        (LIFE, never, None),
        (year, every(90), Some(91 * DAY)),
        // Two lives of a leaf are the least that a rotation is given, and half a life the most.
        (Life { begin: 0, end: 10 * DAY }, Renewal::default(), Some(8 * DAY)),
        (Life { begin: 0, end: 3 * DAY }, Renewal::default(), Some(3 * DAY / 2)),
    ] {
        assert_eq!(life.renews(&renewal, LEAF), at, "{life:?} {renewal:?}");
    }
}

#[test]
fn a_fresh_key_comes_when_it_is_due_although_the_wish_names_the_old_one() {
    let mut mesh = settled(every(90));
    mesh.now = 90 * DAY - 1;
    assert_eq!(mesh.due(LIFE), None);
    mesh.now = 90 * DAY;
    let step = mesh.due(LIFE);
    assert_eq!(step, fresh(Part::Issuing));
    mesh.state = mesh.state.after(step.unwrap(), mesh.now, None);
    assert!(matches!(mesh.step(), Verdict::Begin { of: Part::Issuing, kind: FRESH, .. }));
    assert_eq!(mesh.due(LIFE), None, "one at a time");
    let rotation = mesh.state.rotation.clone().unwrap();
    assert_eq!(mesh.state.renewal_of(&rotation), Some(Renewed { of: Part::Issuing, kind: FRESH }));
    mesh.obey("shop/a");
    mesh.settle("shop/a");
    assert_eq!(mesh.state.issuing(Part::Issuing).unwrap().kind, FRESH);
    assert_eq!(mesh.wished.issuing, ML_DSA, "what Git holds has not changed, and nothing goes back for it");
    // Whoever asks for the next one by hand gets it.
    mesh.wished.issuing.generation = 3;
    assert!(matches!(mesh.step(), Verdict::Begin { kind: Issuing { generation: 3, .. }, .. }));
}

#[test]
fn a_renewal_that_is_declined_goes_back_and_stays_away() {
    let mut mesh = settled(every(90));
    mesh.now = 90 * DAY;
    let step = mesh.due(LIFE).unwrap();
    mesh.state = mesh.state.after(step, mesh.now, None);
    mesh.step();
    mesh.obey("shop/a");
    mesh.step();
    assert_eq!(mesh.phase(), Some(Phase::Issuing));
    mesh.wished.renewal.declined = Some(Declined { of: Part::Issuing, generation: 2 });
    assert!(matches!(mesh.step(), Verdict::Take { step: Step::RollBack { .. }, .. }));
    mesh.obey("shop/a");
    mesh.settle("shop/a");
    assert_eq!(mesh.state.issuing(Part::Issuing).unwrap().kind, ML_DSA);
    assert_eq!(mesh.due(LIFE), None);
    mesh.wished.renewal.declined = None;
    assert!(matches!(mesh.decide(), Verdict::Begin { kind: FRESH, .. }), "it comes when nobody declines it");
}

#[test]
fn nothing_is_renewed_beside_another_change_or_while_it_is_paused() {
    let mut mesh = settled(every(1));
    mesh.now = 2 * DAY;
    mesh.wished.paused = true;
    assert_eq!(mesh.due(LIFE), None);
    mesh.wished.paused = false;
    mesh.wished.issuing.algorithm = KeyAlgorithm::MlDsa87;
    mesh.step();
    assert_eq!(mesh.due(LIFE), None);
}

#[test]
fn no_age_at_all_is_refused_with_the_remedy() {
    let mesh = settled(every(0));
    let Verdict::Refused(why) = mesh.decide() else { panic!("it is taken") };
    assert!(why.contains("renewal.everyDays is 0") && why.contains("1 or more"), "{why}");
}

#[test]
fn a_companion_is_renewed_as_well() {
    let mut mesh = settled(every(90));
    mesh.wished.companion = Some(ECDSA);
    mesh.obey("shop/a");
    mesh.settle("shop/a");
    mesh.now = 100 * DAY;
    let life = |of| match of {
        Part::Issuing => Some(Life { begin: 50 * DAY, ..LIFE }),
        Part::Companion => Some(LIFE),
    };
    let step = due(&mesh.wished, &mesh.state, life, LEAF, mesh.now).unwrap();
    let kind = Issuing { generation: 2, ..ECDSA };
    assert_eq!(step, Step::Renew(Renewed { of: Part::Companion, kind }));
    mesh.state = mesh.state.after(step, mesh.now, None);
    mesh.settle("shop/a");
    assert_eq!(mesh.state.issuing(Part::Companion).unwrap().kind, kind);
}
