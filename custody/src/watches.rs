//! Which watches are open: one for each kind, one for our Secrets in each namespace with objects, grants, and
//! RoleBindings that say where the controller may be. Those of names that objects refer to are the reader's.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{core::v1 as core, rbac::v1::RoleBinding};
use kube::{Api, Client, api::DynamicObject, core::PartialObjectMeta, runtime::watcher};
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};
use trellis_api::{
    crypto::{ACCESS_LABEL, ACCESS_SECRETS, KIND_LABEL, Kind},
    gateway::ReferenceGrant,
};

use crate::{
    content::Content,
    id::Group,
    kept::{Holder, Kept},
    marks::Marks,
    names::{Answer, Place, Reading},
    object::Object,
    watch::{Seen, follow},
};

/// What a watch has seen.
pub(crate) enum Notice {
    Objects(Group, Kind, Seen<Object>),
    /// Our Secrets of a namespace; of one that is somebody else's now, only its name.
    Secrets(String, Seen<(String, Option<Kept>)>),
    /// Names and versions of everything at a place.
    Names(Place, Seen<(String, String)>),
    Read(Reading, Answer),
    Grants(Seen<ReferenceGrant>),
    /// The namespace of a RoleBinding that came, changed or went.
    Access(Seen<String>),
}

pub(crate) struct Watches {
    client: Client,
    marks: Marks,
    notices: mpsc::Sender<Notice>,
    /// Ends all of them when it is dropped.
    tasks: JoinSet<()>,
    namespaces: HashMap<String, Open>,
}

/// A watch that is open.
pub(crate) struct Open {
    pub task: AbortHandle,
    pub nudge: Arc<Notify>,
}

impl Watches {
    /// Begins those that are open for all the time.
    pub fn begin(client: Client, marks: Marks, groups: &[Group], notices: mpsc::Sender<Notice>) -> Self {
        let mut watches = Self { client, marks, notices, tasks: JoinSet::new(), namespaces: HashMap::new() };
        for group in groups {
            for kind in Kind::ALL {
                let api =
                    Api::<DynamicObject>::all_with(watches.client.clone(), &kind.resource(group.as_str()));
                let (group, notices) = (*group, watches.notices.clone());
                let read = move |object| Object::of(group, kind, &object);
                let notice = move |seen| Notice::Objects(group, kind, seen);
                watches.tasks.spawn(follow(api, any(), Arc::default(), read, notice, notices));
            }
        }
        let grants = Api::<ReferenceGrant>::all(watches.client.clone());
        let read = |mut grant: ReferenceGrant| {
            grant.metadata.managed_fields = None;
            Some(grant)
        };
        watches.tasks.spawn(follow(
            grants,
            any(),
            Arc::default(),
            read,
            Notice::Grants,
            watches.notices.clone(),
        ));
        let bindings = Api::<PartialObjectMeta<RoleBinding>>::all(watches.client.clone());
        let ours = any().labels(&format!("{ACCESS_LABEL}={ACCESS_SECRETS}"));
        let read = |binding: PartialObjectMeta<RoleBinding>| binding.metadata.namespace;
        watches.tasks.spawn(follow(
            bindings,
            ours,
            Arc::default(),
            read,
            Notice::Access,
            watches.notices.clone(),
        ));
        watches
    }

    /// Namespaces with objects are watched, and no others. Says which ones are not any more.
    pub fn keep_namespaces(&mut self, wanted: &HashSet<String>) -> Vec<String> {
        let left: Vec<String> =
            self.namespaces.keys().filter(|known| !wanted.contains(*known)).cloned().collect();
        for namespace in &left {
            if let Some(open) = self.namespaces.remove(namespace) {
                open.task.abort();
            }
        }
        for namespace in wanted {
            if self.namespaces.contains_key(namespace) {
                continue;
            }
            let api = Api::<core::Secret>::namespaced(self.client.clone(), namespace);
            let (nudge, marks, at) = (Arc::<Notify>::default(), self.marks.clone(), namespace.clone());
            let read = move |secret| read_kept(secret, &marks);
            let notice = move |seen| Notice::Secrets(at.clone(), seen);
            let task =
                follow(api, any().labels(KIND_LABEL), nudge.clone(), read, notice, self.notices.clone());
            let task = self.tasks.spawn(task);
            self.namespaces.insert(namespace.clone(), Open { task, nudge });
        }
        left
    }

    /// Rights of a namespace have changed: what could not be looked at is looked at again.
    pub fn nudge(&self, namespace: &str) {
        if let Some(open) = self.namespaces.get(namespace) {
            open.nudge.notify_one();
        }
    }

    /// Lets go of tasks that have ended.
    pub fn tidy(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }
}

fn any() -> watcher::Config {
    watcher::Config::default()
}

/// A Secret that says it is ours, by the object that owns it.
fn read_kept(secret: core::Secret, marks: &Marks) -> Option<(String, Option<Kept>)> {
    let name = secret.metadata.name.clone()?;
    match Holder::of(&secret.metadata) {
        Holder::Object(uid) => {
            let kept = Kept::of(secret, &uid, marks).map(|(kept, _)| kept);
            Some((name, kept))
        }
        Holder::Given(_) | Holder::Foreign => {
            let mut secret = secret;
            drop(Content::take(&mut secret));
            Some((name, None))
        }
    }
}
