//! What each command makes of the wish that stands in the TrustDomain.

use anyhow::{Result, bail};
use trellis_api::trust::{
    Declined, Denial, Force, Issuing, KeyAlgorithm, Leaves, Part, Phase, Renewal, Renewed, TrustDomainSpec,
    TrustDomainStatus,
};
use trellis_pki::credential::Denied;

pub fn rotate(
    spec: &TrustDomainSpec,
    status: &TrustDomainStatus,
    to: Option<KeyAlgorithm>,
    leaf: Option<KeyAlgorithm>,
) -> Result<TrustDomainSpec> {
    if let Some(rotation) = &status.rotation {
        bail!(
            "rotation {} to {} is under way ({}); wait for its end, or take it back with `trellis trust rollback`",
            rotation.number,
            rotation.to,
            rotation.phase
        );
    }
    // What stands in the wish may have been refused, or not been looked at yet: then it is not what is.
    let now = status.issuing_kind.unwrap_or(spec.issuing);
    let kinds = [now, spec.renewed(&status.renewed).issuing];
    let algorithm = to.unwrap_or(now.algorithm);
    let alike = kinds.iter().filter(|kind| kind.algorithm == algorithm);
    let generation = alike.map(|kind| kind.generation).max().map_or(1, |last| last + 1);
    let classical = |algorithm| algorithm == KeyAlgorithm::EcdsaP256;
    let leaf = match leaf {
        Some(leaf) => Some(leaf),
        None if kinds.iter().any(|kind| classical(kind.algorithm)) && !classical(algorithm) => {
            Some(KeyAlgorithm::MlDsa65)
        }
        None => spec.leaf.algorithm,
    };
    Ok(TrustDomainSpec {
        issuing: Issuing { algorithm, generation, ..spec.issuing },
        leaf: Leaves { algorithm: leaf, ..spec.leaf },
        force: None,
        // It was for the key before.
        imported: String::new(),
        ..spec.clone()
    })
}

pub fn roll_back(spec: &TrustDomainSpec, status: &TrustDomainStatus) -> Result<TrustDomainSpec> {
    let Some(rotation) = &status.rotation else { return withdraw(spec, status) };
    if rotation.phase == Phase::Removing {
        bail!(
            "rotation {} is removing the old anchor already: let it end, and rotate again",
            rotation.number
        );
    }
    if rotation.rolling_back {
        bail!("rotation {} is being rolled back already", rotation.number);
    }
    let back = TrustDomainSpec { paused: false, force: None, ..without(spec, rotation.renewal) };
    Ok(match (rotation.of, rotation.from_kind) {
        (Part::Companion, companion) => TrustDomainSpec { companion, ..back },
        (Part::Issuing, issuing) => TrustDomainSpec {
            issuing: issuing.unwrap_or(spec.issuing),
            leaf: Leaves { algorithm: rotation.leaf_before, ..spec.leaf },
            ..back
        },
    })
}

/// A companion of this algorithm, or a fresh key for the one that is there; or none.
pub fn companion(
    spec: &TrustDomainSpec,
    status: &TrustDomainStatus,
    to: Option<KeyAlgorithm>,
) -> Result<TrustDomainSpec> {
    if let Some(rotation) = &status.rotation {
        bail!(
            "rotation {} to {} is under way ({}); wait for its end, or take it back with `trellis trust rollback`",
            rotation.number,
            rotation.to,
            rotation.phase
        );
    }
    let companion = to.map(|algorithm| {
        let before = spec.renewed(&status.renewed).companion.filter(|before| before.algorithm == algorithm);
        Issuing::own(algorithm, before.map_or(1, |before| before.generation + 1))
    });
    Ok(TrustDomainSpec { companion, force: None, ..spec.clone() })
}

/// The same wish without a fresh key that nobody asked for.
fn without(spec: &TrustDomainSpec, renewed: Option<Renewed>) -> TrustDomainSpec {
    let declined = renewed.map(|Renewed { of, kind }| Declined { of, generation: kind.generation });
    let renewal = Renewal { declined: declined.or(spec.renewal.declined), ..spec.renewal };
    TrustDomainSpec { renewal, ..spec.clone() }
}

