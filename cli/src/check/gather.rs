//! Asks the cluster. What it does not answer is an answer too, and nothing is changed: the one pod that is
//! made is made on trial, as a dry run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use http::{Request, header::DATE};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{ConfigMap, Namespace, Pod, Secret},
    },
    jiff::{Timestamp, fmt::rfc2822},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    client::Body,
};
use serde_json::json;
use trellis_api::{names, pq_policy::PqPolicy};
use trellis_pki::clock::{Clock, SystemClock};

use super::{
    before::{is_labelled, name},
    enforced,
    facts::{After, Asked, Before, NEEDED, Right, Trial, Version},
};
use crate::stat;

pub async fn before(client: &Client, system: &str) -> Before {
    let version = version(client).await;
    let (version, skew) = match version {
        Ok((version, skew)) => (Ok(version), skew),
        Err(error) => {
            return Before {
                system: system.to_owned(),
                skew: Err(error.clone()),
                denied: Err(error.clone()),
                namespaces: Err(error.clone()),
                version: Err(error),
            };
        }
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let every = ListParams::default();
    let (denied, namespaces) = futures::join!(denied(client, system), namespaces.list(&every));
    Before {
        system: system.to_owned(),
        version,
        skew,
        denied,
        namespaces: namespaces.map(|list| list.items).map_err(text),
    }
}

pub async fn after(client: &Client, before: Before, trust_domain: &str) -> After {
    let system = before.system.clone();
    let pods = stat::pods(client, None).await.map_err(text);
    let meshed: Vec<Pod> = pods.iter().flatten().filter(|pod| stat::meshed(pod)).cloned().collect();
    let labelled: Vec<String> = before
        .namespaces
        .iter()
        .flatten()
        .filter(|one| is_labelled(one))
        .map(|one| name(one).to_owned())
        .collect();
    // A pod may also have asked for itself, in a namespace without the label.
    let trusting: BTreeSet<&str> = labelled
        .iter()
        .chain(meshed.iter().filter_map(|pod| pod.metadata.namespace.as_ref()))
        .chain([&system])
        .map(String::as_str)
        .collect();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &system);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &system);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let policies: Api<PqPolicy> = Api::all(client.clone());
    let every = ListParams::default();
    let (deployments, root, bundles, webhook, trial, policies) = futures::join!(
        deployments.list(&every),
        // Its metadata alone: the seed in it stays in the cluster.
        secrets.get_metadata_opt(names::ROOT_SECRET),
        bundles(client, trusting),
        webhooks.get_opt(names::WEBHOOK_CONFIGURATION),
        trial(client, labelled.first()),
        policies.list(&every),
    );
    let proxies = stat::of_pods(client, &meshed).await;
    let enforced = enforced::of(client, before.namespaces.iter().flatten()).await;
    After {
        before,
        deployments: deployments.map(|list| list.items).map_err(text),
        root: root.map(|found| found.is_some()).map_err(text),
        trust_domain: trust_domain.to_owned(),
        bundles,
        webhook: webhook.map_err(text),
        trial,
        pods,
        policies: match policies {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Vec::new()),
            policies => policies.map(|list| list.items).map_err(text),
        },
        enforced,
        proxies,
    }
}

/// The API server's version, and how far the local clock is ahead of its.
async fn version(client: &Client) -> Asked<(Version, Asked<i64>)> {
    let request = Request::get("/version").body(Body::empty()).map_err(text)?;
    let response = client.send(request).await.map_err(text)?;
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
    let now = Timestamp::try_from(SystemClock.now()).map_err(text)?;
    let skew = skew(now, date.as_deref());
    // Again, for what the client makes of an answer that is none.
    let info = client.apiserver_version().await.map_err(text)?;
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    let (Ok(major), Ok(minor)) = (number(&info.major), number(&info.minor)) else {
        return Err(format!("its version cannot be read: {}.{}", info.major, info.minor));
    };
    Ok((Version { major, minor, text: info.git_version }, skew))
}

fn skew(now: Timestamp, date: Option<&str>) -> Asked<i64> {
    let date = date.ok_or("the API server does not say what time it is")?;
    let there = rfc2822::parse(date).map_err(|error| format!("the API server's time {date:?}: {error}"))?;
    Ok(now.as_second() - there.timestamp().as_second())
}

async fn denied(client: &Client, system: &str) -> Asked<Vec<Right>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut denied = Vec::new();
    for right in NEEDED {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(right.verb.to_owned()),
                    group: Some(right.group.to_owned()),
                    resource: Some(right.resource.to_owned()),
                    namespace: right.namespaced.then(|| system.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let review = reviews.create(&PostParams::default(), &review).await.map_err(text)?;
        if !review.status.is_some_and(|status| status.allowed) {
            denied.push(right);
        }
    }
    Ok(denied)
}

async fn bundles(client: &Client, namespaces: BTreeSet<&str>) -> BTreeMap<String, Asked<Option<String>>> {
    let mut bundles = BTreeMap::new();
    for namespace in namespaces {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = maps.get_opt(names::TRUST_CONFIG_MAP).await.map_err(text);
        let bundle = found.map(|map| map?.data?.remove(names::TRUST_BUNDLE_KEY));
        bundles.insert(namespace.to_owned(), bundle);
    }
    bundles
}

