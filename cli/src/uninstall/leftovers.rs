//! What Helm does not know about, because the control plane made it itself: trust bundles, Secrets, the
//! Leases of the leaders, the namespace of `trellis install`.

use anyhow::{Context, Result};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    certificates::v1beta1::ClusterTrustBundle,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api, Client, Error, Resource, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde::de::DeserializeOwned;
use trellis_api::{crypto::FINGERPRINT_KEY_SECRET, names};

use super::quantum;

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<String>,
    /// Cryptographic resources that somebody has, and their definitions therefore.
    pub kept: Vec<String>,
}

/// Removes it all and names what was there. What is gone already is no error.
pub async fn remove(client: &Client, namespace: &str, keep_root: bool) -> Result<Outcome> {
    let mut removed = Vec::new();
    // First what could keep the cluster from creating pods.
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    delete(&webhooks, names::WEBHOOK_CONFIGURATION, &mut removed).await?;

    for bundle in trust_bundles(client).await? {
        let of: Api<ConfigMap> = Api::namespaced(client.clone(), &bundle.namespace().unwrap_or_default());
        delete(&of, &bundle.name_any(), &mut removed).await?;
    }
    let bundles: Api<ClusterTrustBundle> = Api::all(client.clone());
    // A cluster that does not know the kind answers as one that lacks the object.
    delete(&bundles, names::CLUSTER_BUNDLE, &mut removed).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    delete(&leases, names::CA, &mut removed).await?;
    delete(&leases, names::DISCOVERY, &mut removed).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    delete(&secrets, names::WEBHOOK_SECRET, &mut removed).await?;
    quantum::end_permissions(client, &mut removed).await?;
    let kept = quantum::remove_definitions(client, &mut removed).await?;
    if keep_root {
        return Ok(Outcome { removed, kept });
    }
    delete(&secrets, names::ROOT_SECRET, &mut removed).await?;
    // A later CA makes another one, and marks with it what it finds.
    delete(&secrets, FINGERPRINT_KEY_SECRET, &mut removed).await?;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = match namespaces
        .get_opt(namespace)
        .await
        .with_context(|| format!("cannot read namespace {namespace}"))?
    {
        Some(found) => found.labels().get(names::MANAGED_BY).is_some_and(|manager| manager == names::MANAGER),
        None => false,
    };
    if ours {
        delete(&namespaces, namespace, &mut removed).await?;
    }
    Ok(Outcome { removed, kept })
}

/// Those that Trellis made; somebody else's ConfigMap of the same name is not ours to delete.
async fn trust_bundles(client: &Client) -> Result<Vec<ConfigMap>> {
    let params = ListParams::default()
        .fields(&format!("metadata.name={}", names::TRUST_CONFIG_MAP))
        .labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let all: Api<ConfigMap> = Api::all(client.clone());
    Ok(all.list(&params).await.context("cannot list the trust bundles")?.items)
}

