//! The trust of one domain: which anchors there are, which of them issues, who holds what, and how one
//! anchor takes the place of another while everybody keeps talking.

pub mod authority;
mod census;
mod companion;
mod ends;
pub mod keeper;
pub mod keys;
mod machine;
mod members;
pub mod object;
mod pending;
mod renewal;
mod replicas;
mod serve;
mod signing;
mod state;
pub mod status;
mod step;
pub mod store;
pub mod vault;

pub use self::{
    authority::Authority,
    keeper::Keeper,
    keys::Keys,
    machine::Bounds,
    members::Members,
    replicas::Replicas,
    serve::Trusting,
    signing::OutsideCa,
    store::{Making, Store},
};
