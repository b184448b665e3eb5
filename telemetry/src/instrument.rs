//! The three instruments. A handle is an `Arc` around atomics: to record is one atomic operation, without
//! a lock and without an allocation, as long as the handle is kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::registry::{Kind, Value};

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    pub fn add(&self, delta: f64) {
        add_to(&self.0, delta);
    }

    pub fn inc(&self) {
        self.add(1.0);
    }

    pub fn dec(&self) {
        self.add(-1.0);
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// How often a value fell into each of a fixed list of ranges, and the sum of all values.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramCells>);

#[derive(Debug)]
struct HistogramCells {
    bounds: Arc<[f64]>,
    /// One more than there are bounds: the last one holds what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Records a value. What is not a number is not recorded: it would spoil the sum for good.
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let slot = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.0.counts.get(slot) {
            count.fetch_add(1, Relaxed);
            add_to(&self.0.sum, value);
        }
    }

    /// Records a duration in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// What [`crate::Family`] needs of an instrument. Sealed: the encodings know exactly these three.
pub trait Instrument: Clone + Send + Sync + 'static {
    /// What all series of one family share.
    type Shape: Clone + Send + Sync + 'static;

    #[doc(hidden)]
    const KIND: Kind;
    #[doc(hidden)]
    fn create(shape: &Self::Shape) -> Self;
    #[doc(hidden)]
    fn read(&self) -> Value;
}

impl Instrument for Counter {
    type Shape = ();
    const KIND: Kind = Kind::Counter;

    fn create((): &()) -> Self {
        Self::default()
    }

    fn read(&self) -> Value {
        Value::Counter(self.get())
    }
}

impl Instrument for Gauge {
    type Shape = ();
    const KIND: Kind = Kind::Gauge;

    fn create((): &()) -> Self {
        Self::default()
    }

    fn read(&self) -> Value {
        Value::Gauge(self.get())
    }
}

impl Instrument for Histogram {
    type Shape = Arc<[f64]>;
    const KIND: Kind = Kind::Histogram;

    fn create(bounds: &Arc<[f64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramCells { bounds: bounds.clone(), counts, sum: AtomicU64::new(0) }))
    }

    fn read(&self) -> Value {
        Value::Histogram {
            bounds: self.0.bounds.clone(),
            counts: self.0.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: f64::from_bits(self.0.sum.load(Relaxed)),
        }
    }
}

/// The bounds in rising order, without doubles and without what is not finite (the range above the last
/// bound is always there).
pub(crate) fn bounds(wanted: &[f64]) -> Arc<[f64]> {
    let mut bounds: Vec<f64> = wanted.iter().copied().filter(|bound| bound.is_finite()).collect();
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    bounds.into()
}

fn add_to(cell: &AtomicU64, delta: f64) {
    // fetch_update only fails when its closure says None.
    let _ = cell.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + delta).to_bits()));
}
