//! Objects of the nine kinds and what becomes of them, at the border that their users see: the API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod bed;
mod certificates;
mod exchange;
mod faults;
mod idle;
mod keys;
mod kills;
mod left;
mod names;
mod numbers;
mod records;
mod signatures;
mod takeover;
