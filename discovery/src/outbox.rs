//! What one proxy has asked about and has yet to be told. It holds at most one answer per subject,
//! the newest, so a proxy that reads slowly is behind by a few answers and never by a history.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use thiserror::Error;

use crate::{answer::Answer, subject::Subject};

/// Subjects that one stream may be subscribed to at a time.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;

#[derive(Debug, Default)]
pub struct Outbox {
    /// Each subscription with the answer that waits to be sent.
    subscribed: HashMap<Subject, Option<Arc<Answer>>>,
    /// Those with an answer waiting, oldest first.
    queue: VecDeque<Subject>,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "subscribe: this stream already has {MAX_SUBSCRIPTIONS} subjects, the most there may be; \
     unsubscribe those that are no longer used"
)]
pub struct Full;

impl Outbox {
    /// Whether the subject is new to this proxy.
    pub fn subscribe(&mut self, subject: Subject) -> Result<bool, Full> {
        let full = self.subscribed.len() >= MAX_SUBSCRIPTIONS;
        match self.subscribed.entry(subject) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(_) if full => Err(Full),
            Entry::Vacant(entry) => {
                entry.insert(None);
                Ok(true)
            }
        }
    }

    /// Whether the subject was subscribed.
    pub fn unsubscribe(&mut self, subject: &Subject) -> bool {
        match self.subscribed.remove(subject) {
            Some(Some(_)) => {
                self.queue.retain(|waiting| waiting != subject);
                true
            }
            Some(None) => true,
            None => false,
        }
    }

    /// Leaves an answer to be sent, in the place of an older one that still waits.
    pub fn push(&mut self, subject: &Subject, answer: Arc<Answer>) {
        if let Some(waiting) = self.subscribed.get_mut(subject)
            && waiting.replace(answer).is_none()
        {
            self.queue.push_back(subject.clone());
        }
    }

    pub fn pop(&mut self) -> Option<(Subject, Arc<Answer>)> {
        while let Some(subject) = self.queue.pop_front() {
            if let Some(answer) = self.subscribed.get_mut(&subject).and_then(Option::take) {
                return Some((subject, answer));
            }
        }
        None
    }

    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = Subject> {
        self.subscribed.keys().cloned()
    }
}

#[cfg(test)]
mod tests {
    use trellis_api::proto::discovery::Protocol;

    use super::*;
    use crate::{answer::Service, destination::Destination, name::Name};

    fn destination(port: u16) -> Subject {
        Destination::new([10, 0, 0, 1].into(), port).into()
    }

    fn service(name: &str) -> Arc<Answer> {
        Arc::new(Answer::Service(Service {
            name: Name::new("shop", name),
            port: 80,
            protocol: Protocol::Detect,
            endpoints: [].into(),
            routes: None,
            tls: None,
        }))
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_one_that_was_not_sent() {
        let mut outbox = Outbox::default();
        for port in [1, 2] {
            assert_eq!(outbox.subscribe(destination(port)), Ok(true));
        }
        for round in 0..1_000 {
            outbox.push(&destination(1), service(&format!("one-{round}")));
            outbox.push(&destination(2), service("two"));
        }
        assert_eq!(outbox.queue.len(), 2);
        assert_eq!(outbox.pop(), Some((destination(1), service("one-999"))));
        assert_eq!(outbox.pop(), Some((destination(2), service("two"))));
        assert_eq!(outbox.pop(), None);
        outbox.push(&destination(2), service("later"));
        assert_eq!(outbox.pop(), Some((destination(2), service("later"))));
    }

    #[test]
    fn what_is_no_longer_subscribed_is_not_sent() {
        let mut outbox = Outbox::default();
        outbox.push(&destination(1), service("never asked for"));
        for _ in 0..1_000 {
            outbox.subscribe(destination(1)).unwrap();
            outbox.push(&destination(1), service("web"));
            assert!(outbox.unsubscribe(&destination(1)));
        }
        assert!(outbox.queue.is_empty());
        assert!(!outbox.unsubscribe(&destination(1)));
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn subscriptions_are_bounded() {
        let mut outbox = Outbox::default();
        for port in 1..=MAX_SUBSCRIPTIONS as u16 {
            assert_eq!(outbox.subscribe(destination(port)), Ok(true));
        }
        assert_eq!(outbox.subscribe(destination(20_000)), Err(Full));
        assert_eq!(outbox.subscribe(destination(1)), Ok(false));
        outbox.unsubscribe(&destination(1));
        assert_eq!(outbox.subscribe(destination(20_000)), Ok(true));
    }
}
