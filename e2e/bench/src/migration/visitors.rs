//! Clients with a schedule, as HTTP clients behave: some keep their connection, and open another when the
//! server has ended it between two requests; some come anew each time.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

use crate::application;

/// Of each kind at each entry.
const VISITORS: usize = 2;
const MESSAGE: usize = 1024;
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub sent: u64,
    pub failed: u64,
    /// Kept connections that the other side ended.
    pub replaced: u64,
    /// Requests that met such an end on their way and were sent again.
    pub repeated: u64,
}

#[derive(Default)]
struct Seen {
    sent: AtomicU64,
    failed: AtomicU64,
    replaced: AtomicU64,
    repeated: AtomicU64,
    first_failure: watch::Sender<Option<String>>,
}

pub struct Visitors {
    seen: Arc<Seen>,
    began: Instant,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// The whole of it.
pub struct Load {
    pub counts: Counts,
    pub seconds: f64,
    pub first_failure: Option<String>,
}

impl Visitors {
    /// `rate` requests a second at all `entries` together, each kind of visitor with half of them.
    pub fn start(entries: &[SocketAddr], rate: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (seen, began) = (Arc::new(Seen::default()), Instant::now());
        let all = entries.iter().flat_map(|entry| [(*entry, true), (*entry, false)].repeat(VISITORS));
        let all: Vec<(SocketAddr, bool)> = all.collect();
        let step = Duration::from_secs(1) / rate;
        let period = step * u32::try_from(all.len()).unwrap_or(u32::MAX);
        let tasks = (0_u32..)
            .zip(all)
            .map(|(number, (entry, keeps))| {
                let visitor = Visitor { entry, keeps, seen: seen.clone(), kept: None };
                tokio::spawn(visitor.run(began + step * number, period, stopped.clone()))
            })
            .collect();
        Self { seen, began, stop, tasks }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            sent: self.seen.sent.load(Relaxed),
            failed: self.seen.failed.load(Relaxed),
            replaced: self.seen.replaced.load(Relaxed),
            repeated: self.seen.repeated.load(Relaxed),
        }
    }

    /// Lets every visitor finish its request.
    pub async fn stop(mut self) -> Load {
        let seconds = self.began.elapsed().as_secs_f64();
        self.stop.send_replace(true);
        join_all(self.tasks.drain(..)).await;
        let first_failure = self.seen.first_failure.borrow().clone();
        Load { counts: self.counts(), seconds, first_failure }
    }
}

struct Visitor {
    entry: SocketAddr,
    keeps: bool,
    seen: Arc<Seen>,
    kept: Option<Line>,
}

impl Visitor {
    /// Who is late makes up for it: the rate is what was asked for.
    async fn run(mut self, first: Instant, period: Duration, stop: watch::Receiver<bool>) {
        let mut ticks = time::interval_at(first, period);
        while !*stop.borrow() {
            ticks.tick().await;
            let result = time::timeout(PATIENCE, self.request()).await;
            self.seen.sent.fetch_add(1, Relaxed);
            let result = result.context("no answer in time").and_then(|result| result);
            if let Err(error) = result {
                self.seen.failed.fetch_add(1, Relaxed);
                self.seen.first_failure.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert_with(|| format!("{error:#}"));
                    is_first
                });
            }
        }
    }

    async fn request(&mut self) -> Result<()> {
        if let Some(mut line) = self.kept.take() {
            let ended = line.has_ended();
            if !ended {
                match line.exchange().await {
                    Ok(()) => {
                        self.kept = Some(line);
                        return Ok(());
                    }
                    // It was ended in this very moment, before a byte of the answer. What is asked here may be
                    // asked twice, as any GET.
                    Err(Broken::Unanswered(_)) => drop(self.seen.repeated.fetch_add(1, Relaxed)),
                    Err(Broken::Within(error)) => return Err(error),
                }
            }
            self.seen.replaced.fetch_add(1, Relaxed);
        }
        let mut line = Line::open(self.entry).await?;
        line.exchange().await.map_err(Broken::into_error)?;
        if self.keeps {
            self.kept = Some(line)
        } else {
            line.close().await?
        }
        Ok(())
    }
}

/// One connection.
struct Line(TcpStream);

/// Why there is no answer.
enum Broken {
    Unanswered(io::Error),
    Within(anyhow::Error),
}

impl Broken {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unanswered(error) => anyhow::Error::new(error).context("no answer"),
            Self::Within(error) => error,
        }
    }
}

impl Line {
    async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Whether the other side has ended it since the last answer.
    fn has_ended(&self) -> bool {
        !matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    async fn exchange(&mut self) -> Result<(), Broken> {
        let mut answer = [0; MESSAGE];
        let request = application::request(MESSAGE, MESSAGE as u64);
        self.0.write_all(&request).await.map_err(Broken::Unanswered)?;
        let first = self.0.read(&mut answer).await.map_err(Broken::Unanswered)?;
        if first == 0 {
            return Err(Broken::Unanswered(ErrorKind::UnexpectedEof.into()));
        }
        let rest = answer.get_mut(first..).unwrap_or_default();
        match self.0.read_exact(rest).await.context("in the middle of an answer") {
            Ok(_) => Ok(()),
            Err(error) => Err(Broken::Within(error)),
        }
    }

    async fn close(mut self) -> Result<()> {
        self.0.shutdown().await.context("closing a connection")?;
        let more = self.0.read(&mut [0]).await.context("waiting for the other side to close")?;
        ensure!(more == 0, "bytes after the answer");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Ends each connection after so many answers, in good order or in the middle of one.
    async fn server(answers: usize, whole: bool) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    for number in 1..=answers {
                        if stream.read_exact(&mut [0; MESSAGE]).await.is_err() {
                            return;
                        }
                        let cut = number == answers && !whole;
                        let answer = vec![0; if cut { MESSAGE / 2 } else { MESSAGE }];
                        stream.write_all(&answer).await.unwrap();
                    }
                    let _ = stream.shutdown().await;
                    let _ = stream.read(&mut [0]).await;
                });
            }
        });
        (address, task)
    }

    #[tokio::test]
    async fn an_end_between_two_requests_is_no_failure_and_one_within_an_answer_is() {
        for (whole, failures) in [(true, 0), (false, 1)] {
            let (entry, task) = server(3, whole).await;
            let mut visitor = Visitor { entry, keeps: true, seen: Arc::default(), kept: None };
            let mut failed = 0;
            for _ in 0..3 {
                failed += usize::from(visitor.request().await.is_err());
            }
            assert_eq!(failed, failures);
            visitor.request().await.unwrap();
            let replaced = visitor.seen.replaced.load(Relaxed);
            assert_eq!(replaced, u64::from(whole), "after a failure there is nothing to replace");
            task.abort();
        }
    }
}
