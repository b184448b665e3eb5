//! `trellis crypto allow` and `withdraw`: whether the CA may keep the Secrets of cryptographic resources in a
//! namespace. The CA has no right to any Secret elsewhere, and none to give itself more: this is done with
//! the rights of whoever runs it.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        rbac::v1::{ClusterRole, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use trellis_api::{
    crypto::{ACCESS_LABEL, ACCESS_SECRETS, SECRETS_ROLE},
    names,
};

const FIELD_MANAGER: &str = "trellis-cli";
const RBAC: &str = "rbac.authorization.k8s.io";

#[derive(Debug, Args)]
pub struct Permission {
    /// The namespaces.
    #[arg(required = true)]
    namespaces: Vec<String>,
    /// The namespace of the control plane.
    #[arg(short = 'n', long, default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
}

impl Permission {
    pub async fn allow(self) -> Result<()> {
        let client = trellis_source::kubernetes_client().await?;
        if Api::<ClusterRole>::all(client.clone()).get_opt(SECRETS_ROLE).await?.is_none() {
            bail!("there is no ClusterRole {SECRETS_ROLE}: install Trellis first, or upgrade it");
        }
        for namespace in &self.namespaces {
            self.bind(&client, namespace).await.with_context(|| format!("namespace {namespace}"))?;
            writeln!(io::stdout(), "the CA may keep Secrets in namespace {namespace}")?;
        }
        Ok(())
    }

    /// What was made stays, and goes with the objects that it was made for.
    pub async fn withdraw(self) -> Result<()> {
        let client = trellis_source::kubernetes_client().await?;
        for namespace in &self.namespaces {
            let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
            let done = match bindings.delete(SECRETS_ROLE, &DeleteParams::default()).await {
                Ok(_) => "may no longer keep Secrets",
                Err(kube::Error::Api(status)) if status.code == 404 => "was not allowed to keep Secrets",
                Err(error) => return Err(error).with_context(|| format!("namespace {namespace}")),
            };
            writeln!(io::stdout(), "the CA {done} in namespace {namespace}")?;
        }
        Ok(())
    }

    async fn bind(&self, client: &Client, namespace: &str) -> Result<()> {
        if Api::<Namespace>::all(client.clone()).get_opt(namespace).await?.is_none() {
            bail!("there is none of that name: make it first");
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let binding = binding(namespace, &self.namespace);
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
        bindings.patch(SECRETS_ROLE, &parameters, &Patch::Apply(&binding)).await?;
        Ok(())
    }
}

/// What the chart's value `crypto.namespaces` makes as well.
fn binding(namespace: &str, system: &str) -> RoleBinding {
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(SECRETS_ROLE.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(ACCESS_LABEL.to_owned(), ACCESS_SECRETS.to_owned())].into()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: SECRETS_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::CA.to_owned(),
            namespace: Some(system.to_owned()),
            ..Subject::default()
        }]),
    }
}
