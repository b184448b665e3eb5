//! Reads Secrets and ConfigMaps that objects refer to by name. Two watches are open in each namespace with such
//! names, one over the metadata of all its Secrets and one over that of all its ConfigMaps, however many names there
//! are.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client, Resource, api::ObjectMeta, core::PartialObjectMeta, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};
use trellis_api::crypto::MessageKind;

use crate::{
    index::Name,
    names::{Answer, Names, Place, Reading},
    trouble::Trouble,
    vault::Vault,
    view::Named,
    watch::{Seen, follow},
    watches::{Notice, Open},
};

/// For an answer; then it is asked again.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Reader {
    client: Client,
    vault: Vault,
    notices: mpsc::Sender<Notice>,
    /// Ends all of them when it is dropped.
    tasks: JoinSet<()>,
    places: HashMap<Place, Open>,
    names: Names,
}

impl Reader {
    pub fn new(client: Client, vault: Vault, notices: mpsc::Sender<Notice>) -> Self {
        let (tasks, places, names) = (JoinSet::new(), HashMap::new(), Names::default());
        Self { client, vault, notices, tasks, places, names }
    }

    /// Somebody refers to it.
    pub fn begin(&mut self, name: Name) {
        let Some(place) = self.names.begin(name) else { return };
        let (nudge, client) = (Arc::<Notify>::default(), self.client.clone());
        let task = match place.kind {
            MessageKind::Secret => {
                let api = Api::<PartialObjectMeta<core::Secret>>::namespaced(client, &place.namespace);
                self.tasks.spawn(tell_names(api, place.clone(), nudge.clone(), self.notices.clone()))
            }
            MessageKind::ConfigMap => {
                let api = Api::<PartialObjectMeta<core::ConfigMap>>::namespaced(client, &place.namespace);
                self.tasks.spawn(tell_names(api, place.clone(), nudge.clone(), self.notices.clone()))
            }
        };
        self.places.insert(place, Open { task, nudge });
    }

    /// Nobody does any more.
    pub fn end(&mut self, name: &Name) {
        if let Some(open) = self.names.end(name).and_then(|place| self.places.remove(&place)) {
            open.task.abort();
        }
    }

    /// What a watch has told of the names of a place.
    pub fn told(&mut self, place: &Place, seen: Seen<(String, String)>) {
        self.names.told(place, seen);
    }

    pub fn answered(&mut self, reading: Reading, answer: Answer) {
        if let Err(trouble) = &answer {
            let Name { kind, namespace, name } = &reading.name;
            tracing::info!(kind = kind.as_str(), namespace, name, ?trouble, "cannot be read; trying again");
        }
        self.names.answered(reading, answer, Instant::now(), rand::random());
    }

    /// What was found at names since this was asked last.
    pub fn found(&mut self) -> Vec<(Name, Named)> {
        self.names.found()
    }

    /// Reads as many names as may be.
    pub fn read(&mut self) {
        while let Some(reading) = self.names.take(Instant::now()) {
            let (vault, notices) = (self.vault.clone(), self.notices.clone());
            self.tasks.spawn(async move {
                let answer = match timeout(PATIENCE, vault.named(&reading.name)).await {
                    Ok(read) => read.map_err(Trouble::from),
                    Err(_) => Err(Trouble::Busy { asked: None, why: "no answer".to_owned() }),
                };
                // Nobody listens any more where this fails.
                let _ = notices.send(Notice::Read(reading, answer)).await;
            });
        }
    }

    /// When to [`Self::read`] again, though nothing was told.
    pub fn next(&self) -> Option<Instant> {
        self.names.next()
    }

    /// Rights of a namespace have changed: what could not be looked at is looked at again.
    pub fn nudge(&mut self, namespace: &str) {
        self.names.nudge(namespace);
        let places = self.places.iter().filter(|(place, _)| place.namespace == namespace);
        places.for_each(|(_, open)| open.nudge.notify_one());
    }

    /// Lets go of tasks that have ended.
    pub fn tidy(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Tells what is at a place, and which version of it.
async fn tell_names<K>(
    api: Api<PartialObjectMeta<K>>,
    place: Place,
    nudge: Arc<Notify>,
    notices: mpsc::Sender<Notice>,
) where
    K: Send + Sync + 'static,
    PartialObjectMeta<K>: Resource + Clone + Debug + DeserializeOwned,
{
    let read = |object: PartialObjectMeta<K>| {
        let ObjectMeta { name, resource_version, .. } = object.metadata;
        Some((name?, resource_version?))
    };
    let notice = move |seen| Notice::Names(place.clone(), seen);
    follow(api, watcher::Config::default(), nudge, read, notice, notices).await;
}
