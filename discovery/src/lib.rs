//! Discovery: from the objects of the cluster to what one proxy needs to know about those it talks to, on
//! demand and pushed on every change.
//!
//! Data flows one way: `feed` takes changes from the source into `state`, which says what was touched;
//! `hub` recomputes what is subscribed there and leaves it in each proxy's `outbox`; `serve` sends it.
#![forbid(unsafe_code)]

pub mod answer;
pub mod change;
pub mod controller;
pub mod destination;
pub mod event;
pub mod feed;
pub mod flags;
pub mod gateway;
pub mod hub;
pub mod index;
pub mod name;
pub mod node;
pub mod outbox;
pub mod pod;
pub mod policing;
pub mod protocol;
pub mod serve;
pub mod service;
pub mod session;
pub mod slice;
pub mod state;
pub mod subject;
pub mod viewer;
