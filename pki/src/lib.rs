//! Keys, certificates, bundles, TLS configurations and what a connection really negotiated.
//!
//! This room opens no socket and knows no Kubernetes. It is also the only one that knows which
//! algorithms Trellis uses: everything above asks for a policy and reads a posture.

#![forbid(unsafe_code)]

pub mod algorithm;
pub mod audit;
pub mod bundle;
pub mod certify;
pub mod clock;
pub mod credential;
pub mod csr;
pub mod foreign;
pub mod identity;
pub mod issue;
pub mod jwks;
pub mod key;
pub mod leaf;
pub mod policy;
pub mod posture;
mod presenting;
pub mod provider;
pub mod public;
pub mod record;
pub mod refusal;
pub mod renewal;
pub mod resistance;
pub mod serving;
pub mod signer;
pub mod spiffe;
pub mod tls;
pub mod upstream;
mod verify;
pub mod web;
mod x509;

pub use x509::{lives, pem as x509_pem};
