//! The admin port of proxies, which listens on the loopback of their pods only: reached by the port forward
//! of the Kubernetes API, or directly where there is no cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use trellis_api::names;

use crate::stat::{Workload, gateway_of, meshed, pods};

/// How long a proxy may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any proxy has to say: what it knows is bounded.
const LARGEST: usize = 64 * 1024 * 1024;

/// One proxy.
#[derive(Clone)]
pub struct Proxy {
    /// `namespace/pod`, or the URL.
    pub name: String,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Pod { client: Client, namespace: String, name: String },
    Address(String),
}

/// Where a proxy's admin port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminUrl(String);

impl std::str::FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |reason: &str| Err(format!("{reason}; give a proxy's admin port, as http://127.0.0.1:15000"));
        let Ok(uri) = text.parse::<Uri>() else { return wrong("this is no URL") };
        let Some(authority) = uri.authority() else { return wrong("this URL names no host") };
        if uri.scheme_str() != Some("http") {
            return wrong("only http:// is served there");
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return wrong("nothing but the host and the port can be said");
        }
        Ok(Self(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(names::ADMIN_PORT))))
    }
}

/// The proxies of a workload: `pod/NAME`, `deploy/NAME`, `gateway/NAME` and so on; without a name all of the
/// namespace.
pub async fn of_workload(client: &Client, namespace: &str, wanted: Option<&str>) -> Result<Vec<Proxy>> {
    let wanted = wanted.map(named).transpose()?;
    let all = pods(client, Some(namespace)).await.context("cannot list pods: `list` on pods is needed")?;
    let is_wanted = |pod: &Pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(wanted) = &wanted else { return true };
        let gateway = gateway_of(pod).map(|gateway| format!("gateway/{gateway}"));
        *wanted == format!("pod/{name}")
            || *wanted == Workload::of(pod).name
            || gateway.as_ref() == Some(wanted)
    };
    let found: Vec<Proxy> = all
        .iter()
        .filter(|pod| (meshed(pod) || gateway_of(pod).is_some()) && is_wanted(pod))
        .filter_map(|pod| pod.metadata.name.clone())
        .map(|name| Proxy {
            name: format!("{namespace}/{name}"),
            place: Place::Pod { client: client.clone(), namespace: namespace.to_owned(), name },
        })
        .collect();
    if found.is_empty() {
        let what = wanted.unwrap_or_else(|| "any workload".to_owned());
        bail!(
            "no pod of {what} in namespace {namespace} has a proxy; `kubectl get pods -n {namespace}` shows what is there"
        );
    }
    Ok(found)
}

pub fn of_urls(urls: &[AdminUrl]) -> Vec<Proxy> {
    urls.iter()
        .map(|AdminUrl(authority)| Proxy {
            name: format!("http://{authority}"),
            place: Place::Address(authority.clone()),
        })
        .collect()
}

/// As `kubectl` users write it, to what it is called here.
fn named(text: &str) -> Result<String> {
    let Some((kind, name)) = text.split_once('/').filter(|(_, name)| !name.is_empty()) else {
        bail!("`{text}` names no workload; write KIND/NAME, as in deploy/shop or pod/shop-0");
    };
    let kind = match kind.to_ascii_lowercase().as_str() {
        "deploy" | "deployment" | "deployments" => "deployment",
        "sts" | "statefulset" | "statefulsets" => "statefulset",
        "ds" | "daemonset" | "daemonsets" => "daemonset",
        "rs" | "replicaset" | "replicasets" => "replicaset",
        "job" | "jobs" => "job",
        "po" | "pod" | "pods" => "pod",
        "gtw" | "gateway" | "gateways" => "gateway",
        _ => bail!(
            "`{kind}` is no kind of workload; there are deployment, statefulset, daemonset, replicaset, job, pod and gateway"
        ),
    };
    Ok(format!("{kind}/{name}"))
}

