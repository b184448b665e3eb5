//! Reads `/evidence` and `/metrics` of proxies: through the API server, or directly where there is no cluster. A proxy
//! that cannot be read is part of the answer, with the reason.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{Api, Client, api::ListParams, client::Body};
use tokio::{net::TcpStream, time::timeout};
use trellis_api::{evidence::ProxyEvidence, names};

use super::workload::Workload;

/// More than any honest proxy has to say: its rows are bounded.
const LARGEST: usize = 8 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Proxies that are read at the same time.
const AT_ONCE: usize = 16;
const PAGE: u32 = 500;

/// One proxy, and what it said or why it did not.
#[derive(Debug)]
pub struct Seen {
    /// `namespace/pod`, or the URL.
    pub name: String,
    pub workload: Workload,
    /// Since when the proxy counts, where the cluster says so.
    pub since: Option<Timestamp>,
    pub evidence: Result<ProxyEvidence, String>,
}

/// What the proxy of every meshed pod of a namespace says, or of all namespaces.
pub async fn of_cluster(client: &Client, namespace: Option<&str>) -> Result<Vec<Seen>> {
    let pods = pods(client, namespace).await.context("cannot list pods: `list` on pods is needed")?;
    let meshed: Vec<Pod> = pods.into_iter().filter(meshed).collect();
    Ok(of_pods(client, &meshed).await)
}

/// Every pod of a namespace, or of all, page by page.
pub async fn pods(client: &Client, namespace: Option<&str>) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut pods = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        pods.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

