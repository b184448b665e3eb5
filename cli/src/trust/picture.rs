//! Trust as a picture in the terminal: the anchors, and where a rotation is between two of them.

use std::fmt::Write;

use trellis_api::trust::{
    AnchorStatus, FederationStatus, Part, Phase, RotationStatus, TrustDomainSpec, TrustDomainStatus,
};

use crate::table::Table;

const DIGITS: usize = 12;

pub fn of(spec: &TrustDomainSpec, status: &TrustDomainStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{}", anchors(status));
    let leaves =
        spec.leaf.algorithm.map_or("as each workload was started with".to_owned(), |one| one.to_string());
    let dual = if spec.leaf.dual { ", dual" } else { "" };
    let _ = writeln!(
        text,
        "\nrevision {} · {} members in reach · leaves: {leaves}{dual}",
        status.revision, status.members
    );
    for denial in &spec.denied {
        let reason = if denial.reason.is_empty() { String::new() } else { format!(" ({})", denial.reason) };
        let _ = writeln!(text, "denied: {}{reason}", denial.what);
    }
    for anchor in status.anchors.iter().filter(|anchor| !anchor.renews.is_empty()) {
        let _ = writeln!(
            text,
            "{}.{} gives way by itself at {}",
            anchor.algorithm, anchor.generation, anchor.renews
        );
    }
    for one in &status.federation {
        let _ = writeln!(text, "{}", federated(one));
    }
    for anchor in status.anchors.iter().filter(|anchor| !anchor.key.is_empty()) {
        let _ = writeln!(text, "key of {}.{}: {}", anchor.algorithm, anchor.generation, anchor.key);
    }
    if let Some(pending) = &status.pending {
        let _ = writeln!(text, "\nwaits for its certificate since {}: {}", pending.since, pending.kind);
    }
    if let Some(rotation) = &status.rotation {
        let _ = write!(text, "\n{}", under_way(rotation));
    }
    for condition in status.conditions.iter().filter(|condition| condition.status != "True") {
        let _ = writeln!(text, "\n{}: {}", condition.reason, condition.message);
    }
    if let Some(past) = status.past.first() {
        let phases: Vec<_> =
            past.phases.iter().map(|one| format!("{} {} s", one.phase, one.seconds)).collect();
        let how = if past.rolled_back { "rolled back" } else { "done" };
        let _ = writeln!(
            text,
            "\nrotation {}{}, {} to {}: {how} at {} ({})",
            past.number,
            what(past.of),
            past.from,
            past.to,
            past.ended,
            phases.join(", ")
        );
        if !past.cut_off.is_empty() {
            let _ = writeln!(text, "  cut off by force: {}", past.cut_off.join(", "));
        }
    }
    text
}

/// What went wrong is among the conditions.
fn federated(one: &FederationStatus) -> String {
    let sequence = one.sequence.map_or(String::new(), |number| format!(", sequence {number}"));
    let fetched =
        one.last_success.as_ref().map_or("not fetched yet".to_owned(), |at| format!("fetched {at}"));
    format!("federates with {}: {} anchors{sequence}, {fetched}", one.trust_domain, one.anchors.len())
}

fn anchors(status: &TrustDomainStatus) -> Table {
    let mut table = Table::new(["", "ANCHOR", "FINGERPRINT", "ROLE", "UNTIL", "TRUSTED BY", "LEAVES"]);
    for anchor in &status.anchors {
        let role = role(anchor, status);
        let mark = if ["issues", "companion"].contains(&role) { "●" } else { "○" };
        table.row(vec![
            mark.to_owned(),
            format!("{}.{}", anchor.algorithm, anchor.generation),
            anchor.fingerprint.get(..DIGITS).unwrap_or(&anchor.fingerprint).to_owned(),
            role.to_owned(),
            if anchor.not_after.is_empty() { "-".to_owned() } else { anchor.not_after.clone() },
            anchor.held_by.to_string(),
            anchor.leaves.to_string(),
        ]);
    }
    table
}

