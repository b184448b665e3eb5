//! The source that a service was told to use, and the one value that stands for either.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use futures::stream::BoxStream;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use thiserror::Error;
use trellis_api::source::{Change, Selection, Sight, Source, Watched};

use crate::{
    client::{ClientError, kubernetes_client},
    folder::Folder,
    kubernetes::{Absence, Kubernetes},
    problem::Problem,
};

/// `kubernetes` or `folder:DIR`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    Kubernetes,
    Folder(PathBuf),
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    #[error("source {0:?} is unknown; use kubernetes or folder:DIR")]
    Unknown(String),
    #[error("source \"folder:\" names no folder; use folder:DIR")]
    NoFolder,
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.split_once(':') {
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            Some(("folder", "")) => Err(SpecError::NoFolder),
            Some(("folder", path)) => Ok(Self::Folder(path.into())),
            _ => Err(SpecError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes => f.write_str("kubernetes"),
            Self::Folder(path) => write!(f, "folder:{}", path.display()),
        }
    }
}

#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("source folder {} cannot be read: {error}; give a folder that exists and that this user may list", path.display())]
    Folder { path: PathBuf, error: std::io::Error },
}

impl SourceSpec {
    /// Opens the source, inside a tokio runtime. For Kubernetes with this client, or with one of its own
    /// if there is none; for a folder the client is not used.
    pub async fn open(&self, client: Option<kube::Client>) -> Result<AnySource, OpenError> {
        match self {
            Self::Kubernetes => {
                let client = match client {
                    Some(client) => client,
                    None => kubernetes_client().await?,
                };
                Ok(AnySource::kubernetes(client))
            }
            Self::Folder(path) => AnySource::folder(path.clone()).await,
        }
    }
}

/// Either source. Clones share what they have read and what they watch.
#[derive(Clone)]
pub struct AnySource(Inner);

#[derive(Clone)]
enum Inner {
    Kubernetes(Kubernetes),
    Folder(Arc<Folder>),
}

impl AnySource {
    pub fn parse(text: &str) -> Result<SourceSpec, SpecError> {
        text.parse()
    }

    pub fn kubernetes(client: kube::Client) -> Self {
        Self(Inner::Kubernetes(Kubernetes::new(client)))
    }

    pub async fn folder(path: PathBuf) -> Result<Self, OpenError> {
        match Folder::open(path.clone()).await {
            Ok(folder) => Ok(Self(Inner::Folder(Arc::new(folder)))),
            Err(error) => Err(OpenError::Folder { path, error }),
        }
    }

    /// What is wrong with the source now, for health pages and metrics. Each was logged when it began.
    pub fn problems(&self) -> Vec<Problem> {
        match &self.0 {
            Inner::Kubernetes(kubernetes) => kubernetes.problems(),
            Inner::Folder(folder) => folder.problems(),
        }
    }
}

impl Source for AnySource {
    fn watch<K: Watched>(&self) -> BoxStream<'static, Change<K>> {
        match &self.0 {
            Inner::Kubernetes(kubernetes) => kubernetes.watch(Absence::Problem),
            Inner::Folder(folder) => folder.watch(),
        }
    }

    fn watch_if_known<K: Watched>(&self) -> BoxStream<'static, Change<K>> {
        match &self.0 {
            Inner::Kubernetes(kubernetes) => kubernetes.watch(Absence::Empty),
            // There a kind is known as soon as somebody asks for it.
            Inner::Folder(folder) => folder.watch(),
        }
    }

    fn watch_in<K>(&self, selection: Selection) -> BoxStream<'static, Sight<K>>
    where
        K: Watched + Resource<Scope = NamespaceResourceScope>,
    {
        match &self.0 {
            Inner::Kubernetes(kubernetes) => kubernetes.watch_in(selection),
            Inner::Folder(folder) => folder.watch_in(selection),
        }
    }
}
