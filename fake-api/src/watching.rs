//! Watches: what happened to objects of a collection since a version, and goes on happening.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::{Inner, form::Form, path::Path, selector::Selector};

/// One change of one object.
pub(crate) struct Change {
    pub version: u64,
    pub path: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Change {
    /// As somebody sees it who knows only what is selected.
    fn seen(&self, selector: &Selector, form: Form) -> Option<Value> {
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
                return Some(json!({ "type": "DELETED", "object": form.shown(&gone?) }));
            }
            (false, false) => return None,
        };
        Some(json!({ "type": kind, "object": form.shown(object.as_ref()?) }))
    }
}

/// A watch that is open, for as long as it is.
struct Open {
    inner: Arc<Inner>,
    path: String,
}

impl Open {
    fn new(inner: Arc<Inner>, path: String) -> Self {
        inner.state.lock().watches.push(path.clone());
        Self { inner, path }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let watches = &mut self.inner.state.lock().watches;
        if let Some(at) = watches.iter().position(|path| *path == self.path) {
            watches.swap_remove(at);
        }
    }
}

pub(crate) fn changes(
    inner: Arc<Inner>,
    listed: String,
    selector: Selector,
    form: Form,
    since: u64,
) -> impl Stream<Item = Bytes> + Send {
    let version = inner.version.subscribe();
    let open = Open::new(inner, listed);
    stream::unfold(
        (open, version, selector, since),
        move |(open, mut version, selector, mut since)| async move {
            let (inner, listed) = (&open.inner, &open.path);
            loop {
                version.borrow_and_update();
                let next = {
                    let mut state = inner.state.lock();
                    let collection = Path::of(listed).unwrap();
                    let from = state.changes.partition_point(|change| change.version <= since);
                    let mut new = state.changes.iter().skip(from);
                    let found = new.find_map(|change| {
                        let seen = || change.seen(&selector, form);
                        collection.lists(&change.path).then(seen)?.map(|event| (change.version, event))
                    });
                    if found.is_none() {
                        since = state.changes.last().map_or(since, |last| last.version);
                    }
                    state.sent += usize::from(found.is_some() && form == Form::Whole);
                    found
                };
                if let Some((at, event)) = next {
                    return Some((Bytes::from(format!("{event}\n")), (open, version, selector, at)));
                }
                version.changed().await.ok()?;
            }
        },
    )
}
