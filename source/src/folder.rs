//! A folder of manifests as a source.
//!
//! One task looks at the folder for all streams: when the operating system says that something changed,
//! when a new kind is asked for, and every now and then in any case, since a watch sees neither the target
//! of a link nor what a network file system hides. A file with an error keeps its last good objects, all of
//! them; so does the whole folder while it cannot be listed.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep, timeout_at},
};
use trellis_api::source::{Change, Selection, Sight, Watched};

use self::{
    alarm::Alarm,
    decode::Decoder,
    follow::Follower,
    shelf::{Shelf, World},
};
use crate::problem::Problem;

mod alarm;
mod decode;
mod disk;
mod file;
mod follow;
mod manifest;
mod shelf;

/// Changes come in bursts: this long without another one ends the burst...
const QUIET: Duration = Duration::from_millis(100);
/// ...and so does this long in all.
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// How often to look without being told to, with a watch and without.
const LOOK_WATCHED: Duration = Duration::from_secs(5);
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);

/// An open folder. Its task ends with the last handle and stream.
pub(crate) struct Folder {
    shared: Arc<Shared>,
    world: watch::Receiver<World>,
}

struct Shared {
    path: PathBuf,
    decoders: Mutex<Vec<Decoder>>,
    /// A kind was added.
    asked: Notify,
}

impl Folder {
    pub(crate) async fn open(path: PathBuf) -> io::Result<Self> {
        let probe = path.clone();
        spawn_blocking(move || disk::list(&probe, std::iter::empty())).await.map_err(io::Error::other)??;
        let shared = Arc::new(Shared { path, decoders: Mutex::default(), asked: Notify::new() });
        let (sender, world) = watch::channel(World::default());
        tokio::spawn(run(shared.clone(), sender));
        Ok(Self { shared, world })
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.world.borrow().problems.to_vec()
    }

    pub(crate) fn watch<K: Watched>(&self) -> BoxStream<'static, Change<K>> {
        self.shared.ask::<K>();
        let state = (self.world.clone(), Follower::<K>::new(), VecDeque::new());
        stream::unfold(state, |(mut world, mut follower, mut changes)| async move {
            loop {
                if let Some(change) = changes.pop_front() {
                    return Some((change, (world, follower, changes)));
                }
                changes.extend(follower.follow(&world.borrow_and_update()));
                if changes.is_empty() && world.changed().await.is_err() {
                    // The task is gone with its runtime; the last state stays in force.
                    std::future::pending::<()>().await;
                }
            }
        })
        .boxed()
    }

    /// Nothing is closed to who may read the folder.
    pub(crate) fn watch_in<K: Watched>(&self, selection: Selection) -> BoxStream<'static, Sight<K>> {
        let changes = self.watch();
        changes
            .filter_map(move |change| {
                std::future::ready(within(change, &selection.namespace).map(Sight::Seen))
            })
            .boxed()
    }
}

/// What of a change is about this namespace.
fn within<K: Watched>(change: Change<K>, namespace: &str) -> Option<Change<K>> {
    let is_there = |object: &Arc<K>| object.meta().namespace.as_deref() == Some(namespace);
    match change {
        Change::Reset(objects) => Some(Change::Reset(objects.into_iter().filter(is_there).collect())),
        Change::Applied(object) => is_there(&object).then_some(Change::Applied(object)),
        Change::Deleted(object) => is_there(&object).then_some(Change::Deleted(object)),
    }
}

impl Shared {
    fn ask<K: Watched>(&self) {
        let decoder = Decoder::of::<K>();
        let mut decoders = self.decoders.lock();
        if decoders.iter().all(|known| known.type_id != decoder.type_id) {
            decoders.push(decoder);
            self.asked.notify_one();
        }
    }
}

/// What it takes to look. Behind a lock so that it outlives a look that fails.
struct Eyes {
    shelf: Shelf,
    alarm: Alarm,
}

struct Seen {
    /// If it is another world than before.
    world: Option<World>,
    is_watched: bool,
}

impl Eyes {
    fn look(&mut self, path: &Path, closely: bool, decoders: &[Decoder]) -> Seen {
        let is_watched = self.alarm.arm(path);
        let listing = disk::list(path, self.shelf.files());
        let changed = self.shelf.update(path, listing, closely, decoders);
        Seen { world: changed.then(|| self.shelf.world().clone()), is_watched }
    }
}

async fn run(shared: Arc<Shared>, world: watch::Sender<World>) {
    let touched = Arc::new(Notify::new());
    let eyes = Arc::new(Mutex::new(Eyes { shelf: Shelf::default(), alarm: Alarm::new(touched.clone()) }));
    // Nothing is read before somebody asks for something.
    tokio::select! {
        () = world.closed() => return,
        () = shared.asked.notified() => {}
    }
    let mut closely = true;
    loop {
        let pause = match look(&shared, &eyes, closely).await {
            Ok(seen) => {
                if let Some(now) = seen.world {
                    world.send_replace(now);
                }
                if seen.is_watched { LOOK_WATCHED } else { LOOK_UNWATCHED }
            }
            Err(error) => {
                tracing::error!(folder = %shared.path.display(), %error, "looking at the folder failed");
                LOOK_WATCHED
            }
        };
        closely = tokio::select! {
            () = world.closed() => return,
            () = shared.asked.notified() => false,
            () = touched.notified() => {
                settle(&touched).await;
                true
            }
            () = sleep(pause) => {
                // By now every kind was asked for that will be.
                eyes.lock().shelf.log_unwatched();
                false
            }
        };
    }
}

async fn look(shared: &Arc<Shared>, eyes: &Arc<Mutex<Eyes>>, closely: bool) -> Result<Seen, JoinError> {
    let (shared, eyes) = (shared.clone(), eyes.clone());
    spawn_blocking(move || {
        let decoders = shared.decoders.lock().clone();
        eyes.lock().look(&shared.path, closely, &decoders)
    })
    .await
}

/// Waits until a burst of changes has ended.
async fn settle(touched: &Notify) {
    let end = Instant::now() + LONGEST_BURST;
    while Instant::now() < end {
        if timeout_at(end.min(Instant::now() + QUIET), touched.notified()).await.is_err() {
            return;
        }
    }
}
