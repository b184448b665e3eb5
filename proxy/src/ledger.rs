//! What this proxy saw, counted once and read by everyone: metrics, `/evidence` and the dashboard. A row
//! is made per kind of connection, so that a connection costs two additions.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use trellis_api::evidence::{Bytes, Class, Connections, ProxyEvidence, REFUSED, Signatures};
pub use trellis_channel::handshakes::Direction;
use trellis_channel::handshakes::{Handshakes, UNVERIFIED};
use trellis_pki::{posture, posture::Posture, public::Negotiated, spiffe::SpiffeId};
use trellis_telemetry::{Counter, Family, Gauge, Registry};

use crate::{account::Audience, detect::Protocol, directory::Directory};

/// Kinds of connection that are told apart; beyond it peers become `other`.
const ROWS: usize = 2_000;

/// One kind of connection.
pub struct Row {
    pub class: Class,
    /// All that its connections have in common.
    pub terms: Connections,
    count: AtomicU64,
    total: Counter,
    open: Arc<Open>,
}

/// Connections of one direction that are open now.
struct Open {
    count: AtomicI64,
    gauge: Gauge,
}

/// One open connection.
pub struct OpenConnection(Arc<Open>);

/// Bytes of one direction and class.
pub struct Flow {
    sent: AtomicU64,
    received: AtomicU64,
    sent_total: Counter,
    received_total: Counter,
}

pub struct Ledger {
    own: Arc<str>,
    workload: String,
    directory: Directory,
    audience: Arc<Audience>,
    rows: Mutex<HashMap<(Direction, Connections), Arc<Row>>>,
    flows: [[Arc<Flow>; Class::ALL.len()]; 2],
    open: [Arc<Open>; 2],
    handshakes: Handshakes,
    connections: Family<Counter>,
    protocols: Family<Counter>,
    tunnels_ended: Family<Counter>,
}

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

impl Ledger {
    pub fn new(
        own: &SpiffeId,
        workload: String,
        directory: Directory,
        audience: Arc<Audience>,
        registry: &Registry,
    ) -> Self {
        let bytes = registry.counter(
            "trellis_bytes_total",
            "Bytes of applications, by how well they were protected on the wire.",
        );
        let open = registry.gauge("trellis_connections_open", "Connections of applications that are open.");
        let flow = |direction: Direction, class: Class| {
            let counter = |flow| {
                bytes.with(&[("direction", direction.as_str()), ("flow", flow), ("class", class.as_str())])
            };
            Arc::new(Flow {
                sent: AtomicU64::new(0),
                received: AtomicU64::new(0),
                sent_total: counter("sent"),
                received_total: counter("received"),
            })
        };
        Self {
            own: own.to_string().into(),
            workload,
            directory,
            audience,
            rows: Mutex::default(),
            flows: DIRECTIONS.map(|direction| Class::ALL.map(|class| flow(direction, class))),
            open: DIRECTIONS.map(|direction| {
                let gauge = open.with(&[("direction", direction.as_str())]);
                Arc::new(Open { count: AtomicI64::new(0), gauge })
            }),
            handshakes: Handshakes::new(registry),
            connections: registry
                .counter(
                    "trellis_connections_total",
                    "Connections of applications, by how well they were protected on the wire.",
                )
                .open_labels(&["peer"]),
            protocols: registry.counter(
                "trellis_application_protocols_total",
                "Connections of applications, by what their first bytes looked like.",
            ),
            tunnels_ended: registry
                .counter("trellis_tunnels_ended_total", "Tunnels that did not end by themselves, by reason."),
        }
    }

    /// A tunnel that had to end, whatever was open on it.
    pub fn tunnel_ended(&self, direction: Direction, reason: &str) {
        self.tunnels_ended.with(&[("direction", direction.as_str()), ("reason", reason)]).inc();
    }

    // === connections ===

    /// The row of connections that ride a tunnel with this posture.
    pub fn tunnel(&self, direction: Direction, posture: &Posture) -> Arc<Row> {
        let peer = posture.peer.as_ref().map_or_else(|| "unverified:unknown".into(), ToString::to_string);
        let [source, destination] = self.ends(direction, peer);
        let class = class(posture.class);
        self.row(
            direction,
            Connections {
                source,
                destination,
                tls: Some(posture.tls.to_owned()),
                group: Some(posture.group.clone()),
                signatures: signatures(direction, posture),
                class,
                resumed: posture.resumed,
                reason: posture.weakness().map(ToOwned::to_owned),
                count: 0,
            },
        )
    }

