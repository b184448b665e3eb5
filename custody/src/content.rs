//! What is in a Secret, wiped when nobody needs it any more.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1 as core};
use trellis_crypto::Secret;
use zeroize::Zeroize;

/// Items by name. It has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Content(BTreeMap<String, Secret>);

impl Content {
    /// Takes what is in a Secret out of it.
    pub fn take(secret: &mut core::Secret) -> Self {
        let data = secret.data.take().unwrap_or_default();
        Self(data.into_iter().map(|(name, ByteString(bytes))| (name, Secret::new(bytes))).collect())
    }

    pub fn with(mut self, name: &str, bytes: Secret) -> Self {
        self.0.insert(name.to_owned(), bytes);
        self
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Secret::as_bytes)
    }

    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// With the items of another that are not there.
    pub fn beside(mut self, other: &Self) -> Self {
        for (name, bytes) in &other.0 {
            self.0.entry(name.clone()).or_insert_with(|| bytes.clone());
        }
        self
    }

    pub fn items(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_bytes()))
    }
}

/// A Secret on its way to the API server, whose items are wiped afterwards.
pub(crate) struct Outgoing(pub core::Secret);

impl Outgoing {
    pub fn new(mut secret: core::Secret, content: &Content) -> Self {
        let items = content.items().map(|(name, bytes)| (name.to_owned(), ByteString(bytes.to_vec())));
        secret.data = Some(items.collect());
        Self(secret)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        for ByteString(bytes) in self.0.data.iter_mut().flat_map(BTreeMap::values_mut) {
            bytes.zeroize();
        }
    }
}

impl Content {
    /// Text and bytes alike.
    pub fn of_config_map(map: core::ConfigMap) -> Self {
        let text = map.data.unwrap_or_default().into_iter().map(|(name, text)| (name, text.into_bytes()));
        let bytes =
            map.binary_data.unwrap_or_default().into_iter().map(|(name, ByteString(bytes))| (name, bytes));
        Self(text.chain(bytes).map(|(name, bytes)| (name, Secret::new(bytes))).collect())
    }
}
