//! Where API servers read which CA the webhook's certificate has: the `caBundle` of every entry of the
//! `MutatingWebhookConfiguration` and of the `ValidatingWebhookConfiguration`. Without a cluster it is a
//! file, for whoever plays the API server.

use std::{fs, io, path::PathBuf};

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use trellis_api::names;

const FILE: &str = "ca-bundle.pem";
const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

#[derive(Clone)]
pub enum Trust {
    Webhook(Box<Configurations>),
    Folder(PathBuf),
}

#[derive(Clone)]
pub struct Configurations {
    pub mutating: Api<MutatingWebhookConfiguration>,
    pub validating: Api<ValidatingWebhookConfiguration>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "{kind} {}: {error}; the injector's ServiceAccount needs get, list, watch and patch of it",
        names::WEBHOOK_CONFIGURATION
    )]
    Webhook { kind: &'static str, error: Box<kube::Error> },
    #[error("--tls file:{}: {error}; give a folder that this user may write", path.display())]
    Folder { path: PathBuf, error: io::Error },
}

/// An entry by its name, with the bundle that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    bundle: String,
}

impl Trust {
    pub fn webhook(client: Client) -> Self {
        let configurations =
            Configurations { mutating: Api::all(client.clone()), validating: Api::all(client) };
        Self::Webhook(Box::new(configurations))
    }

    /// The bundle that all entries have, an empty text if they differ, or nothing where there is no
    /// configuration.
    pub async fn published(&self) -> Result<Option<String>, TrustError> {
        match self {
            Self::Webhook(of) => {
                let Configurations { mutating, validating } = &**of;
                let (first, second) =
                    (mutating_entries(mutating).await?, validating_entries(validating).await?);
                let all: Vec<Entry> = first.into_iter().chain(second).flatten().collect();
                Ok(common(&all))
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
            Self::Webhook(of) => {
                let Configurations { mutating, validating } = &**of;
                let (name, params) =
                    (names::WEBHOOK_CONFIGURATION, PatchParams::apply(names::INJECTOR).force());
                if let Some(entries) = mutating_entries(mutating).await? {
                    let patch = Patch::Apply(apply(MUTATING, &entries, bundle));
                    mutating.patch(name, &params, &patch).await.map_err(failed(MUTATING))?;
                }
                if let Some(entries) = validating_entries(validating).await? {
                    let patch = Patch::Apply(apply(VALIDATING, &entries, bundle));
                    validating.patch(name, &params, &patch).await.map_err(failed(VALIDATING))?;
                }
                Ok(())
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

async fn mutating_entries(api: &Api<MutatingWebhookConfiguration>) -> Result<Option<Vec<Entry>>, TrustError> {
    let found = api.get_opt(names::WEBHOOK_CONFIGURATION).await.map_err(failed(MUTATING))?;
    let webhooks = |found: MutatingWebhookConfiguration| found.webhooks.into_iter().flatten();
    Ok(found.map(|found| webhooks(found).map(|one| Entry::of(one.name, &one.client_config)).collect()))
}

async fn validating_entries(
    api: &Api<ValidatingWebhookConfiguration>,
) -> Result<Option<Vec<Entry>>, TrustError> {
    let found = api.get_opt(names::WEBHOOK_CONFIGURATION).await.map_err(failed(VALIDATING))?;
    let webhooks = |found: ValidatingWebhookConfiguration| found.webhooks.into_iter().flatten();
    Ok(found.map(|found| webhooks(found).map(|one| Entry::of(one.name, &one.client_config)).collect()))
}

impl Entry {
    fn of(name: String, config: &WebhookClientConfig) -> Self {
        let bundle = config.ca_bundle.as_ref();
        let bundle = bundle.and_then(|ByteString(bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        Self { name, bundle: bundle.to_owned() }
    }
}

fn failed(kind: &'static str) -> impl Fn(kube::Error) -> TrustError {
    move |error| TrustError::Webhook { kind, error: Box::new(error) }
}

fn common(entries: &[Entry]) -> Option<String> {
    let first = &entries.first()?.bundle;
    Some(if entries.iter().all(|entry| entry.bundle == *first) { first.clone() } else { String::new() })
}

/// Owns the bundles and nothing else: whoever installed the configuration keeps the rest.
fn apply(kind: &str, entries: &[Entry], bundle: &str) -> serde_json::Value {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let webhooks: Vec<_> = entries
        .iter()
        .map(|entry| json!({"name": entry.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": names::WEBHOOK_CONFIGURATION},
        "webhooks": webhooks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(bundles: &[Option<&str>]) -> Vec<Entry> {
        let entries = bundles.iter().enumerate().map(|(index, bundle)| {
            let ca_bundle = bundle.map(|text| ByteString(text.as_bytes().to_vec()));
            let config = WebhookClientConfig { ca_bundle, ..WebhookClientConfig::default() };
            Entry::of(format!("{index}.inject.trellis.dev"), &config)
        });
        entries.collect()
    }

    #[test]
    fn one_entry_without_the_bundle_is_as_good_as_none_with_it() {
        assert_eq!(common(&entries(&[])), None);
        assert_eq!(common(&entries(&[None])), Some(String::new()));
        assert_eq!(common(&entries(&[Some("ca"), Some("ca")])), Some("ca".to_owned()));
        assert_eq!(common(&entries(&[Some("ca"), None])), Some(String::new()));
        assert_eq!(common(&entries(&[Some("ca"), Some("other")])), Some(String::new()));
    }

    #[test]
    fn only_the_bundles_are_applied() {
        let applied = apply(VALIDATING, &entries(&[None, Some("x")]), "ca");
        assert_eq!(applied["kind"], VALIDATING);
        assert_eq!(
            applied["webhooks"],
            json!([
                {"name": "0.inject.trellis.dev", "clientConfig": {"caBundle": "Y2E="}},
                {"name": "1.inject.trellis.dev", "clientConfig": {"caBundle": "Y2E="}},
            ])
        );
    }
}
