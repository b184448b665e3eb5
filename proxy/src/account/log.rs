//! The access log: one line each, written by a thread of its own, so that who reads slowly delays no
//! request. What does not fit is dropped and counted.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use trellis_api::{
    access::{Entry, line},
    annotations::AccessLog,
};
use trellis_telemetry::{Counter, Registry};

/// Lines that wait.
const QUEUE: usize = 2_048;
/// How long the last lines may take at the end of the process.
const LAST: Duration = Duration::from_secs(1);

pub struct Log {
    errors_only: bool,
    queue: SyncSender<Message>,
    full: Counter,
}

enum Message {
    Entry(Arc<Entry>),
    /// Everything before it is written.
    Finish(oneshot::Sender<()>),
}

impl Log {
    /// Nothing where none is wanted.
    pub fn start(
        wanted: AccessLog,
        output: impl Write + Send + 'static,
        registry: &Registry,
    ) -> io::Result<Option<Self>> {
        let errors_only = match wanted {
            AccessLog::Disabled => return Ok(None),
            AccessLog::Errors => true,
            AccessLog::Enabled => false,
        };
        let dropped = registry.counter(
            "trellis_access_log_dropped_total",
            "Lines of the access log that were not written, by reason.",
        );
        let (full, failed) =
            (dropped.with(&[("reason", "full")]), dropped.with(&[("reason", "write_failed")]));
        let (queue, messages) = sync_channel(QUEUE);
        thread::Builder::new().name("access-log".into()).spawn(move || write(&messages, output, &failed))?;
        Ok(Some(Self { errors_only, queue, full }))
    }

    pub fn offer(&self, entry: &Arc<Entry>) {
        if self.errors_only && !entry.failed() {
            return;
        }
        if self.queue.try_send(Message::Entry(entry.clone())).is_err() {
            self.full.inc();
        }
    }

    /// Waits until what was said so far is written, for a second at most.
    pub async fn finish(&self) {
        let written = async {
            let (done, written) = oneshot::channel();
            let mut message = Message::Finish(done);
            while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
                message = back;
                sleep(Duration::from_millis(10)).await;
            }
            // A thread that has ended writes nothing more.
            let _ = written.await;
        };
        if timeout(LAST, written).await.is_err() {
            tracing::warn!("the last lines of the access log were not written in time");
        }
    }
}

/// Lines that come together leave together.
fn write(messages: &Receiver<Message>, output: impl Write, failed: &Counter) {
    let mut output = BufWriter::new(output);
    while let Ok(first) = messages.recv() {
        let mut lines = 0;
        let mut broke = false;
        let mut next = Some(first);
        let mut finished = Vec::new();
        while let Some(message) = next {
            match message {
                Message::Entry(entry) => {
                    lines += 1;
                    broke |= line(&*entry)
                        .map_err(io::Error::other)
                        .and_then(|line| writeln!(output, "{line}"))
                        .is_err();
                }
                Message::Finish(done) => finished.push(done),
            }
            // What could fill the buffer for ever must not keep it from being written.
            next = if lines < QUEUE as u64 { messages.try_recv().ok() } else { None };
        }
        if output.flush().is_err() || broke {
            failed.add(lines);
        }
        for done in finished {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use trellis_api::access::{Direction, Kind};
    use trellis_pki::clock::SystemClock;

    use super::*;
    use crate::account::Audience;

    /// Takes a byte only when it may, and hands on what it took.
    struct Slow(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(data.to_vec()).map_err(io::Error::other)?;
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn entry(status: u16) -> Arc<Entry> {
        let audience = Audience::new("shop/web-0".into(), Arc::new(SystemClock), None);
        let entry = audience.entry(Kind::Request, Direction::Outbound, std::time::UNIX_EPOCH);
        Arc::new(Entry { status: Some(status), ..entry })
    }

    fn dropped(registry: &Registry, reason: &str) -> u64 {
        registry.counter("trellis_access_log_dropped_total", "").with(&[("reason", reason)]).get()
    }

    #[test]
    fn nobody_waits_for_who_reads_slowly_and_what_is_dropped_is_counted() {
        let (may, allowed) = std::sync::mpsc::channel();
        let (taken, took) = std::sync::mpsc::channel();
        let registry = Registry::new();
        let log = Log::start(AccessLog::Enabled, Slow(allowed, taken), &registry).unwrap().unwrap();
        // What the thread has taken by then is a part of it, and no more than it takes at once.
        for _ in 0..3 * QUEUE {
            log.offer(&entry(200));
        }
        let lost = usize::try_from(dropped(&registry, "full")).unwrap();
        assert!((QUEUE - 1..=2 * QUEUE).contains(&lost), "{lost}");
        (0..3 * QUEUE).for_each(|_| may.send(()).unwrap());
        drop(log);
        let written: Vec<u8> = took.iter().flatten().collect();
        let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert_eq!(lines.count() + lost, 3 * QUEUE);
    }

    #[test]
    fn who_wants_errors_gets_no_others() {
        let (may, allowed) = std::sync::mpsc::channel();
        let (taken, took) = std::sync::mpsc::channel();
        let registry = Registry::new();
        let log = Log::start(AccessLog::Errors, Slow(allowed, taken), &registry).unwrap().unwrap();
        for status in [200, 503, 404] {
            log.offer(&entry(status));
        }
        (0..9).for_each(|_| may.send(()).unwrap());
        drop(log);
        let written: Vec<u8> = took.iter().flatten().collect();
        let read: Entry = serde_json::from_slice(&written).unwrap();
        assert_eq!((read.status, read.time.as_str()), (Some(503), "1970-01-01T00:00:00.000Z"));
        assert!(Log::start(AccessLog::Disabled, io::sink(), &registry).unwrap().is_none());
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (may, allowed) = std::sync::mpsc::channel::<()>();
        let (taken, _) = std::sync::mpsc::channel();
        drop(may);
        let registry = Registry::new();
        let log = Log::start(AccessLog::Enabled, Slow(allowed, taken), &registry).unwrap().unwrap();
        log.offer(&entry(200));
        let (done, written) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            log.finish().await;
            done.send(()).unwrap();
        });
        written.recv().unwrap();
        assert_eq!(dropped(&registry, "write_failed"), 1);
    }
}
