//! What the files of a folder say, taken together: the last good state of each file, and what is wrong.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    decode::{At, Decoded, Decoder, Key, api_version_and_kind},
    disk::{self, Signature},
    manifest::{Document, Object, Step, Wrong, documents, field},
};
use crate::problem::{Place, Problem, Severity};

/// Problems that are told of one file.
const MAX_PROBLEMS: usize = 20;

/// Kinds that nobody watches, by `apiVersion` and `kind`, and whether that was logged.
type Unwatched = BTreeMap<(String, String), bool>;

/// The objects of one kind.
pub(super) type Objects = BTreeMap<Key, Item>;

#[derive(Clone)]
pub(super) struct Item {
    pub(super) object: Arc<dyn std::any::Any + Send + Sync>,
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

#[derive(Default)]
struct FileState {
    /// None where it could not be read.
    signature: Option<Signature>,
    /// Of the text that was read last, good or not.
    digest: u64,
    /// How many kinds were looked for when it was read.
    decoders: usize,
    /// The last good state.
    good: Vec<Entry>,
    problems: Vec<Problem>,
}

struct Entry {
    type_id: TypeId,
    kind: String,
    decoded: Decoded,
    /// Where it was read, for when it proves to be a double.
    line: u64,
    path: Vec<Step>,
}

impl Shelf {
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// Takes in what the folder looks like now. True if the world is another one. `look` says whether
    /// files are read even if their signature is the same: two writes within one tick of the file system's
    /// clock have the same one.
    pub(super) fn update(
        &mut self,
        folder: &Path,
        listing: io::Result<BTreeMap<PathBuf, io::Result<Signature>>>,
        look: bool,
        decoders: &[Decoder],
    ) -> bool {
        let mut changed = decoders.iter().any(|decoder| !self.world.kinds.contains_key(&decoder.type_id));
        let folder_problem = match listing {
            Ok(listing) => {
                changed |= self.update_files(listing, look, decoders);
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
        look: bool,
        decoders: &[Decoder],
    ) -> bool {
        let before = self.files.len();
        self.files.retain(|path, _| listing.contains_key(path));
        let mut changed = self.files.len() != before;
        for (path, signature) in listing {
            let state = self.files.entry(path.clone()).or_default();
            changed |= state.update(&path, signature, look, decoders, &mut self.unwatched);
        }
        self.unwatched.retain(|(api_version, kind), _| {
            !decoders.iter().any(|decoder| decoder.api_version == *api_version && decoder.kind == *kind)
        });
        changed
    }

    /// Puts the files together. Of an object that two files hold, the first file's counts.
    fn rebuild(&mut self, decoders: &[Decoder]) {
        let mut kinds: HashMap<TypeId, Objects> =
            decoders.iter().map(|decoder| (decoder.type_id, Objects::new())).collect();
        let mut owners: HashMap<(TypeId, &Key), &Path> = HashMap::new();
        let mut problems: Vec<Problem> = self.folder.iter().cloned().collect();
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for entry in &file.good {
                if let Some(first) = owners.get(&(entry.type_id, &entry.decoded.key)) {
                    problems.push(duplicate(path, entry, first));
                    continue;
                }
                owners.insert((entry.type_id, &entry.decoded.key), path);
                let known = self
                    .world
                    .kinds
                    .get(&entry.type_id)
                    .and_then(|objects| objects.get(&entry.decoded.key))
                    .filter(|item| item.digest == entry.decoded.digest);
                // What did not change stays the same allocation: that is how streams see changes.
                let item = known.cloned().unwrap_or_else(|| Item {
                    object: entry.decoded.object.clone(),
                    digest: entry.decoded.digest,
                });
                kinds.entry(entry.type_id).or_default().insert(entry.decoded.key.clone(), item);
            }
        }
        // One object of two Rust types of one kind is still one mistake.
        problems.dedup();
        for problem in problems.iter().filter(|problem| !self.world.problems.contains(problem)) {
            problem.log();
        }
        if problems.is_empty() && !self.world.problems.is_empty() {
            tracing::info!("the folder is in order again");
        }
        let kinds = kinds.into_iter().map(|(type_id, objects)| (type_id, Arc::new(objects))).collect();
        self.world = World { kinds, problems: problems.into() };
    }
}

impl FileState {
    /// True if its objects or its problems may be others.
    fn update(
        &mut self,
        path: &Path,
        signature: io::Result<Signature>,
        look: bool,
        decoders: &[Decoder],
        unwatched: &mut Unwatched,
    ) -> bool {
        let watched_before = std::mem::replace(&mut self.decoders, decoders.len());
        let read = match signature {
            Ok(signature)
                if !look && self.signature == Some(signature) && watched_before == decoders.len() =>
            {
                return false;
            }
            Ok(signature) => disk::read(path).map(|text| (signature, text)),
            Err(error) => Err(disk::unreadable(&error)),
        };
        let (signature, text) = match read {
            Ok(read) => read,
            Err(message) => {
                self.signature = None;
                let problems = vec![problem(path, Wrong { position: None, field: None, message })];
                let changed = self.problems != problems;
                self.problems = problems;
                return changed;
            }
        };
        let digest = digest(&text);
        let same = self.signature.is_some() && self.digest == digest && watched_before == decoders.len();
        self.signature = Some(signature);
        self.digest = digest;
        if same {
            return false;
        }
        match parse(path, &text, decoders, unwatched) {
            Ok((entries, warnings)) => {
                self.good = entries;
                self.problems = warnings;
            }
            Err(errors) => self.problems = errors,
        }
        true
    }
}

/// The objects of a file and what in them has no effect; or, if anything is wrong, all that is.
fn parse(
    path: &Path,
    text: &str,
    decoders: &[Decoder],
    unwatched: &mut Unwatched,
) -> Result<(Vec<Entry>, Vec<Problem>), Vec<Problem>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for document in documents(text) {
        let objects = match document.objects() {
            Ok(objects) => objects,
            Err(wrong) => {
                errors.push(problem(path, wrong));
                continue;
            }
        };
        for object in objects {
            match decode(&document, &object, decoders, unwatched) {
                Ok((decoded, unknown)) => {
                    entries.extend(decoded);
                    for field in unknown {
                        let wrong =
                            || document.wrong(&below(&object.path, &field), "is not a field of this kind");
                        limited(&mut warnings, || warning(path, wrong()));
                    }
                }
                Err(at) => {
                    let wrong = || document.wrong(&below(&object.path, &at.path), at.message);
                    limited(&mut errors, || problem(path, wrong()));
                }
            }
        }
    }
    for entry in twice(&entries) {
        limited(&mut errors, || problem(path, entry.wrong("is in this file twice; remove one".to_owned())));
    }
    if errors.is_empty() { Ok((entries, warnings)) } else { Err(errors) }
}

/// Finding the place of a problem reads the document again, and nobody reads a hundred of them.
fn limited(problems: &mut Vec<Problem>, problem: impl FnOnce() -> Problem) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem());
    }
}

