//! The gateway as a process, with a control plane in this one, other people's clients in front of it and
//! applications behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod control;
mod stage;
mod web;

mod backends;
mod bytes;
mod hostile;
mod kept;
mod life;
mod listeners;
mod policy;
mod proxied;
mod rehearsal;
mod requests;
mod resealed;
mod secured;
mod seen;
mod waiting;
mod websockets;