pub(super) async fn delete<K>(api: &Api<K>, name: &str, removed: &mut Vec<String>) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let place = match api.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => removed.push(place),
        Err(Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error).with_context(|| format!("cannot delete {place}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/rolebindings";
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

    /// An API server that has what an installation leaves, and writes down what is deleted.
    fn cluster(namespace_labels: Value) -> (Client, Arc<Mutex<Vec<String>>>) {
        cluster_with(namespace_labels, 0)
    }

    /// The same, with as many cryptographic resources of one kind.
    fn cluster_with(namespace_labels: Value, numbers: usize) -> (Client, Arc<Mutex<Vec<String>>>) {
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let log = deleted.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (path, query) =
                (request.uri().path().to_owned(), request.uri().query().unwrap_or("").to_owned());
            let (code, body) = match *request.method() {
                Method::GET if path == "/api/v1/configmaps" => {
                    assert!(query.contains("trellis-trust") && query.contains("managed-by"), "{query}");
                    let item = |ns: &str| json!({"metadata": {"name": "trellis-trust", "namespace": ns}});
                    (200, json!({"metadata": {}, "items": [item("shop"), item("trellis-system")]}))
                }
                Method::GET if path == "/api/v1/namespaces/trellis-system" => {
                    (200, json!({"metadata": {"name": "trellis-system", "labels": namespace_labels}}))
                }
                Method::GET if path == BINDINGS => {
                    assert!(query.contains("crypto.trellis.dev%2Faccess%3Dsecrets"), "{query}");
                    let item = |name: &str, role: &str| {
                        json!({"metadata": {"name": name, "namespace": "shop"},
                            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
                    };
                    let role = "trellis-crypto-secrets";
                    (200, json!({"metadata": {}, "items": [item(role, role), item("theirs", "admin")]}))
                }
                Method::GET if path == DEFINITIONS => {
                    assert!(query.contains("part-of%3Dtrellis"), "{query}");
                    let items = ["quantumrandomnumbers.qubesec.io", "quantumkemkeypairs.crypto.trellis.dev", "pqpolicies.policy.trellis.dev"]
                        .map(|name| json!({"metadata": {"name": name}, "spec": {
                            "group": "", "scope": "Namespaced", "names": {"kind": "", "plural": ""}, "versions": []}}));
                    (200, json!({"metadata": {}, "items": items}))
                }
                Method::GET if path.ends_with("/v1/quantumkemkeypairs") => {
                    (200, json!({"metadata": {}, "items": []}))
                }
                Method::GET if path == "/apis/qubesec.io/v1/quantumrandomnumbers" => {
                    let item = json!({"metadata": {"name": "number", "namespace": "shop"}});
                    (200, json!({"metadata": {"continue": "x"}, "items": vec![item; numbers]}))
                }
                Method::DELETE if path.contains("mutatingwebhook") => (
                    404,
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "gone", "code": 404}),
                ),
                Method::DELETE => {
                    log.lock().push(path);
                    (200, json!({"kind": "Status", "status": "Success"}))
                }
                _ => panic!("{} {path}", request.method()),
            };
            let response = Response::builder()
                .status(StatusCode::from_u16(code).unwrap())
                .body(Body::from(serde_json::to_vec(&body).unwrap()))
                .unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        (Client::new(service, "default"), deleted)
    }

    #[tokio::test]
    async fn everything_goes_that_trellis_made() {
        let (client, deleted) = cluster(json!({"app.kubernetes.io/managed-by": "trellis"}));
        let Outcome { removed, kept } = remove(&client, "trellis-system", false).await.unwrap();
        assert!(kept.is_empty(), "{kept:?}");
        assert_eq!(
            removed,
            [
                "ConfigMap shop/trellis-trust",
                "ConfigMap trellis-system/trellis-trust",
                "ClusterTrustBundle trellis.dev:mesh:bundle",
                "Lease trellis-system/trellis-ca",
                "Lease trellis-system/trellis-discovery",
                "Secret trellis-system/trellis-injector-tls",
                "RoleBinding shop/trellis-crypto-secrets",
                "CustomResourceDefinition quantumrandomnumbers.qubesec.io",
                "CustomResourceDefinition quantumkemkeypairs.crypto.trellis.dev",
                "Secret trellis-system/trellis-ca-root",
                "Secret trellis-system/trellis-crypto-fingerprint-key",
                "Namespace trellis-system",
            ]
        );
        assert_eq!(deleted.lock().len(), removed.len());
    }

    #[tokio::test]
    async fn a_namespace_of_somebody_else_stays() {
        let (client, deleted) = cluster(json!({"team": "platform"}));
        remove(&client, "trellis-system", false).await.unwrap();
        assert!(!deleted.lock().contains(&"/api/v1/namespaces/trellis-system".to_owned()));
        assert!(deleted.lock().iter().any(|path| path.ends_with("secrets/trellis-ca-root")));
    }

    #[tokio::test]
    async fn definitions_stay_while_somebody_has_an_object() {
        let (client, deleted) = cluster_with(json!({}), 2);
        let outcome = remove(&client, "trellis-system", false).await.unwrap();
        assert_eq!(outcome.kept, ["quantumrandomnumbers.qubesec.io: 2 and more"]);
        assert!(!deleted.lock().iter().any(|path| path.starts_with(DEFINITIONS)));
    }

    #[tokio::test]
    async fn a_kept_root_keeps_its_namespace() {
        let (client, deleted) = cluster(json!({"app.kubernetes.io/managed-by": "trellis"}));
        let removed = remove(&client, "trellis-system", true).await.unwrap().removed;
        let kept = ["trellis-ca-root", "trellis-crypto-fingerprint-key", "Namespace"];
        assert!(!removed.iter().any(|one| kept.iter().any(|kept| one.contains(kept))), "{removed:?}");
        assert_eq!(deleted.lock().len(), 9);
    }
}
