//! Metrics, records and spans to an OpenTelemetry Collector: OTLP over gRPC.
//!
//! Of metrics, what is sent is a snapshot of the one [`Registry`], written straight into OTLP's own messages, so both
//! encodings always show the same names and numbers. The OpenTelemetry SDK would be a second metric
//! system beside it, with its own memory, and has no way to hand over a histogram that was counted
//! elsewhere. Everything is cumulative: what one failed export did not deliver, the next one does.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
};
use thiserror::Error;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use crate::{instrument::Counter, registry::Registry, shutdown};

pub mod logs;
pub mod spans;

mod delivery;
mod encode;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
pub enum OtlpError {
    #[error(
        "OTLP endpoint {endpoint:?} cannot be used: {reason}; use http://HOST:PORT of a collector's gRPC receiver, usually port 4317"
    )]
    Endpoint { endpoint: String, reason: String },
    #[error("OTLP export interval {0:?} is too short; use at least 1 s")]
    Interval(Duration),
}

/// A running export. It ends when this is dropped, or after one last export by [`Otlp::shutdown`].
pub struct Otlp {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Exports everything in the registry every `interval`. `resource` says who we are: `service.name`,
/// `k8s.pod.name`, and so on. The collector need not be there yet.
pub fn start(
    registry: &Registry,
    endpoint: &str,
    resource: &[(&str, String)],
    interval: Duration,
) -> Result<Otlp, OtlpError> {
    if interval < Duration::from_secs(1) {
        return Err(OtlpError::Interval(interval));
    }
    let (stop, stopped) = watch::channel(false);
    let mut exporter = Exporter {
        client: MetricsServiceClient::new(channel(endpoint)?),
        registry: registry.clone(),
        encoder: encode::Encoder::new(resource, wall_clock()),
        results: Results::new(registry),
        failing: false,
        endpoint: endpoint.to_owned(),
    };
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sleep(interval) => exporter.export().await,
                () = shutdown::requested(stopped.clone()) => break,
            }
        }
        exporter.export().await;
    });
    Ok(Otlp { stop, task })
}

impl Otlp {
    /// Exports once more and ends. Takes three seconds at most.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if timeout(SHUTDOWN_TIMEOUT, &mut self.task).await.is_err() {
            tracing::warn!("the last metrics were not exported in time");
        }
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Exporter {
    client: MetricsServiceClient<Channel>,
    registry: Registry,
    encoder: encode::Encoder,
    results: Results,
    failing: bool,
    endpoint: String,
}

/// `trellis_otlp_exports_total`, one handle per result.
struct Results {
    ok: Counter,
    partial: Counter,
    failed: Counter,
}

impl Results {
    fn new(registry: &Registry) -> Self {
        let family = registry.counter("trellis_otlp_exports_total", "Exports of metrics over OTLP.");
        let of = |result| family.with(&[("result", result)]);
        Self { ok: of("ok"), partial: of("partial"), failed: of("failed") }
    }
}

impl Exporter {
    async fn export(&mut self) {
        let snapshot = self.registry.snapshot();
        for request in self.encoder.requests(snapshot, wall_clock()) {
            match timeout(EXPORT_TIMEOUT, self.send(request)).await {
                Ok(Ok(())) => self.works(),
                Ok(Err(reason)) => return self.fails(&reason),
                Err(_) => return self.fails("no answer in time"),
            }
        }
    }

    async fn send(&mut self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        let answer = self.client.export(request).await.map_err(|status| describe(&status))?.into_inner();
        match answer.partial_success {
            Some(partial) if partial.rejected_data_points > 0 => {
                self.results.partial.inc();
                tracing::warn!(
                    endpoint = self.endpoint,
                    rejected = partial.rejected_data_points,
                    reason = partial.error_message,
                    "the collector rejected some metrics"
                );
            }
            _ => self.results.ok.inc(),
        }
        Ok(())
    }

    /// Logged when it changes, not every time.
    fn works(&mut self) {
        if self.failing {
            tracing::info!(endpoint = self.endpoint, "metrics are exported again");
        }
        self.failing = false;
    }

    fn fails(&mut self, reason: &str) {
        self.results.failed.inc();
        if !self.failing {
            tracing::warn!(endpoint = self.endpoint, reason, "metrics cannot be exported; will keep trying");
        }
        self.failing = true;
    }
}

fn channel(endpoint: &str) -> Result<Channel, OtlpError> {
    let wrong = |reason: String| OtlpError::Endpoint { endpoint: endpoint.to_owned(), reason };
    let parsed = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| wrong(error.to_string()))?;
    match parsed.uri().scheme_str() {
        Some("http") => {}
        Some(scheme) => return Err(wrong(format!("its scheme is {scheme}"))),
        None => return Err(wrong("it has no scheme".to_owned())),
    }
    if parsed.uri().host().is_none_or(str::is_empty) {
        return Err(wrong("it has no host".to_owned()));
    }
    Ok(parsed.connect_timeout(CONNECT_TIMEOUT).connect_lazy())
}

fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "a time stamp for others to read; nothing here decides by it")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