fn role(anchor: &AnchorStatus, status: &TrustDomainStatus) -> &'static str {
    let is = |name: &str| {
        let digits = name.rsplit(' ').next().unwrap_or_default();
        !digits.is_empty() && anchor.fingerprint.starts_with(digits)
    };
    match &status.rotation {
        _ if is(&status.issuing) => "issues",
        _ if is(&status.companion) => "companion",
        Some(rotation) if is(&rotation.to) => "joins",
        Some(rotation) if is(&rotation.from) && rotation.phase == Phase::Removing => "leaves",
        _ => "trusted",
    }
}

/// Said of the companion only: what a rotation is about without a word is what issues.
fn what(of: Part) -> &'static str {
    match of {
        Part::Issuing => "",
        Part::Companion => " the companion",
    }
}

fn under_way(rotation: &RotationStatus) -> String {
    let mut text = String::new();
    let direction = match rotation {
        RotationStatus { rolling_back: true, .. } => "rolling back",
        RotationStatus { renewal: Some(_), .. } => "renewing",
        _ => "rotating",
    };
    let _ = writeln!(
        text,
        "rotation {}: {direction}{} from {} to {}",
        rotation.number,
        what(rotation.of),
        rotation.from,
        rotation.to
    );
    let steps: Vec<_> = [Phase::Distributing, Phase::Issuing, Phase::Removing]
        .into_iter()
        .map(|phase| match phase.cmp(&rotation.phase) {
            std::cmp::Ordering::Less => format!("[✓ {phase}]"),
            std::cmp::Ordering::Equal if rotation.paused => format!("[‖ {phase}]"),
            std::cmp::Ordering::Equal => format!("[▶ {phase}]"),
            std::cmp::Ordering::Greater => format!("[  {phase}]"),
        })
        .collect();
    let _ = writeln!(text, "  {}  since {}", steps.join("──"), rotation.since);
    if rotation.waiting > 0 {
        let _ = writeln!(text, "  waits for {}:", rotation.waiting);
        for one in &rotation.waiting_for {
            let _ = writeln!(text, "    {}: {}", one.pod, one.why);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use trellis_api::trust::{Issuing, KeyAlgorithm, Leaves, PastRotation, WaitingFor};

    use super::*;

    #[test]
    fn the_picture_shows_the_anchors_the_phase_and_who_is_waited_for() {
        let anchor = |fingerprint: &str, algorithm: &str, held_by, leaves| AnchorStatus {
            fingerprint: fingerprint.to_owned(),
            algorithm: algorithm.to_owned(),
            generation: 1,
            not_after: "2036-11-26T00:00:00Z".to_owned(),
            renews: String::new(),
            held_by,
            leaves,
            key: String::new(),
            chain: String::new(),
        };
        let status = TrustDomainStatus {
            issuing: "ecdsa-p256.1 aaaaaaaaaaaa".to_owned(),
            revision: 2,
            members: 3,
            anchors: vec![
                anchor("aaaaaaaaaaaaaaaa", "ecdsa-p256", 3, 3),
                anchor("bbbbbbbbbbbbbbbb", "ml-dsa-65", 2, 0),
            ],
            rotation: Some(RotationStatus {
                number: 1,
                of: Part::Issuing,
                phase: Phase::Distributing,
                from: "ecdsa-p256.1 aaaaaaaaaaaa".to_owned(),
                to: "ml-dsa-65.1 bbbbbbbbbbbb".to_owned(),
                from_kind: Some(Issuing::own(KeyAlgorithm::EcdsaP256, 1)),
                leaf_before: None,
                renewal: None,
                started: "2026-11-26T00:00:00Z".to_owned(),
                since: "2026-11-26T00:00:00Z".to_owned(),
                rolling_back: false,
                paused: false,
                waiting: 1,
                waiting_for: vec![WaitingFor { pod: "shop/web".to_owned(), why: "it is slow".to_owned() }],
            }),
            ..TrustDomainStatus::default()
        };
        let spec = TrustDomainSpec {
            leaf: Leaves { algorithm: Some(KeyAlgorithm::MlDsa65), dual: false },
            ..TrustDomainSpec::of(Issuing::own(KeyAlgorithm::MlDsa65, 1))
        };
        let picture = of(&spec, &status);
        let expected = "    ANCHOR         FINGERPRINT    ROLE     UNTIL                  TRUSTED BY   LEAVES\n\
                        ●   ecdsa-p256.1   aaaaaaaaaaaa   issues   2036-11-26T00:00:00Z   3            3\n\
                        ○   ml-dsa-65.1    bbbbbbbbbbbb   joins    2036-11-26T00:00:00Z   2            0\n\
                        \n\
                        revision 2 · 3 members in reach · leaves: ml-dsa-65\n\
                        \n\
                        rotation 1: rotating from ecdsa-p256.1 aaaaaaaaaaaa to ml-dsa-65.1 bbbbbbbbbbbb\n  \
                        [▶ Distributing]──[  Issuing]──[  Removing]  since 2026-11-26T00:00:00Z\n  \
                        waits for 1:\n    \
                        shop/web: it is slow\n";
        assert_eq!(picture, expected, "it is now:\n{picture}");
    }

    #[test]
    fn other_trust_domains_are_listed() {
        let one = FederationStatus {
            trust_domain: "b.example".to_owned(),
            sequence: Some(4),
            anchors: vec!["aa".to_owned()],
            last_success: Some("2026-11-26T00:00:00Z".to_owned()),
            error: None,
        };
        assert_eq!(
            federated(&one),
            "federates with b.example: 1 anchors, sequence 4, fetched 2026-11-26T00:00:00Z"
        );
        let new = FederationStatus { trust_domain: "c.example".to_owned(), ..FederationStatus::default() };
        assert_eq!(federated(&new), "federates with c.example: 0 anchors, not fetched yet");
    }

    #[test]
    fn a_companion_is_one_of_the_two_that_issue() {
        let anchor = |fingerprint: &str, algorithm: &str, leaves| AnchorStatus {
            fingerprint: fingerprint.to_owned(),
            algorithm: algorithm.to_owned(),
            generation: 1,
            not_after: String::new(),
            renews: "2027-02-24T00:00:00Z".to_owned(),
            held_by: 3,
            leaves,
            key: String::new(),
            chain: String::new(),
        };
        let issuing = Issuing::own(KeyAlgorithm::MlDsa65, 1);
        let companion = Issuing::own(KeyAlgorithm::EcdsaP256, 1);
        let status = TrustDomainStatus {
            issuing: "ml-dsa-65.1 aaaaaaaaaaaa".to_owned(),
            companion: "ecdsa-p256.1 bbbbbbbbbbbb".to_owned(),
            revision: 3,
            members: 3,
            anchors: vec![
                anchor("aaaaaaaaaaaaaaaa", "ml-dsa-65", 3),
                anchor("bbbbbbbbbbbbbbbb", "ecdsa-p256", 1),
            ],
            past: vec![PastRotation {
                number: 1,
                of: Part::Companion,
                from: "none".to_owned(),
                to: companion.to_string(),
                rolled_back: false,
                started: String::new(),
                ended: "2026-11-26T00:00:00Z".to_owned(),
                phases: Vec::new(),
                cut_off: Vec::new(),
            }],
            ..TrustDomainStatus::default()
        };
        let spec = TrustDomainSpec {
            companion: Some(companion),
            leaf: Leaves { algorithm: None, dual: true },
            ..TrustDomainSpec::of(issuing)
        };
        let picture = of(&spec, &status);
        let expected = "    ANCHOR         FINGERPRINT    ROLE        UNTIL   TRUSTED BY   LEAVES\n\
                        ●   ml-dsa-65.1    aaaaaaaaaaaa   issues      -       3            3\n\
                        ●   ecdsa-p256.1   bbbbbbbbbbbb   companion   -       3            1\n\
                        \n\
                        revision 3 · 3 members in reach · leaves: as each workload was started with, dual\n\
                        ml-dsa-65.1 gives way by itself at 2027-02-24T00:00:00Z\n\
                        ecdsa-p256.1 gives way by itself at 2027-02-24T00:00:00Z\n\
                        \n\
                        rotation 1 the companion, none to ecdsa-p256 generation 1: done at 2026-11-26T00:00:00Z ()\n";
        assert_eq!(picture, expected, "it is now:\n{picture}");
    }
}
