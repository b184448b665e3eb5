//! Routes of Gateway API between workloads: what operators write is what requests do, live.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};
use trellis_local::{Role, Running, Service};
use trellis_loopback::stage::{Error, NAMESPACE, PORT, Stage, workload};

use crate::{trial, web::status};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_route_sends_requests_of_one_connection_to_different_services", split),
        trial("filters_change_what_the_application_and_the_client_see", filters),
        trial("a_route_whose_backend_is_missing_fails_closed_and_says_why", broken),
        trial("time_outs_and_retries_are_the_routes", retries),
        trial("bytes_follow_a_tcp_route", bytes),
        trial("a_copy_costs_neither_memory_nor_anybodys_time", copies),
    ]
}

/// How much an answer has that nobody wants.
const ENDLESS: usize = 96 * 1024 * 1024;
/// How much of it was taken.
static SENT: AtomicUsize = AtomicUsize::new(0);

/// A stage with a second server, `other`.
struct Scene {
    stage: Stage,
    _other: Running,
}

impl Scene {
    async fn open() -> Result<Self, Error> {
        let mut stage = Stage::open(&[]).await?;
        let address = stage.mesh.network().address(Role::Service, 3);
        let service = Service { name: "other".into(), address, port: PORT };
        let other = workload(&stage.mesh, 3, "other", vec![service]);
        let running = stage.mesh.join(&other, &[], &[PORT], &[]).await?;
        serve("server", stage.application()).await?;
        serve("other", (other.application, PORT).into()).await?;
        Ok(Self { stage, _other: running })
    }

    /// Makes a route of `kind` for the Service `server` known.
    fn route(&self, kind: &str, rules: Value) -> Result<(), Error> {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"namespace": NAMESPACE, "name": "route", "uid": "route-uid"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "server", "port": PORT}], "rules": rules},
        });
        Ok(self.stage.mesh.apply("route", vec![route])?)
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        Ok(TcpStream::connect(self.stage.entry()).await?)
    }

    /// Asks on a connection of its own until the answer is as wanted.
    async fn until(&self, head: &str, wanted: impl Fn(&str) -> bool) -> Result<String, Error> {
        let mut last = String::new();
        let asking = async {
            loop {
                last = ask(&mut self.connect().await?, head).await?;
                if wanted(&last) {
                    return Result::<_, Error>::Ok(());
                }
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        match time::timeout(Duration::from_secs(20), asking).await {
            Ok(asked) => asked.map(|()| last),
            Err(_) => Err(format!("the last answer was {last}").into()),
        }
    }
}

/// An application that answers with its name and with the head that it was sent.
async fn serve(name: &'static str, at: SocketAddr) -> Result<(), Error> {
    let listener = TcpListener::bind(at).await?;
    tokio::spawn(async move {
        let mut asked = 0;
        while let Ok((mut socket, _)) = listener.accept().await {
            asked += 1;
            tokio::spawn(async move {
                let mut turn = asked;
                while let Some(head) = head(&mut socket).await {
                    // The first connection fails, where a request asks for that.
                    let status = match head.contains("/flaky") && turn == asked && turn % 2 == 1 {
                        true => "503 Service Unavailable",
                        false => "200 OK",
                    };
                    turn += 1;
                    if head.contains("/endless") && name == "other" {
                        return endless(socket).await;
                    }
                    if head.contains("/slow") {
                        time::sleep(Duration::from_secs(5)).await;
                    }
                    let body = format!("{name}\n{head}");
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-from: {name}\r\n\r\n{body}",
                        body.len()
                    );
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

/// Answers with more than anybody should keep.
async fn endless(mut socket: TcpStream) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n");
    let _ = socket.write_all(head.as_bytes()).await;
    let block = vec![0; 64 * 1024];
    for _ in 0..ENDLESS / block.len() {
        if socket.write_all(&block).await.is_err() {
            return;
        }
        SENT.fetch_add(block.len(), Relaxed);
    }
}

/// The head of the next message, in lower case.
async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).to_lowercase())
}

/// Asks, and reads head and body of the answer.
async fn ask(socket: &mut TcpStream, request: &str) -> Result<String, Error> {
    let request = format!("{request}\r\nhost: server\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let head = head(socket).await.ok_or("no answer")?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(Ok(0), |length| length.trim().parse::<usize>())?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok(head + &String::from_utf8_lossy(&body))
}

async fn split() -> Result<(), Error> {
    let scene = Scene::open().await?;
    // A connection that is older than the route.
    let mut kept = scene.connect().await?;
    assert!(ask(&mut kept, "GET /b HTTP/1.1").await?.contains("x-from: server"));
    scene.route(
        "HTTPRoute",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/b"}}],
             "backendRefs": [{"name": "other", "port": PORT}]},
            {"matches": [{"headers": [{"name": "x-version", "value": "2"}]}],
             "backendRefs": [{"name": "other", "port": PORT}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/split"}}],
             "backendRefs": [{"name": "other", "port": PORT, "weight": 1}, {"name": "server", "port": PORT, "weight": 1}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}],
             "backendRefs": [{"name": "server", "port": PORT}]},
        ]),
    )?;
    scene.until("GET /b HTTP/1.1", |answer| answer.contains("x-from: other")).await?;
    for (request, from) in [
        ("GET /b HTTP/1.1", "x-from: other"),
        ("GET /a HTTP/1.1", "x-from: server"),
        ("GET /b/c?d HTTP/1.1", "x-from: other"),
        ("GET /bc HTTP/1.1", "404 not found"),
        ("GET /bc HTTP/1.1\r\nx-version: 2", "x-from: other"),
    ] {
        let answer = ask(&mut kept, request).await?;
        assert!(answer.contains(from), "{request}: {answer}");
    }
    let mut others = 0;
    for _ in 0..200 {
        others += usize::from(ask(&mut kept, "GET /split HTTP/1.1").await?.contains("x-from: other"));
    }
    assert!((60..140).contains(&others), "{others} of 200");
    Ok(())
}

async fn filters() -> Result<(), Error> {
    let scene = Scene::open().await?;
    scene.route(
        "HTTPRoute",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
             "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "1"}], "remove": ["x-gone"]}},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-seen", "value": "2"}], "remove": ["x-from"]}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "inside.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}],
             "backendRefs": [{"name": "server", "port": PORT}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/away"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.example", "statusCode": 301}}]},
        ]),
    )?;
    let answer =
        scene.until("GET /old/a?b=c HTTP/1.1\r\nx-gone: 0", |answer| answer.contains("x-seen: 2")).await?;
    assert!(answer.contains("\nget /new/a?b=c http/1.1\r\n"), "{answer}");
    assert!(answer.contains("\nhost: inside.example\r\n") && answer.contains("\nx-set: 1\r\n"), "{answer}");
    assert!(!answer.contains("x-gone") && !answer.contains("x-from"), "{answer}");
    let answer = ask(&mut scene.connect().await?, "GET /away/a HTTP/1.1").await?;
    assert!(answer.starts_with("http/1.1 301"), "{answer}");
    assert!(answer.contains("\nlocation: http://elsewhere.example:8080/away/a\r\n"), "{answer}");
    Ok(())
}

