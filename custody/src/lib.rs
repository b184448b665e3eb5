//! Keeps what the cryptographic resources wish: keys, shared secrets, derived keys and signatures in Secrets,
//! their versions, and what their statuses say. It decides by pure functions of what is there, knows
//! Kubernetes through its API, and material through `trellis-crypto`. It never has more rights than operators
//! gave it namespace by namespace, and never makes a second key where there was one.

#![forbid(unsafe_code)]

mod access;
mod account;
mod attend;
mod content;
mod craft;
mod custody;
mod herald;
mod id;
mod index;
mod issuer;
mod kept;
mod kinds;
mod ledger;
mod lifecycle;
mod marks;
mod metrics;
mod names;
mod object;
mod queue;
mod reader;
mod seal;
mod sources;
mod tally;
mod trade;
mod trouble;
mod vault;
mod view;
mod watch;
mod watches;

pub use self::{
    custody::Custody,
    herald::{Herald, Silent, Tone},
    id::Group,
    issuer::{Anchors, Issuer, Refused, Server},
    ledger::{Act, Deed, Ledger, Unrecorded},
    metrics::Metrics,
};
