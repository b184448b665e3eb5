//! The evidence document `trellis.dev/evidence/v1`: what connections really negotiated. Proxies serve
//! it, `stat` and the demo print it, the dashboard draws it.

use serde::{Deserialize, Serialize};

pub const API_VERSION: &str = "trellis.dev/evidence/v1";

/// How well a connection resists a quantum computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Key exchange and both signatures resist.
    Pq,
    /// Only the key exchange resists.
    Hybrid,
    /// TLS, but a recording can be opened later.
    Classical,
    /// No TLS at all.
    Plaintext,
}

impl Class {
    pub const ALL: [Self; 4] = [Self::Pq, Self::Hybrid, Self::Classical, Self::Plaintext];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pq => "pq",
            Self::Hybrid => "hybrid",
            Self::Classical => "classical",
            Self::Plaintext => "plaintext",
        }
    }

    /// Whether a recording of the connection stays closed: what adoption counts.
    pub fn is_quantum_safe(self) -> bool {
        matches!(self, Self::Pq | Self::Hybrid)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    pub api_version: String,
    /// RFC 3339 times between which the document speaks.
    pub from: String,
    pub to: String,
    pub connections: Vec<Connections>,
    pub adoption: Adoption,
    pub requests: Requests,
    pub rotations: Vec<Rotation>,
}

/// Connections that are alike in all that is named here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connections {
    /// SPIFFE ID, or `unverified:...` for a peer that proved nothing.
    pub source: String,
    pub destination: String,
    /// TLS version, null where there was no TLS.
    pub tls: Option<String>,
    pub group: Option<String>,
    pub signatures: Signatures,
    pub class: Class,
    pub resumed: bool,
    /// Why the class is weaker than wanted, or why the connection was refused.
    pub reason: Option<String>,
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signatures {
    pub client: Option<String>,
    pub server: Option<String>,
}

/// Quantum-safe connections over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adoption {
    pub numerator: u64,
    pub denominator: u64,
}

impl Adoption {
    /// Counts each connection once, and none that was refused, that a kubelet's probe made, or that left
    /// for a place which no mesh could protect.
    pub fn of<'a>(connections: impl IntoIterator<Item = &'a Connections>) -> Self {
        let mut adoption = Self::default();
        for row in connections {
            if row.reason.as_deref().is_some_and(is_uncounted) {
                continue;
            }
            adoption.denominator += row.count;
            if row.class.is_quantum_safe() {
                adoption.numerator += row.count;
            }
        }
        adoption
    }
}

/// Reason of a plaintext connection that the node's kubelet made to probe the application.
pub const KUBELET_PROBE: &str = "kubelet_probe";
/// Reason of a plaintext connection to an address that the mesh does not know.
pub const OUTSIDE_MESH: &str = "outside_mesh";
/// Begins the name of a peer that proved none.
pub const UNVERIFIED: &str = "unverified:";
/// First word of the reason of a connection that never was: it carried no byte.
pub const REFUSED: &str = "refused_";

fn is_uncounted(reason: &str) -> bool {
    reason == KUBELET_PROBE || reason == OUTSIDE_MESH || reason.starts_with(REFUSED)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requests {
    pub sent: u64,
    pub failed: u64,
}

/// One swap of a leaf under traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    pub identity: String,
    pub serial_before: String,
    pub serial_after: String,
    pub algorithm_before: String,
    pub algorithm_after: String,
    pub failed_requests: u64,
}

/// What one proxy says on `/evidence`: a document about itself, with the rows that it alone can see
/// marked, so that a sum over many proxies counts each connection once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyEvidence {
    pub workload: String,
    pub leaf: Option<Leaf>,
    /// The second certificate, for peers that cannot verify ML-DSA, of a workload with a dual identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<Leaf>,
    pub inbound: Vec<Connections>,
    /// Rows whose other end is a proxy are counted there too.
    pub outbound: Vec<Connections>,
    pub open_connections: u64,
    pub bytes: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leaf {
    pub identity: String,
    pub serial: String,
    pub algorithm: String,
    pub not_before: String,
    pub not_after: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bytes {
    pub class: Class,
    pub sent: u64,
    pub received: u64,
}

/// Sums what proxies said into rows that count each connection once: all that came in somewhere, and
/// what went out to an end that has no proxy of its own.
pub fn merge<'a>(proxies: impl IntoIterator<Item = &'a ProxyEvidence>) -> Vec<Connections> {
    let mut rows: Vec<Connections> = Vec::new();
    for proxy in proxies {
        // An application that speaks TLS itself has no proxy either.
        let alone =
            |row: &&Connections| row.class == Class::Plaintext || row.destination.starts_with(UNVERIFIED);
        let alone = proxy.outbound.iter().filter(alone);
        for row in proxy.inbound.iter().chain(alone) {
            match rows.iter_mut().find(|seen| same(seen, row)) {
                Some(seen) => seen.count += row.count,
                None => rows.push(row.clone()),
            }
        }
    }
    rows
}

fn same(a: &Connections, b: &Connections) -> bool {
    Connections { count: 0, ..a.clone() } == Connections { count: 0, ..b.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(class: Class, reason: Option<&str>, count: u64) -> Connections {
        Connections {
            source: "spiffe://cluster.local/ns/a/sa/x".into(),
            destination: "spiffe://cluster.local/ns/a/sa/y".into(),
            tls: Some("1.3".into()),
            group: None,
            signatures: Signatures::default(),
            class,
            resumed: false,
            reason: reason.map(Into::into),
            count,
        }
    }

    #[test]
    fn an_application_with_tls_of_its_own_is_counted_where_it_is_called() {
        let proxy = |inbound, outbound| ProxyEvidence {
            workload: "a/x".into(),
            leaf: None,
            companion: None,
            inbound,
            outbound,
            open_connections: 0,
            bytes: Vec::new(),
        };
        let alone = Connections { destination: "unverified:a/z".into(), ..row(Class::Hybrid, None, 3) };
        let both = row(Class::Pq, None, 5);
        let merged = merge(&[
            proxy(Vec::new(), vec![both.clone(), alone.clone()]),
            proxy(vec![both.clone()], Vec::new()),
        ]);
        assert_eq!(merged, [alone, both]);
    }

    #[test]
    fn adoption_counts_what_was_negotiated_over_all() {
        let rows = [
            row(Class::Pq, None, 10),
            row(Class::Hybrid, None, 2),
            row(Class::Classical, Some("peer_offered_no_hybrid"), 1),
            row(Class::Plaintext, Some(KUBELET_PROBE), 50),
            row(Class::Plaintext, Some(OUTSIDE_MESH), 9),
            row(Class::Classical, Some("refused_no_common_group"), 7),
        ];
        assert_eq!(Adoption::of(&rows), Adoption { numerator: 12, denominator: 13 });
    }

    #[test]
    fn merging_counts_a_connection_once_although_both_ends_saw_it() {
        let client = ProxyEvidence {
            workload: "a/x".into(),
            leaf: None,
            companion: None,
            inbound: vec![],
            outbound: vec![row(Class::Pq, None, 5), row(Class::Plaintext, Some("not_injected"), 2)],
            open_connections: 0,
            bytes: vec![],
        };
        let server =
            ProxyEvidence { inbound: vec![row(Class::Pq, None, 5)], outbound: vec![], ..client.clone() };
        let rows = merge([&client, &server]);
        assert_eq!(Adoption::of(&rows), Adoption { numerator: 5, denominator: 7 });
    }
}
