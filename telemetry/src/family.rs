//! A metric with labels: one instrument per combination of label values, and a limit to how many.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::RwLock;

use crate::{
    instrument::{Counter, Gauge, Instrument},
    registry::{FamilySnapshot, Sample},
};

/// The value that takes the place of label values beyond the limit.
pub const OTHER: &str = "other";

const DEFAULT_MAX_SERIES: usize = 2_000;

pub(crate) type Labels = Box<[(&'static str, Box<str>)]>;

/// All series of one metric.
#[derive(Clone)]
pub struct Family<T: Instrument>(Arc<Inner<T>>);

struct Inner<T: Instrument> {
    name: String,
    help: String,
    shape: T::Shape,
    series: RwLock<BTreeMap<Labels, T>>,
    max_series: AtomicUsize,
    /// Labels whose values are not ours to bound, such as the name of a peer.
    open_labels: OnceLock<&'static [&'static str]>,
    dropped: Option<Family<Counter>>,
}

impl<T: Instrument> Family<T> {
    pub(crate) fn new(name: &str, help: &str, shape: T::Shape, dropped: Option<Family<Counter>>) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            help: help.to_owned(),
            shape,
            series: RwLock::default(),
            max_series: AtomicUsize::new(DEFAULT_MAX_SERIES),
            open_labels: OnceLock::new(),
            dropped,
        }))
    }

    /// The instrument of these label values, in whatever order they are given. Keep it where it is used
    /// often: to find it costs a lock and an allocation, to use it does not.
    pub fn with(&self, labels: &[(&'static str, &str)]) -> T {
        let labels = sorted(labels);
        if let Some(found) = self.0.series.read().get(&labels) {
            return found.clone();
        }
        let mut series = self.0.series.write();
        let limit = self.0.max_series.load(Relaxed);
        let labels = if series.len() < limit || series.contains_key(&labels) {
            labels
        } else {
            self.fold(labels, &series, limit)
        };
        series.entry(labels).or_insert_with(|| T::create(&self.0.shape)).clone()
    }

    /// Bounds the number of series. Beyond it label values become `other`, and each such look-up is
    /// counted in `trellis_metric_series_dropped_total`.
    #[must_use]
    pub fn max_series(self, limit: usize) -> Self {
        self.0.max_series.store(limit.max(1), Relaxed);
        self
    }

    /// Names the labels whose values come from outside. Only these become `other` first, so that totals
    /// by the closed labels (class, direction, ...) stay true however many peers there are.
    #[must_use]
    pub fn open_labels(self, labels: &'static [&'static str]) -> Self {
        // The first caller decides: a family is described in one place.
        let _ = self.0.open_labels.set(labels);
        self
    }

    fn fold(&self, labels: Labels, series: &BTreeMap<Labels, T>, limit: usize) -> Labels {
        if let Some(dropped) = &self.0.dropped {
            dropped.with(&[("metric", &self.0.name)]).inc();
        }
        if let Some(open) = self.0.open_labels.get() {
            let folded = others(&labels, |name| open.contains(&name));
            // The closed labels have few values, but nothing proves it: as many again, and no more.
            if series.contains_key(&folded) || series.len() < limit.saturating_mul(2) {
                return folded;
            }
        }
        others(&labels, |_| true)
    }
}

impl Family<Gauge> {
    /// Shows these series and no others.
    pub fn replace<'a>(&self, samples: impl IntoIterator<Item = (Vec<(&'static str, &'a str)>, f64)>) {
        let gauge = |value| {
            let gauge = Gauge::default();
            gauge.set(value);
            gauge
        };
        let samples = samples.into_iter().map(|(labels, value)| (sorted(&labels), gauge(value)));
        let limit = self.0.max_series.load(Relaxed);
        let series = samples.take(limit).collect();
        *self.0.series.write() = series;
    }
}

/// A family of any instrument, as the registry sees it.
pub(crate) trait AnyFamily: Send + Sync {
    fn snapshot(&self) -> FamilySnapshot;
}

impl<T: Instrument> AnyFamily for Family<T> {
    fn snapshot(&self) -> FamilySnapshot {
        let series = self.0.series.read();
        FamilySnapshot {
            name: self.0.name.clone(),
            help: self.0.help.clone(),
            kind: T::KIND,
            samples: series
                .iter()
                .map(|(labels, instrument)| Sample { labels: labels.clone(), value: instrument.read() })
                .collect(),
        }
    }
}

/// Labels in the order of their names; of a name given twice the last value counts, and a name that no
/// encoding could write is left out.
fn sorted(labels: &[(&'static str, &str)]) -> Labels {
    let mut sorted: Vec<(&'static str, Box<str>)> = Vec::with_capacity(labels.len());
    for (name, value) in labels {
        if !is_label_name(name) {
            tracing::error!(label = name, "a metric label with an unusable name was left out");
            continue;
        }
        match sorted.binary_search_by_key(name, |(name, _)| name) {
            Ok(at) => {
                if let Some(slot) = sorted.get_mut(at) {
                    slot.1 = (*value).into();
                }
            }
            Err(at) => sorted.insert(at, (name, (*value).into())),
        }
    }
    sorted.into()
}

fn others(labels: &Labels, folds: impl Fn(&'static str) -> bool) -> Labels {
    labels
        .iter()
        .map(|(name, value)| (*name, if folds(name) { OTHER.into() } else { value.clone() }))
        .collect()
}

/// `le` belongs to histograms; names that begin with two underscores belong to Prometheus.
fn is_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name != "le"
        && !name.starts_with("__")
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
