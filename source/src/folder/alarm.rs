//! Says when something in the folder may have changed.

use std::{path::Path, sync::Arc};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use super::disk;

/// A watch of the folder by the operating system; without one, looking every now and then has to do.
pub(super) struct Alarm {
    touched: Arc<Notify>,
    /// The watch, and which folder it holds on to.
    watching: Option<(RecommendedWatcher, (u64, u64))>,
    complained: bool,
}

impl Alarm {
    pub(super) fn new(touched: Arc<Notify>) -> Self {
        Self { touched, watching: None, complained: false }
    }

    /// Watches what the folder's name stands for now; look at it only after that. True if it is watched.
    pub(super) fn arm(&mut self, folder: &Path) -> bool {
        // Why the folder is not there is told by whoever lists it.
        let Ok(identity) = disk::identity(folder) else {
            self.watching = None;
            return false;
        };
        if self.watching.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return true;
        }
        // The old watch goes first: its events would be of another folder.
        self.watching = None;
        match watch(folder, self.touched.clone()) {
            Ok(watcher) => {
                self.watching = Some((watcher, identity));
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(folder = %folder.display(), %error, "the folder cannot be watched; looking every second instead");
                }
                false
            }
        }
    }
}

fn watch(folder: &Path, touched: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may mean that events were lost.
        if event.map_or(true, |event| is_change(&event.kind)) {
            touched.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Our own reading is no change.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
