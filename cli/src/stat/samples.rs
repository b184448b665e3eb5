//! What proxies say, for tests: two replicas of a server, a client, and a proxy that cannot be read.

use trellis_api::evidence::{Bytes, Class, Connections, Leaf, ProxyEvidence, Signatures};

use super::{Seen, workload::Workload};

pub const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

pub fn pq(source: &str, destination: &str, count: u64) -> Connections {
    let dsa = Some("ML-DSA-65".to_owned());
    Connections {
        source: source.into(),
        destination: destination.into(),
        tls: Some("1.3".into()),
        group: Some("X25519MLKEM768".into()),
        signatures: Signatures { client: dsa.clone(), server: dsa },
        class: Class::Pq,
        resumed: false,
        reason: None,
        count,
    }
}

pub fn plaintext(source: &str, destination: &str, reason: &str, count: u64) -> Connections {
    Connections {
        tls: None,
        group: None,
        signatures: Signatures::default(),
        class: Class::Plaintext,
        reason: Some(reason.into()),
        ..pq(source, destination, count)
    }
}

pub fn seen(
    pod: &str,
    workload: &str,
    identity: &str,
    inbound: Vec<Connections>,
    outbound: Vec<Connections>,
) -> Seen {
    Seen {
        name: format!("shop/{pod}"),
        workload: Workload { namespace: "shop".into(), name: workload.into() },
        since: Some("2026-01-01T08:00:00Z".parse().unwrap()),
        evidence: Ok(ProxyEvidence {
            workload: format!("shop/{pod}"),
            leaf: Some(Leaf {
                identity: identity.into(),
                serial: "0a".into(),
                algorithm: "ML-DSA-65".into(),
                not_before: "2026-01-01T07:44:00Z".into(),
                not_after: "2026-01-02T07:44:00Z".into(),
            }),
            companion: None,
            inbound,
            outbound,
            open_connections: 1,
            bytes: vec![
                Bytes { class: Class::Pq, sent: 1_500, received: 500 },
                Bytes { class: Class::Plaintext, sent: 30, received: 12 },
            ],
        }),
    }
}

/// Seven connections of the client to two replicas, two in plaintext to a database, one handshake of a
/// stranger that was refused, and a third replica that says nothing.
pub fn shop() -> Vec<Seen> {
    let refused = Connections {
        reason: Some("refused_no_certificate".into()),
        ..plaintext("unverified:10.0.0.9", WEB, "", 1)
    };
    let mut silent = seen("web-2", "deployment/web", WEB, vec![], vec![]);
    silent.evidence = Err("the API server answers 503: no route".into());
    vec![
        seen(
            "client-0",
            "deployment/client",
            CLIENT,
            vec![],
            vec![pq(CLIENT, WEB, 7), plaintext(CLIENT, "unverified:shop/default", "not_injected", 2)],
        ),
        seen("web-0", "deployment/web", WEB, vec![pq(CLIENT, WEB, 3)], vec![]),
        seen("web-1", "deployment/web", WEB, vec![pq(CLIENT, WEB, 4), refused], vec![]),
        silent,
    ]
}