/// One object, as every type that it is watched as; and its fields that mean nothing.
fn decode(
    document: &Document<'_>,
    object: &Object,
    decoders: &[Decoder],
    unwatched: &mut Unwatched,
) -> Result<(Vec<Entry>, Vec<Vec<Step>>), At> {
    let (api_version, kind) = api_version_and_kind(&object.value)?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let mut entries = Vec::new();
    let mut unknown = Vec::new();
    let mut other_version = None;
    for decoder in decoders.iter().filter(|decoder| decoder.kind == kind && decoder.group == group) {
        if decoder.api_version != api_version {
            other_version = Some(&decoder.api_version);
            continue;
        }
        let mut decoded = decoder.decode(object)?;
        unknown = std::mem::take(&mut decoded.unknown);
        entries.push(Entry {
            type_id: decoder.type_id,
            kind: kind.to_owned(),
            decoded,
            line: document.first_line(),
            path: object.path.clone(),
        });
    }
    match other_version {
        Some(version) if entries.is_empty() => {
            let path = vec![Step::Key("apiVersion".to_owned())];
            return Err(At {
                path,
                message: format!("{api_version} of {kind} is not read here; use {version}"),
            });
        }
        None if entries.is_empty() => {
            unwatched.entry((api_version.to_owned(), kind.to_owned())).or_default();
        }
        _ => {}
    }
    Ok((entries, unknown))
}

/// Objects that a file holds more than once.
fn twice(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let mut seen = BTreeSet::new();
    entries.iter().filter(move |entry| !seen.insert((entry.type_id, &entry.decoded.key)))
}

impl Entry {
    fn wrong(&self, what: String) -> Wrong {
        let name = match &self.decoded.key {
            (Some(namespace), name) => format!("{namespace}/{name}"),
            (None, name) => name.clone(),
        };
        let path = below(&self.path, &[Step::Key("metadata".to_owned()), Step::Key("name".to_owned())]);
        Wrong {
            position: Some((self.line, 1)),
            field: field(&path),
            message: format!("{} {name} {what}", self.kind),
        }
    }
}

fn duplicate(path: &Path, entry: &Entry, first: &Path) -> Problem {
    let wrong = entry.wrong(format!("is in {} already, and that one counts; remove one", first.display()));
    let place = Place::File { path: path.to_owned(), position: wrong.position };
    Problem { place, field: wrong.field, message: wrong.message, severity: Severity::Error }
}

fn below(path: &[Step], further: &[Step]) -> Vec<Step> {
    path.iter().chain(further).cloned().collect()
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn problem(path: &Path, wrong: Wrong) -> Problem {
    let place = Place::File { path: path.to_owned(), position: wrong.position };
    let message =
        format!("{}; the last good state of this file stays in force until it is repaired", wrong.message);
    Problem { place, field: wrong.field, message, severity: Severity::Error }
}

fn warning(path: &Path, wrong: Wrong) -> Problem {
    let place = Place::File { path: path.to_owned(), position: wrong.position };
    let message = format!("{}; it has no effect: correct or remove it", wrong.message);
    Problem { place, field: wrong.field, message, severity: Severity::Warning }
}
