//! Trust in a folder: one file that only its owner may read, replaced whole or not at all.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;
use trellis_api::names::ROOT_FILE;
use trellis_pki::bundle::fingerprint;
use zeroize::Zeroizing;

use super::{Items, Put, Trouble, Version};

/// Whoever replaces the file holds this one locked.
const LOCK: &str = ".lock";
/// A few keys and certificates are a tenth of it.
const MAX_BYTES: u64 = 1 << 20;
/// What others than the owner may do.
const OTHERS: u32 = 0o077;

/// A folder that holds the trust of one domain.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) async fn get(&self) -> Result<Option<(Items, Version)>, Trouble> {
        let path = self.path.join(ROOT_FILE);
        let Some(content) = run(move || read(&path)).await? else { return Ok(None) };
        let version = version(&content);
        Ok(Some((decode(&content).map_err(Trouble::Damaged)?, version)))
    }

    pub(super) async fn put(&self, items: Items, before: Option<&Version>) -> Result<Put, String> {
        let (folder, before) = (self.path.clone(), before.cloned());
        let content = encode(&items)?;
        run(move || write(&folder, &content, before.as_ref())).await
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.join(ROOT_FILE).display())
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// All items are texts: JSON and PEM.
fn encode(items: &Items) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut texts = BTreeMap::new();
    for (name, item) in items {
        texts.insert(name, std::str::from_utf8(item).map_err(|_| format!("{name} is no text"))?);
    }
    serde_json::to_vec_pretty(&texts).map(Zeroizing::new).map_err(|error| error.to_string())
}

fn decode(content: &[u8]) -> Result<Items, String> {
    let texts: BTreeMap<String, String> =
        serde_json::from_slice(content).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(texts.into_iter().map(|(name, text)| (name, Zeroizing::new(text.into_bytes()))).collect())
}

fn version(content: &[u8]) -> Version {
    Version(fingerprint(content))
}

fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
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
    fs::read(path).map(|content| Some(Zeroizing::new(content)))
}

/// Writes beside the place and moves it there, if what is there is still what was read.
fn write(folder: &Path, content: &[u8], before: Option<&Version>) -> io::Result<Put> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let lock = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(LOCK))?;
    lock.lock()?;
    let path = folder.join(ROOT_FILE);
    let found = read(&path)?.map(|content| version(&content));
    if found.as_ref() != before {
        return Ok(Put::Taken);
    }
    // Made with mode 0600, and removed again if it gets no further.
    let mut draft = tempfile::Builder::new().prefix(".draft.").tempfile_in(folder)?;
    draft.write_all(content)?;
    draft.as_file().sync_all()?;
    draft.persist(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()?;
    Ok(Put::Stored(version(content)))
}
