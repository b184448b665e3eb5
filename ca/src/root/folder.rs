//! The root in a folder: one file that only its owner may read, written whole or not at all.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{ITEM, Item, Put};

/// A key and a certificate are a tenth of it.
const MAX_BYTES: u64 = 1 << 20;
/// What others than the owner may do.
const OTHERS: u32 = 0o077;

/// A folder that holds the root.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) async fn get(&self) -> Result<Option<Item>, String> {
        let path = self.path.join(ITEM);
        run(move || read(&path)).await
    }

    pub(super) async fn put(&self, item: Item) -> Result<Put, String> {
        let folder = self.path.clone();
        run(move || write(&folder, &item)).await
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.join(ITEM).display())
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn read(path: &Path) -> io::Result<Option<Item>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if found.mode() & OTHERS != 0 {
        return Err(io::Error::other(format!(
            "its mode is {:o}, so that others than its owner can reach the key; run chmod 600 on it",
            found.mode() & 0o777
        )));
    }
    if found.len() > MAX_BYTES {
        return Err(io::Error::other(format!("it has {} bytes, more than {MAX_BYTES}", found.len())));
    }
    fs::read(path).map(|item| Some(Zeroizing::new(item)))
}

/// Writes beside the place and moves it there only if nobody was faster.
fn write(folder: &Path, item: &[u8]) -> io::Result<Put> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Made with mode 0600, and removed again if it gets no further.
    let mut draft = tempfile::Builder::new().prefix(".root.").tempfile_in(folder)?;
    draft.write_all(item)?;
    draft.as_file().sync_all()?;
    match draft.persist_noclobber(folder.join(ITEM)) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Taken),
        Err(error) => return Err(error.error),
    }
    File::open(folder)?.sync_all()?;
    Ok(Put::Stored)
}
