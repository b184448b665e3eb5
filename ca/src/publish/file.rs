//! The trust bundle as one file, for machines without Kubernetes.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use trellis_telemetry::{
    health::Health,
    shutdown::{Shutdown, requested},
};

use super::CONDITION;

/// How soon a file that somebody changed is repaired.
const LOOK: Duration = Duration::from_secs(5);

/// A bundle that is kept in a file.
pub struct BundleFile {
    path: PathBuf,
    pem: watch::Receiver<String>,
    health: Health,
}

impl BundleFile {
    pub fn new(path: PathBuf, pem: watch::Receiver<String>, health: Health) -> Self {
        Self { path, pem, health }
    }

    /// Writes the bundle, and again whenever it has changed or the file is no longer what it was.
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        loop {
            let (path, pem) = (self.path.clone(), self.pem.borrow_and_update().clone());
            let written = spawn_blocking(move || keep(&path, &pem)).await;
            match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(written) => {
                    if written {
                        tracing::info!(path = %self.path.display(), "published the trust bundle");
                    }
                    self.health.set(CONDITION, Ok(()));
                }
                Err(error) => {
                    let problem = format!("publish: cannot write {}: {error}", self.path.display());
                    tracing::error!("{problem}");
                    self.health.set(CONDITION, Err(problem));
                }
            }
            tokio::select! {
                () = &mut stop => return,
                changed = self.pem.changed() => if changed.is_err() { return },
                () = sleep(LOOK) => {}
            }
        }
    }
}

/// Whether it had to be written. Readers see the old file or the new one, never half of one.
fn keep(path: &Path, pem: &str) -> io::Result<bool> {
    match fs::read(path) {
        Ok(found) if found == pem.as_bytes() => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut draft = tempfile::Builder::new()
        .prefix(".bundle.")
        // Trust is no secret.
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    draft.write_all(pem.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist(path).map_err(|error| error.error)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_once_and_repaired_when_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/bundle.pem");
        assert!(keep(&path, "anchors").unwrap());
        assert!(!keep(&path, "anchors").unwrap(), "nothing to write");
        fs::write(&path, "spoiled").unwrap();
        assert!(keep(&path, "anchors").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "anchors");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }
}
