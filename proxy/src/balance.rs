//! Which endpoint takes the next request or connection: of two picked at random the one that is expected
//! to be done sooner, by how long it took lately and how much of ours it has in hand. One that fails again
//! and again is left alone for a while and then tried with a single request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{Rng, RngExt};
use tokio::time::Instant;

use crate::decay;

/// What is assumed of an endpoint that nothing is known of.
const UNKNOWN: f64 = 0.001;
/// How fast what was seen loses its weight.
const DECAY: Duration = Duration::from_secs(10);
/// Failures in a row after which an endpoint is left alone.
const FAILURES: u32 = 5;
/// For how long, the first time; each further time in a row adds as much.
const EJECTION: Duration = Duration::from_secs(10);
const EJECTION_MAX: Duration = Duration::from_secs(300);
/// How long the one request that tries it again keeps the others away.
const PROBE: Duration = Duration::from_secs(1);
/// How often endpoints are drawn before all are looked at.
const DRAWS: usize = 6;

/// How an endpoint has done lately. Shared by all who use it.
#[derive(Debug)]
pub struct Fitness {
    since: Instant,
    /// What it has of ours in hand.
    open: AtomicUsize,
    /// Seconds that it took, as an `f32`, in the upper half; when that was, in milliseconds, in the lower.
    took: AtomicU64,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds until which it is left alone.
    ejected: AtomicU64,
}

/// One more thing that an endpoint has in hand.
#[derive(Debug)]
pub struct Busy(Arc<Fitness>);

/// Something that can be chosen.
pub trait Candidate {
    fn fitness(&self) -> &Fitness;
}

impl Fitness {
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            open: AtomicUsize::new(0),
            took: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected: AtomicU64::new(0),
        }
    }

    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// An answer came after `took`. A slow one counts at once, a fast one by and by.
    pub fn answered(&self, took: Duration, now: Instant) {
        let (before, at) = self.seen();
        let weight = weight(self.millis(now).saturating_sub(at));
        let took = took.as_secs_f64();
        let next = match before {
            Some(before) if took < before * weight => before * weight + took * (1.0 - weight),
            _ => took,
        };
        let stamp = self.millis(now) & u64::from(u32::MAX);
        self.took.store((u64::from((next.max(1e-6) as f32).to_bits()) << 32) | stamp, Relaxed);
    }

    pub fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
            self.ejected.store(0, Relaxed);
        }
    }

    /// One more failure. Says whether the endpoint is left alone from now on because of it.
    pub fn failed(&self, now: Instant) -> bool {
        if self.failures.fetch_add(1, Relaxed) + 1 < FAILURES {
            return false;
        }
        if self.ejected.load(Relaxed) > self.millis(now + PROBE) {
            return false;
        }
        let times = self.ejections.fetch_add(1, Relaxed) + 1;
        let length = EJECTION.saturating_mul(times).min(EJECTION_MAX);
        self.ejected.store(self.millis(now) + length.as_millis() as u64, Relaxed);
        // When it is tried again, one more failure is enough.
        self.failures.store(FAILURES - 1, Relaxed);
        true
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.millis(now) < self.ejected.load(Relaxed)
    }

    /// For how long it is still left alone.
    pub fn ejected_for(&self, now: Instant) -> Option<Duration> {
        let left = self.ejected.load(Relaxed).saturating_sub(self.millis(now));
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Seconds that its answers took lately, where there were any.
    pub fn latency(&self, now: Instant) -> Option<f64> {
        let (took, at) = self.seen();
        took.map(|took| took * weight(self.millis(now).saturating_sub(at)))
    }

    /// The one that is picked after it was left alone tries it for all.
    fn picked(&self, now: Instant) {
        if self.ejections.load(Relaxed) > 0 && !self.is_ejected(now) {
            self.ejected.store(self.millis(now + PROBE), Relaxed);
        }
    }

    /// Seconds until one more request would be answered, as far as one can tell.
    fn cost(&self, now: Instant) -> f64 {
        self.latency(now).unwrap_or(UNKNOWN).max(1e-6) * (self.open() + 1) as f64
    }

    /// Seconds that the last answers took, and when that was.
    fn seen(&self) -> (Option<f64>, u64) {
        let packed = self.took.load(Relaxed);
        let took = f32::from_bits((packed >> 32) as u32);
        ((packed != 0).then_some(took.into()), packed & u64::from(u32::MAX))
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }
}

