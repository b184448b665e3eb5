//! The Kubernetes API as a source, against an API server that the test plays: each request is answered by
//! hand. No socket, so the clock can be one that jumps over back-off.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::StreamBody;
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Service;
use kube::{Client, ResourceExt, client::Body};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;
use trellis_api::source::{Change, Selection, Sight, Source};
use trellis_source::{AnySource, Place};

type Changes = UnboundedReceiverStream<Change<Service>>;

#[tokio::test(start_paused = true)]
async fn lists_page_by_page_then_follows() -> Result<()> {
    let (mut api, source) = Api::start();
    let mut services = follow(&source);
    let mut events = {
        let request = api.next().await?;
        ensure!(request.uri.path() == "/api/v1/services", "{}", request.uri);
        ensure!(request.has("limit=500"), "{}", request.uri);
        request.answer(StatusCode::OK, &list("5", Some("more"), &[service("web", 80)]))?;
        let request = api.next().await?;
        ensure!(request.has("continue=more"), "{}", request.uri);
        request.answer(StatusCode::OK, &list("7", None, &[service("db", 5432)]))?;
        let request = api.next().await?;
        ensure!(request.has("watch=true") && request.has("resourceVersion=7"), "{}", request.uri);
        request.follow()?
    };

    let Some(Change::Reset(all)) = services.next().await else { bail!("no reset") };
    assert_eq!(all.iter().map(|service| service.name_any()).collect::<Vec<_>>(), ["web", "db"]);
    assert!(all.iter().all(|service| service.metadata.managed_fields.is_none()), "kept for nobody");

    events.tell("MODIFIED", &service("web", 8080))?;
    let Some(Change::Applied(web)) = services.next().await else { bail!("no change") };
    assert_eq!(web.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map(|ports| ports[0].port), Some(8080));
    assert!(web.metadata.managed_fields.is_none());
    events.tell("DELETED", &service("db", 5432))?;
    let Some(Change::Deleted(db)) = services.next().await else { bail!("no removal") };
    assert_eq!(db.name_any(), "db");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lost_its_place_begins_again_with_everything() -> Result<()> {
    let (mut api, source) = Api::start();
    let mut services = follow(&source);
    let mut events = api.list_and_follow("1", &[service("web", 80), service("old", 1)]).await?;
    let Some(Change::Reset(_)) = services.next().await else { bail!("no reset") };
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version"});
    events.tell("ERROR", &gone)?;
    let _events = api.list_and_follow("9", &[service("web", 80)]).await?;
    let Some(Change::Reset(all)) = services.next().await else { bail!("no reset") };
    assert_eq!(all.len(), 1, "what went away meanwhile is not in it");
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_not_allowed_is_a_problem_with_a_remedy_until_it_is() -> Result<()> {
    let (mut api, source) = Api::start();
    let mut services = follow(&source);
    for _ in 0..3 {
        let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
            "reason": "Forbidden", "message": "services is forbidden"});
        api.next().await?.answer(StatusCode::FORBIDDEN, &forbidden)?;
    }
    // It is asked for again: by then the third answer was seen.
    let request = api.next().await?;
    let problems = source.problems();
    ensure!(problems.len() == 1, "{problems:?}");
    let expected = Place::Watch { api_version: "v1".to_owned(), kind: "Service".to_owned() };
    ensure!(problems[0].place == expected, "{}", problems[0]);
    ensure!(problems[0].message.contains("allow list and watch of services"), "{}", problems[0]);
    request.answer(StatusCode::OK, &list("1", None, &[service("web", 80)]))?;
    let Some(Change::Reset(all)) = services.next().await else { bail!("no reset") };
    assert_eq!(all.len(), 1);
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_goes_away_ends_nothing() -> Result<()> {
    let (mut api, source) = Api::start();
    let mut services = follow(&source);
    let events = api.list_and_follow("1", &[service("web", 80)]).await?;
    let Some(Change::Reset(_)) = services.next().await else { bail!("no reset") };
    // The watch breaks off; the next attempts fail; the one after that goes on where it was.
    drop(events);
    let mut events = {
        for _ in 0..3 {
            let unavailable = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503,
                "reason": "ServiceUnavailable", "message": "starting"});
            api.next().await?.answer(StatusCode::SERVICE_UNAVAILABLE, &unavailable)?;
        }
        let request = api.next().await?;
        ensure!(source.problems().len() == 1, "{:?}", source.problems());
        ensure!(request.has("watch=true") && request.has("resourceVersion=1"), "{}", request.uri);
        request.follow()?
    };
    // Nothing tells that a silent watch works, except that it fails no more.
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(source.problems(), []);
    events.tell("ADDED", &service("new", 1))?;
    let Some(Change::Applied(new)) = services.next().await else { bail!("no change") };
    assert_eq!(new.name_any(), "new");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_cluster_may_lack_is_empty_until_it_is_there() -> Result<()> {
    let (mut api, source) = Api::start();
    let mut services = polled(source.watch_if_known::<Service>());
    for _ in 0..3 {
        api.next().await?.answer(
            StatusCode::NOT_FOUND,
            &json!({"kind": "Status", "apiVersion": "v1",
            "status": "Failure", "code": 404, "reason": "NotFound", "message": "404 page not found"}),
        )?;
    }
    let Some(Change::Reset(none)) = services.next().await else { bail!("no reset") };
    assert!(none.is_empty());
    let _events = api.list_and_follow("1", &[service("web", 80)]).await?;
    // Nothing came in between: it is said once.
    let Some(Change::Reset(all)) = services.next().await else { bail!("no reset") };
    assert_eq!(all.len(), 1);
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_closed_says_so_until_it_is_opened() -> Result<()> {
    let (mut api, source) = Api::start();
    let selection = Selection { namespace: "shop".to_owned(), fields: Some("type=x") };
    let mut services = polled(source.watch_in::<Service>(selection));
    for _ in 0..3 {
        let request = api.next().await?;
        ensure!(request.uri.path() == "/api/v1/namespaces/shop/services", "{}", request.uri);
        ensure!(request.has("fieldSelector=type%3Dx"), "{}", request.uri);
        request.answer(
            StatusCode::FORBIDDEN,
            &json!({"kind": "Status", "apiVersion": "v1",
            "status": "Failure", "code": 403, "reason": "Forbidden", "message": "services is forbidden"}),
        )?;
    }
    let Some(Sight::Forbidden) = services.next().await else { bail!("it was not said") };
    let _events = api.list_and_follow("1", &[service("web", 80)]).await?;
    // Nothing came in between: it is said once.
    let Some(Sight::Seen(Change::Reset(all))) = services.next().await else { bail!("no reset") };
    assert_eq!(all.len(), 1);
    assert_eq!(source.problems(), [], "whoever refers to it says so, and not the source");
    Ok(())
}

/// The stream, polled by a task of its own: it only asks the API server while somebody waits for it.
fn follow(source: &AnySource) -> Changes {
    polled(source.watch::<Service>())
}

fn polled<T: Send + 'static>(mut changes: BoxStream<'static, T>) -> UnboundedReceiverStream<T> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            let _ = sender.send(change);
        }
    });
    UnboundedReceiverStream::new(receiver)
}

