//! Key encapsulation, signatures, derived keys, sealed files, and the forms in which keys are written down.
//!
//! This room knows algorithms and bytes. It opens no socket, reads no clock and knows no Kubernetes, nor
//! what a key is for. ML-KEM and ML-DSA are done by aws-lc wherever it can, and by RustCrypto's crates
//! where it cannot; tests hold each to the other and to NIST's vectors.

#![forbid(unsafe_code)]

pub mod algorithm;
pub mod attestation;
pub mod derive;
pub mod encoding;
pub mod fingerprint;
pub mod hex;
pub mod kem;
pub mod key;
pub mod pem;
pub mod random;
pub mod seal;
pub mod secret;
pub mod signature;
#[cfg(test)]
mod vectors;

pub use algorithm::{Algorithm, AlgorithmError, KemAlgorithm, Named, SignatureAlgorithm, SlhDsa};
pub use encoding::{EncodingError, Form};
pub use fingerprint::Fingerprint;
pub use key::{KeyError, PrivateKey, PublicKey};
pub use secret::Secret;
