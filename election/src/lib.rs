//! Which of a service's replicas takes the steps that only one may take. The others serve all the same.
//!
//! Candidates never compare the clocks of two machines: one takes over only after it has itself watched
//! the Lease stay unchanged for as long as a leader is given to renew it.

#![forbid(unsafe_code)]

mod election;
mod lease;

use tokio::sync::watch;
use trellis_telemetry::Gauge;

pub use self::lease::Candidate;

/// What this replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Leader {
        /// How often the leader had changed when this one came.
        term: u64,
    },
    Follower {
        /// The pod that leads, if one does.
        leader: Option<String>,
    },
}

/// The role of the only replica that there is. The gauge shows 1 on the replica that leads.
pub fn always(gauge: &Gauge) -> watch::Receiver<Role> {
    gauge.set(1.0);
    watch::channel(Role::Leader { term: 0 }).1
}
