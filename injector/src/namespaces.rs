//! What is known of namespaces: watched, so that an admission asks nobody, and fetched where the watch
//! may be behind.

use std::{collections::HashMap, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use parking_lot::RwLock;
use trellis_api::{
    injection::Namespace,
    source::{Change, Source},
};
use trellis_telemetry::health::Health;

/// The health condition that holds once all namespaces are known.
pub const CONDITION: &str = "namespaces";

#[derive(Clone, Default)]
pub struct Namespaces {
    known: Arc<RwLock<HashMap<String, Arc<Namespace>>>>,
    client: Option<Client>,
}

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("namespace {0} is not known")]
    Unknown(String),
    #[error("namespace {name} cannot be read: {error}")]
    Unreadable { name: String, error: Box<kube::Error> },
}

impl Namespaces {
    /// With a client, what is not known is fetched.
    pub fn new(client: Option<Client>) -> Self {
        Self { known: Arc::default(), client }
    }

    /// Follows the source for as long as it lasts.
    pub async fn follow(self, source: impl Source, health: Health) {
        let mut changes = source.watch::<core::Namespace>();
        while let Some(change) = changes.next().await {
            let first = matches!(change, Change::Reset(_));
            self.apply(change);
            if first {
                health.set(CONDITION, Ok(()));
            }
        }
    }

    pub fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        self.known.read().get(name).cloned()
    }

    /// The namespace as it is now, as far as there is anybody to ask.
    pub async fn fresh(&self, name: &str) -> Result<Arc<Namespace>, NamespaceError> {
        let unknown = || NamespaceError::Unknown(name.to_owned());
        let Some(client) = &self.client else { return self.cached(name).ok_or_else(unknown) };
        match Api::<core::Namespace>::all(client.clone()).get_opt(name).await {
            Ok(Some(found)) => Ok(read(&found)),
            Ok(None) => Err(unknown()),
            Err(error) => Err(NamespaceError::Unreadable { name: name.to_owned(), error: Box::new(error) }),
        }
    }

    fn apply(&self, change: Change<core::Namespace>) {
        let mut known = self.known.write();
        match change {
            Change::Reset(all) => {
                *known = all.iter().map(|one| read(one)).map(|one| (one.name.clone(), one)).collect();
            }
            Change::Applied(one) => {
                let one = read(&one);
                known.insert(one.name.clone(), one);
            }
            Change::Deleted(one) => {
                known.remove(one.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }
}

fn read(namespace: &core::Namespace) -> Arc<Namespace> {
    let metadata = &namespace.metadata;
    Arc::new(Namespace {
        name: metadata.name.clone().unwrap_or_default(),
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn namespace(name: &str, label: &str) -> Arc<core::Namespace> {
        let labels = [("trellis.dev/inject".to_owned(), label.to_owned())].into();
        let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
        Arc::new(core::Namespace { metadata, ..core::Namespace::default() })
    }

    #[tokio::test]
    async fn follows_what_the_source_says() {
        let namespaces = Namespaces::new(None);
        let label = |name: &str| {
            namespaces.cached(name).and_then(|one| one.labels.get("trellis.dev/inject").cloned())
        };
        namespaces.apply(Change::Reset(vec![namespace("a", "enabled"), namespace("b", "enabled")]));
        namespaces.apply(Change::Applied(namespace("b", "disabled")));
        namespaces.apply(Change::Applied(namespace("c", "enabled")));
        namespaces.apply(Change::Deleted(namespace("a", "enabled")));
        assert_eq!(
            (label("a"), label("b"), label("c")),
            (None, Some("disabled".into()), Some("enabled".into()))
        );
        namespaces.apply(Change::Reset(vec![namespace("a", "x")]));
        assert_eq!((label("a"), label("b")), (Some("x".into()), None));
        assert!(namespaces.fresh("a").await.is_ok());
        assert_eq!(namespaces.fresh("b").await.unwrap_err().to_string(), "namespace b is not known");
    }
}
