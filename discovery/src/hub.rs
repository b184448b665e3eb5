//! Where changes meet those that asked: the state, what is subscribed, and the last answer to each. An
//! answer is worked out once per change, however many proxies wait for it, and one that says the same as
//! before is not sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    answer::{Answer, Concerns},
    destination::Destination,
    event::Event,
    gateway::{
        serving::{Gateway, Serving},
        status::{Object, board::Due},
        vault::Drawer,
    },
    name::Name,
    outbox::{Full, Outbox},
    state::{State, Touched},
    subject::{Backend, Subject},
    viewer::Viewer,
};

#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// Wakes the controller.
    to_do: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// The kinds that have been seen whole.
    seen: BTreeSet<&'static str>,
    /// That there was a moment at which everything had been seen.
    complete: bool,
    watched: BTreeMap<Subject, Watched>,
    sessions: usize,
    subscriptions: usize,
    last_session: u64,
}

#[derive(Debug)]
struct Watched {
    answer: Arc<Answer>,
    boxes: HashMap<u64, Arc<Mailbox>>,
}

#[derive(Debug)]
struct Mailbox {
    viewer: Viewer,
    outbox: Mutex<Outbox>,
    filled: Notify,
}

/// One proxy's part of the hub; leaving it ends its subscriptions.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    id: u64,
    mailbox: Arc<Mailbox>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many objects of each kind are kept.
    pub objects: Vec<(&'static str, usize)>,
    pub sessions: usize,
    pub subscriptions: usize,
}

impl Hub {
    /// Of a mesh whose own namespace this is.
    pub fn of(system: &str) -> Self {
        let inner = Inner { state: State::of(system), ..Inner::default() };
        Self { inner: Mutex::new(inner), to_do: Notify::new() }
    }

    /// Applies changes that came together, then tells those whom they concern.
    pub fn apply(&self, events: impl IntoIterator<Item = Event>) {
        let mut inner = self.inner.lock();
        let mut touched = Touched::default();
        for event in events {
            if event.is_whole() {
                inner.seen.insert(event.kind());
            }
            inner.state.apply(event, &mut touched);
        }
        if inner.state.settle(&mut touched) {
            self.to_do.notify_one();
        }
        inner.complete |= inner.seen.len() == Event::KINDS.len() && !inner.state.pending();
        inner.publish(&touched);
    }

    /// Secrets and ConfigMaps that are to be watched, by kind and namespace; the same allocation while it is
    /// the same.
    pub fn wanted(&self) -> Arc<BTreeSet<Drawer>> {
        self.inner.lock().state.wanted().clone()
    }

    /// The kinds that have not been seen whole yet. Until there are none, "unknown" may mean "not yet".
    pub fn missing(&self) -> Vec<&'static str> {
        let inner = self.inner.lock();
        let missing: Vec<_> = Event::KINDS.into_iter().filter(|kind| !inner.seen.contains(kind)).collect();
        match missing.is_empty() && !inner.complete {
            true => vec!["Secret and ConfigMap that is referred to"],
            false => missing,
        }
    }

    /// Waits until there may be something to do for the controller.
    pub async fn to_do(&self) {
        self.to_do.notified().await;
    }

    /// Statuses that are to be written. `now` in RFC 3339.
    pub fn due_statuses(&self, now: &str) -> Vec<Due> {
        self.inner.lock().state.due(now)
    }

    /// One could not be written.
    pub fn put_back_status(&self, object: Object) {
        self.inner.lock().state.board().put_back(object);
    }

    /// Any status may be something else than was written last.
    pub fn suspect_statuses(&self) {
        self.inner.lock().state.board().suspect_all();
    }

    /// What every status is to be, by object.
    pub fn statuses(&self, now: &str) -> BTreeMap<String, serde_json::Value> {
        self.inner.lock().state.wanted_statuses(now).into_iter().collect()
    }

    /// The gateways that are ours.
    pub fn gateways(&self) -> Vec<(Name, Gateway, Arc<Serving>)> {
        self.inner.lock().state.served()
    }

    /// Takes in whether what belongs to a gateway could be made.
    pub fn made(&self, gateway: &Name, obstacle: Option<String>) {
        let mut inner = self.inner.lock();
        inner.state.made(gateway, obstacle);
        inner.state.settle(&mut Touched::default());
    }

    pub fn figures(&self) -> Figures {
        let inner = self.inner.lock();
        Figures {
            objects: inner.state.counts(),
            sessions: inner.sessions,
            subscriptions: inner.subscriptions,
        }
    }

    pub fn join(self: &Arc<Self>, viewer: Viewer) -> Session {
        let mut inner = self.inner.lock();
        inner.sessions += 1;
        inner.last_session += 1;
        let mailbox = Mailbox { viewer, outbox: Mutex::default(), filled: Notify::new() };
        Session { hub: self.clone(), id: inner.last_session, mailbox: Arc::new(mailbox) }
    }
}