/// What is left of a figure after so many milliseconds.
fn weight(millis: u64) -> f64 {
    decay::left(millis as f64 / DECAY.as_millis() as f64)
}

impl Busy {
    pub fn new(fitness: &Arc<Fitness>) -> Self {
        fitness.open.fetch_add(1, Relaxed);
        Self(fitness.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// Picks among `endpoints` without those in `tried`; `None` when none is left. Those that are left alone
/// are picked only where half of all are: then it is likelier that the judgement is wrong than they.
pub fn pick<T: Candidate>(
    endpoints: &[T],
    tried: &[usize],
    now: Instant,
    random: &mut impl Rng,
) -> Option<usize> {
    let fit = |index: usize| {
        endpoints.get(index).filter(|one| !tried.contains(&index) && !one.fitness().is_ejected(now))
    };
    if let [_] = endpoints {
        return tried.is_empty().then_some(0);
    }
    // Among many endpoints two that will do are found by drawing, without a look at all of them.
    let mut first = None;
    for _ in 0..if endpoints.is_empty() { 0 } else { DRAWS } {
        let drawn = random.random_range(0..endpoints.len());
        if fit(drawn).is_none() || first == Some(drawn) {
            continue;
        }
        match first {
            None => first = Some(drawn),
            Some(first) => return lighter(endpoints, first, drawn, now),
        }
    }
    let left: Vec<usize> = (0..endpoints.len()).filter(|index| !tried.contains(index)).collect();
    let healthy: Vec<usize> = left.iter().copied().filter(|index| fit(*index).is_some()).collect();
    let left = if healthy.len() * 2 >= left.len() && !healthy.is_empty() { healthy } else { left };
    let first = match left.len() {
        0 => return None,
        1 => return left.first().copied(),
        n => random.random_range(0..n),
    };
    // The second draw leaves the first one out, so that the two always differ.
    let second = (first + random.random_range(1..left.len())) % left.len();
    lighter(endpoints, *left.get(first)?, *left.get(second)?, now)
}

/// How likely each of `endpoints` is to be picked now, were nothing tried before: of every two that may meet
/// the lighter one takes it, and equals take half each.
pub fn shares<T: Candidate>(endpoints: &[T], now: Instant) -> Vec<f64> {
    let healthy: Vec<bool> = endpoints.iter().map(|one| !one.fitness().is_ejected(now)).collect();
    let count = healthy.iter().filter(|healthy| **healthy).count();
    let all = count == 0 || count * 2 < endpoints.len();
    let costs: Vec<Option<f64>> = endpoints
        .iter()
        .zip(&healthy)
        .map(|(one, healthy)| (all || *healthy).then(|| one.fitness().cost(now)))
        .collect();
    let drawn: Vec<f64> = costs.iter().flatten().copied().collect();
    let pairs = (drawn.len() * drawn.len().saturating_sub(1)) as f64 / 2.0;
    let share = |cost: &Option<f64>| {
        let Some(cost) = cost else { return 0.0 };
        if drawn.len() == 1 {
            return 1.0;
        }
        let heavier = drawn.iter().filter(|other| **other > *cost).count() as f64;
        let equal = drawn.iter().filter(|other| **other == *cost).count() as f64 - 1.0;
        (heavier + equal / 2.0) / pairs
    };
    costs.iter().map(share).collect()
}

fn lighter<T: Candidate>(endpoints: &[T], first: usize, second: usize, now: Instant) -> Option<usize> {
    let cost = |index: usize| Some(endpoints.get(index)?.fitness().cost(now));
    let lighter = if cost(second)? < cost(first)? { second } else { first };
    endpoints.get(lighter)?.fitness().picked(now);
    Some(lighter)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    struct One(Arc<Fitness>);

    impl Candidate for One {
        fn fitness(&self) -> &Fitness {
            &self.0
        }
    }

    fn some(open: &[usize]) -> Vec<One> {
        let one = |open: &usize| {
            let fitness = Fitness::new(Instant::now());
            fitness.open.store(*open, Relaxed);
            One(Arc::new(fitness))
        };
        open.iter().map(one).collect()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn the_heaviest_of_many_is_never_picked() {
        let (mut random, endpoints) = (StdRng::seed_from_u64(1), some(&[3, 9, 3]));
        for _ in 0..1_000 {
            assert_ne!(pick(&endpoints, &[], Instant::now(), &mut random), Some(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn equals_share_alike() {
        let (mut random, endpoints) = (StdRng::seed_from_u64(2), some(&[1, 1, 1, 1]));
        let mut counts = [0u32; 4];
        for _ in 0..4_000 {
            counts[pick(&endpoints, &[], Instant::now(), &mut random).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_what_picking_comes_to() {
        let (mut random, now) = (StdRng::seed_from_u64(8), Instant::now());
        for open in [&[0][..], &[0, 0], &[3, 9, 3, 0], &[1, 2, 3, 4, 5, 6, 7]] {
            let endpoints = some(open);
            if open.len() > 3 {
                (0..FAILURES).for_each(|_| _ = endpoints[3].0.failed(now));
            }
            let shares = shares(&endpoints, now);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
            let mut counts = vec![0u32; open.len()];
            (0..10_000).for_each(|_| counts[pick(&endpoints, &[], now, &mut random).unwrap()] += 1);
            for (share, count) in shares.iter().zip(&counts) {
                assert!((share * 10_000.0 - f64::from(*count)).abs() < 300.0, "{shares:?} {counts:?}");
            }
        }
        assert!(shares(&some(&[]), now).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_tried_is_not_tried_again() {
        let (mut random, now) = (StdRng::seed_from_u64(3), Instant::now());
        assert_eq!(pick(&some(&[1, 1, 1]), &[0, 2], now, &mut random), Some(1));
        assert_eq!(pick(&some(&[1]), &[0], now, &mut random), None);
        assert_eq!(pick(&some(&[]), &[], now, &mut random), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_became_slow_is_avoided_at_once_and_trusted_again_by_and_by() {
        let (mut random, endpoints) = (StdRng::seed_from_u64(4), some(&[0, 0]));
        for one in &endpoints {
            one.0.answered(Duration::from_millis(5), Instant::now());
        }
        endpoints[0].0.answered(Duration::from_millis(200), Instant::now());
        assert_eq!(pick(&endpoints, &[], Instant::now(), &mut random), Some(1));
        tokio::time::advance(seconds(60)).await;
        endpoints[1].0.answered(Duration::from_millis(5), Instant::now());
        assert_eq!(pick(&endpoints, &[], Instant::now(), &mut random), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_keeps_failing_is_left_alone_and_then_tried_once() {
        let (mut random, endpoints) = (StdRng::seed_from_u64(5), some(&[0, 5, 5]));
        for failure in 1..=FAILURES {
            assert_eq!(endpoints[0].0.failed(Instant::now()), failure == FAILURES);
        }
        let picks = |random: &mut StdRng| {
            (0..100).filter_map(|_| pick(&endpoints, &[], Instant::now(), random)).any(|index| index == 0)
        };
        assert!(!picks(&mut random));
        tokio::time::advance(EJECTION).await;
        assert!(picks(&mut random));
        // Once more, and it is left alone for longer.
        assert!(endpoints[0].0.failed(Instant::now()));
        tokio::time::advance(EJECTION).await;
        assert!(!picks(&mut random));
        tokio::time::advance(EJECTION).await;
        assert!(picks(&mut random));
        endpoints[0].0.succeeded();
        assert!(!endpoints[0].0.failed(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn where_most_fail_all_are_tried() {
        let (mut random, endpoints) = (StdRng::seed_from_u64(6), some(&[0, 0, 0]));
        for one in &endpoints[..2] {
            (0..FAILURES).for_each(|_| _ = one.0.failed(Instant::now()));
        }
        let picked: std::collections::HashSet<_> =
            (0..200).filter_map(|_| pick(&endpoints, &[], Instant::now(), &mut random)).collect();
        assert_eq!(picked.len(), 3);
    }
}
