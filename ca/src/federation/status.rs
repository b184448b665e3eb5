//! What an operator sees of other trust domains.

use std::time::{Duration, UNIX_EPOCH};

use trellis_api::trust::FederationStatus;
use trellis_pki::clock::rfc3339;

use super::{
    fetcher::Fetched,
    held::Held,
    partner::{Fault, Partner},
};

/// One for each trust domain that is wished for, or still held.
pub fn statuses(
    held: &[Held],
    partners: &[Partner],
    faults: &[Fault],
    fetched: &Fetched,
) -> Vec<FederationStatus> {
    let mut domains: Vec<&str> = partners.iter().map(|one| one.trust_domain.as_str()).collect();
    domains.extend(faults.iter().map(|one| one.trust_domain.as_str()));
    domains.extend(held.iter().map(|one| one.trust_domain.as_str()));
    domains.sort_unstable();
    domains.dedup();
    let of = |domain: &str| {
        let held = held.iter().find(|one| one.trust_domain == domain);
        let attempt = fetched.attempts.get(domain).cloned().unwrap_or_default();
        let fault = faults.iter().find(|one| one.trust_domain == domain).map(|one| one.error.clone());
        let bundle = held.and_then(|held| held.bundle().ok());
        let anchors = bundle.iter().flat_map(|bundle| bundle.anchors());
        FederationStatus {
            trust_domain: domain.to_owned(),
            sequence: held.and_then(|held| held.sequence),
            anchors: anchors.map(|anchor| anchor.fingerprint().to_string()).collect(),
            last_success: attempt.success.map(|at| rfc3339(UNIX_EPOCH + Duration::from_secs(at))),
            error: fault.or(attempt.error),
        }
    };
    domains.into_iter().map(of).collect()
}

/// Whether all is well, the reason and the message of the condition.
pub fn condition(statuses: &[FederationStatus], faults: &[Fault]) -> (bool, &'static str, String) {
    let wrong: Vec<_> = statuses
        .iter()
        .filter_map(|one| Some(format!("{}: {}", one.trust_domain, one.error.as_ref()?)))
        .collect();
    match (faults.is_empty(), wrong.is_empty()) {
        (true, true) => (true, "InForce", format!("{} trust domains federated with", statuses.len())),
        (true, false) => (false, "NotFetched", wrong.join("; ")),
        (false, _) => (false, "Unusable", wrong.join("; ")),
    }
}
