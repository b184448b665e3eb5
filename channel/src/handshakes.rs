//! Counts every TLS handshake by what it negotiated, or by why it came to nothing.

use std::time::Duration;

use trellis_pki::{
    algorithm::Algorithm,
    posture::{Class, Posture},
    public::Negotiated,
};
use trellis_telemetry::{Counter, Family, Histogram, Registry};

/// Label of a peer that proved no identity.
pub const UNVERIFIED: &str = "unverified";

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What a completed handshake came to.
struct Made<'a> {
    group: &'a str,
    tls: &'a str,
    local: &'a str,
    remote: &'a str,
    peer: &'a str,
    resumed: bool,
    reason: &'a str,
}

/// The two families that tell about handshakes.
#[derive(Clone)]
pub struct Handshakes {
    total: Family<Counter>,
    seconds: Family<Histogram>,
}

impl Handshakes {
    pub fn new(registry: &Registry) -> Self {
        Self {
            total: registry
                .counter(
                    "trellis_handshakes_total",
                    "TLS handshakes by what they negotiated or why they were refused.",
                )
                .open_labels(&["peer"]),
            seconds: registry.histogram(
                "trellis_handshake_seconds",
                "Time from the first byte to the end of a completed TLS handshake.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
            ),
        }
    }

    pub fn completed(&self, direction: Direction, posture: &Posture, took: Duration) {
        let peer = posture.peer.as_ref().map(ToString::to_string);
        let signature = |one: Option<Algorithm>| one.map_or("", Algorithm::name);
        self.count(
            direction,
            took,
            posture.class,
            &Made {
                group: &posture.group,
                tls: posture.tls,
                local: signature(posture.local_signature),
                remote: signature(posture.peer_signature),
                peer: peer.as_deref().unwrap_or(UNVERIFIED),
                resumed: posture.resumed,
                // Why it was weaker than it could have been.
                reason: posture.weakness().unwrap_or_default(),
            },
        );
    }

    /// One with a peer that is no part of the mesh.
    pub fn completed_outside(
        &self,
        direction: Direction,
        peer: &str,
        negotiated: &Negotiated,
        weakness: Option<&str>,
        took: Duration,
    ) {
        let signatures = [negotiated.server_signature, negotiated.client_signature];
        let [local, remote] = match direction {
            Direction::Inbound => signatures,
            Direction::Outbound => [signatures[1], signatures[0]],
        };
        self.count(
            direction,
            took,
            negotiated.class,
            &Made {
                group: &negotiated.group,
                tls: negotiated.tls,
                local: local.unwrap_or_default(),
                remote: remote.unwrap_or_default(),
                peer,
                resumed: negotiated.resumed,
                reason: weakness.unwrap_or_default(),
            },
        );
    }

    fn count(&self, direction: Direction, took: Duration, class: Class, made: &Made<'_>) {
        self.total
            .with(&[
                ("direction", direction.as_str()),
                ("class", class.as_str()),
                ("group", made.group),
                ("tls", made.tls),
                ("local_signature", made.local),
                ("peer_signature", made.remote),
                ("peer", made.peer),
                ("resumed", if made.resumed { "true" } else { "false" }),
                ("result", "ok"),
                ("reason", made.reason),
            ])
            .inc();
        self.seconds
            .with(&[("direction", direction.as_str()), ("class", class.as_str())])
            .observe(took.as_secs_f64());
    }

    /// `reason` comes from a closed set: a `Refusal`, or one of this crate's own words.
    pub fn refused(&self, direction: Direction, reason: &str) {
        self.refused_by(direction, UNVERIFIED, reason);
    }

    /// The same, where something is known of the peer.
    pub fn refused_by(&self, direction: Direction, peer: &str, reason: &str) {
        self.total
            .with(&[
                ("direction", direction.as_str()),
                ("class", ""),
                ("group", ""),
                ("tls", ""),
                ("local_signature", ""),
                ("peer_signature", ""),
                ("peer", peer),
                ("resumed", "false"),
                ("result", "refused"),
                ("reason", reason),
            ])
            .inc();
    }
}
