//! The HTTP server as a probe, a scraper and a stranger see it: over a socket.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};
use trellis_telemetry::{
    Registry,
    health::Health,
    http::{self, Response, Routes, StatusCode},
};

#[tokio::test]
async fn metrics_and_health_are_served() -> Result<()> {
    let registry = Registry::new();
    registry.build_info("0.1.0");
    let health = Health::new(&["identity", "discovery"]);
    let server = Server::start(http::metrics_routes(&registry).merge(health.routes())).await?;

    let page = server.get("/metrics").await?;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(page.body.contains("trellis_build_info{version=\"0.1.0\"} 1\n"), "{}", page.body);
    assert_eq!(server.get("/metrics?x=1").await?.status, 200);

    assert_eq!(server.get("/live").await?.status, 200);
    let ready = server.get("/ready").await?;
    assert_eq!((ready.status, ready.body.as_str()), (503, "discovery: not yet\nidentity: not yet\n"));
    health.set("identity", Ok(()));
    health.set("discovery", Err("no answer from trellis-discovery".to_owned()));
    let ready = server.get("/ready").await?;
    assert_eq!((ready.status, ready.body.as_str()), (503, "discovery: no answer from trellis-discovery\n"));
    health.set("discovery", Ok(()));
    health.ready().await;
    assert_eq!(server.get("/ready").await?.status, 200);
    server.stop().await
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_named() -> Result<()> {
    let routes = Routes::new()
        .get("/state", || Response::json(&["a", "b"]))
        .post("/rotate", || Response::text(StatusCode::ACCEPTED, "rotating\n"));
    let server = Server::start(routes).await?;
    let state = server.get("/state").await?;
    assert_eq!(
        (state.header("content-type"), state.body.as_str()),
        (Some("application/json"), "[\"a\",\"b\"]")
    );
    let missing = server.get("/nothing").await?;
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("/state") && missing.body.contains("/rotate"), "{}", missing.body);
    let refused = server.get("/rotate").await?;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    assert_eq!(server.send("POST /rotate HTTP/1.1\r\nhost: x\r\n\r\n").await?.status, 202);
    let head = server.send("HEAD /state HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    server.stop().await
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() -> Result<()> {
    let server = Server::start(Routes::new().post("/rotate", || Response::text(StatusCode::OK, ""))).await?;
    let post = async |origin: &str| {
        let request = format!("POST /rotate HTTP/1.1\r\nhost: localhost:15000\r\norigin: {origin}\r\n\r\n");
        anyhow::Ok(server.send(&request).await?.status)
    };
    assert_eq!(post("http://localhost:15000").await?, 200);
    for origin in ["http://evil.example", "null", "http://localhost:15001"] {
        assert_eq!(post(origin).await?, 403, "{origin}");
    }
    server.stop().await
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() -> Result<()> {
    let server = Server::start(Routes::new().get("/", || Response::html("<p>hello"))).await?;
    let long = "x".repeat(20_000);
    let large = server.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nlarge: {long}\r\n\r\n")).await?;
    assert_eq!(large.status, 431);
    let many = "a: b\r\n".repeat(200);
    let many = server.send(&format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await?;
    assert_eq!(many.status, 431);
    assert_eq!(server.send("GET\r\n\r\n").await?.status, 400);
    assert_eq!(server.get("/").await?.status, 200);
    server.stop().await
}

#[tokio::test]
async fn many_silent_connections_do_not_keep_a_probe_out() -> Result<()> {
    let server = Server::start(Health::new(&[]).routes()).await?;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(server.address).await?);
    }
    assert_eq!(server.get("/ready").await?.status, 200);
    // The oldest made room.
    let first = silent.first_mut().context("one")?;
    assert_eq!(first.read(&mut [0; 1]).await.unwrap_or(0), 0);
    server.stop().await
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_listener() -> Result<()> {
    let server = Server::start(Health::new(&[]).routes()).await?;
    let mut idle = TcpStream::connect(server.address).await?;
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 200");
    let address = server.address;
    server.stop().await?;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await?;
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_named_in_the_error() -> Result<()> {
    let taken = http::bind("127.0.0.1:0".parse()?)?;
    let address = taken.local_addr()?;
    let error = http::bind(address).err().context("bound twice")?;
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_unspecified_ipv6_address_takes_ipv4_as_well() -> Result<()> {
    let listener = http::bind("[::]:0".parse()?)?;
    let port = listener.local_addr()?.port();
    TcpStream::connect(("127.0.0.1", port)).await?;
    Ok(())
}

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(routes: Routes) -> Result<Self> {
        let listener = http::bind("127.0.0.1:0".parse()?)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        Ok(Self { address, stop, task: tokio::spawn(http::serve(listener, routes, stopped)) })
    }

    async fn stop(self) -> Result<()> {
        self.stop.send(true)?;
        Ok(tokio::time::timeout(Duration::from_secs(30), self.task).await??)
    }

    async fn get(&self, path: &str) -> Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address).await?;
        let (head, rest) = request.split_once("\r\n").context("no request line")?;
        // What the server does not read may reset the connection behind its answer.
        let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n{rest}").as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        Answer::parse(&String::from_utf8(bytes)?)
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?}"))?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self { status, headers, body: body.to_owned() })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}
