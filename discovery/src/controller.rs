//! What one replica of discovery does for all: it writes the statuses of objects of Gateway API and makes
//! what gateways consist of. The others stand by, and all answer proxies all the same.

mod statuses;
mod workloads;

use std::{fmt::Display, sync::Arc};

use futures::{StreamExt, stream};
use kube::Client;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until},
};
use trellis_election::Role;
use trellis_pki::clock::Clock;
use trellis_telemetry::shutdown::{Shutdown, requested};

pub use self::{statuses::now, workloads::Blueprint};
use crate::hub::Hub;

/// Writes under way at once.
const CONCURRENCY: usize = 4;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// What somebody else has changed is put right after this long at the latest.
const REPAIR: Duration = Duration::from_secs(300);
const MANAGER: &str = "trellis-discovery";

pub struct Controller {
    pub client: Client,
    pub hub: Arc<Hub>,
    pub clock: Arc<dyn Clock>,
    pub roles: watch::Receiver<Role>,
    /// How gateways are made; none are, where nobody says it.
    pub blueprint: Option<Blueprint>,
}

impl Controller {
    /// Works while this replica leads, until the process stops.
    pub async fn run(mut self, shutdown: Shutdown) {
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let mut workloads = workloads::Workloads::default();
        let mut delay = FIRST_DELAY;
        let mut led = false;
        loop {
            let leads = matches!(*self.roles.borrow_and_update(), Role::Leader { .. });
            if leads && !led {
                // Whoever led before may have left anything.
                self.hub.suspect_statuses();
                workloads.forget();
            }
            led = leads;
            let mut done = true;
            if leads && self.hub.missing().is_empty() {
                if let Some(blueprint) = &self.blueprint {
                    done &= workloads.make(&self.client, &self.hub, blueprint).await;
                }
                done &= statuses::write(&self.client, &self.hub, &self.clock).await;
            }
            delay = if done { FIRST_DELAY } else { (delay * 2).min(LONGEST_DELAY) };
            let again = Instant::now() + if done { REPAIR } else { delay };
            tokio::select! {
                () = &mut stop => return,
                () = self.hub.to_do() => {}
                changed = self.roles.changed() => if changed.is_err() { return },
                () = sleep_until(again) => workloads.forget_if(done),
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Does it for each, a few at a time, and tells which could not be done.
async fn each<T, F, E>(all: Vec<T>, what: &str, act: impl Fn(T) -> F) -> bool
where
    F: Future<Output = (String, Result<(), E>)>,
    E: Display,
{
    let results: Vec<_> = stream::iter(all).map(act).buffer_unordered(CONCURRENCY).collect().await;
    let mut done = true;
    for (object, result) in results {
        if let Err(error) = result {
            tracing::warn!(object, %error, "cannot {what}; trying again");
            done = false;
        }
    }
    done
}
