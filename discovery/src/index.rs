//! A map from one key to a few names. The few are a plain list: almost always there is exactly one, and
//! ten thousand addresses should cost no tree each.

use std::{collections::HashMap, hash::Hash};

use crate::name::Name;

#[derive(Debug)]
pub struct Index<K>(HashMap<K, Vec<Name>>);

impl<K: Eq + Hash> Index<K> {
    pub fn get(&self, key: &K) -> &[Name] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Adds the name under the key, once.
    pub fn insert(&mut self, key: K, name: &Name) {
        let names = self.0.entry(key).or_insert_with(|| Vec::with_capacity(1));
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    pub fn remove(&mut self, key: &K, name: &Name) {
        if let Some(names) = self.0.get_mut(key) {
            names.retain(|one| one != name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}
