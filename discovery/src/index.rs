//! A map from one key to a few values, mostly names. The few are a plain list: almost always there is exactly one, and
//! ten thousand addresses should cost no tree each.

use std::{collections::HashMap, hash::Hash};

use crate::name::Name;

#[derive(Debug)]
pub struct Index<K, V = Name>(HashMap<K, Vec<V>>);

impl<K: Eq + Hash, V: Clone + PartialEq> Index<K, V> {
    pub fn get(&self, key: &K) -> &[V] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Adds the value under the key, once.
    pub fn insert(&mut self, key: K, value: &V) {
        let values = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if !values.contains(value) {
            values.push(value.clone());
        }
    }

    pub fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.retain(|one| one != value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}
