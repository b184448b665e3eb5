//! The bundles of other trust domains, each kept apart under its own name. They are never merged with one
//! another or with our own: an anchor vouches for identities of the domain whose bundle it came in, and
//! for no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use crate::bundle::{Bundle, BundleError};
use crate::x509;

/// Trust domains that one mesh may federate with.
pub const MAX_FOREIGN: usize = 16;
/// Certificates of one of them, in bytes: four ML-DSA-65 anchors, and all domains together fit in one
/// message beside our own anchors.
pub const MAX_FOREIGN_BYTES: usize = 24 * 1024;

/// What we believe of other trust domains. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Foreign(Arc<BTreeMap<String, Arc<Bundle>>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    #[error("trust domain {0:?} is our own: nobody else's bundle may speak for it")]
    Own(String),
    #[error("trust domain {0:?} has two bundles: name each domain once")]
    Twice(String),
    #[error("{0} foreign trust domains are more than the {MAX_FOREIGN} that every proxy keeps")]
    TooMany(usize),
    #[error(
        "the bundle of {trust_domain} has {bytes} bytes of certificates, more than {MAX_FOREIGN_BYTES}: \
         that domain must remove anchors that it does not need"
    )]
    TooLarge { trust_domain: String, bytes: usize },
    #[error(
        "the bundle of {trust_domain} holds a key that is an anchor of {other} as well: whoever has it could \
         speak for both"
    )]
    Shared { trust_domain: String, other: String },
    #[error("trust domain {trust_domain:?}: {error}")]
    Bundle { trust_domain: String, error: BundleError },
}

impl Foreign {
    /// `own` is what our own domain believes.
    pub fn new(own: &Bundle, bundles: impl IntoIterator<Item = Bundle>) -> Result<Self, ForeignError> {
        let mut kept = BTreeMap::<String, Arc<Bundle>>::new();
        for bundle in bundles {
            let trust_domain = bundle.trust_domain().to_owned();
            if trust_domain == own.trust_domain() {
                return Err(ForeignError::Own(trust_domain));
            }
            let bytes = bundle.anchors().iter().map(|anchor| anchor.der.len()).sum();
            if bytes > MAX_FOREIGN_BYTES {
                return Err(ForeignError::TooLarge { trust_domain, bytes });
            }
            let others = kept.values().map(Arc::as_ref).chain([own]);
            if let Some(other) = others.into_iter().find(|other| share_a_key(&bundle, other)) {
                let other = other.trust_domain().to_owned();
                return Err(ForeignError::Shared { trust_domain, other });
            }
            if kept.insert(trust_domain.clone(), Arc::new(bundle)).is_some() {
                return Err(ForeignError::Twice(trust_domain));
            }
        }
        match kept.len() {
            0..=MAX_FOREIGN => Ok(Self(Arc::new(kept))),
            several => Err(ForeignError::TooMany(several)),
        }
    }

    /// From trust domains and their anchors in DER.
    pub fn from_der<'a, C>(
        own: &Bundle,
        bundles: impl IntoIterator<Item = (&'a str, C)>,
    ) -> Result<Self, ForeignError>
    where
        C: IntoIterator<Item = Vec<u8>>,
    {
        let read = bundles.into_iter().map(|(trust_domain, certificates)| {
            Bundle::from_der(trust_domain, certificates)
                .map_err(|error| ForeignError::Bundle { trust_domain: trust_domain.to_owned(), error })
        });
        Self::new(own, read.collect::<Result<Vec<_>, _>>()?)
    }

    pub fn get(&self, trust_domain: &str) -> Option<&Bundle> {
        self.0.get(trust_domain).map(Arc::as_ref)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// By trust domain.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.0.values().map(Arc::as_ref)
    }

    /// Whether any of them has the anchor with this fingerprint.
    pub fn holds(&self, fingerprint: &str) -> bool {
        self.0.values().any(|bundle| bundle.holds(fingerprint))
    }

    /// SHA-256 over all of them.
    pub fn fingerprint(&self) -> String {
        let mut hash = Context::new(&SHA256);
        for bundle in self.0.values() {
            hash.update(bundle.fingerprint().as_bytes());
        }
        x509::hex(hash.finish().as_ref())
    }
}

impl PartialEq for Foreign {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.fingerprint() == other.fingerprint()
    }
}

/// Another certificate for the same key is the same anchor by another name.
fn share_a_key(one: &Bundle, other: &Bundle) -> bool {
    one.anchors().iter().any(|anchor| other.anchors().iter().any(|known| known.key == anchor.key))
}
