//! What is left of the cryptographic resources: permissions to keep their Secrets, which are of no use without
//! the CA, and their definitions, which only go where nobody has an object that would go with them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::{
    api::rbac::v1::RoleBinding,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use trellis_api::crypto::{ACCESS_LABEL, ACCESS_SECRETS, GROUP, Kind, QUBESEC_GROUP, SECRETS_ROLE, VERSION};

use super::leftovers::delete;

/// So many objects are counted; of more it is only said that there are more.
const COUNTED: u32 = 500;

/// Ends the CA's permissions to keep Secrets.
pub async fn end_permissions(client: &Client, removed: &mut Vec<String>) -> Result<()> {
    let params = ListParams::default().labels(&format!("{ACCESS_LABEL}={ACCESS_SECRETS}"));
    let all: Api<RoleBinding> = Api::all(client.clone());
    let found = all.list(&params).await.context("cannot list the CA's permissions to keep Secrets")?;
    // Anybody can set a label; what binds another role is somebody else's.
    for binding in found.into_iter().filter(|binding| binding.role_ref.name == SECRETS_ROLE) {
        let of: Api<RoleBinding> = Api::namespaced(client.clone(), &binding.namespace().unwrap_or_default());
        delete(&of, &binding.name_any(), removed).await?;
    }
    Ok(())
}

/// Removes the definitions, unless objects exist; then they are returned, as `KIND: NUMBER`, and all stays.
pub async fn remove_definitions(client: &Client, removed: &mut Vec<String>) -> Result<Vec<String>> {
    let params = ListParams::default().labels("app.kubernetes.io/part-of=trellis");
    let all: Api<CustomResourceDefinition> = Api::all(client.clone());
    let found = all.list_metadata(&params).await;
    let found = found.context("cannot list the definitions of cryptographic resources")?;
    let kinds: BTreeMap<String, (Kind, &str)> = [GROUP, QUBESEC_GROUP]
        .into_iter()
        .flat_map(|group| Kind::ALL.map(|kind| (format!("{}.{group}", kind.plural()), (kind, group))))
        .collect();
    let ours: Vec<String> =
        found.iter().map(ResourceExt::name_any).filter(|name| kinds.contains_key(name)).collect();
    let mut kept = Vec::new();
    for (name, (kind, group)) in ours.iter().filter_map(|name| Some((name, kinds.get(name)?))) {
        let resource = ApiResource {
            group: (*group).to_owned(),
            version: VERSION.to_owned(),
            api_version: format!("{group}/{VERSION}"),
            kind: kind.as_str().to_owned(),
            plural: kind.plural(),
        };
        let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let page = objects.list(&ListParams::default().limit(COUNTED)).await;
        let page = page.with_context(|| format!("cannot list {name}"))?;
        if !page.items.is_empty() {
            let more = page.metadata.continue_.is_some_and(|token| !token.is_empty());
            kept.push(format!("{name}: {}{}", page.items.len(), if more { " and more" } else { "" }));
        }
    }
    if kept.is_empty() {
        for name in &ours {
            delete(&all, name, removed).await?;
        }
    }
    Ok(kept)
}
