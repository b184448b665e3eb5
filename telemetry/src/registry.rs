//! The one place that knows every metric of a process.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use crate::{
    family::{AnyFamily, Family, Labels},
    instrument::{Counter, Gauge, Histogram, Instrument, bounds},
    prometheus,
};

/// Counts look-ups of series beyond a family's limit.
const DROPPED: &str = "trellis_metric_series_dropped_total";

/// Every metric of this process. Clones are the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    families: RwLock<BTreeMap<String, Entry>>,
    callbacks: RwLock<Vec<Arc<dyn Fn() + Send + Sync>>>,
    dropped: Family<Counter>,
}

/// One family twice: as what the encodings read, and as what a second registration gets back.
struct Entry {
    family: Arc<dyn AnyFamily>,
    typed: Box<dyn Any + Send + Sync>,
}

impl Registry {
    #[allow(clippy::new_without_default)] // `Registry::default()` would read as if there were a global one
    pub fn new() -> Self {
        let dropped =
            Family::new(DROPPED, "Look-ups of metric series beyond the limit of their metric.", (), None);
        let families = BTreeMap::from([(DROPPED.to_owned(), Entry::new(&dropped))]);
        Self(Arc::new(Inner { families: RwLock::new(families), callbacks: RwLock::default(), dropped }))
    }

    /// A family of counters; by convention its name ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Family<Counter> {
        self.family(name, help, ())
    }

    pub fn gauge(&self, name: &str, help: &str) -> Family<Gauge> {
        self.family(name, help, ())
    }

    /// A family of histograms with these upper bounds; the range above the last one is added.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Family<Histogram> {
        self.family(name, help, bounds(buckets))
    }

    /// Sets `trellis_build_info{version}` to 1.
    pub fn build_info(&self, version: &str) {
        self.gauge("trellis_build_info", "The version of this process; always 1.")
            .with(&[("version", version)])
            .set(1.0);
    }

    /// Runs before each encoding, to set gauges from live state. A callback that needs the registry keeps
    /// the handles it sets, not the registry: that would be a cycle, never freed.
    pub fn on_collect(&self, callback: Box<dyn Fn() + Send + Sync>) {
        self.0.callbacks.write().push(callback.into());
    }

    /// Every metric now, by name.
    pub fn snapshot(&self) -> Vec<FamilySnapshot> {
        // Neither lock is held while callbacks run: they may register and record.
        let callbacks = self.0.callbacks.read().clone();
        for callback in callbacks {
            callback();
        }
        let families: Vec<_> = self.0.families.read().values().map(|entry| entry.family.clone()).collect();
        families.iter().map(|family| family.snapshot()).collect()
    }

    /// Every metric in the Prometheus text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        prometheus::encode(&self.snapshot())
    }

    /// A family that was registered before is the same family. A name that no encoding could write, or
    /// that already belongs to another kind of metric, is a mistake in the program, and no reason to
    /// stop carrying traffic: it is logged, and what is recorded there goes nowhere.
    fn family<T: Instrument>(&self, name: &str, help: &str, shape: T::Shape) -> Family<T> {
        let mut families = self.0.families.write();
        if let Some(entry) = families.get(name) {
            if let Some(family) = entry.typed.downcast_ref::<Family<T>>() {
                return family.clone();
            }
            tracing::error!(metric = name, kind = ?T::KIND, "a metric was registered twice as different kinds");
            return Family::new(name, help, shape, None);
        }
        let family = Family::new(name, help, shape, Some(self.0.dropped.clone()));
        if is_metric_name(name) {
            families.insert(name.to_owned(), Entry::new(&family));
        } else {
            tracing::error!(metric = name, "a metric has an unusable name and will not be shown");
        }
        family
    }
}

impl Entry {
    fn new<T: Instrument>(family: &Family<T>) -> Self {
        Self { family: Arc::new(family.clone()), typed: Box::new(family.clone()) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family at one moment.
#[derive(Clone, Debug)]
pub struct FamilySnapshot {
    pub name: String,
    pub help: String,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

/// A series at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// By name.
    pub labels: Labels,
    pub value: Value,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| &**value)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(f64),
    /// `counts` is not cumulative and has one more element than `bounds`.
    Histogram {
        bounds: Arc<[f64]>,
        counts: Vec<u64>,
        sum: f64,
    },
}

fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_' || first == b':')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}
