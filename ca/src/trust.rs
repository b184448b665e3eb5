//! The trust of one domain: which anchors there are, which of them issues, who holds what, and how one
//! anchor takes the place of another while everybody keeps talking.

pub mod authority;
mod census;
mod companion;
pub mod keeper;
mod machine;
mod members;
pub mod object;
mod replicas;
mod serve;
mod state;
mod status;
pub mod store;
pub mod vault;

pub use self::{
    authority::Authority,
    keeper::Keeper,
    machine::Bounds,
    members::Members,
    replicas::Replicas,
    serve::Trusting,
    store::{Making, Store},
};