impl Session {
    pub fn viewer(&self) -> &Viewer {
        &self.mailbox.viewer
    }

    /// Asks about a subject; the answer of the moment is sent also to one who asks again.
    pub fn subscribe(&self, subject: impl Into<Subject>) -> Result<(), Full> {
        let subject = subject.into();
        let mut inner = self.hub.inner.lock();
        let Inner { state, watched, subscriptions, .. } = &mut *inner;
        if self.mailbox.outbox.lock().subscribe(subject.clone())? {
            *subscriptions += 1;
        }
        let watched = watched
            .entry(subject.clone())
            .or_insert_with(|| Watched { answer: Arc::new(state.lookup(&subject)), boxes: HashMap::new() });
        watched.boxes.insert(self.id, self.mailbox.clone());
        self.mailbox.push(&subject, &watched.answer);
        Ok(())
    }

    pub fn unsubscribe(&self, subject: impl Into<Subject>) {
        let subject = subject.into();
        let mut inner = self.hub.inner.lock();
        if self.mailbox.outbox.lock().unsubscribe(&subject) {
            inner.forget(self.id, &subject);
        }
    }

    /// The next answer to send, once there is one. Nothing is lost when the wait is given up.
    pub async fn next(&self) -> (Subject, Arc<Answer>) {
        loop {
            if let Some(next) = self.mailbox.outbox.lock().pop() {
                return next;
            }
            self.mailbox.filled.notified().await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        let subscriptions: Vec<_> = self.mailbox.outbox.lock().subscriptions().collect();
        for subject in subscriptions {
            inner.forget(self.id, &subject);
        }
        inner.sessions -= 1;
    }
}

impl Inner {
    fn publish(&mut self, touched: &Touched) {
        let addresses = touched.addresses.iter().map(|address| {
            let at = |port| Subject::Destination(Destination { address: *address, port });
            at(0)..=at(u16::MAX)
        });
        let services = touched.services.iter().map(|service| {
            let at = |port| Subject::Backend(Backend { service: service.clone(), port });
            at(0)..=at(u16::MAX)
        });
        let gateways = touched.gateways.iter().map(|gateway| {
            let gateway = Subject::Gateway(gateway.clone());
            gateway.clone()..=gateway
        });
        let pods = touched.pods.iter().map(|pod| {
            let pod = Subject::Pod(pod.clone());
            pod.clone()..=pod
        });
        for range in addresses.chain(services).chain(gateways).chain(pods) {
            for (subject, watched) in self.watched.range_mut(range) {
                watched.learn(subject, self.state.lookup(subject));
            }
        }
    }

    fn forget(&mut self, session: u64, subject: &Subject) {
        self.subscriptions -= 1;
        if let Some(watched) = self.watched.get_mut(subject) {
            watched.boxes.remove(&session);
            if watched.boxes.is_empty() {
                self.watched.remove(subject);
            }
        }
    }
}

impl Watched {
    fn learn(&mut self, subject: &Subject, answer: Answer) {
        let concerns = answer.concerns(&self.answer);
        if concerns == Concerns::Nobody {
            return;
        }
        let before = std::mem::replace(&mut self.answer, Arc::new(answer));
        for mailbox in self.boxes.values() {
            if concerns == Concerns::Everybody || !self.answer.says_the_same(&before, &mailbox.viewer) {
                mailbox.push(subject, &self.answer);
            }
        }
    }
}

impl Mailbox {
    fn push(&self, subject: &Subject, answer: &Arc<Answer>) {
        self.outbox.lock().push(subject, answer.clone());
        self.filled.notify_one();
    }
}