struct Api(mpsc::UnboundedReceiver<Asked>);

struct Asked {
    uri: Uri,
    answer: oneshot::Sender<(StatusCode, Answer)>,
}

type Answer = UnboundedReceiverStream<Result<Frame<Bytes>, Infallible>>;

struct Events(mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>);

impl Api {
    fn start() -> (Self, AnySource) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                sender.send(Asked { uri: request.uri().clone(), answer })?;
                let (status, body) = answered.await?;
                anyhow::Ok(Response::builder().status(status).body(StreamBody::new(body))?)
            }
        });
        (Self(receiver), AnySource::kubernetes(Client::new(service, "default")))
    }

    async fn next(&mut self) -> Result<Asked> {
        self.0.recv().await.context("the client is gone")
    }

    async fn list_and_follow(&mut self, version: &str, items: &[Value]) -> Result<Events> {
        let request = self.next().await?;
        ensure!(!request.has("watch=true"), "{}", request.uri);
        request.answer(StatusCode::OK, &list(version, None, items))?;
        self.next().await?.follow()
    }
}

impl Asked {
    fn has(&self, parameter: &str) -> bool {
        self.uri.query().is_some_and(|query| query.split('&').any(|found| found == parameter))
    }

    fn answer(self, status: StatusCode, body: &Value) -> Result<()> {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Ok(Frame::data(Bytes::from(body.to_string()))))?;
        self.answer.send((status, UnboundedReceiverStream::new(receiver))).ok().context("nobody waits")
    }

    fn follow(self) -> Result<Events> {
        ensure!(self.has("watch=true"), "{}", self.uri);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.answer
            .send((StatusCode::OK, UnboundedReceiverStream::new(receiver)))
            .ok()
            .context("nobody waits")?;
        Ok(Events(sender))
    }
}

impl Events {
    fn tell(&mut self, kind: &str, object: &Value) -> Result<()> {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        Ok(self.0.send(Ok(Frame::data(Bytes::from(line))))?)
    }
}

fn list(version: &str, more: Option<&str>, items: &[Value]) -> Value {
    json!({"kind": "ServiceList", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": version, "continue": more}})
}

fn service(name: &str, port: u16) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "spec": {"ports": [{"port": port}]},
        "metadata": {"name": name, "namespace": "default", "resourceVersion": "3",
            "managedFields": [{"manager": "kubectl", "operation": "Apply"}]}})
}