    /// The row of connections over TLS with `peer`, which is no part of the mesh.
    pub fn outside(
        &self,
        direction: Direction,
        peer: String,
        negotiated: &Negotiated,
        weakness: Option<&str>,
    ) -> Arc<Row> {
        let [source, destination] = self.ends(direction, peer);
        let named = |signature: Option<&'static str>| signature.map(ToOwned::to_owned);
        self.row(
            direction,
            Connections {
                source,
                destination,
                tls: Some(negotiated.tls.to_owned()),
                group: Some(negotiated.group.clone()),
                signatures: Signatures {
                    client: named(negotiated.client_signature),
                    server: named(negotiated.server_signature),
                },
                class: class(negotiated.class),
                resumed: negotiated.resumed,
                reason: weakness.map(ToOwned::to_owned),
                count: 0,
            },
        )
    }

    /// The row of plaintext connections with `peer`.
    pub fn plaintext(&self, direction: Direction, peer: String, reason: &str) -> Arc<Row> {
        let [source, destination] = self.ends(direction, peer);
        self.row(
            direction,
            Connections {
                source,
                destination,
                tls: None,
                group: None,
                signatures: Signatures::default(),
                class: Class::Plaintext,
                resumed: false,
                reason: Some(reason.to_owned()),
                count: 0,
            },
        )
    }

    /// Counts a connection that carried no byte, because `reason`.
    pub fn refused(&self, direction: Direction, peer: String, class: Class, reason: &str) {
        let [source, destination] = self.ends(direction, peer);
        let row = self.row(
            direction,
            Connections {
                source,
                destination,
                tls: None,
                group: None,
                signatures: Signatures::default(),
                class,
                resumed: false,
                reason: Some(format!("{REFUSED}{reason}")),
                count: 0,
            },
        );
        row.count.fetch_add(1, Relaxed);
        row.total.inc();
        self.audience.refused(direction, &row.terms);
    }

    /// Who we are.
    pub fn own(&self) -> &Arc<str> {
        &self.own
    }

    pub fn audience(&self) -> &Arc<Audience> {
        &self.audience
    }

    pub fn flow(&self, direction: Direction, class: Class) -> Arc<Flow> {
        let position = Class::ALL.iter().position(|one| *one == class).unwrap_or_default();
        self.flows[direction as usize][position].clone()
    }

    pub fn protocol(&self, direction: Direction, protocol: Protocol) {
        self.protocols.with(&[("direction", direction.as_str()), ("protocol", protocol.as_str())]).inc();
    }

    fn ends(&self, direction: Direction, peer: String) -> [String; 2] {
        match direction {
            Direction::Inbound => [peer, self.own.to_string()],
            Direction::Outbound => [self.own.to_string(), peer],
        }
    }

    fn row(&self, direction: Direction, mut key: Connections) -> Arc<Row> {
        let mut rows = self.rows.lock();
        if let Some(row) = rows.get(&(direction, key.clone())) {
            return row.clone();
        }
        if rows.len() >= ROWS {
            [key.source, key.destination] = self.ends(direction, "unverified:other".into());
        }
        let peer = match direction {
            Direction::Inbound => &key.source,
            Direction::Outbound => &key.destination,
        };
        let total = self.connections.with(&[
            ("direction", direction.as_str()),
            ("class", key.class.as_str()),
            ("peer", peer),
            ("reason", key.reason.as_deref().unwrap_or_default()),
        ]);
        let open = self.open[direction as usize].clone();
        let row = Row { class: key.class, terms: key.clone(), count: AtomicU64::new(0), total, open };
        rows.entry((direction, key)).or_insert_with(|| Arc::new(row)).clone()
    }

    // === handshakes ===

    pub fn handshake(&self, direction: Direction, posture: &Posture, took: Duration) {
        self.handshakes.completed(direction, posture, took);
    }

    /// With a client of a gateway.
    pub fn client_handshake(&self, negotiated: &Negotiated, weakness: Option<&str>, took: Duration) {
        self.handshakes.completed_outside(Direction::Inbound, UNVERIFIED, negotiated, weakness, took);
    }

