//! What callers are given, or why they get nothing.

use std::sync::Arc;

use tokio::sync::watch;
use trellis_channel::identity::Handed;
use trellis_pki::bundle::Bundle;

/// What there is for a caller.
#[derive(Clone, Default, PartialEq)]
pub enum Offer<T> {
    /// Nothing yet: wait.
    #[default]
    Waiting,
    Ready(T),
    /// The identity, or the certificate, is denied.
    Denied(String),
    /// The CA cannot be asked, or does not answer.
    Unavailable(String),
}

/// Both kinds of offer. Clones are the same.
#[derive(Clone, Default)]
pub struct Offers {
    pub svid: Arc<watch::Sender<Offer<Svid>>>,
    pub trust: Arc<watch::Sender<Offer<Trust>>>,
}

/// A certificate with its key, and what it is believed by.
#[derive(Clone)]
pub struct Svid {
    pub handed: Arc<Handed>,
    pub trust: Trust,
}

/// What to believe.
#[derive(Clone)]
pub struct Trust(Arc<Bundle>);

impl Trust {
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self(bundle)
    }

    /// The SPIFFE ID of the trust domain itself.
    pub fn domain(&self) -> String {
        format!("spiffe://{}", self.0.trust_domain())
    }

    /// Each anchor in DER, one after the other.
    pub fn anchors(&self) -> Vec<u8> {
        self.0.anchors().iter().flat_map(|anchor| anchor.der.iter().copied()).collect()
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint() == other.0.fingerprint()
    }
}

impl PartialEq for Svid {
    fn eq(&self, other: &Self) -> bool {
        self.handed.certificate == other.handed.certificate && self.trust == other.trust
    }
}

/// Tells callers only of what is new to them.
pub fn publish<T: PartialEq>(offers: &watch::Sender<Offer<T>>, offer: Offer<T>) {
    offers.send_if_modified(|told| {
        let changed = *told != offer;
        *told = offer;
        changed
    });
}
