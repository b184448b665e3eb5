//! Watches: what happened to objects of a collection since a version, and goes on happening.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::{Inner, path::Path, selector::Selector};

/// One change of one object.
pub(crate) struct Change {
    pub version: u64,
    pub path: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Change {
    /// As somebody sees it who knows only what is selected.
    fn seen(&self, selector: &Selector) -> Option<Value> {
        let selected =
            |object: &Option<Value>| object.as_ref().is_some_and(|object| selector.selects(object));
        let (kind, object) = match (selected(&self.before), selected(&self.after)) {
            (false, true) => ("ADDED", &self.after),
            (true, true) => ("MODIFIED", &self.after),
            (true, false) => {
                let mut gone = self.before.clone();
                if let Some(gone) = &mut gone {
                    gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
                }
                return Some(json!({ "type": "DELETED", "object": gone }));
            }
            (false, false) => return None,
        };
        Some(json!({ "type": kind, "object": object }))
    }
}

pub(crate) fn changes(
    inner: Arc<Inner>,
    listed: String,
    selector: Selector,
    since: u64,
) -> impl Stream<Item = Bytes> + Send {
    let version = inner.version.subscribe();
    stream::unfold((inner, version, selector, since), move |(inner, mut version, selector, mut since)| {
        let listed = listed.clone();
        async move {
            loop {
                version.borrow_and_update();
                let next = {
                    let mut state = inner.state.lock();
                    let collection = Path::of(&listed).unwrap();
                    let from = state.changes.partition_point(|change| change.version <= since);
                    let mut new = state.changes.iter().skip(from);
                    let found = new.find_map(|change| {
                        let seen = || change.seen(&selector);
                        collection.lists(&change.path).then(seen)?.map(|event| (change.version, event))
                    });
                    if found.is_none() {
                        since = state.changes.last().map_or(since, |last| last.version);
                    }
                    state.sent += usize::from(found.is_some());
                    found
                };
                if let Some((at, event)) = next {
                    return Some((Bytes::from(format!("{event}\n")), (inner, version, selector, at)));
                }
                version.changed().await.ok()?;
            }
        }
    })
}
