//! How often and for how long is measured.

use std::time::Duration;

use crate::load::{Load, Shape};

/// The size of a request and of its answer.
const MESSAGE: u64 = 1024;
/// Of a download; the next one begins when it has arrived.
const FILE: u64 = 64 * 1024 * 1024;

/// Longer than anything takes.
const ENDLESS: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct Plan {
    /// Of each comparison.
    pub rounds: usize,
    /// Proxies that are started to see how long that takes.
    pub starts: usize,
    /// Meshes that are started anew to weigh them.
    pub weighings: usize,
    pub idle_connections: u32,
    /// In memory and over sockets, in each round and for each kind.
    pub handshakes: usize,
    /// CPU time of each cryptographic operation in a round.
    pub operation: Duration,
    /// Certificates in each round, and as many raw signatures.
    pub leaves: usize,
    /// Workloads that ask for their first certificate at once.
    pub crowd: u32,
    /// Streams that hear of a change of trust.
    pub followers: usize,
    /// Cryptographic resources that rest, and for how long that is watched.
    pub resting: (u32, Duration),
    pub soak: Duration,
    /// Load before the migration, and after it.
    pub around_migration: Duration,
    steady: Duration,
    burst: Duration,
}

/// Requests a second where latency and CPU are compared.
pub const RATE: u32 = 1_000;
/// New connections a second where their CPU is measured.
pub const CONNECTION_RATE: u32 = 300;

impl Plan {
    pub fn new(quick: bool, soak: Option<u64>) -> Self {
        let soak = Duration::from_secs(soak.unwrap_or(if quick { 10 } else { 60 }));
        if quick {
            return Self {
                rounds: 3,
                starts: 5,
                weighings: 1,
                idle_connections: 5_000,
                handshakes: 300,
                operation: Duration::from_millis(50),
                leaves: 1_000,
                crowd: 5_000,
                followers: 500,
                resting: (2_000, Duration::from_secs(10)),
                soak,
                around_migration: Duration::from_secs(2),
                steady: Duration::from_secs(2),
                burst: Duration::from_millis(700),
            };
        }
        Self {
            rounds: 5,
            starts: 15,
            weighings: 3,
            idle_connections: 5_000,
            handshakes: 1_000,
            operation: Duration::from_millis(300),
            leaves: 4_000,
            crowd: 5_000,
            followers: 500,
            resting: (10_000, Duration::from_secs(60)),
            soak,
            around_migration: Duration::from_secs(10),
            steady: Duration::from_secs(6),
            burst: Duration::from_secs(2),
        }
    }

    // === loads ===

    /// An open loop over warm connections.
    pub fn steady_requests(&self) -> Load {
        Load::new(Shape::Requests, 16, MESSAGE, self.steady).at(RATE)
    }

    /// A closed loop over one warm connection, of a number of requests and not of a time.
    pub fn one_by_one(&self) -> Load {
        Load::new(Shape::Requests, 1, MESSAGE, ENDLESS).at_most(2_000)
    }

    /// A closed loop over warm connections.
    pub fn all_requests(&self) -> Load {
        Load::new(Shape::Requests, 64, MESSAGE, self.burst)
    }

    /// More than any worker answers at a time, so that none waits for its clients.
    pub fn crowd_of_requests(&self) -> Load {
        Load::new(Shape::Requests, 256, MESSAGE, self.burst)
    }

    pub fn steady_connections(&self) -> Load {
        Load::new(Shape::Connections, 16, MESSAGE, self.steady / 2).at(CONNECTION_RATE)
    }

    pub fn all_connections(&self) -> Load {
        Load::new(Shape::Connections, 16, MESSAGE, self.burst)
    }

    pub fn download(&self) -> Load {
        Load::new(Shape::Requests, 1, FILE, self.burst)
    }

    pub fn idle(&self) -> Load {
        Load::new(Shape::Idle, self.idle_connections, MESSAGE, Duration::ZERO)
    }

    /// What makes a proxy's buffers as large as they will be.
    pub fn warm_up(&self) -> Load {
        Load::new(Shape::Requests, 16, MESSAGE, Duration::from_secs(1))
    }

    /// Both at once: what stays open, and what comes and goes.
    pub fn soaking(&self, warm_up: Duration) -> [Load; 2] {
        let whole = self.soak + warm_up;
        [
            Load::new(Shape::Requests, 16, MESSAGE, whole).at(RATE),
            Load::new(Shape::Connections, 16, MESSAGE, whole).at(CONNECTION_RATE / 3),
        ]
    }
}
