//! Requests at a fixed rate, however long their answers take: clients that know nothing of one another do not
//! wait for one another either.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    stop: watch::Sender<bool>,
    answered: watch::Receiver<usize>,
}

impl Load {
    /// Half of the requests on connections that are kept, half on new ones.
    pub fn start(to: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (answers, answered) = watch::channel(0);
        let task = tokio::spawn(run(to, stopped, answers));
        Self { task, stop, answered }
    }

    /// Waits until so many more requests have been answered.
    pub async fn goes_on(&mut self, for_requests: usize) -> Result<(), Error> {
        let wanted = *self.answered.borrow() + for_requests;
        let reached = self.answered.wait_for(|answered| *answered >= wanted);
        time::timeout(4 * PATIENCE, reached).await.map_err(|_| "requests are not answered any more")??;
        Ok(())
    }

    /// Ends it. Says how many were answered; an error where one was not.
    pub async fn end(self) -> Result<usize, Error> {
        self.stop.send_replace(true);
        let failures = self.task.await?;
        let answered = *self.answered.borrow();
        match failures.first() {
            None => Ok(answered),
            Some(first) => {
                Err(format!("{} failed, {answered} answered; the first: {first}", failures.len()).into())
            }
        }
    }
}

async fn run(to: SocketAddr, stopped: watch::Receiver<bool>, answers: watch::Sender<usize>) -> Vec<String> {
    let mut tick = time::interval(Duration::from_secs(1) / RATE);
    let idle: Arc<Mutex<Vec<Wire>>> = Arc::default();
    let (mut under_way, mut failures) = (JoinSet::new(), Vec::new());
    let mut fresh = false;
    while !*stopped.borrow() {
        tick.tick().await;
        fresh = !fresh;
        let (idle, fresh) = (idle.clone(), fresh);
        under_way.spawn(async move {
            match time::timeout(PATIENCE, one(to, &idle, fresh)).await {
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

async fn one(to: SocketAddr, idle: &Mutex<Vec<Wire>>, fresh: bool) -> Result<(), Error> {
    let kept = || idle.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = if fresh { None } else { kept().pop() };
    let mut wire = match taken {
        Some(wire) => wire,
        None => Wire::new(TcpStream::connect(to).await?),
    };
    let (head, body) = wire.ask(if fresh { FRESH } else { KEPT }).await?;
    if head.status() != 200 {
        return Err(format!("{}: {:?}, {}", head.first, head.headers, String::from_utf8_lossy(&body)).into());
    }
    if !fresh && head.get("connection").is_none() {
        kept().push(wire);
    }
    Ok(())
}
