//! Requests at a fixed rate, however long their answers take: clients that know nothing of one another do not
//! wait for one another either.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time,
};

use crate::{stage::Error, wire::Wire};

/// Requests in a second.
pub const RATE: u32 = 500;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(15);
const KEPT: &str = "GET /kept HTTP/1.1\r\nhost: web\r\n\r\n";
const FRESH: &str = "GET /fresh HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// Load that goes on until it is ended.
pub struct Load {
    task: JoinHandle<Vec<String>>,
    again: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    answered: watch::Receiver<usize>,
}

/// What became of it.
pub struct Answered {
    pub requests: usize,
    /// Requests that were said again because the connection that was kept for them had ended.
    pub again: usize,
}

impl Load {
    /// Half of the requests on connections that are kept, half on new ones, which are made to where `to` says.
    pub fn start(to: impl FnMut() -> SocketAddr + Send + 'static) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (answers, answered) = watch::channel(0);
        let again = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run(to, stopped, answers, again.clone()));
        Self { task, again, stop, answered }
    }

    /// Waits until so many more requests have been answered.
    pub async fn goes_on(&mut self, for_requests: usize) -> Result<(), Error> {
        let wanted = *self.answered.borrow() + for_requests;
        let reached = self.answered.wait_for(|answered| *answered >= wanted);
        time::timeout(4 * PATIENCE, reached).await.map_err(|_| "requests are not answered any more")??;
        Ok(())
    }

    /// Ends it. An error where a request was not answered.
    pub async fn end(self) -> Result<Answered, Error> {
        self.stop.send_replace(true);
        let failures = self.task.await?;
        let answered = *self.answered.borrow();
        match failures.first() {
            None => Ok(Answered { requests: answered, again: self.again.load(Relaxed) }),
            Some(first) => {
                Err(format!("{} failed, {answered} answered; the first: {first}", failures.len()).into())
            }
        }
    }
}

async fn run(
    mut to: impl FnMut() -> SocketAddr,
    stopped: watch::Receiver<bool>,
    answers: watch::Sender<usize>,
    again: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut tick = time::interval(Duration::from_secs(1) / RATE);
    let idle: Arc<Mutex<Vec<Wire>>> = Arc::default();
    let (mut under_way, mut failures) = (JoinSet::new(), Vec::new());
    let mut fresh = false;
    while !*stopped.borrow() {
        tick.tick().await;
        fresh = !fresh;
        let (to, idle, again, fresh) = (to(), idle.clone(), again.clone(), fresh);
        under_way.spawn(async move {
            match time::timeout(PATIENCE, one(to, &idle, &again, fresh)).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            }
        });
        while let Some(done) = under_way.try_join_next() {
            count(done, &answers, &mut failures);
        }
    }
    while let Some(done) = under_way.join_next().await {
        count(done, &answers, &mut failures);
    }
    failures
}

fn count(
    done: Result<Result<(), String>, tokio::task::JoinError>,
    answers: &watch::Sender<usize>,
    failures: &mut Vec<String>,
) {
    match done {
        Ok(Ok(())) => answers.send_modify(|answered| *answered += 1),
        Ok(Err(error)) => failures.push(error),
        Err(error) => failures.push(error.to_string()),
    }
}

async fn one(to: SocketAddr, idle: &Mutex<Vec<Wire>>, again: &AtomicUsize, fresh: bool) -> Result<(), Error> {
    let request = if fresh { FRESH } else { KEPT };
    let taken = if fresh { None } else { idle.lock().pop() };
    let asked = match taken {
        None => None,
        Some(mut wire) => match wire.ask(request).await {
            Ok(asked) => Some((wire, asked)),
            // Whoever keeps a connection cannot know whether the other side is about to end it.
            Err(_) => {
                again.fetch_add(1, Relaxed);
                None
            }
        },
    };
    let (wire, (head, body)) = match asked {
        Some(asked) => asked,
        None => {
            let mut wire = Wire::new(TcpStream::connect(to).await?);
            let asked = wire.ask(request).await?;
            (wire, asked)
        }
    };
    if head.status() != 200 {
        return Err(format!("{}: {:?}, {}", head.first, head.headers, String::from_utf8_lossy(&body)).into());
    }
    if !fresh && head.get("connection").is_none() {
        idle.lock().push(wire);
    }
    Ok(())
}
