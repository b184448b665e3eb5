//! HTTP as applications speak it, through both proxies: what arrives, what is shared and what is not.

#[path = "web/detection.rs"]
mod detection;
#[path = "web/endpoints.rs"]
mod endpoints;
#[path = "web/expect.rs"]
mod expect;
#[path = "web/floods.rs"]
mod floods;
#[path = "web/hostile.rs"]
mod hostile;
#[path = "web/http1.rs"]
mod http1;
#[path = "web/http2.rs"]
mod http2;
#[path = "web/lifetimes.rs"]
mod lifetimes;
#[path = "web/memory.rs"]
mod memory;
#[path = "web/upgrade.rs"]
mod upgrade;
#[path = "web/websocket.rs"]
mod websocket;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use libtest_mimic::Trial;
use tokio::net::{TcpListener, TcpStream};
use trellis_local::get::get;
use trellis_loopback::{
    stage::{Error, Stage},
    wire::Wire,
};

pub fn trials() -> Vec<Trial> {
    [
        detection::trials(),
        endpoints::trials(),
        expect::trials(),
        floods::trials(),
        hostile::trials(),
        http1::trials(),
        http2::trials(),
        lifetimes::trials(),
        memory::trials(),
        upgrade::trials(),
        websocket::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

async fn open() -> Result<(Stage, TcpListener), Error> {
    let stage = Stage::open(&[]).await?;
    let application = TcpListener::bind(stage.application()).await?;
    Ok((stage, application))
}

/// A connection of the client's application.
async fn client(stage: &Stage) -> Result<Wire, Error> {
    let socket = TcpStream::connect(stage.entry()).await?;
    socket.set_nodelay(true)?;
    Ok(Wire::new(socket))
}

/// Serves every connection to the application with `serve`, which is told how many came before. Says how
/// many came.
fn application<F>(
    listener: TcpListener,
    serve: impl Fn(Wire, usize) -> F + Send + 'static,
) -> Arc<AtomicUsize>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let served = serve(Wire::new(socket), counted.fetch_add(1, Relaxed));
            tokio::spawn(async move {
                // That its client has gone is no news.
                if let Err(error) = served.await
                    && !error.is::<std::io::Error>()
                {
                    eprintln!("the application: {error}");
                }
            });
        }
    });
    came
}

/// Answers each request with its path, for as long as its client stays.
async fn echo_paths(mut wire: Wire, _: usize) -> Result<(), Error> {
    while let Some(head) = wire.head().await? {
        wire.body(&head).await?;
        let path = head.path();
        wire.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await?;
    }
    Ok(())
}

/// The lines of the client's proxy's metrics that begin so.
async fn metrics(stage: &Stage, begin: &str) -> Result<Vec<String>, Error> {
    let (_, body) = get(stage.client.metrics, "/metrics").await?;
    let text = String::from_utf8_lossy(&body);
    Ok(text.lines().filter(|line| line.starts_with(begin)).map(str::to_owned).collect())
}

/// A figure of a process's memory in KiB, by its name in `/proc/PID/status`.
pub fn status(pid: u32, figure: &str) -> Result<usize, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(figure)).ok_or("no such figure")?;
    let number = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(number.parse()?)
}
