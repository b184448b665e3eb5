//! Which objects or names are to be looked at, and when: each at most once at a time and once in the queue, and
//! again after a while where that failed. It is told the time.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For somebody else's write that came in between; longer each time in a row.
const SOON: Duration = Duration::from_millis(50);

/// How looking at an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is as wished, or nothing can be done; again after so long, if nothing changes before.
    Rest(Option<Duration>),
    /// It changed meanwhile.
    Changed,
    /// The API server could not, and asks for so much time, if it said so.
    Busy(Option<Duration>),
}

pub(crate) struct Queue<K> {
    /// In order, and among them some that are not waited for any more.
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    running: HashSet<K>,
    /// What changed while it was being looked at.
    again: HashSet<K>,
    timers: BTreeMap<(Instant, u64), K>,
    timer_of: HashMap<K, (Instant, u64)>,
    /// How often in a row, of those for which the API server has no time.
    busy: HashMap<K, u32>,
    /// The same of those that changed meanwhile.
    changed: HashMap<K, u32>,
    count: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            busy: HashMap::new(),
            changed: HashMap::new(),
            count: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub fn add(&mut self, id: K) {
        if self.running.contains(&id) {
            self.again.insert(id);
        } else if self.busy.contains_key(&id) && self.timer_of.contains_key(&id) {
            // Whoever is asked for patience has it, whatever changes.
        } else if self.waiting.insert(id.clone()) {
            self.forget_timer(&id);
            self.ready.push_back(id);
        }
    }

    /// The next one, which is being looked at until it is [`Self::done`].
    pub fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let id = entry.remove();
            self.timer_of.remove(&id);
            if self.waiting.insert(id.clone()) {
                self.ready.push_back(id);
            }
        }
        while let Some(id) = self.ready.pop_front() {
            if self.waiting.remove(&id) {
                self.running.insert(id.clone());
                return Some(id);
            }
        }
        None
    }

    /// `jitter` is between 0 and 1.
    pub fn done(&mut self, id: &K, outcome: Outcome, now: Instant, jitter: f64) {
        self.running.remove(id);
        let again = self.again.remove(id);
        let pause = match outcome {
            Outcome::Busy(asked) => {
                let pause = longer(FIRST_PAUSE, self.busy.entry(id.clone()).or_default());
                // Between a half and the whole of it, so that those who failed together do not come together.
                Some(pause.mul_f64(0.5 + jitter / 2.0).max(asked.unwrap_or_default()))
            }
            Outcome::Changed => {
                let pause = longer(SOON, self.changed.entry(id.clone()).or_default());
                Some(pause.mul_f64(0.5 + jitter))
            }
            Outcome::Rest(pause) => pause,
        };
        if !matches!(outcome, Outcome::Busy(_)) {
            self.busy.remove(id);
        }
        if outcome != Outcome::Changed {
            self.changed.remove(id);
        }
        if again && !matches!(outcome, Outcome::Busy(_)) {
            return self.add(id.clone());
        }
        if let Some(at) = pause.and_then(|pause| now.checked_add(pause)) {
            self.forget_timer(id);
            self.count += 1;
            self.timers.insert((at, self.count), id.clone());
            self.timer_of.insert(id.clone(), (at, self.count));
        }
    }

    /// What is gone is not looked at any more.
    pub fn forget(&mut self, id: &K) {
        self.forget_timer(id);
        self.busy.remove(id);
        self.changed.remove(id);
    }

    /// It is as if it had never been added, and what is being done for it nobody's.
    pub fn remove(&mut self, id: &K) {
        self.forget(id);
        self.waiting.remove(id);
        self.running.remove(id);
        self.again.remove(id);
    }

    /// At once, though it was asked for patience.
    pub fn hurry(&mut self, id: K) {
        self.forget(&id);
        self.add(id);
    }

    /// When to ask again, though nothing is added.
    pub fn next(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    fn forget_timer(&mut self, id: &K) {
        if let Some(timer) = self.timer_of.remove(id) {
            self.timers.remove(&timer);
        }
    }
}

/// Twice as long as the time before, up to a bound. Counts on.
fn longer(first: Duration, times: &mut u32) -> Duration {
    let pause = first.saturating_mul(1 << (*times).min(11)).min(LONGEST_PAUSE);
    *times = times.saturating_add(1);
    pause
}

#[cfg(test)]
mod tests {
    use trellis_api::crypto::Kind;

    use super::*;
    use crate::id::{Group, Id};

    fn id(name: &str) -> Id {
        Id::new(Group::Trellis, Kind::RandomNumber, "shop", name)
    }

