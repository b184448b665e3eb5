//! Records to an OpenTelemetry Collector: OTLP's signal for logs, for what must be kept record by record.
//!
//! Unlike metrics, a record that is not delivered is not in the next export either. So they wait in a
//! bounded queue, and a batch is sent until the collector has taken it. Whoever hands in a record decides
//! what happens where there is no room: wait, or go without it.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use super::{EXPORT_TIMEOUT, OtlpError, SHUTDOWN_TIMEOUT, channel, describe, encode, wall_clock};
use crate::{instrument::Counter, registry::Registry, shutdown};

/// Records that wait.
pub const QUEUE: usize = 4_096;
/// Of one request: far below the 4 MiB that a gRPC receiver takes by default.
const MAX_RECORDS: usize = 512;
const MAX_BYTES: usize = 1 << 20;
/// Between attempts to send the same batch.
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub time: SystemTime,
    /// Names the kind of record, as OTLP has it.
    pub event: String,
    pub body: String,
}

/// Takes records for a collector. It ends when this is dropped, or after a last attempt by
/// [`Logs::shutdown`].
pub struct Logs {
    queue: mpsc::Sender<Log>,
    dropped: Counter,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Begins to send. `resource` says who we are. The collector need not be there yet.
pub fn start(registry: &Registry, endpoint: &str, resource: &[(&str, String)]) -> Result<Logs, OtlpError> {
    let results = Results::new(registry);
    let dropped = results.dropped.clone();
    let (queue, records) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let exporter = Exporter {
        client: LogsServiceClient::new(channel(endpoint)?),
        resource: encode::resource_of(resource),
        records,
        results,
        endpoint: endpoint.to_owned(),
    };
    let task = tokio::spawn(exporter.run(stopped));
    Ok(Logs { queue, dropped, stop, task })
}

impl Logs {
    /// Hands in a record if there is room; if not, that is counted.
    pub fn offer(&self, log: Log) -> bool {
        let taken = self.queue.try_send(log).is_ok();
        if !taken {
            self.dropped.inc();
        }
        taken
    }

    pub fn has_room(&self) -> bool {
        self.queue.capacity() > 0
    }

    /// Hands in a record, and waits for room as long as it takes.
    pub async fn send(&self, log: Log) {
        // The task that receives lives as long as this.
        let _ = self.queue.send(log).await;
    }

    /// Tries once more to send what waits. Takes three seconds at most.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if timeout(SHUTDOWN_TIMEOUT, &mut self.task).await.is_err() {
            tracing::warn!("the last records were not exported in time");
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Exporter {
    client: LogsServiceClient<Channel>,
    resource: Resource,
    records: mpsc::Receiver<Log>,
    results: Results,
    endpoint: String,
}

struct Results {
    sent: Counter,
    rejected: Counter,
    dropped: Counter,
    failed: Counter,
}

impl Results {
    fn new(registry: &Registry) -> Self {
        let records = registry
            .counter("trellis_otlp_log_records_total", "Records for a collector, by what became of them.");
        let failed = registry
            .counter("trellis_otlp_log_failures_total", "Attempts to send records over OTLP that failed.");
        let of = |result| records.with(&[("result", result)]);
        Self { sent: of("sent"), rejected: of("rejected"), dropped: of("dropped"), failed: failed.with(&[]) }
    }
}

impl Exporter {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        loop {
            let first = tokio::select! {
                biased;
                first = self.records.recv() => first,
                () = shutdown::requested(stopped.clone()) => self.records.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first);
            if !self.deliver(batch, &stopped).await {
                return;
            }
        }
    }

    fn gather(&mut self, first: Log) -> Vec<Log> {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while batch.len() < MAX_RECORDS && bytes < MAX_BYTES {
            let Ok(next) = self.records.try_recv() else { break };
            bytes += next.body.len();
            batch.push(next);
        }
        batch
    }

    /// Sends until it was taken; false if it was given up because the process ends.
    async fn deliver(&mut self, batch: Vec<Log>, stopped: &watch::Receiver<bool>) -> bool {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let request = self.request(batch);
        let mut wait = RETRY;
        loop {
            let sent = timeout(EXPORT_TIMEOUT, self.send(request.clone())).await;
            match sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(rejected) => {
                    self.results.rejected.add(rejected.min(count));
                    self.results.sent.add(count.saturating_sub(rejected));
                    if wait > RETRY {
                        tracing::info!(endpoint = self.endpoint, "records are exported again");
                    }
                    return true;
                }
                Err(reason) => {
                    self.results.failed.inc();
                    // Logged when it begins, not every time.
                    if wait == RETRY {
                        let endpoint = &self.endpoint;
                        tracing::warn!(endpoint, reason, "records cannot be exported; will keep trying");
                    }
                }
            }
            if *stopped.borrow() {
                return false;
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(MAX_RETRY),
                // One more attempt, at once.
                () = shutdown::requested(stopped.clone()) => {}
            }
        }
    }

    /// How many records the collector rejected, which it does for good.
    async fn send(&mut self, request: ExportLogsServiceRequest) -> Result<u64, String> {
        let answer = self.client.export(request).await.map_err(|status| describe(&status))?.into_inner();
        let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_log_records > 0) else {
            return Ok(0);
        };
        tracing::warn!(
            endpoint = self.endpoint,
            rejected = partial.rejected_log_records,
            reason = partial.error_message,
            "the collector rejected some records"
        );
        Ok(partial.rejected_log_records.unsigned_abs())
    }

    fn request(&self, batch: Vec<Log>) -> ExportLogsServiceRequest {
        let log_records = batch.into_iter().map(record).collect();
        let scope = ScopeLogs { scope: Some(encode::scope()), log_records, ..ScopeLogs::default() };
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![scope],
                ..ResourceLogs::default()
            }],
        }
    }
}

fn record(log: Log) -> LogRecord {
    LogRecord {
        time_unix_nano: encode::nanos(log.time),
        observed_time_unix_nano: encode::nanos(wall_clock()),
        severity_number: SeverityNumber::Info.into(),
        body: Some(opentelemetry::Value::from(log.body).into()),
        event_name: log.event,
        ..LogRecord::default()
    }
}