/// What the proxies of these pods say.
pub async fn of_pods(client: &Client, pods: &[Pod]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = stream::iter(pods)
        .map(|pod| async move {
            let workload = Workload::of(pod);
            let name = pod.metadata.name.clone().unwrap_or_default();
            let evidence = of_pod(client, &workload.namespace, &name, pod).await;
            Seen {
                name: format!("{}/{name}", workload.namespace),
                workload,
                since: started(pod),
                evidence: evidence.map_err(|error| format!("{error:#}")),
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    seen.sort_by(|a, b| a.name.cmp(&b.name));
    seen
}

/// Whether the pod has a proxy and has not ended.
pub fn meshed(pod: &Pod) -> bool {
    let injected = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::INJECTED));
    injected && !matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// The Gateway whose pod it is.
pub fn gateway_of(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(names::GATEWAY).map(String::as_str)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Since when the proxy's container runs, and so counts.
fn started(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    // Beside an application it is an init container; a gateway is nothing else.
    let mut containers =
        [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    let proxy = containers.find(|one| one.name == names::PROXY_CONTAINER)?;
    Some(proxy.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// One proxy, and its metrics as text.
#[derive(Debug)]
pub struct Metrics {
    /// `namespace/pod`, or the URL.
    pub name: String,
    pub workload: String,
    pub text: Result<String, String>,
}

/// The metrics of every meshed pod and every gateway of a namespace, or of all namespaces.
pub async fn metrics_of_cluster(client: &Client, namespace: Option<&str>) -> Result<Vec<Metrics>> {
    let pods = pods(client, namespace).await.context("cannot list pods: `list` on pods is needed")?;
    let mut all: Vec<Metrics> =
        stream::iter(pods.iter().filter(|pod| meshed(pod) || gateway_of(pod).is_some()))
            .map(|pod| async move {
                let workload = Workload::of(pod);
                let name = pod.metadata.name.clone().unwrap_or_default();
                let read = from_pod(client, &workload.namespace, &name, pod, "metrics").await;
                let name = format!("{}/{name}", workload.namespace);
                Metrics { name, workload: workload.to_string(), text: text(read) }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

pub async fn metrics_of_proxies(proxies: &[ProxyUrl]) -> Vec<Metrics> {
    let all = stream::iter(proxies).map(|proxy| async move {
        let read = timeout(PATIENCE, from_url(&proxy.authority, "/metrics")).await;
        let late = || Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()));
        let name = format!("http://{}", proxy.authority);
        Metrics { workload: name.clone(), name, text: text(read.unwrap_or_else(|_| late())) }
    });
    all.buffered(AT_ONCE).collect().await
}

fn text(read: Result<Bytes>) -> Result<String, String> {
    let read = read.map_err(|error| format!("{error:#}"))?;
    String::from_utf8(read.to_vec()).map_err(|error| error.to_string())
}

async fn of_pod(client: &Client, namespace: &str, name: &str, pod: &Pod) -> Result<ProxyEvidence> {
    evidence(&from_pod(client, namespace, name, pod, "evidence").await?)
}

async fn from_pod(client: &Client, namespace: &str, name: &str, pod: &Pod, what: &str) -> Result<Bytes> {
    if started(pod).is_none() {
        bail!("its proxy is not running (pod phase {})", phase(pod).unwrap_or("unknown"));
    }
    let port = names::METRICS_PORT;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/{what}");
    let request = Request::get(path).body(Body::empty())?;
    let answer = async {
        let response = client.send(request).await.context("the API server did not answer")?;
        let (head, body) = response.into_parts();
        let body = read(body).await?;
        match head.status.as_u16() {
            200 => Ok(body),
            403 => bail!("the API server refuses: `get` on pods/proxy is needed in namespace {namespace}"),
            status => bail!("the API server answers {status}: {}", message(&body)),
        }
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
}

/// The message of a Kubernetes Status, or else the beginning of the text.
fn message(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = status.as_ref().and_then(|status| status.get("message")?.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    text.trim().chars().take(300).collect()
}

/// Where a proxy's metrics port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl {
    authority: String,
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |reason: &str| Err(format!("{reason}; give a proxy's metrics port, as http://127.0.0.1:15020"));
        let Ok(uri) = text.parse::<Uri>() else { return wrong("this is no URL") };
        if uri.scheme_str() != Some("http") {
            return wrong("only http:// is served there");
        }
        if !matches!(uri.path(), "" | "/" | "/evidence") || uri.query().is_some() {
            return wrong("the path is always /evidence");
        }
        let Some(authority) = uri.authority() else { return wrong("this URL names no host") };
        if authority.as_str().contains('@') {
            return wrong("there is nobody to log in as");
        }
        let port = authority.port_u16().unwrap_or(names::METRICS_PORT);
        Ok(Self { authority: format!("{}:{port}", authority.host()) })
    }
}

pub async fn of_proxies(proxies: &[ProxyUrl]) -> Vec<Seen> {
    let all = stream::iter(proxies).map(|proxy| async move {
        let name = format!("http://{}", proxy.authority);
        let evidence = timeout(PATIENCE, of_url(&proxy.authority)).await;
        let evidence = evidence
            .unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
            .map_err(|error| format!("{error:#}"));
        // The proxy itself says whose it is: NAMESPACE/POD.
        let says = evidence.as_ref().ok().and_then(|evidence| evidence.workload.split_once('/'));
        let (namespace, pod) = says.unwrap_or(("", &proxy.authority));
        let workload = Workload { namespace: namespace.to_owned(), name: format!("pod/{pod}") };
        Seen { name, workload, since: None, evidence }
    });
    all.buffered(AT_ONCE).collect().await
}

async fn of_url(authority: &str) -> Result<ProxyEvidence> {
    evidence(&from_url(authority, "/evidence").await?)
}

async fn from_url(authority: &str, path: &str) -> Result<Bytes> {
    let stream = TcpStream::connect(authority).await.context("cannot connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(http::header::HOST, authority).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await.context("no answer")?;
        let (head, body) = response.into_parts();
        let body = read(body).await?;
        match head.status.as_u16() {
            200 => Ok(body),
            status => bail!("it answers {status}: {}", message(&body)),
        }
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => {
            ended.context("the connection broke")?;
            bail!("the connection ended before the answer")
        }
    }
}

async fn read<B>(body: B) -> Result<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, LARGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => bail!("the answer could not be read: {error}"),
    }
}

fn evidence(body: &[u8]) -> Result<ProxyEvidence> {
    serde_json::from_slice(body)
        .context("this is no evidence that this version can read; compare `trellis version` with the proxy's")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trellis_telemetry::http::{Response, Routes};

    use super::*;
    use crate::stat::samples;

    #[test]
    fn a_proxys_url_is_its_metrics_port() {
        for (text, authority) in [
            ("http://127.0.0.1:15020", "127.0.0.1:15020"),
            ("http://127.0.0.1:9/evidence", "127.0.0.1:9"),
            ("http://[::1]/", "[::1]:15020"),
            ("http://proxy.local", "proxy.local:15020"),
        ] {
            assert_eq!(text.parse::<ProxyUrl>().unwrap().authority, authority);
        }
        for text in ["127.0.0.1:15020", "https://127.0.0.1", "http://a/b", "http://a/?b", "http://u@a", ""] {
            let error = text.parse::<ProxyUrl>().unwrap_err();
            assert!(error.ends_with("as http://127.0.0.1:15020"), "{text}: {error}");
        }
    }

    #[test]
    fn a_refusal_of_the_api_server_is_quoted() {
        assert_eq!(message(br#"{"kind":"Status","message":"pods \"a\" not found"}"#), "pods \"a\" not found");
        assert_eq!(
            message(b"  error trying to reach service: timeout\n"),
            "error trying to reach service: timeout"
        );
    }

    /// An API server with four meshed pods in two pages: one answers, one's proxy does not, one may not be
    /// asked, and one has not started; a fifth pod is none of ours.
    fn api_server() -> Client {
        let pod = |name: &str, notes: serde_json::Value, state: serde_json::Value| {
            json!({
                "metadata": {"namespace": "shop", "name": name, "annotations": notes},
                "status": {"phase": "Running", "initContainerStatuses": [{
                    "name": "trellis-proxy", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": state
                }]}
            })
        };
        let page = move |names: &[&str], next: &str| {
            let running = json!({"running": {"startedAt": "2026-01-01T08:00:00Z"}});
            let ours = json!({names::INJECTED: "0.1.0"});
            let mut items: Vec<_> =
                names.iter().map(|name| pod(name, ours.clone(), running.clone())).collect();
            if next.is_empty() {
                items.push(pod("waiting", ours, json!({"waiting": {"reason": "PodInitializing"}})));
                items.push(pod("plain", json!({}), running));
            }
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": next}, "items": items})
        };
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = request.uri().path_and_query().unwrap().to_string();
            let (status, body) = match asked.as_str() {
                "/api/v1/namespaces/shop/pods?&limit=500" => (200, page(&["web-1", "web-0"], "more")),
                "/api/v1/namespaces/shop/pods?&limit=500&continue=more" => (200, page(&["web-2"], "")),
                "/api/v1/namespaces/shop/pods/web-0:15020/proxy/evidence" => {
                    let one = samples::seen("web-0", "", samples::WEB, vec![], vec![]);
                    (200, serde_json::to_value(one.evidence.unwrap()).unwrap())
                }
                "/api/v1/namespaces/shop/pods/web-1:15020/proxy/evidence" => {
                    (503, json!({"kind": "Status", "message": "error trying to reach service"}))
                }
                "/api/v1/namespaces/shop/pods/web-2:15020/proxy/evidence" => (403, json!({})),
                other => panic!("asked for {other}"),
            };
            let answer =
                http::Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(answer)
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn every_meshed_pod_is_read_or_named_with_the_reason() {
        let seen = of_cluster(&api_server(), Some("shop")).await.unwrap();
        let said: Vec<_> = seen
            .iter()
            .map(|one| (one.name.as_str(), one.evidence.as_ref().map(|read| read.workload.as_str())))
            .map(|(name, read)| format!("{name}: {}", read.unwrap_or_else(|error| error)))
            .collect();
        assert_eq!(
            said,
            [
                "shop/waiting: its proxy is not running (pod phase Running)",
                "shop/web-0: shop/web-0",
                "shop/web-1: the API server answers 503: error trying to reach service",
                "shop/web-2: the API server refuses: `get` on pods/proxy is needed in namespace shop",
            ]
        );
        assert_eq!(seen[1].since, Some("2026-01-01T08:00:00Z".parse().unwrap()));
    }

    #[tokio::test]
    async fn requests_are_read_of_gateways_as_well() {
        let service = tower::service_fn(|request: Request<Body>| {
            let asked = request.uri().path().to_owned();
            let running = json!({"running": {"startedAt": "2026-01-01T08:00:00Z"}});
            let front = json!({
                "metadata": {"namespace": "edge", "name": "front", "annotations": {names::GATEWAY: "front"}},
                "status": {"phase": "Running", "containerStatuses": [{
                    "name": "trellis-proxy", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                    "state": running,
                }]}
            });
            let body = match asked.as_str() {
                "/api/v1/namespaces/edge/pods" => {
                    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [front]})
                        .to_string()
                }
                "/api/v1/namespaces/edge/pods/front:15020/proxy/metrics" => "some 1".to_owned(),
                other => panic!("asked for {other}"),
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(
                body.into_bytes(),
            ))))
        });
        let read = metrics_of_cluster(&Client::new(service, "default"), Some("edge")).await.unwrap();
        let [one] = &*read else { panic!("{read:?}") };
        assert_eq!((one.name.as_str(), one.text.as_deref()), ("edge/front", Ok("some 1")));
    }

    #[tokio::test]
    async fn without_a_cluster_proxies_are_read_directly() {
        let evidence = samples::seen("web-0", "", samples::WEB, vec![], vec![]).evidence.unwrap();
        let listener = trellis_telemetry::http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url: ProxyUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let routes = Routes::new().get("/evidence", move || Response::json(&evidence));
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(trellis_telemetry::http::serve(listener, routes, stopped));
        // Bound, so that nobody else can, and not listening.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let nobody: ProxyUrl = format!("http://{}", held.local_addr().unwrap()).parse().unwrap();

        let seen = of_proxies(&[url, nobody]).await;
        assert_eq!(seen[0].workload.to_string(), "shop/pod/web-0");
        assert!(seen[0].evidence.is_ok());
        assert!(seen[1].evidence.as_ref().unwrap_err().starts_with("cannot connect: "));
    }
}