    /// With an application that speaks TLS itself.
    pub fn application_handshake(
        &self,
        peer: &str,
        negotiated: &Negotiated,
        weakness: Option<&str>,
        took: Duration,
    ) {
        self.handshakes.completed_outside(Direction::Outbound, peer, negotiated, weakness, took);
    }

    /// A client of a gateway, which proved nothing.
    pub fn client_turned_away(&self, reason: &str) {
        self.handshakes.refused(Direction::Inbound, reason);
        self.refused(Direction::Inbound, "unverified:client".into(), Class::Classical, reason);
    }

    /// Only the handshake: the connection that it was for may still go elsewhere.
    pub fn client_refused(&self, expected: &str, reason: &str) {
        self.handshakes.refused_by(Direction::Outbound, expected, reason);
    }

    /// A peer that proved nothing is named by its address, as far as discovery knows who lives there.
    pub fn server_refused(self: &Arc<Self>, from: IpAddr, reason: &'static str) {
        let ledger = self.clone();
        tokio::spawn(async move {
            let peer = ledger.directory.name(from).await;
            ledger.handshakes.refused_by(Direction::Inbound, &peer, reason);
            ledger.refused(Direction::Inbound, peer, Class::Classical, reason);
        });
    }

    // === what others read ===

    pub fn evidence(&self, [leaf, companion]: [Option<trellis_api::evidence::Leaf>; 2]) -> ProxyEvidence {
        let rows = self.rows.lock();
        let side = |wanted: Direction| {
            let mut side: Vec<Connections> = rows
                .iter()
                .filter(|((direction, _), _)| *direction == wanted)
                .map(|((_, key), row)| Connections { count: row.count.load(Relaxed), ..key.clone() })
                .filter(|row| row.count > 0)
                .collect();
            side.sort_by(|a, b| {
                (&a.source, &a.destination, a.class).cmp(&(&b.source, &b.destination, b.class))
            });
            side
        };
        ProxyEvidence {
            workload: self.workload.clone(),
            leaf,
            companion,
            inbound: side(Direction::Inbound),
            outbound: side(Direction::Outbound),
            open_connections: self.open_connections(),
            bytes: Class::ALL
                .iter()
                .enumerate()
                .map(|(position, class)| {
                    let sum =
                        |count: fn(&Flow) -> u64| self.flows.iter().map(|side| count(&side[position])).sum();
                    Bytes {
                        class: *class,
                        sent: sum(|flow| flow.sent.load(Relaxed)),
                        received: sum(|flow| flow.received.load(Relaxed)),
                    }
                })
                .collect(),
        }
    }

    pub fn open_connections(&self) -> u64 {
        let open: i64 = self.open.iter().map(|open| open.count.load(Relaxed)).sum();
        open.try_into().unwrap_or_default()
    }
}

// === impl Row ===

impl Row {
    /// Counts one more connection, and counts it as open until the guard is dropped.
    pub fn opened(&self) -> OpenConnection {
        self.count.fetch_add(1, Relaxed);
        self.total.inc();
        OpenConnection::new(&self.open)
    }
}

impl OpenConnection {
    fn new(open: &Arc<Open>) -> Self {
        let count = open.count.fetch_add(1, Relaxed) + 1;
        open.gauge.set(count as f64);
        Self(open.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let count = self.0.count.fetch_sub(1, Relaxed) - 1;
        self.0.gauge.set(count as f64);
    }
}

// === impl Flow ===

impl Flow {
    /// `sent` is what the application said, seen from the proxy that is next to it.
    pub fn add(&self, sent: bool, bytes: usize) {
        let (count, total) =
            if sent { (&self.sent, &self.sent_total) } else { (&self.received, &self.received_total) };
        count.fetch_add(bytes as u64, Relaxed);
        total.add(bytes as u64);
    }
}

pub fn class(class: posture::Class) -> Class {
    match class {
        posture::Class::Pq => Class::Pq,
        posture::Class::Hybrid => Class::Hybrid,
        posture::Class::Classical => Class::Classical,
    }
}

fn signatures(direction: Direction, posture: &Posture) -> Signatures {
    let local = posture.local_signature.map(|one| one.name().to_owned());
    let peer = posture.peer_signature.map(|one| one.name().to_owned());
    match direction {
        Direction::Inbound => Signatures { client: peer, server: local },
        Direction::Outbound => Signatures { client: local, server: peer },
    }
}
