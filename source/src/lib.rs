//! Where a Trellis service learns about the world from: the Kubernetes API, or a folder of the same
//! manifests. Both stand behind [`trellis_api::source::Source`], and nothing above knows which it is.

#![forbid(unsafe_code)]

mod client;
mod folder;
mod kubernetes;
mod problem;
mod spec;

pub use client::{ClientError, install_default_provider, kubernetes_client};
pub use problem::{Place, Problem, Severity};
pub use spec::{AnySource, OpenError, SourceSpec, SpecError};
