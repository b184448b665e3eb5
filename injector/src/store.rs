//! Where the replicas keep the serving certificate they share: a Secret, or a folder where there is no
//! cluster. Whoever writes says what it has read; if somebody else was faster, the writer reads again.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use k8s_openapi::{ByteString, api::core::v1 as core};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use trellis_api::names;
use zeroize::{Zeroize, Zeroizing};

use crate::certificate::{Certificates, Items};

const FILE: &str = "certificates.json";

#[derive(Clone)]
pub enum Store {
    Secret { api: Box<Api<core::Secret>>, namespace: String },
    Folder(PathBuf),
}

/// What was found.
pub struct Kept {
    /// Nothing where nothing usable was.
    pub certificates: Option<Certificates>,
    version: Version,
}

enum Version {
    Absent,
    /// Replaces exactly this.
    Resource(Option<String>),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "Secret {namespace}/{}: {error}; the injector's ServiceAccount needs get, list, watch and update \
         of it, and create of Secrets in that namespace",
        names::WEBHOOK_SECRET
    )]
    Secret { namespace: String, error: Box<kube::Error> },
    #[error("--tls file:{}: {error}; give a folder that this user may write", path.display())]
    Folder { path: PathBuf, error: io::Error },
}

impl Store {
    pub fn secret(client: Client, namespace: &str) -> Self {
        let api = Box::new(Api::namespaced(client, namespace));
        Self::Secret { api, namespace: namespace.to_owned() }
    }

    pub async fn load(&self) -> Result<Kept, StoreError> {
        match self {
            Self::Secret { api, .. } => {
                let found = api.get_opt(names::WEBHOOK_SECRET).await.map_err(|error| self.failed(error))?;
                Ok(found.map_or_else(Kept::nothing, Kept::of_secret))
            }
            Self::Folder(path) => match fs::read(path.join(FILE)).map(Zeroizing::new) {
                Ok(bytes) => Ok(Kept::of_file(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::nothing()),
                Err(error) => Err(StoreError::Folder { path: path.clone(), error }),
            },
        }
    }

    /// Returns false if somebody else has written since `kept` was read.
    pub async fn save(&self, kept: Kept, certificates: &Certificates) -> Result<bool, StoreError> {
        match self {
            Self::Secret { api, namespace } => {
                let mut secret = secret(namespace, certificates, &kept.version);
                let params =
                    PostParams { field_manager: Some(names::INJECTOR.to_owned()), ..PostParams::default() };
                let written = match kept.version {
                    Version::Absent => api.create(&params, &secret).await,
                    Version::Resource(_) => api.replace(names::WEBHOOK_SECRET, &params, &secret).await,
                };
                for ByteString(copy) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
                    copy.zeroize();
                }
                match written {
                    Ok(_) => Ok(true),
                    // 409 is a conflict or an existing object; 404 an object that was deleted meanwhile.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
                    Err(error) => Err(self.failed(error)),
                }
            }
            Self::Folder(path) => write(path, certificates)
                .map(|()| true)
                .map_err(|error| StoreError::Folder { path: path.clone(), error }),
        }
    }

    fn failed(&self, error: kube::Error) -> StoreError {
        let namespace = match self {
            Self::Secret { namespace, .. } => namespace.clone(),
            Self::Folder(_) => String::new(),
        };
        StoreError::Secret { namespace, error: Box::new(error) }
    }
}

impl Kept {
    fn nothing() -> Self {
        Self { certificates: None, version: Version::Absent }
    }

    fn of_secret(secret: core::Secret) -> Self {
        let mut items = Items::new();
        for (name, ByteString(bytes)) in secret.data.unwrap_or_default() {
            if let Ok(text) = String::from_utf8(bytes) {
                items.insert(name, Zeroizing::new(text));
            }
        }
        Self { certificates: read(&items), version: Version::Resource(secret.metadata.resource_version) }
    }

    fn of_file(bytes: &[u8]) -> Self {
        let items: BTreeMap<String, String> = match serde_json::from_slice(bytes) {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, "the kept certificate cannot be read; making another");
                return Self { certificates: None, version: Version::Resource(None) };
            }
        };
        let items = items.into_iter().map(|(name, text)| (name, Zeroizing::new(text))).collect();
        Self { certificates: read(&items), version: Version::Resource(None) }
    }
}

/// What cannot be used is as good as absent: it holds nothing that could not be made again.
fn read(items: &Items) -> Option<Certificates> {
    match Certificates::from_items(items) {
        Ok(certificates) => Some(certificates),
        Err(error) => {
            tracing::warn!(%error, "the kept certificate cannot be used; making another");
            None
        }
    }
}

fn secret(namespace: &str, certificates: &Certificates, version: &Version) -> core::Secret {
    let resource_version = match version {
        Version::Absent => None,
        Version::Resource(version) => version.clone(),
    };
    let items = certificates.to_items();
    let data = items.iter().map(|(name, text)| (name.clone(), ByteString(text.as_bytes().to_vec())));
    core::Secret {
        metadata: ObjectMeta {
            name: Some(names::WEBHOOK_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(names::MANAGED_BY.to_owned(), names::MANAGER.to_owned())])),
            resource_version,
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..core::Secret::default()
    }
}

/// Whole or not at all, and readable by its owner only.
fn write(folder: &Path, certificates: &Certificates) -> io::Result<()> {
    let items = certificates.to_items();
    let items: BTreeMap<&str, &str> =
        items.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let text = Zeroizing::new(serde_json::to_string_pretty(&items)?);
    let temporary = folder.join(format!(".{FILE}"));
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        time::{Duration, UNIX_EPOCH},
    };

    use trellis_pki::serving::serving_certificate;

    use super::*;

    fn certificates() -> Certificates {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let names = ["localhost".to_owned()];
        Certificates::first(serving_certificate(&names, now, Duration::from_secs(86_400)).unwrap())
    }

    #[tokio::test]
    async fn a_folder_keeps_the_certificate_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::Folder(folder.path().to_owned());
        let kept = store.load().await.unwrap();
        assert!(kept.certificates.is_none());
        let certificates = certificates();
        assert!(store.save(kept, &certificates).await.unwrap());
        let again = store.load().await.unwrap().certificates.unwrap();
        assert_eq!(again.bundle(), certificates.bundle());
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_is_spoilt_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::Folder(folder.path().to_owned());
        for spoilt in ["", "{", "[]", "{}", r#"{"tls.crt": "x"}"#] {
            fs::write(folder.path().join(FILE), spoilt).unwrap();
            let kept = store.load().await.unwrap();
            assert!(kept.certificates.is_none(), "{spoilt}");
            assert!(store.save(kept, &certificates()).await.unwrap());
            assert!(store.load().await.unwrap().certificates.is_some());
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_named() {
        let store = Store::Folder("/nowhere/at/all".into());
        let kept = store.load().await.unwrap();
        let error = store.save(kept, &certificates()).await.unwrap_err().to_string();
        assert!(error.starts_with("--tls file:/nowhere/at/all: "), "{error}");
    }
}
