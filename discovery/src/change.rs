//! A change of a kind as the objects to put in place.

use std::{collections::HashMap, hash::Hash};

use kube::{Resource, api::ObjectMeta};
use trellis_api::source::Change;

/// What of each object is kept now, by its name; nothing means: take away. `known` are the names of those
/// that were kept before.
pub fn puts<'a, K: Resource, N: Clone + Eq + Hash + 'a, T>(
    change: Change<K>,
    known: impl Iterator<Item = &'a N>,
    name: impl Fn(&ObjectMeta) -> N,
    keep: impl Fn(&K) -> Option<T>,
) -> Vec<(N, Option<T>)> {
    match change {
        Change::Applied(object) => vec![(name(object.meta()), keep(&object))],
        Change::Deleted(object) => vec![(name(object.meta()), None)],
        Change::Reset(objects) => {
            let mut all: HashMap<N, Option<T>> = known.map(|name| (name.clone(), None)).collect();
            all.extend(objects.iter().map(|object| (name(object.meta()), keep(object))));
            all.into_iter().collect()
        }
    }
}
