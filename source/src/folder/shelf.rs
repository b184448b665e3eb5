//! What the files of a folder say, taken together.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    decode::{Decoder, Key},
    disk::Signature,
    file::{Entry, FileState, Unwatched},
};
use crate::problem::{Place, Problem, Severity};

/// The objects of one kind.
pub(super) type Objects = BTreeMap<Key, Item>;

#[derive(Clone)]
pub(super) struct Item {
    pub(super) object: Arc<dyn Any + Send + Sync>,
    digest: u64,
}

/// One state of the folder, complete.
#[derive(Clone, Default)]
pub(super) struct World {
    /// Holds every kind that was looked for, even if there is no object of it.
    pub(super) kinds: HashMap<TypeId, Arc<Objects>>,
    pub(super) problems: Arc<[Problem]>,
}

#[derive(Default)]
pub(super) struct Shelf {
    files: BTreeMap<PathBuf, FileState>,
    /// That the folder as a whole cannot be read.
    folder: Option<Problem>,
    world: World,
    unwatched: Unwatched,
}

impl Shelf {
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// Takes in what the folder looks like now. True if the world is another one. `closely`:
    /// files are read even if their signature is the same: two writes within one tick of the file system's
    /// clock have the same one.
    pub(super) fn update(
        &mut self,
        folder: &Path,
        listing: io::Result<BTreeMap<PathBuf, io::Result<Signature>>>,
        closely: bool,
        decoders: &[Decoder],
    ) -> bool {
        let mut changed = decoders.iter().any(|decoder| !self.world.kinds.contains_key(&decoder.type_id));
        let folder_problem = match listing {
            Ok(listing) => {
                changed |= self.update_files(listing, closely, decoders);
                None
            }
            Err(error) => Some(Problem {
                place: Place::File { path: folder.to_owned(), position: None },
                field: None,
                message: format!(
                    "the folder cannot be read: {error}; the last good state stays in force; put it back, or \
                     let this user list it"
                ),
                severity: Severity::Error,
            }),
        };
        changed |= folder_problem != self.folder;
        self.folder = folder_problem;
        if changed {
            self.rebuild(decoders);
        }
        changed
    }

    /// Logs each kind that files hold and nobody watches, once.
    pub(super) fn log_unwatched(&mut self) {
        for ((api_version, kind), logged) in &mut self.unwatched {
            if !std::mem::replace(logged, true) {
                tracing::info!(
                    api_version,
                    kind,
                    "this process has no use for this kind; its objects are ignored"
                );
            }
        }
    }

    fn update_files(
        &mut self,
        listing: BTreeMap<PathBuf, io::Result<Signature>>,
        closely: bool,
        decoders: &[Decoder],
    ) -> bool {
        let before = self.files.len();
        self.files.retain(|path, _| listing.contains_key(path));
        let mut changed = self.files.len() != before;
        for (path, signature) in listing {
            let state = self.files.entry(path.clone()).or_default();
            changed |= state.update(&path, signature, closely, decoders, &mut self.unwatched);
        }
        self.unwatched.retain(|(api_version, kind), _| {
            !decoders.iter().any(|decoder| decoder.api_version == *api_version && decoder.kind == *kind)
        });
        changed
    }

    /// Puts the files together. Of an object that two files hold, the first file's counts.
    fn rebuild(&mut self, decoders: &[Decoder]) {
        let before = std::mem::take(&mut self.world);
        let mut kinds: HashMap<TypeId, Objects> =
            decoders.iter().map(|decoder| (decoder.type_id, Objects::new())).collect();
        let mut owners: HashMap<(TypeId, Key), &Path> = HashMap::new();
        let mut problems: Vec<Problem> = self.folder.iter().cloned().collect();
        for (path, file) in &mut self.files {
            problems.extend(file.problems.iter().cloned());
            for entry in &mut file.good {
                let key = (entry.type_id, entry.decoded.key.clone());
                if let Some(first) = owners.get(&key) {
                    problems.push(duplicate(path, entry, first));
                    continue;
                }
                owners.insert(key, path);
                // What did not change stays the same allocation: that is how streams see changes.
                let known =
                    before.kinds.get(&entry.type_id).and_then(|objects| objects.get(&entry.decoded.key));
                if let Some(known) = known.filter(|known| known.digest == entry.decoded.digest) {
                    entry.decoded.object = known.object.clone();
                }
                let item = Item { object: entry.decoded.object.clone(), digest: entry.decoded.digest };
                kinds.entry(entry.type_id).or_default().insert(entry.decoded.key.clone(), item);
            }
        }
        // One object that is watched as two types is still one mistake.
        problems.dedup();
        report(&before.problems, &problems);
        let kinds = kinds.into_iter().map(|(type_id, objects)| match before.kinds.get(&type_id) {
            Some(known) if is_same(known, &objects) => (type_id, known.clone()),
            _ => (type_id, Arc::new(objects)),
        });
        self.world = World { kinds: kinds.collect(), problems: problems.into() };
    }
}

/// Tells of what is new, and of the end of it all.
fn report(before: &[Problem], now: &[Problem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        problem.log();
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("the folder is in order again");
    }
}

fn is_same(before: &Objects, now: &Objects) -> bool {
    before.len() == now.len()
        && before
            .iter()
            .zip(now)
            .all(|((old_key, old), (key, item))| old_key == key && Arc::ptr_eq(&old.object, &item.object))
}

fn duplicate(path: &Path, entry: &Entry, first: &Path) -> Problem {
    let wrong = entry.wrong(format!("is in {} already, and that one counts; remove one", first.display()));
    let place = Place::File { path: path.to_owned(), position: wrong.position };
    Problem { place, field: wrong.field, message: wrong.message, severity: Severity::Error }
}
