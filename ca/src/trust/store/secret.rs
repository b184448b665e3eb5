//! Trust in a Secret of the CA's own namespace. The API server lets one of several writers through; the
//! others read what is there.

use std::{collections::BTreeMap, fmt};

use futures::{StreamExt, stream::BoxStream};

use k8s_openapi::{ByteString, api::core::v1 as core};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use trellis_api::names::{CA, MANAGED_BY, MANAGER, ROOT_SECRET};
use zeroize::{Zeroize, Zeroizing};

use super::{Items, Put, Version};

/// The Secret that holds the trust of one domain.
#[derive(Clone)]
pub struct Secret {
    client: Client,
    api: Api<core::Secret>,
    namespace: String,
}

impl Secret {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), client, namespace: namespace.to_owned() }
    }

    pub(super) async fn get(&self) -> Result<Option<(Items, Version)>, String> {
        let Some(secret) = self.api.get_opt(ROOT_SECRET).await.map_err(|error| self.hint(&error))? else {
            return Ok(None);
        };
        let version = version(&secret)?;
        let data = secret.data.unwrap_or_default();
        Ok(Some((data.into_iter().map(|(name, item)| (name, Zeroizing::new(item.0))).collect(), version)))
    }

    pub(super) async fn put(&self, items: Items, before: Option<&Version>) -> Result<Put, String> {
        let data = items.iter().map(|(name, item)| (name.clone(), ByteString(item.to_vec()))).collect();
        let mut secret = core::Secret {
            metadata: ObjectMeta {
                name: Some(ROOT_SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
                resource_version: before.map(|version| version.0.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data),
            ..core::Secret::default()
        };
        let params = PostParams { field_manager: Some(CA.to_owned()), ..PostParams::default() };
        let put = match before {
            None => self.api.create(&params, &secret).await,
            Some(_) => self.api.replace(ROOT_SECRET, &params, &secret).await,
        };
        for ByteString(copy) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
            copy.zeroize();
        }
        match put {
            Ok(stored) => Ok(Put::Stored(version(&stored)?)),
            // Somebody created, replaced or deleted it since it was read.
            Err(kube::Error::Api(status))
                if status.is_already_exists() || status.is_conflict() || status.is_not_found() =>
            {
                Ok(Put::Taken)
            }
            Err(error) => Err(self.hint(&error)),
        }
    }

    /// Tells each time that the Secret may have changed.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let only = watcher::Config::default().fields(&format!("metadata.name={ROOT_SECRET}"));
        let secrets =
            Api::<PartialObjectMeta<core::Secret>>::namespaced(self.client.clone(), &self.namespace);
        let changes = watcher(secrets, only).default_backoff();
        changes
            .filter_map(|event| async move {
                match event {
                    Ok(Event::Apply(_) | Event::InitDone | Event::Delete(_)) => Some(()),
                    Ok(_) => None,
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch the Secret {ROOT_SECRET}; trying again");
                        None
                    }
                }
            })
            .boxed()
    }

    fn hint(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.is_forbidden() => format!(
                "{error}; the CA's ServiceAccount needs the verbs get, watch, create and update for the Secret {ROOT_SECRET} in namespace {}",
                self.namespace
            ),
            _ => error.to_string(),
        }
    }
}

fn version(secret: &core::Secret) -> Result<Version, String> {
    secret
        .metadata
        .resource_version
        .clone()
        .map(Version)
        .ok_or_else(|| "it has no resourceVersion".to_owned())
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{ROOT_SECRET}", self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use trellis_api::{names::TRUST_STATE, trust::KeyAlgorithm};

    use super::*;
    use crate::trust::{
        keys::Keys,
        store::{Making, Store, StoreError},
    };
    use trellis_fake_api::FakeApi;

    const PATH: &str = "/api/v1/namespaces/trellis-system/secrets/trellis-ca-root";

    fn store(api: &FakeApi) -> Store {
        Store::Secret(Box::new(Secret::new(api.client(), "trellis-system")))
    }

    fn making() -> Making {
        Making {
            trust_domain: "cluster.local".to_owned(),
            validity: Duration::from_secs(3650 * 24 * 60 * 60),
            keys: Keys::default(),
        }
    }

    #[tokio::test]
    async fn replicas_that_start_together_end_with_one_root() {
        let api = FakeApi::new();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (stores, making) = ([store(&api), store(&api), store(&api), store(&api)], making());
        let opened = stores.iter().map(|store| store.open(&making, KeyAlgorithm::MlDsa65, now));
        let opened = futures::future::join_all(opened).await;
        let anchors: Vec<_> = opened.into_iter().map(|read| read.unwrap().vault.state.issuing).collect();
        assert!(anchors.iter().all(|anchor| Some(anchor) == anchors.first()), "{anchors:?}");
        let stored = api.get(PATH).unwrap();
        assert_eq!(stored["metadata"]["labels"][MANAGED_BY], MANAGER);
        // A restart finds the same.
        let again = store(&api).open(&making, KeyAlgorithm::MlDsa65, now).await.unwrap();
        assert_eq!(Some(&again.vault.state.issuing), anchors.first());
    }

    #[tokio::test]
    async fn who_writes_over_what_somebody_else_changed_is_told_and_changes_nothing() {
        let api = FakeApi::new();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (one, two) = (store(&api), store(&api));
        let read = one.open(&making(), KeyAlgorithm::EcdsaP256, now).await.unwrap();
        let late = two.load().await.unwrap().unwrap();
        let mut changed = read.vault.clone();
        changed.state.revision = 7;
        assert!(one.write(&changed, Some(&read.version)).await.unwrap().is_some());
        assert!(two.write(&late.vault, Some(&late.version)).await.unwrap().is_none());
        assert_eq!(two.load().await.unwrap().unwrap().vault.state.revision, 7);
    }

    #[tokio::test]
    async fn without_the_right_to_create_the_error_says_what_is_missing() {
        let api = FakeApi::new();
        api.forbid("/api/v1/namespaces/trellis-system/secrets", true);
        let now = UNIX_EPOCH + Duration::from_secs(1 << 30);
        let Err(error) = store(&api).open(&making(), KeyAlgorithm::MlDsa65, now).await else {
            panic!("it was stored")
        };
        assert!(matches!(error, StoreError::Unwritable { .. }));
        assert!(error.to_string().contains("Secret trellis-system/trellis-ca-root"), "{error}");
        assert!(error.to_string().contains("verbs get, watch, create and update"), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_secret_is_never_overwritten() {
        for data in [serde_json::json!({}), serde_json::json!({ TRUST_STATE: "Z2FyYmFnZQ==" })] {
            let api = FakeApi::new();
            let secret = serde_json::json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": { "name": ROOT_SECRET, "namespace": "trellis-system" }, "data": data,
            });
            api.put(PATH, secret);
            let before = api.get(PATH);
            assert!(store(&api).open(&making(), KeyAlgorithm::MlDsa65, UNIX_EPOCH).await.is_err());
            assert_eq!((api.get(PATH), api.writes()), (before, 0));
        }
    }
}