/// A wish that was refused, or waits for a certificate, goes back to what is.
fn withdraw(spec: &TrustDomainSpec, status: &TrustDomainStatus) -> Result<TrustDomainSpec> {
    // Of either part: no kind can be wished of both.
    let waits = |renewed: &&Renewed| status.pending.as_ref().is_some_and(|key| key.kind == renewed.kind);
    let renewed = status.renewed.iter().find(waits).copied();
    let spec = &without(spec, renewed);
    let wished = spec.renewed(&status.renewed);
    match status.issuing_kind {
        Some(_) if renewed.is_some() => Ok(spec.clone()),
        Some(issuing)
            if issuing != wished.issuing
                || status.leaf != spec.leaf.algorithm
                || status.companion_kind != wished.companion =>
        {
            let leaf = Leaves { algorithm: status.leaf, ..spec.leaf };
            let companion = status.companion_kind;
            Ok(TrustDomainSpec { issuing, companion, leaf, force: None, ..spec.clone() })
        }
        _ => bail!("no rotation is under way: there is nothing to take back"),
    }
}

/// The wish, and whom it cuts off in words.
pub fn force(spec: &TrustDomainSpec, status: &TrustDomainStatus) -> Result<(TrustDomainSpec, String)> {
    let cut_off = |names: &[String], count: u32| match count {
        0 => "nobody would be cut off\n".to_owned(),
        _ => format!("would be cut off ({count}): {}\n", names.join(", ")),
    };
    let (rotation, phase, words) = match &status.rotation {
        Some(rotation) => {
            let names: Vec<_> = rotation.waiting_for.iter().map(|one| one.pod.clone()).collect();
            (rotation.number, rotation.phase, cut_off(&names, rotation.waiting))
        }
        None => {
            let refused = status.conditions.iter().find(|one| one.reason == "WouldCutOff");
            let Some(refused) = refused else { bail!("nothing waits: there is nothing to force") };
            let number = status.past.first().map_or(0, |past| past.number) + 1;
            (number, Phase::Distributing, format!("{}\n", refused.message))
        }
    };
    Ok((TrustDomainSpec { force: Some(Force { rotation, phase }), ..spec.clone() }, words))
}

/// Who is denied already gets the new reason.
pub fn deny(spec: &TrustDomainSpec, what: &[Denied], reason: &str) -> TrustDomainSpec {
    let mut spec = spec.clone();
    for denied in what {
        spec.denied.retain(|known| !names(known, denied));
        spec.denied.push(Denial { what: denied.to_string(), reason: reason.to_owned() });
    }
    spec
}

pub fn allow(spec: &TrustDomainSpec, what: &[Denied]) -> Result<TrustDomainSpec> {
    let mut spec = spec.clone();
    for denied in what {
        let before = spec.denied.len();
        spec.denied.retain(|known| !names(known, denied));
        if spec.denied.len() == before {
            let known: Vec<_> = spec.denied.iter().map(|one| one.what.as_str()).collect();
            bail!(
                "{denied} is not denied; denied are: {}",
                if known.is_empty() { "none".into() } else { known.join(", ") }
            );
        }
    }
    Ok(spec)
}

/// However somebody spelt it.
fn names(denial: &Denial, denied: &Denied) -> bool {
    denial.what.parse::<Denied>().as_ref() == Ok(denied)
}

#[cfg(test)]
mod tests {
    use trellis_api::trust::{Condition, PendingStatus, RotationStatus, WaitingFor};

    use super::*;

    fn spec(algorithm: KeyAlgorithm, generation: u32) -> TrustDomainSpec {
        TrustDomainSpec {
            leaf: Leaves { algorithm: Some(KeyAlgorithm::EcdsaP256), dual: false },
            paused: true,
            ..TrustDomainSpec::of(Issuing::own(algorithm, generation))
        }
    }

    fn rotating(phase: Phase) -> TrustDomainStatus {
        let rotation = RotationStatus {
            number: 3,
            of: Part::Issuing,
            phase,
            from: "ecdsa-p256.1 00".to_owned(),
            to: "ml-dsa-65.1 11".to_owned(),
            from_kind: Some(Issuing::own(KeyAlgorithm::EcdsaP256, 1)),
            leaf_before: None,
            renewal: None,
            started: String::new(),
            since: String::new(),
            rolling_back: false,
            paused: true,
            waiting: 1,
            waiting_for: vec![WaitingFor { pod: "shop/web".to_owned(), why: "it is slow".to_owned() }],
        };
        TrustDomainStatus { rotation: Some(rotation), ..TrustDomainStatus::default() }
    }

