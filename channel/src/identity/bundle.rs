//! The trust bundle as a file: waited for at start, read again when it changes. What cannot be read
//! changes nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use trellis_pki::bundle::{Bundle, published_revision};

/// How long the first good bundle may take to appear.
pub const FIRST_WAIT: Duration = Duration::from_secs(30);
const FIRST_POLL: Duration = Duration::from_millis(250);
/// More anchors than any rotation needs; a bigger file is not a bundle.
const MAX_BYTES: u64 = 1 << 20;

/// A bundle file that is followed.
#[derive(Clone, Debug)]
pub struct BundleFile {
    path: PathBuf,
    trust_domain: String,
    /// What the file looked like when it was last read, well or not.
    seen: Option<Stamp>,
    /// What the last good bundle held.
    fingerprint: Option<String>,
}

/// What a file held.
#[derive(Debug)]
pub struct Published {
    pub bundle: Bundle,
    /// Of the CA that wrote it; none where somebody else did.
    pub revision: Option<u64>,
}

#[derive(Debug, Error)]
pub enum BundleError {
    #[error("cannot read the trust bundle {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the trust bundle {} is refused: {reason}; expected PEM certificates of the mesh CA", path.display())]
    Malformed { path: PathBuf, reason: String },
}

/// Changes when the file is replaced, as a mounted ConfigMap is, and when it is written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl BundleFile {
    pub fn new(path: PathBuf, trust_domain: String) -> Self {
        Self { path, trust_domain, seen: None, fingerprint: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the first good bundle.
    pub async fn first(&mut self) -> Result<Published, BundleError> {
        let deadline = Instant::now() + FIRST_WAIT;
        let mut said = false;
        loop {
            self.seen = None;
            let error = match self.read().await {
                Ok(Some(published)) => {
                    self.fingerprint = Some(published.bundle.fingerprint());
                    return Ok(published);
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                if !said {
                    tracing::info!(%error, "waiting for the trust bundle");
                    said = true;
                }
            }
            sleep(FIRST_POLL).await;
        }
    }

    /// The bundle, if the file changed and holds other anchors than before. A file that went bad is
    /// reported once for each time that it changes; one that is gone, each time.
    pub async fn changed(&mut self) -> Result<Option<Published>, BundleError> {
        let Some(published) = self.read().await? else { return Ok(None) };
        let fingerprint = published.bundle.fingerprint();
        if self.fingerprint.as_ref() == Some(&fingerprint) {
            return Ok(None);
        }
        self.fingerprint = Some(fingerprint);
        Ok(Some(published))
    }

    /// The bundle, if the file looks other than when it was last read.
    async fn read(&mut self) -> Result<Option<Published>, BundleError> {
        let (path, seen) = (self.path.clone(), self.seen);
        let read = spawn_blocking(move || read_if_changed(&path, seen));
        let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (stamp, text) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(None),
            Err(source) => {
                self.seen = None;
                return Err(BundleError::Unreadable { path: self.path.clone(), source });
            }
        };
        self.seen = Some(stamp);
        let revision = published_revision(&text);
        Bundle::from_pem(&self.trust_domain, &text)
            .map(|bundle| Some(Published { bundle, revision }))
            .map_err(|error| BundleError::Malformed { path: self.path.clone(), reason: error.to_string() })
    }
}

fn read_if_changed(path: &Path, seen: Option<Stamp>) -> io::Result<Option<(Stamp, String)>> {
    let found = fs::metadata(path)?;
    let stamp = Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
    };
    if seen == Some(stamp) {
        return Ok(None);
    }
    if stamp.size > MAX_BYTES {
        return Err(io::Error::other(format!("it has {} bytes, more than {MAX_BYTES}", stamp.size)));
    }
    Ok(Some((stamp, fs::read_to_string(path)?)))
}
