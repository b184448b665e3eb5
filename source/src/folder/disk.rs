//! What is in the folder: which files, whether one changed, and what it says.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A manifest file beyond this is a mistake.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Differs when a file was written, replaced or pointed elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.length == 0
    }
}

/// Which folder this is, whatever its name: a watch holds on to the folder, not to the name.
pub(super) fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The manifest files of a folder, not of folders in it. Links are followed, so that a mounted ConfigMap
/// works. `known` files are asked for by name as well: a listing may miss one that is just being replaced.
pub(super) fn list<'a>(
    folder: &Path,
    known: impl Iterator<Item = &'a PathBuf>,
) -> io::Result<BTreeMap<PathBuf, io::Result<Signature>>> {
    let mut files = BTreeMap::new();
    let listed =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    for path in listed.into_iter().chain(known.cloned()) {
        if !is_manifest(&path) || files.contains_key(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => files.insert(path, Ok(Signature::of(&metadata))),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => files.insert(path, Err(error)),
        };
    }
    Ok(files)
}

/// The text of a file. The error says what to do.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {} MiB; split it", MAX_FILE / 1024 / 1024));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text: {error}; save it as UTF-8"))
}

pub(super) fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}; let this user read it, or remove it")
}

/// Hidden files are editors' and `..data`.
fn is_manifest(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}