/// A dry run goes all the way through admission and ends before anything is stored.
async fn trial(client: &Client, namespace: Option<&String>) -> Option<Trial> {
    let namespace = namespace?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = serde_json::from_value(json!({
        "metadata": {"generateName": "trellis-check-"},
        "spec": {"containers": [{
            "name": "check", "image": "trellis.dev/check",
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}}
        }]}
    }));
    let outcome = match pod {
        Ok(pod) => {
            let params = PostParams { dry_run: true, ..PostParams::default() };
            pods.create(&params, &pod).await.map_err(text)
        }
        Err(error) => Err(text(error)),
    };
    Some(Trial { namespace: namespace.clone(), outcome })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn the_api_servers_time_is_that_of_its_answer() {
        let now = "2026-11-21T07:00:00Z".parse().unwrap();
        assert_eq!(skew(now, Some("Sat, 21 Nov 2026 06:59:30 GMT")), Ok(30));
        assert_eq!(skew(now, Some("Sat, 21 Nov 2026 07:02:00 GMT")), Ok(-120));
        assert!(skew(now, Some("soon")).unwrap_err().starts_with("the API server's time \"soon\""));
        assert!(skew(now, None).is_err());
    }

    fn list(kind: &str) -> serde_json::Value {
        json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": []})
    }

    /// An API server that a month ago was of version 1.36 and lets nobody make Deployments.
    fn api_server() -> Client {
        Client::new(
            tower::service_fn(|request: Request<Body>| async move {
                let path = request.uri().path().to_owned();
                let query = request.uri().query().unwrap_or_default().to_owned();
                let accept = request.headers().get(ACCEPT).map(|accept| accept.to_str().unwrap().to_owned());
                let asked = request.into_body().collect_bytes().await.unwrap_or_default();
                let body = match path.as_str() {
                    "/version" => {
                        json!({"major": "1", "minor": "36+", "gitVersion": "v1.36.3-eks", "gitCommit": "",
                        "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""})
                    }
                    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
                        let mut review: serde_json::Value = serde_json::from_slice(&asked).unwrap();
                        let wanted = &review["spec"]["resourceAttributes"];
                        let allowed = wanted["resource"] != "deployments" || wanted["namespace"] != "mesh";
                        review["status"] = json!({"allowed": allowed});
                        review
                    }
                    "/api/v1/namespaces" => {
                        json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": {},
                        "items": [{"metadata": {"name": "shop", "labels": {names::INJECT: names::ENABLED}}}]})
                    }
                    "/apis/apps/v1/namespaces/mesh/deployments" => list("DeploymentList"),
                    "/api/v1/namespaces/mesh/secrets/trellis-ca-root" => {
                        // The whole Secret would bring the seed here.
                        assert!(accept.unwrap().contains("as=PartialObjectMetadata"));
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                            "metadata": {"name": "trellis-ca-root"}})
                    }
                    "/api/v1/namespaces/mesh/configmaps/trellis-trust" => {
                        json!({"data": {"bundle.pem": "PEM"}})
                    }
                    "/api/v1/namespaces/shop/configmaps/trellis-trust" => json!({"data": {}}),
                    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/trellis-injector" => {
                        json!({})
                    }
                    "/api/v1/namespaces/shop/pods" if query.contains("dryRun=All") => {
                        let mut pod: serde_json::Value = serde_json::from_slice(&asked).unwrap();
                        pod["metadata"]["annotations"] = json!({names::INJECTED: "0.1.0"});
                        pod
                    }
                    "/api/v1/pods" => list("PodList"),
                    "/apis/policy.trellis.dev/v1/pqpolicies" => list("PQPolicyList"),
                    other => panic!("asked for {other}"),
                };
                http::Response::builder()
                    .header(DATE, "Wed, 21 Oct 2026 07:00:00 GMT")
                    .body(Body::from(body.to_string().into_bytes()))
            }),
            "default",
        )
    }

    #[tokio::test]
    async fn what_is_asked_before_an_installation() {
        let facts = before(&api_server(), "mesh").await;
        let version = facts.version.unwrap();
        assert_eq!((version.major, version.minor, version.text.as_str()), (1, 36, "v1.36.3-eks"));
        assert_eq!(
            facts.denied.unwrap().iter().map(Right::to_string).collect::<Vec<_>>(),
            ["create deployments.apps"]
        );
        assert_eq!(facts.namespaces.unwrap().len(), 1);
        assert!(facts.skew.is_ok());
    }

    #[tokio::test]
    async fn what_is_asked_after_an_installation() {
        let client = api_server();
        let facts = after(&client, before(&client, "mesh").await, "cluster.local").await;
        assert_eq!((facts.root, facts.deployments.map(|all| all.len())), (Ok(true), Ok(0)));
        assert_eq!(
            facts.bundles,
            BTreeMap::from([("mesh".to_owned(), Ok(Some("PEM".to_owned()))), ("shop".to_owned(), Ok(None)),])
        );
        assert!(facts.webhook.unwrap().is_some());
        let trial = facts.trial.unwrap();
        assert_eq!(trial.namespace, "shop");
        assert!(stat::meshed(&trial.outcome.unwrap()));
        assert!(facts.pods.unwrap().is_empty() && facts.proxies.is_empty());
    }
}
