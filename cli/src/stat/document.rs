//! The evidence document of everything that was seen.

use std::collections::HashSet;

use k8s_openapi::jiff::Timestamp;
use trellis_api::evidence::{
    API_VERSION, Adoption, Class, Connections, Evidence, ProxyEvidence, Requests, merge,
};
use trellis_pki::issue::issued_at;

use super::Seen;

pub fn of(seen: &[Seen], now: Timestamp) -> Evidence {
    let connections = connections(seen);
    Evidence {
        api_version: API_VERSION.to_owned(),
        from: since(seen).unwrap_or(now).to_string(),
        to: now.to_string(),
        adoption: Adoption::of(&connections),
        connections,
        requests: Requests::default(),
        rotations: Vec::new(),
    }
}

/// Each connection once. Both ends of a connection count it, so it is taken from the end that it came to;
/// where that end was not looked at, from the end that it came from.
pub fn connections(seen: &[Seen]) -> Vec<Connections> {
    let proxies: Vec<&ProxyEvidence> = seen.iter().filter_map(|one| one.evidence.as_ref().ok()).collect();
    let looked_at: HashSet<&str> =
        proxies.iter().filter_map(|proxy| Some(proxy.leaf.as_ref()?.identity.as_str())).collect();
    let elsewhere = proxies.iter().flat_map(|proxy| &proxy.outbound);
    let elsewhere = elsewhere
        .filter(|row| row.class != Class::Plaintext && !looked_at.contains(row.destination.as_str()))
        .cloned();
    let elsewhere = ProxyEvidence {
        workload: String::new(),
        leaf: None,
        companion: None,
        inbound: elsewhere.collect(),
        outbound: Vec::new(),
        open_connections: 0,
        bytes: Vec::new(),
    };
    merge(proxies.into_iter().chain([&elsewhere]))
}

/// The earliest moment of which a proxy speaks. One that the cluster says nothing about speaks at least
/// since its certificate was issued.
fn since(seen: &[Seen]) -> Option<Timestamp> {
    seen.iter()
        .filter_map(|one| {
            let evidence = one.evidence.as_ref().ok()?;
            let leaf = || {
                let leaf = evidence.leaf.as_ref()?;
                let (begins, ends): (Timestamp, Timestamp) =
                    (leaf.not_before.parse().ok()?, leaf.not_after.parse().ok()?);
                issued_at(begins.into(), ends.into()).map_or(Some(begins), |at| at.try_into().ok())
            };
            one.since.or_else(leaf)
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::samples::{CLIENT, WEB, plaintext, pq, seen, shop};

    const NOW: &str = "2026-01-01T12:00:00Z";

    #[test]
    fn each_connection_counts_once_and_refused_ones_not_at_all() {
        let document = of(&shop(), NOW.parse().unwrap());
        assert_eq!(document.api_version, "trellis.dev/evidence/v1");
        assert_eq!((document.from.as_str(), document.to.as_str()), ("2026-01-01T08:00:00Z", NOW));
        assert_eq!(document.adoption, Adoption { numerator: 7, denominator: 9 });
        assert!(document.connections.contains(&pq(CLIENT, WEB, 7)));
        // What is printed can be read again.
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), document);
    }

    #[test]
    fn connections_to_where_nobody_looked_count_where_they_began() {
        let client = || {
            seen(
                "client-0",
                "deployment/client",
                CLIENT,
                vec![],
                vec![pq(CLIENT, WEB, 7), plaintext(CLIENT, "unverified:shop/default", "not_injected", 2)],
            )
        };
        let alone = of(&[client()], NOW.parse().unwrap());
        assert_eq!(alone.adoption, Adoption { numerator: 7, denominator: 9 });
        let both = [client(), seen("web-0", "deployment/web", WEB, vec![pq(CLIENT, WEB, 7)], vec![])];
        assert_eq!(of(&both, NOW.parse().unwrap()).adoption, Adoption { numerator: 7, denominator: 9 });
    }

    #[test]
    fn without_a_cluster_the_leaf_says_since_when_and_without_that_nothing_does() {
        let mut one = seen("web-0", "pod/web-0", WEB, vec![], vec![]);
        one.since = None;
        assert_eq!(of(&[one], NOW.parse().unwrap()).from, "2026-01-01T07:59:00Z");
        assert_eq!(of(&[], NOW.parse().unwrap()).from, NOW);
    }
}
