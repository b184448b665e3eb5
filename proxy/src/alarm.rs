//! Long waits. The runtime beside the workers keeps them: a worker that has none of its own sleeps until something
//! comes, and sets the kernel no alarm that it takes back with every message.

use std::{io, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    time,
};

/// Runs what is beside the workers, on the calling thread. Its runtime stays until the process ends: connections that
/// outlived a drain still wait for its alarms.
pub fn run<T>(life: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(life);
    std::mem::forget(runtime);
    Ok(done)
}

/// Of the runtime that it was made in.
#[derive(Clone)]
pub struct Alarms(Handle);

impl Alarms {
    pub fn here() -> Self {
        Self(Handle::current())
    }

    pub fn sleep(&self, duration: Duration) -> time::Sleep {
        let _within = self.0.enter();
        time::sleep(duration)
    }

    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> time::Timeout<F> {
        let _within = self.0.enter();
        time::timeout(duration, future)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    fn worker<T>(work: impl Future<Output = T>) -> T {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn an_alarm_rings_where_it_is_waited_for() {
        let (lend, lent) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let beside =
            thread::spawn(move || run(async move { (lend.send(Alarms::here()).is_ok(), ended.await) }));
        worker(async {
            let alarms = lent.await.unwrap();
            alarms.sleep(Duration::from_millis(1)).await;
            let never = std::future::pending::<()>();
            assert!(alarms.timeout(Duration::from_millis(1), never).await.is_err());
        });
        end.send(()).unwrap();
        assert_eq!(beside.join().unwrap().unwrap(), (true, Ok(())));
    }

    #[test]
    fn whoever_outlives_it_may_still_wait() {
        let alarms = run(async { Alarms::here() }).unwrap();
        worker(async {
            let hour = alarms.sleep(Duration::from_secs(3_600));
            assert!(time::timeout(Duration::from_millis(1), hour).await.is_err());
        });
    }
}