impl Proxy {
    /// The whole answer to a question.
    pub async fn ask(&self, path: &str) -> Result<Bytes> {
        let answer = async {
            let body = self.follow(path).await?;
            match Limited::new(body, LARGEST).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) => bail!("the answer could not be read: {error}"),
            }
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
    }

    /// An answer that may never end.
    pub async fn follow(&self, path: &str) -> Result<Incoming> {
        let begun = async {
            match &self.place {
                Place::Address(authority) => {
                    let stream = TcpStream::connect(authority).await.context("cannot connect")?;
                    self.say(stream, authority, path).await
                }
                Place::Pod { client, namespace, name } => {
                    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
                    let mut forward = api.portforward(name, &[names::ADMIN_PORT]).await.with_context(|| {
                        format!("no port forward: `create` on pods/portforward is needed in namespace {namespace}")
                    })?;
                    let stream =
                        forward.take_stream(names::ADMIN_PORT).context("the forward has no stream")?;
                    // It lasts as long as the stream does.
                    tokio::spawn(forward.join());
                    self.say(stream, "localhost", path).await
                }
            }
        };
        timeout(PATIENCE, begun).await.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
    }

    async fn say<S>(&self, stream: S, host: &str, path: &str) -> Result<Incoming>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await.context("no answer")?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        let said = Limited::new(body, 4_096).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        bail!("it answers {}: {}", head.status.as_u16(), String::from_utf8_lossy(&said).trim())
    }
}

/// What a peer may have chosen, so that it cannot steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            ' '..='~' => character.to_string(),
            other => other.escape_default().to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_port_is_a_host_and_a_port() {
        for (text, authority) in
            [("http://127.0.0.1:15000", "127.0.0.1:15000"), ("http://[::1]/", "[::1]:15000")]
        {
            assert_eq!(text.parse::<AdminUrl>().unwrap().0, authority);
        }
        for text in ["127.0.0.1:15000", "https://a", "http://a/tap", "http://a?b", "http://u@a", ""] {
            let error = text.parse::<AdminUrl>().unwrap_err();
            assert!(error.ends_with("as http://127.0.0.1:15000"), "{text}: {error}");
        }
    }

    #[test]
    fn a_workload_is_named_as_users_name_it() {
        for (text, name) in [
            ("deploy/shop", Some("deployment/shop")),
            ("STS/db", Some("statefulset/db")),
            ("pod/shop-0", Some("pod/shop-0")),
            ("gateway/front", Some("gateway/front")),
            ("shop", None),
            ("deploy/", None),
            ("svc/shop", None),
        ] {
            assert_eq!(named(text).ok().as_deref(), name, "{text}");
        }
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(plain("/a\u{1b}[2J\u{202e}\n"), "/a\\u{1b}[2J\\u{202e}\\n");
    }

    /// Two pods of a Deployment, one of which has no proxy, a gateway's, and one that has ended.
    fn api_server() -> Client {
        use serde_json::json;
        let pod = |name: &str, notes: serde_json::Value, phase: &str| {
            json!({"metadata": {"namespace": "shop", "name": name, "annotations": notes,
                "labels": {"pod-template-hash": "5d9c7b"},
                "ownerReferences": [{"apiVersion": "apps/v1", "uid": "u", "controller": true,
                    "kind": "ReplicaSet", "name": "web-5d9c7b"}]},
                "status": {"phase": phase}})
        };
        let ours = json!({names::INJECTED: "0.1.0"});
        let items = json!([
            pod("web-5d9c7b-a", ours.clone(), "Running"),
            pod("web-5d9c7b-b", json!({}), "Running"),
            pod("web-5d9c7b-c", ours, "Succeeded"),
            pod("front", json!({names::GATEWAY: "front", names::INJECT: "disabled"}), "Running"),
        ]);
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let service = tower::service_fn(move |_: Request<kube::client::Body>| {
            let body = kube::client::Body::from(list.to_string().into_bytes());
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_workloads_proxies_are_those_of_its_pods_that_have_one() {
        for (wanted, found) in [
            (Some("deploy/web"), &["shop/web-5d9c7b-a", "shop/front"][..]),
            (Some("pod/web-5d9c7b-a"), &["shop/web-5d9c7b-a"]),
            (Some("gateway/front"), &["shop/front"]),
            (None, &["shop/web-5d9c7b-a", "shop/front"]),
            (Some("pod/web-5d9c7b-b"), &[]),
            (Some("deploy/other"), &[]),
        ] {
            let proxies = of_workload(&api_server(), "shop", wanted).await;
            let names: Vec<_> = proxies.iter().flatten().map(|proxy| proxy.name.as_str()).collect();
            assert_eq!(names, found, "{wanted:?}");
        }
    }
}
