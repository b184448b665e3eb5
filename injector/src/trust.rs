//! Where API servers read which CA the webhook's certificate has: the `caBundle` of every entry of the
//! `MutatingWebhookConfiguration`. Without a cluster it is a file, for whoever plays the API server.

use std::{fs, io, path::PathBuf};

use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use trellis_api::names;

const FILE: &str = "ca-bundle.pem";

#[derive(Clone)]
pub enum Trust {
    Webhook(Box<Api<MutatingWebhookConfiguration>>),
    Folder(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "MutatingWebhookConfiguration {}: {error}; the injector's ServiceAccount needs get, list, watch and \
         patch of it",
        names::WEBHOOK_CONFIGURATION
    )]
    Webhook { error: Box<kube::Error> },
    #[error("--tls file:{}: {error}; give a folder that this user may write", path.display())]
    Folder { path: PathBuf, error: io::Error },
}

impl Trust {
    pub fn webhook(client: Client) -> Self {
        Self::Webhook(Box::new(Api::all(client)))
    }

    /// The bundle that all entries have, an empty text if they differ, or nothing where there is no
    /// configuration.
    pub async fn published(&self) -> Result<Option<String>, TrustError> {
        match self {
            Self::Webhook(api) => {
                let found = api.get_opt(names::WEBHOOK_CONFIGURATION).await.map_err(failed)?;
                Ok(found.as_ref().and_then(common))
            }
            Self::Folder(path) => match fs::read_to_string(path.join(FILE)) {
                Ok(bundle) => Ok(Some(bundle)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(String::new())),
                Err(error) => Err(TrustError::Folder { path: path.clone(), error }),
            },
        }
    }

    pub async fn publish(&self, bundle: &str) -> Result<(), TrustError> {
        match self {
            Self::Webhook(api) => {
                let Some(found) = api.get_opt(names::WEBHOOK_CONFIGURATION).await.map_err(failed)? else {
                    return Ok(());
                };
                let params = PatchParams::apply(names::INJECTOR).force();
                let patch = Patch::Apply(apply(&found, bundle));
                api.patch(names::WEBHOOK_CONFIGURATION, &params, &patch).await.map(drop).map_err(failed)
            }
            Self::Folder(path) => {
                let temporary = path.join(format!(".{FILE}"));
                fs::write(&temporary, bundle)
                    .and_then(|()| fs::rename(&temporary, path.join(FILE)))
                    .map_err(|error| TrustError::Folder { path: path.clone(), error })
            }
        }
    }
}

fn failed(error: kube::Error) -> TrustError {
    TrustError::Webhook { error: Box::new(error) }
}

fn common(configuration: &MutatingWebhookConfiguration) -> Option<String> {
    let mut bundles = configuration.webhooks.iter().flatten().map(|webhook| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.and_then(|ByteString(bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    });
    let first = bundles.next()?;
    Some(if bundles.all(|bundle| bundle == first) { first.to_owned() } else { String::new() })
}

/// Owns the bundles and nothing else: whoever installed the configuration keeps the rest.
fn apply(configuration: &MutatingWebhookConfiguration, bundle: &str) -> serde_json::Value {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let entries = configuration.webhooks.iter().flatten();
    let webhooks: Vec<_> =
        entries.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": names::WEBHOOK_CONFIGURATION},
        "webhooks": webhooks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| {
                let bundle = bundle.map(|text| ByteString(text.as_bytes().to_vec()));
                json!({
                    "name": format!("{index}.inject.trellis.dev"),
                    "clientConfig": {"caBundle": bundle, "service": {"name": "a", "namespace": "b"}},
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                })
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "trellis-injector"}, "webhooks": webhooks}))
            .unwrap()
    }

    #[test]
    fn one_entry_without_the_bundle_is_as_good_as_none_with_it() {
        assert_eq!(common(&configuration(&[])), None);
        assert_eq!(common(&configuration(&[None])), Some(String::new()));
        assert_eq!(common(&configuration(&[Some("ca"), Some("ca")])), Some("ca".to_owned()));
        assert_eq!(common(&configuration(&[Some("ca"), None])), Some(String::new()));
        assert_eq!(common(&configuration(&[Some("ca"), Some("other")])), Some(String::new()));
    }

    #[test]
    fn only_the_bundles_are_applied() {
        assert_eq!(
            apply(&configuration(&[None, Some("x")]), "ca")["webhooks"],
            json!([
                {"name": "0.inject.trellis.dev", "clientConfig": {"caBundle": "Y2E="}},
                {"name": "1.inject.trellis.dev", "clientConfig": {"caBundle": "Y2E="}},
            ])
        );
    }
}