async fn broken() -> Result<(), Error> {
    let scene = Scene::open().await?;
    scene.route(
        "HTTPRoute",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/nobody"}}],
             "backendRefs": [{"name": "nobody", "port": PORT}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/server"}}],
             "backendRefs": [{"name": "server", "port": PORT}]},
        ]),
    )?;
    let answer = scene.until("GET /nobody HTTP/1.1", |answer| answer.contains(" 500 ")).await?;
    assert!(answer.contains("\ntrellis-error: route_invalid\r\n") && answer.contains("nobody"), "{answer}");
    assert!(ask(&mut scene.connect().await?, "GET /server HTTP/1.1").await?.contains("x-from: server"));
    let grpc = "POST /nobody HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0";
    let answer = ask(&mut scene.connect().await?, grpc).await?;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("\ngrpc-status: 14\r\n"), "{answer}");
    Ok(())
}

async fn retries() -> Result<(), Error> {
    let scene = Scene::open().await?;
    scene.route(
        "HTTPRoute",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/slow"}}],
             "timeouts": {"request": "200ms"},
             "backendRefs": [{"name": "server", "port": PORT}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
             "backendRefs": [{"name": "server", "port": PORT}]},
        ]),
    )?;
    let answer = scene.until("GET /slow HTTP/1.1", |answer| answer.contains(" 504 ")).await?;
    assert!(answer.contains("\ntrellis-error: request_timed_out\r\n"), "{answer}");
    Ok(())
}

async fn bytes() -> Result<(), Error> {
    let scene = Scene::open().await?;
    let route = json!([{"backendRefs": [{"name": "other", "port": PORT}]}]);
    scene.route("TCPRoute", route)?;
    // Not HTTP: a line that ends as a head does.
    scene.until("*1", |answer| answer.contains("x-from: other")).await?;
    Ok(())
}

async fn copies() -> Result<(), Error> {
    let scene = Scene::open().await?;
    let mirror =
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "other", "port": PORT}}});
    scene.route(
        "HTTPRoute",
        json!([{"filters": [mirror], "backendRefs": [{"name": "server", "port": PORT}]}]),
    )?;
    let pid = scene.stage.client.pid;
    scene
        .until("GET /endless HTTP/1.1", |answer| answer.contains("x-from: server") && SENT.load(Relaxed) > 0)
        .await?;
    let before = status(pid, "VmRSS")?;
    let taken = async {
        while SENT.load(Relaxed) < ENDLESS {
            let answer = ask(&mut scene.connect().await?, "GET /a HTTP/1.1").await?;
            assert!(answer.contains("x-from: server"), "{answer}");
            let now = status(pid, "VmRSS")?;
            assert!(now < before + 24 * 1024, "{now} KiB, and {before} KiB before");
        }
        Result::<_, Error>::Ok(())
    };
    time::timeout(Duration::from_secs(60), taken).await?
}
