//! Watches that say in plain words what they see, and go on whatever happens to the connection.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

const PAGE_SIZE: u32 = 500;
/// Until what may not be looked at, or is not served, is tried again though nobody says that it may be.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(300),
];

/// What is seen of a set of objects.
#[derive(Debug)]
pub(crate) enum Seen<T> {
    /// All that there are.
    All(Vec<T>),
    Applied(T),
    Gone(T),
    /// They may not be looked at.
    Closed,
    /// The cluster does not have such objects.
    Unknown,
}

/// Follows a set of objects, and says what it sees in the form that `read` gives it, until nobody listens. A
/// nudge makes it look again at once where it could not.
pub(crate) async fn follow<K, T, N>(
    api: Api<K>,
    configuration: watcher::Config,
    nudge: Arc<Notify>,
    read: impl Fn(K) -> Option<T>,
    notice: impl Fn(Seen<T>) -> N,
    notices: mpsc::Sender<N>,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut failures = 0;
    loop {
        let mut events =
            watcher(api.clone(), configuration.clone().page_size(PAGE_SIZE)).default_backoff().boxed();
        let mut listed = Vec::new();
        let ended = loop {
            let seen = match events.next().await {
                None => break None,
                Some(Ok(Event::Init)) => {
                    listed.clear();
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    listed.extend(read(object));
                    continue;
                }
                Some(Ok(Event::InitDone)) => Seen::All(std::mem::take(&mut listed)),
                Some(Ok(Event::Apply(object))) => match read(object) {
                    Some(object) => Seen::Applied(object),
                    None => continue,
                },
                Some(Ok(Event::Delete(object))) => match read(object) {
                    Some(object) => Seen::Gone(object),
                    None => continue,
                },
                Some(Err(error)) => match code(&error) {
                    Some(403) => break Some(Seen::Closed),
                    Some(404) => break Some(Seen::Unknown),
                    _ => {
                        tracing::warn!(%error, path = api.resource_url(), "cannot watch; trying again");
                        continue;
                    }
                },
            };
            failures = 0;
            if notices.send(notice(seen)).await.is_err() {
                return;
            }
        };
        if let Some(seen) = ended
            && notices.send(notice(seen)).await.is_err()
        {
            return;
        }
        let pause = PAUSES.get(failures).or(PAUSES.last()).copied().unwrap_or_default();
        failures += 1;
        tokio::select! {
            () = sleep(pause) => {}
            () = nudge.notified() => failures = 0,
        }
    }
}

/// The HTTP status of the API server's answer, if there was one.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
