//! An application of the demo, as a process of its own: plain HTTP or plain lines, and no idea that
//! there is a mesh.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

#[derive(Debug, Args)]
pub struct AppArgs {
    /// Serve HTTP here.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Serve lines here: a greeting, then an answer to each line.
    #[arg(long)]
    lines: Option<SocketAddr>,
    /// Ask this HTTP server before each answer.
    #[arg(long)]
    call_http: Vec<SocketAddr>,
    /// Ask this line server before each answer.
    #[arg(long)]
    call_lines: Vec<SocketAddr>,
}

pub const GREETING: &str = "orders: what would you like?\n";

pub async fn run(args: AppArgs) -> anyhow::Result<()> {
    let args = Arc::new(args);
    match (args.http, args.lines) {
        (Some(address), None) => http(TcpListener::bind(address).await?, args).await,
        (None, Some(address)) => lines(TcpListener::bind(address).await?).await,
        _ => anyhow::bail!("give one of --http and --lines"),
    }
}

async fn http(listener: TcpListener, args: Arc<AppArgs>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let args = args.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let args = args.clone();
            async move { Ok::<_, Infallible>(answer(&args).await) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        // A visitor who leaves early is no concern of the application's.
        tokio::spawn(async move { connection.await.ok() });
    }
}

async fn answer(args: &AppArgs) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    match ask(args).await {
        Ok(text) => *response.body_mut() = Full::from(text),
        Err(error) => {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            *response.body_mut() = Full::from(format!("{error}\n"));
        }
    }
    response
}

async fn ask(args: &AppArgs) -> anyhow::Result<String> {
    let mut text = String::from("served\n");
    for address in &args.call_http {
        let (status, body) = trellis_local::get::get(*address, "/").await?;
        anyhow::ensure!(status == StatusCode::OK, "{address} answered {status}");
        text.push_str(&String::from_utf8_lossy(&body));
    }
    for address in &args.call_lines {
        let mut stream = BufReader::new(TcpStream::connect(address).await?);
        // The server speaks first; only then is there something to say.
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        anyhow::ensure!(line == GREETING, "{address} greeted with {line:?}");
        stream.write_all(b"one of each\n").await?;
        stream.read_line(&mut text).await?;
    }
    Ok(text)
}

async fn lines(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            stream.write_all(GREETING.as_bytes()).await?;
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                stream.write_all(format!("ordered: {line}").as_bytes()).await?;
                line.clear();
            }
            std::io::Result::Ok(())
        });
    }
}
