//! Discovery at its borders: manifests in, answers out; changes in, pushes out; and the whole of it over
//! real mutual TLS.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on says where

mod attachments;
mod edge;
mod gateways;
mod listeners;
mod lookup;
mod mesh;
mod policies;
mod properties;
mod push;
mod rerouting;
mod routes;
mod statuses;
mod world;
