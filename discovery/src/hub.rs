//! Where changes meet those that asked: the state, what is subscribed, and the last answer to each. An
//! answer is worked out once per change, however many proxies wait for it, and one that says the same as
//! before is not sent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    answer::Answer,
    destination::Destination,
    outbox::{Full, Outbox},
    state::{Counts, Event, State, Touched},
};

#[derive(Debug, Default)]
pub struct Hub(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    synced: Synced,
    watched: BTreeMap<Destination, Watched>,
    sessions: usize,
    subscriptions: usize,
    last_session: u64,
}

/// Which kinds have been seen whole.
#[derive(Debug, Default)]
struct Synced {
    services: bool,
    slices: bool,
    pods: bool,
}

#[derive(Debug)]
struct Watched {
    answer: Arc<Answer>,
    boxes: HashMap<u64, Arc<Mailbox>>,
}

#[derive(Debug, Default)]
struct Mailbox {
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub objects: Counts,
    pub sessions: usize,
    pub subscriptions: usize,
}

impl Hub {
    /// Applies changes that came together, then tells those whom they concern.
    pub fn apply(&self, events: impl IntoIterator<Item = Event>) {
        let mut inner = self.0.lock();
        let mut touched = Touched::new();
        for event in events {
            inner.synced.saw(&event);
            inner.state.apply(event, &mut touched);
        }
        inner.publish(&touched);
    }

    /// The kinds that have not been seen whole yet. Until there are none, "unknown" may mean "not yet".
    pub fn missing(&self) -> Vec<&'static str> {
        let synced = &self.0.lock().synced;
        let all = [(synced.services, "Service"), (synced.slices, "EndpointSlice"), (synced.pods, "Pod")];
        all.into_iter().filter(|(seen, _)| !seen).map(|(_, kind)| kind).collect()
    }

    pub fn figures(&self) -> Figures {
        let inner = self.0.lock();
        Figures {
            objects: inner.state.counts(),
            sessions: inner.sessions,
            subscriptions: inner.subscriptions,
        }
    }

    pub fn join(self: &Arc<Self>) -> Session {
        let mut inner = self.0.lock();
        inner.sessions += 1;
        inner.last_session += 1;
        Session { hub: self.clone(), id: inner.last_session, mailbox: Arc::default() }
    }
}

impl Session {
    /// Asks about a destination; the answer of the moment is sent also to one who asks again.
    pub fn subscribe(&self, destination: Destination) -> Result<(), Full> {
        let mut inner = self.hub.0.lock();
        let Inner { state, watched, subscriptions, .. } = &mut *inner;
        if self.mailbox.outbox.lock().subscribe(destination)? {
            *subscriptions += 1;
        }
        let watched = watched.entry(destination).or_insert_with(|| Watched {
            answer: Arc::new(state.lookup(destination)),
            boxes: HashMap::new(),
        });
        watched.boxes.insert(self.id, self.mailbox.clone());
        self.mailbox.push(destination, &watched.answer);
        Ok(())
    }

    pub fn unsubscribe(&self, destination: Destination) {
        let mut inner = self.hub.0.lock();
        if self.mailbox.outbox.lock().unsubscribe(destination) {
            inner.forget(self.id, destination);
        }
    }

    /// The next answer to send, once there is one. Nothing is lost when the wait is given up.
    pub async fn next(&self) -> (Destination, Arc<Answer>) {
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
        let mut inner = self.hub.0.lock();
        let subscriptions: Vec<_> = self.mailbox.outbox.lock().subscriptions().collect();
        for destination in subscriptions {
            inner.forget(self.id, destination);
        }
        inner.sessions -= 1;
    }
}

impl Inner {
    fn publish(&mut self, touched: &Touched) {
        for address in touched {
            let from = Destination { address: *address, port: 0 };
            let to = Destination { address: *address, port: u16::MAX };
            for (destination, watched) in self.watched.range_mut(from..=to) {
                let answer = self.state.lookup(*destination);
                if answer != *watched.answer {
                    watched.answer = Arc::new(answer);
                    for mailbox in watched.boxes.values() {
                        mailbox.push(*destination, &watched.answer);
                    }
                }
            }
        }
    }

    fn forget(&mut self, session: u64, destination: Destination) {
        self.subscriptions -= 1;
        if let Some(watched) = self.watched.get_mut(&destination) {
            watched.boxes.remove(&session);
            if watched.boxes.is_empty() {
                self.watched.remove(&destination);
            }
        }
    }
}

impl Synced {
    fn saw(&mut self, event: &Event) {
        use trellis_api::source::Change::Reset;
        match event {
            Event::Services(Reset(_)) => self.services = true,
            Event::Slices(Reset(_)) => self.slices = true,
            Event::Pods(Reset(_)) => self.pods = true,
            Event::Services(_) | Event::Slices(_) | Event::Pods(_) => {}
        }
    }
}

impl Mailbox {
    fn push(&self, destination: Destination, answer: &Arc<Answer>) {
        self.outbox.lock().push(destination, answer.clone());
        self.filled.notify_one();
    }
}
