//! The authenticated connections of our own services: a workload's identity from bootstrap to the last
//! renewal, gRPC clients that dial with it, and listeners that admit nothing they cannot bound.
#![forbid(unsafe_code)]

pub mod admission;
pub mod client;
pub mod handshakes;
pub mod identity;
pub mod server;
pub mod throttle;
