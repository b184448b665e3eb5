//! Secrets in the API: read, created, replaced over what was read, and deleted if they are what was read.

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    core::Status,
};
use serde_json::json;
use trellis_api::{
    crypto::{MessageKind, OWNER_LABEL, RETIRED},
    names::CA,
};

use crate::{
    content::{Content, Outgoing},
    index::Name,
    kept::{Facts, Kept, labels, owner},
    marks::Marks,
    names::Read,
    object::Object,
};

#[derive(Clone)]
pub(crate) struct Vault {
    client: Client,
    pub marks: Marks,
}

impl Vault {
    pub fn new(client: Client, marks: Marks) -> Self {
        Self { client, marks }
    }

    fn secrets(&self, namespace: &str) -> Api<core::Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<core::Secret>, kube::Error> {
        self.secrets(namespace).get_opt(name).await
    }

    /// All that are an object's own, as the API server knows it at this moment.
    pub async fn of(&self, object: &Object) -> Result<Vec<core::Secret>, kube::Error> {
        let own = ListParams::default().labels(&format!("{OWNER_LABEL}={}", object.uid));
        Ok(self.secrets(&object.id.namespace).list(&own).await?.items)
    }

    /// A Secret that was not there. A POST, so that of several who do so one wins.
    pub async fn create(
        &self,
        object: &Object,
        name: &str,
        type_: &str,
        facts: &Facts,
        content: &Content,
        archive: bool,
    ) -> Result<Kept, kube::Error> {
        let secret = core::Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(object.id.namespace.to_string()),
                labels: Some(labels(object, archive.then_some(facts.version))),
                annotations: Some(facts.annotations(content, &self.marks)),
                owner_references: Some(vec![owner(object)]),
                ..ObjectMeta::default()
            },
            immutable: archive.then_some(true),
            type_: Some(type_.to_owned()),
            ..core::Secret::default()
        };
        let outgoing = Outgoing::new(secret, content);
        let created = self.secrets(&object.id.namespace).create(&post(), &outgoing.0).await?;
        self.kept(created, object)
    }

    /// Over a Secret as it was read. Labels and annotations of others stay.
    pub async fn replace(
        &self,
        object: &Object,
        over: &Kept,
        before: core::Secret,
        facts: &Facts,
        content: &Content,
    ) -> Result<Kept, kube::Error> {
        let mut metadata = before.metadata;
        metadata.managed_fields = None;
        metadata.resource_version = Some(over.resource_version.clone());
        let archive = over.archive.then_some(facts.version);
        metadata.labels.get_or_insert_default().extend(labels(object, archive));
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.retain(|name, _| !name.starts_with(OURS));
        annotations.extend(facts.annotations(content, &self.marks));
        let owners = metadata.owner_references.get_or_insert_default();
        owners.retain(|owner| owner.controller != Some(true) && owner.uid != object.uid);
        owners.push(owner(object));
        let secret = core::Secret {
            metadata,
            type_: before.type_,
            immutable: before.immutable,
            ..core::Secret::default()
        };
        let outgoing = Outgoing::new(secret, content);
        let replaced = self.secrets(&over.namespace).replace(&over.name, &post(), &outgoing.0).await?;
        self.kept(replaced, object)
    }

    /// Writes when an archive went out of use, or that it did not.
    pub async fn retire(
        &self,
        object: &Object,
        archive: &Kept,
        at: Option<String>,
    ) -> Result<Kept, kube::Error> {
        let patch = json!({ "metadata": {
            "resourceVersion": archive.resource_version,
            "annotations": { RETIRED: at },
        }});
        let secrets = self.secrets(&archive.namespace);
        let patched = secrets.patch(&archive.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        self.kept(patched, object)
    }

    /// If it still is what was read.
    pub async fn delete(&self, kept: &Kept) -> Result<(), kube::Error> {
        let same = Preconditions {
            uid: Some(kept.uid.clone()),
            resource_version: Some(kept.resource_version.clone()),
        };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
        self.secrets(&kept.namespace).delete(&kept.name, &params).await.map(|_| ())
    }

    fn kept(&self, secret: core::Secret, object: &Object) -> Result<Kept, kube::Error> {
        let kept = Kept::of(secret, &object.uid, &self.marks).map(|(kept, _)| kept);
        kept.ok_or_else(|| {
            kube::Error::Api(Box::new(Status::failure("a Secret without metadata", "InternalError")))
        })
    }
}

/// The beginning of all annotations of ours.
const OURS: &str = "crypto.trellis.dev/";

fn post() -> PostParams {
    PostParams { field_manager: Some(CA.to_owned()), ..PostParams::default() }
}

impl Vault {
    /// What is in a ConfigMap; nothing where there is none.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Content, kube::Error> {
        Ok(self.config_maps(namespace).get_opt(name).await?.map(Content::of_config_map).unwrap_or_default())
    }

    /// The version of what somebody else wrote, and the marks of its items.
    pub async fn named(&self, at: &Name) -> Result<Option<Read>, kube::Error> {
        let Name { kind, namespace, name } = at;
        let found = match kind {
            MessageKind::Secret => self.get(namespace, name).await?.map(|mut secret| {
                let content = Content::take(&mut secret);
                (secret.metadata, content)
            }),
            MessageKind::ConfigMap => self.config_maps(namespace).get_opt(name).await?.map(|mut map| {
                let metadata = std::mem::take(&mut map.metadata);
                (metadata, Content::of_config_map(map))
            }),
        };
        Ok(found.map(|(metadata, content)| {
            let mark = |(item, bytes): (&str, &[u8])| {
                (item.to_owned(), self.marks.named(*kind, namespace, name, item, bytes))
            };
            let version = metadata.resource_version.unwrap_or_default();
            Read { version, marks: content.items().map(mark).collect() }
        }))
    }

    fn config_maps(&self, namespace: &str) -> Api<core::ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
