//! The root in a Secret of the CA's own namespace. The API server creates it once; who comes second
//! reads what is there.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1 as core};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use trellis_api::names::{CA, MANAGED_BY, MANAGER, ROOT_SECRET};
use zeroize::{Zeroize, Zeroizing};

use super::{ITEM, Item, Put};

/// The Secret that holds the root.
#[derive(Clone)]
pub struct Secret {
    api: Api<core::Secret>,
    namespace: String,
}

impl Secret {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }

    pub(super) async fn get(&self) -> Result<Option<Item>, String> {
        let Some(mut secret) = self.api.get_opt(ROOT_SECRET).await.map_err(|error| self.hint(&error))? else {
            return Ok(None);
        };
        let item = secret.data.as_mut().and_then(|data| data.remove(ITEM));
        match item {
            Some(ByteString(item)) => Ok(Some(Zeroizing::new(item))),
            None => Err(format!("it has no key {ITEM}; delete the Secret if it holds nothing of worth")),
        }
    }

    pub(super) async fn put(&self, item: Item) -> Result<Put, String> {
        let mut secret = core::Secret {
            metadata: ObjectMeta {
                name: Some(ROOT_SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([(ITEM.to_owned(), ByteString(item.to_vec()))])),
            ..core::Secret::default()
        };
        let params = PostParams { field_manager: Some(CA.to_owned()), ..PostParams::default() };
        let created = self.api.create(&params, &secret).await;
        for ByteString(copy) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
            copy.zeroize();
        }
        match created {
            Ok(_) => Ok(Put::Stored),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Put::Taken),
            Err(error) => Err(self.hint(&error)),
        }
    }

    fn hint(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.is_forbidden() => format!(
                "{error}; the CA's ServiceAccount needs the verbs get and create for Secrets in namespace {}",
                self.namespace
            ),
            _ => error.to_string(),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{ROOT_SECRET}", self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use trellis_pki::algorithm::Algorithm;

    use super::*;
    use crate::{
        fake_api::FakeApi,
        root::{RootError, Store, Wanted},
    };

    const PATH: &str = "/api/v1/namespaces/trellis-system/secrets/trellis-ca-root";

    fn store(api: &FakeApi) -> Store {
        Store::Secret(Box::new(Secret::new(api.client(), "trellis-system")))
    }

    fn wanted() -> Wanted {
        Wanted {
            trust_domain: "cluster.local".to_owned(),
            algorithm: Algorithm::MlDsa65,
            validity: Duration::from_secs(3650 * 24 * 60 * 60),
        }
    }

    #[tokio::test]
    async fn replicas_that_start_together_end_with_one_root() {
        let api = FakeApi::new();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (stores, wanted) = ([store(&api), store(&api), store(&api), store(&api)], wanted());
        let roots = futures::future::join_all(stores.iter().map(|store| store.open(&wanted, now))).await;
        let anchors: Vec<_> = roots.into_iter().map(|root| root.unwrap().anchor().fingerprint()).collect();
        assert!(anchors.iter().all(|anchor| Some(anchor) == anchors.first()), "{anchors:?}");
        let stored = api.get(PATH).unwrap();
        assert_eq!(stored["metadata"]["labels"][MANAGED_BY], MANAGER);
        // A restart finds the same.
        let again = store(&api).open(&wanted, now).await.unwrap();
        assert_eq!(Some(&again.anchor().fingerprint()), anchors.first());
    }

    #[tokio::test]
    async fn without_the_right_to_create_the_error_says_what_is_missing() {
        let api = FakeApi::new();
        api.forbid("/api/v1/namespaces/trellis-system/secrets", true);
        let Err(error) = store(&api).open(&wanted(), UNIX_EPOCH + Duration::from_secs(1 << 30)).await else {
            panic!("it was stored")
        };
        assert!(matches!(error, RootError::Unwritable { .. }));
        assert!(error.to_string().contains("Secret trellis-system/trellis-ca-root"), "{error}");
        assert!(error.to_string().contains("verbs get and create"), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_secret_is_never_overwritten() {
        for data in [serde_json::json!({}), serde_json::json!({ ITEM: "Z2FyYmFnZQ==" })] {
            let api = FakeApi::new();
            let secret = serde_json::json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": { "name": ROOT_SECRET, "namespace": "trellis-system" }, "data": data,
            });
            api.put(PATH, secret);
            let before = api.get(PATH);
            assert!(store(&api).open(&wanted(), UNIX_EPOCH).await.is_err());
            assert_eq!((api.get(PATH), api.writes()), (before, 0));
        }
    }
}
