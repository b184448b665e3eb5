//! Takes the trust bundle to those who need it, and keeps it as it must be there.

mod cluster_bundle;
mod config_maps;
mod file;

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

pub use self::{cluster_bundle::ClusterBundle, config_maps::ConfigMaps, file::BundleFile};

/// The health condition that holds once the bundle has been published.
pub const CONDITION: &str = "publish";

/// `configmaps` or `file:PATH`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishSpec {
    ConfigMaps,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("publish {0:?} is unknown; use configmaps or file:PATH")]
pub struct UnknownPublish(String);

impl FromStr for PublishSpec {
    type Err = UnknownPublish;

    fn from_str(text: &str) -> Result<Self, UnknownPublish> {
        match text.split_once(':') {
            None if text == "configmaps" => Ok(Self::ConfigMaps),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(UnknownPublish(text.to_owned())),
        }
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigMaps => f.write_str("configmaps"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
