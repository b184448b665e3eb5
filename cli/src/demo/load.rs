//! Visitors: some keep their connection, some come anew each time. Every request is counted, and so is
//! every one that failed.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{self, Instant},
};
use trellis_api::evidence::Requests;

/// Visitors of each kind.
const VISITORS: usize = 4;
/// Between two requests of one visitor.
const PAUSE: Duration = Duration::from_millis(5);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Load {
    counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    visitors: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Load {
    pub fn start(entry: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let mut visitors = JoinSet::new();
        for _ in 0..VISITORS {
            visitors.spawn(visit(entry, true, counts.clone(), stopped.clone()));
            visitors.spawn(visit(entry, false, counts.clone(), stopped.clone()));
        }
        Self { counts, stop, visitors }
    }

    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Relaxed)
    }

    pub fn requests(&self) -> Requests {
        Requests { sent: self.sent(), failed: self.counts.failed.load(Relaxed) }
    }

    /// Waits until that many requests were sent.
    pub async fn reached(&self, sent: u64, patience: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.sent() < sent {
            anyhow::ensure!(
                begun.elapsed() < patience,
                "only {} of {sent} requests after {patience:?}; first failure: {}",
                self.sent(),
                self.counts.first_failure.lock().as_deref().unwrap_or("none")
            );
            time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets every visitor finish its request.
    pub async fn stop(mut self) -> Requests {
        self.stop.send_replace(true);
        while self.visitors.join_next().await.is_some() {}
        if let Some(failure) = self.counts.first_failure.lock().take() {
            // Nothing else tells why; the document only counts.
            let _ = writeln!(io::stderr(), "first failed request: {failure}");
        }
        self.requests()
    }
}

async fn visit(entry: SocketAddr, keep: bool, counts: Arc<Counts>, stop: watch::Receiver<bool>) {
    let mut connection = None;
    while !*stop.borrow() {
        let result = time::timeout(PATIENCE, request(entry, connection.take()))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PATIENCE:?}")));
        counts.sent.fetch_add(1, Relaxed);
        match result {
            Ok(sender) if keep => connection = Some(sender),
            Ok(_) => {}
            Err(error) => {
                counts.failed.fetch_add(1, Relaxed);
                counts.first_failure.lock().get_or_insert_with(|| format!("{error:#}"));
            }
        }
        time::sleep(PAUSE).await;
    }
}

type Sender = http1::SendRequest<Empty<Bytes>>;

async fn connect(entry: SocketAddr) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(entry).await.context("connecting")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.ready().await.context("the connection was closed")?;
    Ok(sender)
}

/// One request, on the connection that is there or on a new one. As with every HTTP client, a kept
/// connection that the server ended between two requests is replaced.
async fn request(entry: SocketAddr, kept: Option<Sender>) -> anyhow::Result<Sender> {
    let get = || Request::get("/").header("host", "web").body(Empty::new());
    let was_kept = kept.is_some();
    let mut sender = match kept {
        Some(mut kept) => match kept.ready().await {
            Ok(()) => kept,
            Err(_) => connect(entry).await?,
        },
        None => connect(entry).await?,
    };
    let response = match sender.send_request(get()?).await {
        // It was closed in this very moment, and nothing came back. What is asked here may be asked twice.
        Err(error) if was_kept && (error.is_canceled() || error.is_incomplete_message()) => {
            sender = connect(entry).await?;
            sender.send_request(get()?).await
        }
        other => other,
    };
    let response = response.context("sending")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("receiving")?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    anyhow::ensure!(status == StatusCode::OK, "status {status}: {text}");
    anyhow::ensure!(text == "served\nserved\nordered: one of each\n", "answered {text:?}");
    Ok(sender)
}
