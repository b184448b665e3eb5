//! The authorities of the web that this machine trusts, read when they are first needed: most proxies never do.

use std::{path::PathBuf, sync::OnceLock};

use tracing::warn;

pub struct WebRoots {
    file: PathBuf,
    read: OnceLock<Vec<u8>>,
}

impl WebRoots {
    pub fn new(file: PathBuf) -> Self {
        Self { file, read: OnceLock::new() }
    }

    /// As PEM; empty where there are none, by which nobody is known.
    pub fn pem(&self) -> &[u8] {
        self.read.get_or_init(|| {
            std::fs::read(&self.file).unwrap_or_else(|error| {
                warn!(file = %self.file.display(), %error, "no authorities of the web");
                Vec::new()
            })
        })
    }
}
