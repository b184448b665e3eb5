//! The data plane: one proxy beside one application. Connections come in by a listener, find their way
//! by the directory, ride a tunnel, and are counted in the ledger.
#![forbid(unsafe_code)]

pub mod capture;
pub mod config;
mod route;
pub mod run;

mod admin;
mod balance;
mod budget;
mod detect;
mod directory;
mod discovery;
mod handshake;
mod hello;
mod http;
mod inbound;
mod ledger;
mod listen;
mod node;
mod original;
mod outbound;
mod pool;
mod quota;
mod reach;
mod relay;
mod requests;
mod scratch;
mod standing;
mod transport;
mod tunnel;
mod worker;
mod workload;
