//! Where a CA keeps trust: a Secret of its namespace, or a file.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use trellis_api::names::{MANAGED_BY, MANAGER, ROOT_FILE, ROOT_SECRET};
use zeroize::Zeroizing;

use super::content::Items;
use crate::install::make_namespace;

#[derive(Debug, Args)]
pub struct Root {
    /// The folder that a CA without Kubernetes keeps trust in (its --root file:DIR), instead of the Secret
    /// in the cluster. No CA may be running on it.
    #[arg(long, value_name = "DIR")]
    root_folder: Option<PathBuf>,
}

pub enum Place {
    Secret(Box<InCluster>),
    File(PathBuf),
}

pub struct InCluster {
    client: Client,
    api: Api<Secret>,
    namespace: String,
}

/// Which writing was read: nothing is written over another one.
pub type Version = Option<String>;

impl Place {
    pub async fn open(root: &Root, namespace: &str) -> Result<Self> {
        Ok(match &root.root_folder {
            Some(folder) => Self::File(folder.join(ROOT_FILE)),
            None => {
                let client = trellis_source::kubernetes_client().await?;
                let api = Api::namespaced(client.clone(), namespace);
                Self::Secret(Box::new(InCluster { client, api, namespace: namespace.to_owned() }))
            }
        })
    }

    pub async fn get(&self) -> Result<Option<(Items, Version)>> {
        let context = || format!("cannot read {self}");
        match self {
            Self::Secret(there) => {
                let Some(secret) = there.api.get_opt(ROOT_SECRET).await.with_context(context)? else {
                    return Ok(None);
                };
                let items = secret.data.unwrap_or_default().into_iter().map(|(name, ByteString(item))| {
                    let text = String::from_utf8(item)
                        .with_context(|| format!("{self}: its item {name} is no text"))?;
                    Ok((name, Zeroizing::new(text)))
                });
                Ok(Some((items.collect::<Result<_>>()?, secret.metadata.resource_version)))
            }
            Self::File(path) => {
                let text = match fs::read_to_string(path) {
                    Ok(text) => Zeroizing::new(text),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error).with_context(context),
                };
                let items: BTreeMap<String, String> = serde_json::from_str(&text).with_context(context)?;
                Ok(Some((items.into_iter().map(|(name, item)| (name, Zeroizing::new(item))).collect(), None)))
            }
        }
    }

    /// In one go, and over what was read.
    pub async fn put(&self, items: &Items, before: Option<Version>) -> Result<()> {
        let context = || format!("cannot write {self}");
        match self {
            Self::Secret(there) => {
                let InCluster { client, api, namespace } = &**there;
                make_namespace(client, namespace).await?;
                let secret = Secret {
                    metadata: ObjectMeta {
                        name: Some(ROOT_SECRET.to_owned()),
                        namespace: Some(namespace.clone()),
                        labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
                        resource_version: before.clone().flatten(),
                        ..ObjectMeta::default()
                    },
                    type_: Some("Opaque".to_owned()),
                    data: Some(
                        items
                            .iter()
                            .map(|(name, item)| (name.clone(), ByteString(item.as_bytes().to_vec())))
                            .collect(),
                    ),
                    ..Secret::default()
                };
                let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                let put = match before {
                    None => api.create(&params, &secret).await,
                    Some(_) => api.replace(ROOT_SECRET, &params, &secret).await,
                };
                match put {
                    Ok(_) => Ok(()),
                    Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                        bail!("{self} changed meanwhile, and nothing was done: look at it, and try again")
                    }
                    Err(error) => Err(error).with_context(context),
                }
            }
            Self::File(path) => write(path, items).with_context(context),
        }
    }
}

fn write(path: &std::path::Path, items: &Items) -> Result<()> {
    let folder = path.parent().context("it has no folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let texts: BTreeMap<&str, &str> =
        items.iter().map(|(name, item)| (name.as_str(), item.as_str())).collect();
    let content = Zeroizing::new(serde_json::to_vec_pretty(&texts)?);
    // Made with mode 0600, and removed again if it gets no further.
    let mut draft = tempfile::Builder::new().prefix(".draft.").tempfile_in(folder)?;
    draft.write_all(&content)?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(there) => write!(f, "Secret {}/{ROOT_SECRET}", there.namespace),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
