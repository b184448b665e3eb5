//! From states of the folder to changes of one kind.

use std::{any::TypeId, collections::BTreeMap, sync::Arc};

use trellis_api::source::{Change, Watched};

use super::{
    decode::Key,
    shelf::{Objects, World},
};

/// Remembers what a stream has told so far.
pub(super) struct Follower<K> {
    told: Option<Told<K>>,
}

struct Told<K> {
    from: Arc<Objects>,
    objects: BTreeMap<Key, Arc<K>>,
}

impl<K: Watched> Follower<K> {
    pub(super) fn new() -> Self {
        Self { told: None }
    }

    /// What to tell now. Nothing until the kind was looked for.
    pub(super) fn follow(&mut self, world: &World) -> Vec<Change<K>> {
        let Some(objects) = world.kinds.get(&TypeId::of::<K>()) else { return Vec::new() };
        let Some(told) = &self.told else {
            let now = Told::of(objects);
            let all = now.objects.values().cloned().collect();
            self.told = Some(now);
            return vec![Change::Reset(all)];
        };
        if Arc::ptr_eq(&told.from, objects) {
            return Vec::new();
        }
        let now = Told::of(objects);
        let gone = told.objects.iter().filter(|(key, _)| !now.objects.contains_key(*key));
        let gone = gone.map(|(_, object)| Change::Deleted(object.clone()));
        let new = now.objects.iter().filter(|(key, object)| {
            // The same allocation is the same object: the shelf sees to that.
            !told.objects.get(*key).is_some_and(|told| Arc::ptr_eq(told, object))
        });
        let new = new.map(|(_, object)| Change::Applied(object.clone()));
        let changes = gone.chain(new).collect();
        self.told = Some(now);
        changes
    }
}

impl<K: Watched> Told<K> {
    fn of(objects: &Arc<Objects>) -> Self {
        let typed = objects.iter().filter_map(|(key, item)| {
            // Everything under the type's own id was decoded as that type.
            Some((key.clone(), item.object.clone().downcast::<K>().ok()?))
        });
        Self { from: objects.clone(), objects: typed.collect() }
    }
}