    #[test]
    fn a_rotation_is_to_another_algorithm_or_to_a_fresh_key() {
        use KeyAlgorithm::{EcdsaP256, MlDsa44, MlDsa65, MlDsa87};
        let settled = TrustDomainStatus::default();
        for (from, to, leaf, issuing, leaves) in [
            ((MlDsa65, 4), None, None, (MlDsa65, 5), Some(EcdsaP256)),
            ((MlDsa65, 4), Some(MlDsa65), Some(MlDsa87), (MlDsa65, 5), Some(MlDsa87)),
            ((MlDsa65, 4), Some(MlDsa87), None, (MlDsa87, 1), Some(EcdsaP256)),
            ((EcdsaP256, 1), Some(MlDsa87), None, (MlDsa87, 1), Some(MlDsa65)),
            ((EcdsaP256, 1), Some(MlDsa87), Some(MlDsa44), (MlDsa87, 1), Some(MlDsa44)),
            ((EcdsaP256, 1), None, None, (EcdsaP256, 2), Some(EcdsaP256)),
        ] {
            let wished = rotate(&spec(from.0, from.1), &settled, to, leaf).unwrap();
            assert_eq!((wished.issuing.algorithm, wished.issuing.generation), issuing, "{from:?} {to:?}");
            assert_eq!(wished.leaf.algorithm, leaves, "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_rotation_is_from_what_is_whatever_else_was_wished_meanwhile() {
        use KeyAlgorithm::{EcdsaP256, MlDsa65, MlDsa87};
        for (is, wished, to, issuing) in [
            // A wish that was refused, or that the CA has not seen yet.
            ((MlDsa65, 3), (EcdsaP256, 1), None, (MlDsa65, 4)),
            ((MlDsa65, 3), (EcdsaP256, 1), Some(MlDsa65), (MlDsa65, 4)),
            ((MlDsa65, 3), (MlDsa87, 1), Some(MlDsa65), (MlDsa65, 4)),
            ((MlDsa65, 3), (MlDsa87, 1), Some(MlDsa87), (MlDsa87, 2)),
            ((MlDsa65, 3), (MlDsa65, 4), Some(MlDsa65), (MlDsa65, 5)),
        ] {
            let kind = Some(Issuing::own(is.0, is.1));
            let status = TrustDomainStatus { issuing_kind: kind, ..TrustDomainStatus::default() };
            let new = rotate(&spec(wished.0, wished.1), &status, to, None).unwrap().issuing;
            assert_eq!((new.algorithm, new.generation), issuing, "{is:?} {wished:?} {to:?}");
        }
    }

    #[test]
    fn one_rotation_at_a_time_and_back_only_while_there_is_a_way_back() {
        let wished = spec(KeyAlgorithm::MlDsa65, 1);
        let error = rotate(&wished, &rotating(Phase::Issuing), None, None).unwrap_err().to_string();
        assert!(error.contains("rotation 3 to ml-dsa-65.1 11 is under way (Issuing)"), "{error}");
        let back = roll_back(&wished, &rotating(Phase::Issuing)).unwrap();
        assert_eq!((back.issuing.algorithm, back.leaf.algorithm), (KeyAlgorithm::EcdsaP256, None));
        assert!(!back.paused, "who takes it back wants it to move");
        let error = roll_back(&wished, &rotating(Phase::Removing)).unwrap_err().to_string();
        assert!(error.contains("removing the old anchor already"), "{error}");
        let error = roll_back(&wished, &TrustDomainStatus::default()).unwrap_err().to_string();
        assert!(error.contains("no rotation is under way"), "{error}");
    }

    #[test]
    fn a_companion_comes_is_replaced_goes_and_each_can_be_taken_back() {
        let ecdsa = |generation| Some(Issuing::own(KeyAlgorithm::EcdsaP256, generation));
        let settled = TrustDomainStatus::default();
        let none = spec(KeyAlgorithm::MlDsa65, 1);
        let one = companion(&none, &settled, Some(KeyAlgorithm::EcdsaP256)).unwrap();
        let two = companion(&one, &settled, Some(KeyAlgorithm::EcdsaP256)).unwrap();
        let gone = companion(&two, &settled, None).unwrap();
        assert_eq!([one.companion, two.companion, gone.companion], [ecdsa(1), ecdsa(2), None]);
        assert_eq!([one.issuing, two.issuing, gone.issuing], [none.issuing; 3]);
        let mut coming = rotating(Phase::Distributing);
        let error = companion(&one, &coming, None).unwrap_err().to_string();
        assert!(error.contains("rotation 3") && error.contains("trellis trust rollback"), "{error}");
        let rotation = coming.rotation.as_mut().unwrap();
        (rotation.of, rotation.from_kind) = (Part::Companion, None);
        let back = roll_back(&one, &coming).unwrap();
        assert_eq!((back.companion, back.issuing), (None, one.issuing));
        coming.rotation.as_mut().unwrap().from_kind = ecdsa(1);
        assert_eq!(roll_back(&two, &coming).unwrap().companion, ecdsa(1));
        // One that was refused is taken back as well.
        let kind = Some(none.issuing);
        let refused = TrustDomainStatus { issuing_kind: kind, leaf: none.leaf.algorithm, ..settled };
        assert_eq!(roll_back(&one, &refused).unwrap().companion, None);
    }

    #[test]
    fn what_renewal_came_to_is_where_the_next_wish_begins_and_can_be_declined() {
        let (one, two) = (Issuing::own(KeyAlgorithm::MlDsa65, 1), Issuing::own(KeyAlgorithm::MlDsa65, 2));
        let renewed = Renewed { of: Part::Issuing, kind: two };
        let wished = spec(KeyAlgorithm::MlDsa65, 1);
        let settled = TrustDomainStatus {
            issuing_kind: Some(two),
            leaf: wished.leaf.algorithm,
            renewed: vec![renewed],
            ..TrustDomainStatus::default()
        };
        assert_eq!(rotate(&wished, &settled, None, None).unwrap().issuing.generation, 3);
        assert!(roll_back(&wished, &settled).is_err(), "nothing is under way");
        let mut rotating = rotating(Phase::Issuing);
        let rotation = rotating.rotation.as_mut().unwrap();
        (rotation.renewal, rotation.from_kind) = (Some(renewed), Some(one));
        let back = roll_back(&wished, &rotating).unwrap();
        assert_eq!((back.issuing, back.renewed(&[renewed]).issuing), (one, one));
        // One that waits for its certificate as well.
        let pending =
            PendingStatus { kind: two, key: String::new(), request: String::new(), since: String::new() };
        let waits = TrustDomainStatus { issuing_kind: Some(one), pending: Some(pending), ..settled };
        assert_eq!(roll_back(&wished, &waits).unwrap().renewed(&[renewed]).issuing, one);
    }

    #[test]
    fn a_wish_that_was_refused_can_be_taken_back() {
        let wished = spec(KeyAlgorithm::EcdsaP256, 1);
        let issuing = Issuing::own(KeyAlgorithm::MlDsa65, 3);
        let status = TrustDomainStatus { issuing_kind: Some(issuing), ..TrustDomainStatus::default() };
        let back = roll_back(&wished, &status).unwrap();
        assert_eq!((back.issuing, back.leaf.algorithm), (issuing, None));
        assert!(roll_back(&back, &status).is_err(), "then there is nothing more to take back");
    }

    #[test]
    fn a_force_names_whom_it_cuts_off_and_counts_for_one_step() {
        let wished = spec(KeyAlgorithm::MlDsa65, 1);
        let (forced, words) = force(&wished, &rotating(Phase::Issuing)).unwrap();
        assert_eq!(forced.force, Some(Force { rotation: 3, phase: Phase::Issuing }));
        assert!(words.contains("shop/web"), "{words}");
        let condition = Condition {
            type_: "Settled".to_owned(),
            status: "False".to_owned(),
            reason: "WouldCutOff".to_owned(),
            message: "shop/old would be cut off".to_owned(),
            last_transition_time: String::new(),
            observed_generation: 1,
        };
        let refused = TrustDomainStatus { conditions: vec![condition], ..TrustDomainStatus::default() };
        let (forced, words) = force(&wished, &refused).unwrap();
        assert_eq!(forced.force, Some(Force { rotation: 1, phase: Phase::Distributing }));
        assert!(words.contains("shop/old"), "{words}");
        assert!(force(&wished, &TrustDomainStatus::default()).is_err());
    }

    #[test]
    fn denials_are_added_once_and_taken_away_by_any_spelling() {
        let serial: Denied = "serial=0AFF".parse().unwrap();
        let once = deny(&spec(KeyAlgorithm::MlDsa65, 1), std::slice::from_ref(&serial), "lost laptop");
        let twice = deny(&once, std::slice::from_ref(&serial), "stolen laptop");
        assert_eq!(twice.denied, [Denial { what: "serial=0aff".into(), reason: "stolen laptop".into() }]);
        assert_eq!(allow(&twice, &["serial=aff".parse().unwrap()]).unwrap().denied, []);
        let error = allow(&twice, &["serial=01".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("serial=01 is not denied") && error.contains("serial=0aff"), "{error}");
    }
}
