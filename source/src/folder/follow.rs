//! From states of the folder to changes of one kind.

use std::{any::TypeId, collections::BTreeMap, sync::Arc};

use trellis_api::source::{Change, Watched};

use super::{
    decode::Key,
    shelf::{Objects, World},
};

/// What a stream has told so far.
pub(super) struct Follower<K> {
    told: Option<(Arc<Objects>, BTreeMap<Key, Arc<K>>)>,
}

impl<K: Watched> Follower<K> {
    pub(super) fn new() -> Self {
        Self { told: None }
    }

    /// What to tell now. Nothing until the kind was looked for.
    pub(super) fn follow(&mut self, world: &World) -> Vec<Change<K>> {
        let Some(objects) = world.kinds.get(&TypeId::of::<K>()) else { return Vec::new() };
        let Some((last, told)) = &mut self.told else {
            let now = typed(objects);
            let all = now.values().cloned().collect();
            self.told = Some((objects.clone(), now));
            return vec![Change::Reset(all)];
        };
        if Arc::ptr_eq(last, objects) {
            return Vec::new();
        }
        let now = typed::<K>(objects);
        let gone = told.iter().filter(|(key, _)| !now.contains_key(*key));
        let gone = gone.map(|(_, object)| Change::Deleted(object.clone()));
        let new = now.iter().filter(|(key, object)| {
            // The same allocation is the same object: the shelf sees to that.
            !told.get(*key).is_some_and(|told| Arc::ptr_eq(told, object))
        });
        let new = new.map(|(_, object)| Change::Applied(object.clone()));
        let changes = gone.chain(new).collect();
        self.told = Some((objects.clone(), now));
        changes
    }
}

fn typed<K: Watched>(objects: &Objects) -> BTreeMap<Key, Arc<K>> {
    objects
        .iter()
        // Everything under the type's own id was decoded as that type.
        .filter_map(|(key, item)| Some((key.clone(), item.object.clone().downcast::<K>().ok()?)))
        .collect()
}