    #[tokio::test]
    async fn each_is_looked_at_once_at_a_time_and_again_if_it_changed_meanwhile() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["a", "b", "a", "a"] {
            queue.add(id(name));
        }
        assert_eq!((queue.take(now), queue.take(now), queue.take(now)), (Some(id("a")), Some(id("b")), None));
        queue.add(id("a"));
        assert_eq!(queue.take(now), None, "it is being looked at");
        queue.done(&id("a"), Outcome::Rest(None), now, 0.0);
        queue.done(&id("b"), Outcome::Rest(None), now, 0.0);
        assert_eq!((queue.take(now), queue.take(now)), (Some(id("a")), None));
    }

    #[tokio::test]
    async fn what_rests_comes_again_at_its_time_or_when_it_changes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        queue.add(id("a"));
        queue.take(now);
        queue.done(&id("a"), Outcome::Rest(Some(hour)), now, 0.0);
        assert_eq!((queue.take(now), queue.next()), (None, Some(now + hour)));
        assert_eq!(queue.take(now + hour), Some(id("a")));
        queue.done(&id("a"), Outcome::Rest(Some(hour)), now, 0.0);
        queue.add(id("a"));
        assert_eq!((queue.take(now), queue.next()), (Some(id("a")), None), "one timer, and it is gone");
        queue.done(&id("a"), Outcome::Rest(Some(hour)), now, 0.0);
        queue.forget(&id("a"));
        assert_eq!((queue.take(now + hour), queue.next()), (None, None));
    }

    #[tokio::test]
    async fn who_has_no_time_is_asked_ever_more_seldom() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(id("a"));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(queue.take(now), Some(id("a")));
            queue.done(&id("a"), Outcome::Busy(None), now, 1.0);
            queue.add(id("a"));
            assert_eq!(queue.take(now), None, "a change does not make it sooner");
            let at = queue.next().unwrap();
            pauses.push(at - now);
            now = at;
        }
        assert_eq!(pauses.first(), Some(&FIRST_PAUSE));
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        assert!(pauses.is_sorted());
        queue.take(now);
        queue.done(&id("a"), Outcome::Busy(Some(LONGEST_PAUSE * 2)), now, 0.0);
        assert_eq!(queue.next(), Some(now + LONGEST_PAUSE * 2), "it says how long");
        queue.take(now + LONGEST_PAUSE * 2);
        queue.done(&id("a"), Outcome::Rest(None), now, 0.0);
        queue.add(id("a"));
        assert!(queue.take(now).is_some());
        queue.done(&id("a"), Outcome::Busy(None), now, 1.0);
        queue.hurry(id("a"));
        assert_eq!((queue.take(now), queue.next()), (Some(id("a")), None));
    }

    #[tokio::test]
    async fn what_changes_again_and_again_is_looked_at_ever_more_seldom_but_for_a_change() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(id("a"));
        let mut pauses = Vec::new();
        for _ in 0..13 {
            assert_eq!(queue.take(now), Some(id("a")));
            queue.done(&id("a"), Outcome::Changed, now, 0.5);
            let at = queue.next().unwrap();
            pauses.push(at - now);
            now = at;
        }
        assert_eq!((pauses.first(), pauses.last()), (Some(&SOON), Some(&LONGEST_PAUSE)));
        assert!(pauses.is_sorted());
        queue.take(now);
        queue.done(&id("a"), Outcome::Changed, now, 0.5);
        queue.add(id("a"));
        assert_eq!((queue.take(now), queue.next()), (Some(id("a")), None));
        queue.done(&id("a"), Outcome::Rest(None), now, 0.5);
        queue.add(id("a"));
        queue.take(now);
        queue.done(&id("a"), Outcome::Changed, now, 0.5);
        assert_eq!(queue.next(), Some(now + SOON), "in a row");
    }

    #[tokio::test]
    async fn of_what_is_removed_nothing_is_left() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["a", "b"] {
            queue.add(id(name));
        }
        queue.remove(&id("a"));
        assert_eq!((queue.len(), queue.take(now)), (1, Some(id("b"))));
        queue.remove(&id("b"));
        queue.add(id("b"));
        assert_eq!((queue.take(now), queue.take(now)), (Some(id("b")), None), "as if it were new");
        queue.done(&id("b"), Outcome::Busy(None), now, 1.0);
        queue.remove(&id("b"));
        assert_eq!(queue.next(), None);
        queue.add(id("a"));
        queue.remove(&id("a"));
        queue.add(id("a"));
        assert_eq!((queue.take(now), queue.take(now)), (Some(id("a")), None), "and once");
    }
}
