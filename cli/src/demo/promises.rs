//! What a bounded run must have shown, judged on the evidence document alone.

use std::ops::RangeInclusive;

use trellis_api::evidence::{Class, Connections, Evidence, REFUSED};
use trellis_local::Running;

use super::{
    shop::Shop,
    strangers::{EACH, VISITS},
};

/// Requests of each stranger in the whole run.
const STRANGE: u64 = VISITS * EACH;

pub struct Promise {
    pub name: &'static str,
    pub kept: bool,
    pub found: String,
}

/// `migrated` is the evidence right after the mesh has moved to ML-DSA, `evidence` that of the whole run.
pub fn judge(migrated: &Evidence, evidence: &Evidence, shop: &Shop) -> Vec<Promise> {
    let pairs = [(&shop.visitor, &shop.web), (&shop.web, &shop.catalog), (&shop.web, &shop.orders)];
    let mut promises: Vec<Promise> =
        pairs.into_iter().map(|(from, to)| post_quantum(migrated, evidence, from, to)).collect();
    // Its requests may share connections.
    let classical = rows(evidence, |row| row.class == Class::Classical && !refused(row));
    promises.push(counted("a classical client is seen and counted", &classical, 1..=STRANGE, |row| {
        row.group.as_deref() == Some("X25519")
            && row.signatures.client.as_deref() == Some("ECDSA-P256")
            && row.source == identity(&shop.legacy)
            && row.reason.is_some()
    }));
    let plaintext = rows(evidence, |row| row.class == Class::Plaintext && !refused(row));
    promises.push(counted(
        "a client without TLS is seen and counted",
        &plaintext,
        STRANGE..=STRANGE,
        |row| row.tls.is_none() && row.reason.as_deref() == Some("peer_without_tls"),
    ));
    let knocked = rows(evidence, refused);
    promises.push(counted(
        "a client without a certificate is refused and counted",
        &knocked,
        STRANGE..=STRANGE,
        |row| {
            row.reason.as_deref() == Some("refused_no_certificate")
                && row.destination == identity(&shop.orders)
        },
    ));
    promises.push(adoption(evidence));
    promises.push(requests(evidence));
    promises.push(migration(evidence, shop));
    promises.push(rotations(evidence));
    promises
}

/// Every connection between two workloads is as good as it can be; what was not is from before.
fn post_quantum(migrated: &Evidence, evidence: &Evidence, from: &Running, to: &Running) -> Promise {
    let (source, destination) = (identity(from), identity(to));
    let between = |row: &Connections| row.source == source && row.destination == destination;
    let (before, rows) = (rows(migrated, between), rows(evidence, between));
    let best = |row: &&Connections| {
        row.class == Class::Pq
            && row.tls.as_deref() == Some("1.3")
            && row.group.as_deref() == Some("X25519MLKEM768")
            && row.signatures.client.as_deref() == Some("ML-DSA-65")
            && row.signatures.server.as_deref() == Some("ML-DSA-65")
            && !row.resumed
    };
    // The key exchange was hybrid from the first byte; only the signatures were not.
    let from_before = |row: &&Connections| {
        row.class == Class::Hybrid && row.reason.is_some() && before.iter().any(|old| old == row)
    };
    let (best, weaker): (Vec<_>, Vec<_>) = rows.iter().copied().partition(best);
    Promise {
        name: "every connection between workloads is hybrid, and since the migration post-quantum",
        kept: !best.is_empty() && !weaker.is_empty() && weaker.iter().all(from_before),
        found: describe(&rows),
    }
}

fn counted(
    name: &'static str,
    rows: &[&Connections],
    expected: RangeInclusive<u64>,
    as_it_should: impl Fn(&Connections) -> bool,
) -> Promise {
    let count: u64 = rows.iter().map(|row| row.count).sum();
    let kept = expected.contains(&count) && rows.iter().all(|row| as_it_should(row));
    Promise { name, kept, found: format!("{} (of {})", describe(rows), expected.end()) }
}

fn adoption(evidence: &Evidence) -> Promise {
    let (numerator, denominator) = (evidence.adoption.numerator, evidence.adoption.denominator);
    let safe: u64 = rows(evidence, |row| row.class.is_quantum_safe()).iter().map(|row| row.count).sum();
    let strange: u64 = [Class::Classical, Class::Plaintext]
        .iter()
        .flat_map(|class| rows(evidence, |row| row.class == *class && !refused(row)))
        .map(|row| row.count)
        .sum();
    let kept = numerator == safe && denominator == numerator + strange && numerator > 0;
    Promise {
        name: "adoption is what was negotiated over all there was",
        kept,
        found: format!("{numerator} of {denominator}"),
    }
}

fn requests(evidence: &Evidence) -> Promise {
    let (sent, failed) = (evidence.requests.sent, evidence.requests.failed);
    Promise {
        name: "no request failed",
        kept: failed == 0 && sent > 0,
        found: format!("{failed} of {sent} failed"),
    }
}

fn migration(evidence: &Evidence, shop: &Shop) -> Promise {
    let moved = |running: &&Running| {
        evidence.rotations.iter().any(|one| {
            one.identity == identity(running)
                && one.algorithm_before == "ECDSA-P256"
                && one.algorithm_after == "ML-DSA-65"
                && one.failed_requests == 0
        })
    };
    let modern = shop.modern();
    let count = modern.iter().filter(|running| moved(running)).count();
    Promise {
        name: "the mesh moved from ECDSA to ML-DSA under load",
        kept: count == modern.len(),
        found: format!("{count} of {} identities", modern.len()),
    }
}

fn rotations(evidence: &Evidence) -> Promise {
    let swapped = |one: &trellis_api::evidence::Rotation| {
        one.serial_before != one.serial_after
            && one.algorithm_after == "ML-DSA-65"
            && one.failed_requests == 0
    };
    let found: Vec<String> = evidence
        .rotations
        .iter()
        .map(|one| {
            format!(
                "{} from serial {} to {} with {} failed requests",
                one.identity, one.serial_before, one.serial_after, one.failed_requests
            )
        })
        .collect();
    Promise {
        name: "a certificate was swapped under load",
        kept: !evidence.rotations.is_empty() && evidence.rotations.iter().all(swapped),
        found: found.join(", "),
    }
}

fn rows(evidence: &Evidence, which: impl Fn(&Connections) -> bool) -> Vec<&Connections> {
    evidence.connections.iter().filter(|row| which(row)).collect()
}

fn refused(row: &Connections) -> bool {
    row.reason.as_deref().is_some_and(|reason| reason.starts_with(REFUSED))
}

fn identity(running: &Running) -> String {
    let workload = &running.workload;
    format!(
        "spiffe://{}/ns/{}/sa/{}",
        trellis_api::names::DEFAULT_TRUST_DOMAIN,
        workload.namespace,
        workload.service_account
    )
}

fn describe(rows: &[&Connections]) -> String {
    let describe = |row: &&Connections| {
        let short = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
        format!(
            "{} {} {} to {}{}",
            row.count,
            row.class.as_str(),
            short(&row.source),
            short(&row.destination),
            row.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
        )
    };
    if rows.is_empty() { "none".to_owned() } else { rows.iter().map(describe).collect::<Vec<_>>().join(", ") }
}
