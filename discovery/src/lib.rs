//! Discovery: from Services, EndpointSlices and Pods to what one proxy needs to know about those it
//! talks to, on demand and pushed on every change.
//!
//! Data flows one way: `feed` takes changes from the source into `state`, which says what addresses were
//! touched; `hub` recomputes what is subscribed there and leaves it in each proxy's `outbox`; `serve`
//! sends it. Namespaces and Nodes are not watched: no answer depends on them, so discovery needs neither
//! the rights nor the memory.
#![forbid(unsafe_code)]

pub mod answer;
pub mod destination;
pub mod feed;
pub mod flags;
pub mod hub;
pub mod index;
pub mod name;
pub mod outbox;
pub mod pod;
pub mod serve;
pub mod service;
pub mod session;
pub mod slice;
pub mod state;
