//! Who has a stream open. They are bounded in number, and as long as one wants a certificate there is one.

use std::sync::Arc;

use tokio::{sync::watch, time::sleep};
use trellis_telemetry::{Family, Gauge, Registry};

/// Streams that may be open at once: a pod has a handful of containers.
pub const MOST: usize = 64;
/// How long a certificate is kept up to date for callers that may come back.
pub const PAUSE: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Svid,
    Trust,
}

impl Wants {
    pub fn method(self) -> &'static str {
        match self {
            Self::Svid => "FetchX509SVID",
            Self::Trust => "FetchX509Bundles",
        }
    }
}

/// All open streams. Clones count the same.
#[derive(Clone)]
pub struct Callers(Arc<Inner>);

struct Inner {
    open: watch::Sender<Open>,
    gauge: Family<Gauge>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    svid: usize,
    trust: usize,
}

/// One stream, for as long as it is open.
pub struct Caller(Callers, Wants);

impl Callers {
    pub fn new(registry: &Registry) -> Self {
        let gauge = registry
            .gauge("trellis_workload_api_callers", "Streams of the workload API that are open, by method.");
        Self(Arc::new(Inner { open: watch::Sender::default(), gauge }))
    }

    /// None where there are too many.
    pub fn enter(&self, wants: Wants) -> Option<Caller> {
        let entered = self.0.open.send_if_modified(|open| {
            let room = open.svid + open.trust < MOST;
            if room {
                *open.of(wants) += 1;
            }
            room
        });
        entered.then(|| {
            self.show(wants);
            Caller(self.clone(), wants)
        })
    }

    /// Resolves when somebody wants a certificate.
    pub async fn wanted(&self) {
        // The sender is in here as well.
        let _ = self.0.open.subscribe().wait_for(|open| open.svid > 0).await;
    }

    /// Resolves when for a while nobody has wanted one.
    pub async fn forsaken(&self) {
        let mut open = self.0.open.subscribe();
        loop {
            let _ = open.wait_for(|open| open.svid == 0).await;
            tokio::select! {
                biased;
                _ = open.wait_for(|open| open.svid > 0) => {}
                () = sleep(PAUSE) => return,
            }
        }
    }

    fn show(&self, wants: Wants) {
        let count = *self.0.open.borrow().clone().of(wants);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.0.gauge.with(&[("method", wants.method())]).set(count.into());
    }
}

impl Open {
    fn of(&mut self, wants: Wants) -> &mut usize {
        match wants {
            Wants::Svid => &mut self.svid,
            Wants::Trust => &mut self.trust,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let Self(callers, wants) = self;
        callers.0.open.send_modify(|open| {
            let count = open.of(*wants);
            *count = count.saturating_sub(1);
        });
        callers.show(*wants);
    }
}
