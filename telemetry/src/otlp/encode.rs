//! From a snapshot of the registry to OTLP's messages.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{InstrumentationScope, KeyValue},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use crate::registry::{FamilySnapshot, Kind, Sample, Value};

/// Series in one request: far below the 4 MiB that a gRPC receiver takes by default.
const MAX_POINTS: usize = 2_000;

pub(super) struct Encoder {
    resource: Resource,
    /// Since when the counters count.
    started: u64,
}

impl Encoder {
    pub(super) fn new(resource: &[(&str, String)], started: SystemTime) -> Self {
        Self { resource: resource_of(resource), started: nanos(started) }
    }

    /// As many requests as it takes.
    pub(super) fn requests(
        &self,
        families: Vec<FamilySnapshot>,
        now: SystemTime,
    ) -> Vec<ExportMetricsServiceRequest> {
        let now = nanos(now).max(self.started);
        let mut requests = Vec::new();
        let mut metrics = Vec::new();
        let mut points = 0;
        for family in &families {
            for samples in family.samples.chunks(MAX_POINTS) {
                if points + samples.len() > MAX_POINTS {
                    requests.push(self.request(std::mem::take(&mut metrics)));
                    points = 0;
                }
                points += samples.len();
                metrics.push(self.metric(family, samples, now));
            }
        }
        if !metrics.is_empty() {
            requests.push(self.request(metrics));
        }
        requests
    }

    fn request(&self, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let scope = scope();
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
                ..ResourceMetrics::default()
            }],
        }
    }

    fn metric(&self, family: &FamilySnapshot, samples: &[Sample], now: u64) -> Metric {
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match family.kind {
            Kind::Counter => Data::Sum(Sum {
                data_points: self.numbers(samples, now),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            Kind::Gauge => Data::Gauge(Gauge { data_points: self.numbers(samples, now) }),
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: self.histograms(samples, now),
                aggregation_temporality: cumulative,
            }),
        };
        Metric {
            name: family.name.clone(),
            description: family.help.clone(),
            unit: unit(&family.name).to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }

    fn numbers(&self, samples: &[Sample], now: u64) -> Vec<NumberDataPoint> {
        samples
            .iter()
            .filter_map(|sample| {
                let (value, start) = match &sample.value {
                    // OTLP has no unsigned number; a counter does not reach the end of a signed one.
                    Value::Counter(value) => (
                        number_data_point::Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
                        self.started,
                    ),
                    Value::Gauge(value) => (number_data_point::Value::AsDouble(*value), 0),
                    Value::Histogram { .. } => return None,
                };
                Some(NumberDataPoint {
                    attributes: attributes(sample),
                    start_time_unix_nano: start,
                    time_unix_nano: now,
                    value: Some(value),
                    ..NumberDataPoint::default()
                })
            })
            .collect()
    }

    fn histograms(&self, samples: &[Sample], now: u64) -> Vec<HistogramDataPoint> {
        samples
            .iter()
            .filter_map(|sample| {
                let Value::Histogram { bounds, counts, sum } = &sample.value else { return None };
                Some(HistogramDataPoint {
                    attributes: attributes(sample),
                    start_time_unix_nano: self.started,
                    time_unix_nano: now,
                    count: counts.iter().sum(),
                    sum: Some(*sum),
                    bucket_counts: counts.clone(),
                    explicit_bounds: bounds.to_vec(),
                    ..HistogramDataPoint::default()
                })
            })
            .collect()
    }
}

pub(super) fn resource_of(resource: &[(&str, String)]) -> Resource {
    let attributes = resource.iter().map(|(name, value)| attribute(name, value.to_string())).collect();
    Resource { attributes, ..Resource::default() }
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "trellis".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// The unit that our names carry, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        ""
    }
}

fn attributes(sample: &Sample) -> Vec<KeyValue> {
    sample.labels.iter().map(|(name, value)| attribute(name, value.to_string())).collect()
}

pub(super) fn attribute(name: &str, value: impl Into<opentelemetry::Value>) -> KeyValue {
    let value: opentelemetry::Value = value.into();
    KeyValue { key: name.to_owned(), value: Some(value.into()), ..KeyValue::default() }
}

pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
