//! Asks what namespaces with trellis.dev/enforce hold. Of Secrets only certificates are read: what else is in
//! them is passed over while the answer is.

use std::collections::{BTreeMap, BTreeSet};

use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Client, api::ObjectMeta};
use serde::Deserialize;
use serde_json::Value;
use trellis_api::enforcement::{ENFORCE, Items, Route, TLS_SECRET};

use super::{
    before::name,
    facts::{Asked, Enforced, Naming},
};

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Secret {
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<Items>,
}

pub async fn of(
    client: &Client,
    namespaces: impl Iterator<Item = &Namespace>,
) -> BTreeMap<String, Asked<Enforced>> {
    let mut enforced = BTreeMap::new();
    for namespace in namespaces {
        if namespace.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(ENFORCE)) {
            let name = name(namespace);
            enforced.insert(name.to_owned(), one(client, name).await);
        }
    }
    enforced
}

async fn one(client: &Client, namespace: &str) -> Asked<Enforced> {
    let mut found = Enforced::default();
    let path = format!("/api/v1/namespaces/{namespace}/secrets?fieldSelector=type%3D{}", escaped(TLS_SECRET));
    let secrets: List<Secret> = get(client, &path).await?.unwrap_or(List { items: Vec::new() });
    for Secret { metadata, data } in secrets.items {
        let key = (namespace.to_owned(), metadata.name.unwrap_or_default());
        found.certificates.insert(key, data.unwrap_or_default());
    }
    for route in Route::ALL {
        let path = format!("/apis/{}/v1/namespaces/{namespace}/{}", route.group(), route.plural());
        // Where nobody knows the kind, there is none.
        let Some(objects) = get::<List<Value>>(client, &path).await? else { continue };
        found.routes.extend(objects.items.iter().map(|object| Naming {
            route,
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            named: route.named(object, namespace),
        }));
    }
    let named = found.routes.iter().flat_map(|one| &one.named);
    let elsewhere: BTreeSet<(String, String)> =
        named.map(|one| (one.namespace.clone(), one.name.clone())).collect();
    for (namespace, name) in elsewhere {
        let key = (namespace, name);
        if found.certificates.contains_key(&key) {
            continue;
        }
        let path = format!("/api/v1/namespaces/{}/secrets/{}", key.0, key.1);
        if let Some(Secret { data, .. }) = get(client, &path).await? {
            found.certificates.insert(key, data.unwrap_or_default());
        }
    }
    Ok(found)
}

/// Nothing where there is no such thing.
async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Asked<Option<T>> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    match client.request::<T>(request).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn escaped(text: &str) -> String {
    text.replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::check::samples;

    #[tokio::test]
    async fn certificates_are_read_where_they_are_and_where_they_are_named() {
        let client = Client::new(
            tower::service_fn(|request: Request<Body>| async move {
                let secret = |name: &str| json!({"metadata": {"name": name}, "data": {"tls.crt": "YQ==", "tls.key": "no base64"}});
                let object = json!({
                    "metadata": {"name": "web"},
                    "spec": {"listeners": [{"tls": {"certificateRefs": [
                        {"name": "a"}, {"name": "b", "namespace": "certs"}, {"name": "gone"},
                    ]}}]},
                });
                let (status, body) = match request.uri().to_string().as_str() {
                    "/api/v1/namespaces/edge/secrets?fieldSelector=type%3Dkubernetes.io%2Ftls" => {
                        (200, json!({"items": [secret("a")]}))
                    }
                    "/api/v1/namespaces/certs/secrets/b" => (200, secret("b")),
                    "/apis/networking.k8s.io/v1/namespaces/edge/ingresses" => (200, json!({"items": []})),
                    "/apis/gateway.networking.k8s.io/v1/namespaces/edge/gateways" => {
                        (200, json!({"items": [object]}))
                    }
                    "/api/v1/namespaces/edge/secrets/gone"
                    | "/apis/gateway.networking.k8s.io/v1/namespaces/edge/listenersets" => (
                        404,
                        json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
                    ),
                    "/api/v1/namespaces/shut/secrets?fieldSelector=type%3Dkubernetes.io%2Ftls" => (
                        403,
                        json!({"kind": "Status", "status": "Failure", "code": 403, "message": "not for you"}),
                    ),
                    other => panic!("asked for {other}"),
                };
                http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes()))
            }),
            "default",
        );
        let namespaces = [
            samples::namespace("edge", json!({ENFORCE: "deny"})),
            samples::namespace("shut", json!({ENFORCE: "warn"})),
            samples::namespace("other", json!({})),
        ];
        let found = of(&client, namespaces.iter()).await;
        assert_eq!(found.len(), 2);
        let edge = found["edge"].as_ref().unwrap();
        let names: Vec<String> = edge.certificates.keys().map(|(of, name)| format!("{of}/{name}")).collect();
        assert_eq!(names, ["certs/b", "edge/a"]);
        assert!(edge.certificates.values().all(|items| items.0["tls.crt"] == b"a" && items.0.len() == 1));
        assert_eq!((edge.routes.len(), edge.routes[0].named.len()), (1, 3));
        assert!(found["shut"].as_ref().unwrap_err().contains("not for you"));
    }
}
