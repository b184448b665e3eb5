//! One file: its last good state, and what is wrong with it now.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
};

use super::{
    decode::{At, Decoded, Decoder, api_version_and_kind},
    disk::{self, Signature},
    manifest::{Document, Object, Step, Wrong, documents, field},
};
use crate::problem::{Place, Problem, Severity};

/// Problems that are told of one file.
const MAX_PROBLEMS: usize = 20;

/// Kinds that nobody watches, by `apiVersion` and `kind`, and whether that was logged.
pub(super) type Unwatched = BTreeMap<(String, String), bool>;

#[derive(Default)]
pub(super) struct FileState {
    /// None where it could not be read.
    signature: Option<Signature>,
    /// Of the text that was read last, good or not.
    digest: u64,
    /// How many kinds were looked for when it was read.
    decoders: usize,
    /// The last good state.
    pub(super) good: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
}

pub(super) struct Entry {
    pub(super) type_id: TypeId,
    kind: String,
    pub(super) decoded: Decoded,
    /// Where it was read, for when it proves to be a double.
    line: u64,
    path: Vec<Step>,
}

impl FileState {
    /// True if its objects or its problems may be others.
    pub(super) fn update(
        &mut self,
        path: &Path,
        signature: io::Result<Signature>,
        closely: bool,
        decoders: &[Decoder],
        unwatched: &mut Unwatched,
    ) -> bool {
        let watched_before = std::mem::replace(&mut self.decoders, decoders.len());
        let read = match signature {
            Ok(signature)
                if !closely && self.signature == Some(signature) && watched_before == decoders.len() =>
            {
                return false;
            }
            // Most often a file that is being written: what was meant is not known yet.
            Ok(signature) if signature.is_empty() && !self.good.is_empty() => {
                Err("is empty; to remove its objects remove it, or leave a comment in it".to_owned())
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
    pub(super) fn wrong(&self, what: String) -> Wrong {
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
