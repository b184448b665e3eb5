//! The data plane: one proxy beside one application, or a gateway before many. Connections come in by a listener, find their way
//! by the directory, ride a tunnel, and are counted in the ledger.
#![forbid(unsafe_code)]

pub mod capture;
pub mod config;
pub mod gateway;
mod route;
pub mod run;

mod account;
mod admin;
mod alarm;
mod application;
mod balance;
mod budget;
mod decay;
mod detect;
mod diag;
mod directory;
mod discovery;
mod handshake;
mod hello;
mod http;
mod inbound;
mod ledger;
mod listen;
mod member;
mod node;
mod original;
mod outbound;
mod policy;
mod pool;
mod quota;
mod reach;
mod relay;
mod requests;
mod roster;
mod scratch;
mod sealed;
mod seldom;
mod standing;
mod threads;
mod trace;
mod transport;
mod tunnel;
mod webroots;
mod worker;
mod workload;
