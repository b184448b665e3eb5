//! A workload's identity: a private key and the certificate that was issued for it, checked together
//! before anything is served with them.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::algorithm::Algorithm;
use crate::bundle::Bundle;
use crate::key::{KeyError, PrivateKey};
use crate::leaf::{Leaf, LeafError};
use crate::record::Rejection;
use crate::verify::{Role, check_chain, check_time};

/// A key with its certificate. It has no `Debug`.
#[derive(Clone)]
pub struct Identity {
    leaf: Arc<Leaf>,
    /// Fingerprint of the anchor that signed the leaf.
    anchor: Arc<str>,
    certified: Arc<CertifiedKey>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IdentityError {
    #[error("the issued certificate cannot be used: {0}")]
    Leaf(#[from] LeafError),
    #[error("the issued certificate is for another key than the one that was sent")]
    OtherKey,
    #[error("the issued certificate is {}, {} was asked for", found.name(), wanted.name())]
    Algorithm { wanted: Algorithm, found: Algorithm },
    #[error("the issued certificate is for {found}, which is not of trust domain {wanted}")]
    TrustDomain { wanted: String, found: String },
    #[error("the issued certificate of {0} is not for both servers and clients")]
    Usage(String),
    #[error("the issued certificate is not valid here: {0}")]
    NotValid(#[from] Rejection),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Identity {
    /// Accepts `leaf_der` only if it was made for `key`, is of the `wanted` algorithm, chains to the
    /// bundle and is valid now: whatever a peer would refuse must fail here first.
    pub fn new(
        key: PrivateKey,
        leaf_der: Vec<u8>,
        bundle: &Bundle,
        wanted: Algorithm,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let (leaf, public_key) = Leaf::parse_with_key(&leaf_der)?;
        if leaf.algorithm != wanted {
            return Err(IdentityError::Algorithm { wanted, found: leaf.algorithm });
        }
        if public_key != *key.public_key() {
            return Err(IdentityError::OtherKey);
        }
        if leaf.identity.trust_domain() != bundle.trust_domain() {
            return Err(IdentityError::TrustDomain {
                wanted: bundle.trust_domain().to_owned(),
                found: leaf.identity.to_string(),
            });
        }
        if !(leaf.server && leaf.client) {
            return Err(IdentityError::Usage(leaf.identity.to_string()));
        }
        check_time(&leaf, now)?;
        let anchor = check_chain(&leaf_der, bundle, Role::Server, now)?;
        let certified = CertifiedKey::new(vec![CertificateDer::from(leaf_der)], key.rustls_key()?);
        Ok(Self { leaf: Arc::new(leaf), anchor, certified: Arc::new(certified) })
    }

    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub fn anchor(&self) -> &Arc<str> {
        &self.anchor
    }

    pub(crate) fn shared_leaf(&self) -> &Arc<Leaf> {
        &self.leaf
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}
