//! The CA of the mesh, as far as certificates of the resources have to do with it. It decides what it gives.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use trellis_pki::key::PublicKey;

/// What issues and answers for what it issues.
pub trait Issuer: Send + Sync {
    /// What it issues from, and what verifies that, as it changes.
    fn anchors(&self) -> watch::Receiver<Anchors>;

    /// A server's certificate, in DER. It may take its time: the key may be elsewhere.
    fn certify(&self, wanted: &Server<'_>) -> Result<Vec<u8>, Refused>;
}

/// What is trusted, by fingerprints that change when it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// Of the certificate that issues.
    pub issuing: String,
    /// Of the classical one beside it, if there is one.
    pub companion: Option<String>,
    /// Of all that are trusted, and those themselves in PEM.
    pub bundle: String,
    pub pem: String,
}

/// A server that somebody wants certified.
pub struct Server<'a> {
    /// Of the object that wants it.
    pub namespace: &'a str,
    pub object: &'a str,
    pub names: &'a [String],
    pub key: &'a PublicKey,
    /// Below the classical anchor.
    pub companion: bool,
    pub life: Duration,
    pub now: SystemTime,
}

/// Why it is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What is asked for is nothing that the CA gives.
    #[error("{why}")]
    Denied { field: &'static str, why: String },
    /// It could not be done this time.
    #[error("{0}")]
    Unable(String),
}
