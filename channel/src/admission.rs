//! Bounds how much of something may be open at once, in all and per source. Newcomers are never turned
//! away: who is admitted last takes the place of who has been in longest, within the source that fills
//! its share. So a flood of stalled peers pushes out itself, and an honest peer gets through.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};

/// What one admission is known by; later ones are greater.
pub type Ticket = u64;

/// How much may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub total: usize,
    pub per_source: usize,
}

/// Who is in, each with a value that is handed back when it must go.
#[derive(Debug)]
pub struct Admission<T> {
    bounds: Bounds,
    next: Ticket,
    open: BTreeMap<Ticket, (IpAddr, T)>,
    sources: HashMap<IpAddr, BTreeSet<Ticket>>,
}

impl<T> Admission<T> {
    pub fn new(bounds: Bounds) -> Self {
        // A bound of nothing would evict who was just admitted.
        let bounds = Bounds { total: bounds.total.max(1), per_source: bounds.per_source.max(1) };
        Self { bounds, next: 0, open: BTreeMap::new(), sources: HashMap::new() }
    }

    /// Admits one more from `source`; what comes back beside the ticket has to be closed.
    pub fn enter(&mut self, source: IpAddr, value: T) -> (Ticket, Option<T>) {
        let source = source.to_canonical();
        let evicted = self.victim(source).and_then(|ticket| self.leave(ticket));
        let ticket = self.next;
        self.next += 1;
        self.open.insert(ticket, (source, value));
        self.sources.entry(source).or_default().insert(ticket);
        (ticket, evicted)
    }

    /// Takes out what ended by itself. Does nothing for who was evicted before.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let (source, value) = self.open.remove(&ticket)?;
        if let Some(tickets) = self.sources.get_mut(&source) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn victim(&self, source: IpAddr) -> Option<Ticket> {
        let own = self.sources.get(&source);
        if own.is_some_and(|tickets| tickets.len() >= self.bounds.per_source) {
            return own.and_then(BTreeSet::first).copied();
        }
        if self.open.len() < self.bounds.total {
            return None;
        }
        self.sources
            .values()
            .filter_map(|tickets| Some((tickets.len(), *tickets.first()?)))
            .max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)))
            .map(|(_, oldest)| oldest)
    }
}

/// An [`Admission`] that many tasks pass.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    admission: Mutex<Admission<Place>>,
    left: Notify,
}

struct Place {
    since: Instant,
    evict: oneshot::Sender<()>,
}

impl Gate {
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { admission: Mutex::new(Admission::new(bounds)), left: Notify::new() }))
    }

    /// How many are in.
    pub fn len(&self) -> usize {
        self.0.admission.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn enter(&self, source: IpAddr) -> Pass {
        let (evict, evicted) = oneshot::channel();
        let place = Place { since: Instant::now(), evict };
        let (ticket, crowded_out) = self.0.admission.lock().enter(source, place);
        if let Some(Place { evict, .. }) = crowded_out {
            // It may have ended in this very moment.
            let _ = evict.send(());
        }
        Pass { gate: self.clone(), ticket, evicted }
    }

    /// Waits until nobody would have to go for a newcomer, or only one who has been in for `stalled`. So a
    /// crowd that makes progress is served in the order in which it came, instead of pushing itself out.
    pub async fn room(&self, stalled: Duration) {
        loop {
            let left = self.0.left.notified();
            let oldest = {
                let admission = self.0.admission.lock();
                if admission.len() < admission.bounds.total {
                    return;
                }
                admission.open.first_key_value().map(|(_, (_, place))| place.since)
            };
            let Some(oldest) = oldest else { return };
            if timeout_at(oldest + stalled, left).await.is_err() {
                return;
            }
        }
    }
}

/// The right to be open, given back when dropped.
pub struct Pass {
    gate: Gate,
    ticket: Ticket,
    /// Resolves when somebody else needs the place.
    pub evicted: oneshot::Receiver<()>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.0.admission.lock().leave(self.ticket);
        self.gate.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_source_at_its_share_loses_its_own_oldest() {
        let mut admission = Admission::new(Bounds { total: 10, per_source: 2 });
        assert_eq!(admission.enter(source(1), "a").1, None);
        assert_eq!(admission.enter(source(2), "honest").1, None);
        assert_eq!(admission.enter(source(1), "b").1, None);
        assert_eq!(admission.enter(source(1), "c").1, Some("a"));
        assert_eq!(admission.enter(source(1), "d").1, Some("b"));
        assert_eq!(admission.len(), 3);
    }

    #[test]
    fn when_all_is_full_the_greediest_source_makes_room() {
        let mut admission = Admission::new(Bounds { total: 3, per_source: 3 });
        admission.enter(source(1), "honest");
        admission.enter(source(2), "flood 1");
        admission.enter(source(2), "flood 2");
        assert_eq!(admission.enter(source(3), "newcomer").1, Some("flood 1"));
    }

    #[test]
    fn who_left_makes_room_for_others() {
        let mut admission = Admission::new(Bounds { total: 1, per_source: 1 });
        let (ticket, _) = admission.enter(source(1), ());
        assert_eq!(admission.leave(ticket), Some(()));
        assert_eq!(admission.leave(ticket), None);
        assert_eq!(admission.enter(source(1), ()).1, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_waits_for_those_before_it_but_not_for_who_stalls() {
        const STALLED: Duration = Duration::from_secs(2);
        let gate = Gate::new(Bounds { total: 2, per_source: 2 });
        let began = Instant::now();
        gate.room(STALLED).await;
        let (mut first, second) = (gate.enter(source(1)), gate.enter(source(2)));
        tokio::join!(gate.room(STALLED), async {
            tokio::time::sleep(STALLED / 2).await;
            drop(second);
        });
        assert_eq!(began.elapsed(), STALLED / 2, "somebody left");
        let _third = gate.enter(source(3));
        assert!(first.evicted.try_recv().is_err());
        gate.room(STALLED).await;
        assert_eq!(began.elapsed(), STALLED, "the first has stalled");
        let _fourth = gate.enter(source(4));
        assert!(first.evicted.try_recv().is_ok());
    }

    #[test]
    fn an_address_counts_once_however_it_is_written() {
        let mut admission = Admission::new(Bounds { total: 10, per_source: 1 });
        admission.enter("10.0.0.1".parse().unwrap(), "a");
        assert_eq!(admission.enter("::ffff:10.0.0.1".parse().unwrap(), "b").1, Some("a"));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whatever_comes(steps in proptest::collection::vec((0u8..6, any::<bool>()), 0..300)) {
            let bounds = Bounds { total: 7, per_source: 3 };
            let mut admission = Admission::new(bounds);
            let mut tickets = Vec::new();
            for (last, leave) in steps {
                if leave && !tickets.is_empty() {
                    admission.leave(tickets.remove(0));
                } else {
                    tickets.push(admission.enter(source(last), ()).0);
                }
                prop_assert!(admission.len() <= bounds.total);
                prop_assert!(admission.sources.values().all(|own| own.len() <= bounds.per_source));
                prop_assert_eq!(admission.sources.values().map(BTreeSet::len).sum::<usize>(), admission.len());
            }
        }
    }
}
