//! What every part of Trellis agrees on: names that users type, the control-plane protocols, the
//! evidence document, and the border through which services see the world. No I/O lives here.
#![forbid(unsafe_code)]

pub mod access;
pub mod annotations;
pub mod crypto;
pub mod diag;
pub mod enforcement;
pub mod evidence;
pub mod federation;
pub mod gateway;
pub mod injection;
pub mod names;
pub mod pq_policy;
pub mod source;
pub mod trust;

/// The control-plane protocols, generated from `proto/`.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms)]
pub mod proto {
    pub mod ca {
        tonic::include_proto!("trellis.ca.v1");
    }
    pub mod discovery {
        tonic::include_proto!("trellis.discovery.v1");
    }
    /// The SPIFFE Workload API, which has no package.
    pub mod workload {
        tonic::include_proto!("_");

        /// Without the key.
        impl std::fmt::Debug for X509svid {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
            }
        }
    }
}
