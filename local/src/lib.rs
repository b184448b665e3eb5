//! A whole mesh as plain processes on loopback addresses: the real CA, the real discovery and a real
//! proxy for each workload, with a folder of manifests for a cluster. The demo, the benchmark and the
//! integration tests stand on it; none of it needs root.
#![forbid(unsafe_code)]

pub mod child;
pub mod get;

mod manifest;
mod mesh;
mod network;
mod process;
mod token;

pub use manifest::{Service, Workload};
pub use mesh::{Environment, Mesh, MeshError, Options, Running, Wrap};
pub use network::{Network, Role};
pub use process::{Process, ProcessError};
