//! Records to an OpenTelemetry Collector: OTLP's signal for logs, for what must be kept record by record.
//! Unlike metrics, a record that is not delivered is not in the next export either.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use tonic::transport::Channel;

pub use super::delivery::QUEUE;
use super::{
    OtlpError, channel,
    delivery::{self, Delivery, Results, Signal},
    describe, encode, wall_clock,
};
use crate::registry::Registry;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub time: SystemTime,
    /// Names the kind of record, as OTLP has it.
    pub event: String,
    pub body: String,
}

/// Takes records for a collector.
pub type Logs = Delivery<Log>;

/// Begins to send. `resource` says who we are. The collector need not be there yet.
pub fn start(registry: &Registry, endpoint: &str, resource: &[(&str, String)]) -> Result<Logs, OtlpError> {
    let results = Results::new(
        registry,
        ["trellis_otlp_log_records_total", "Records for a collector, by what became of them."],
        ["trellis_otlp_log_failures_total", "Attempts to send records over OTLP that failed."],
    );
    let records = Records {
        client: LogsServiceClient::new(channel(endpoint)?),
        resource: encode::resource_of(resource),
        endpoint: endpoint.to_owned(),
    };
    Ok(delivery::start(records, results, endpoint))
}

struct Records {
    client: LogsServiceClient<Channel>,
    resource: Resource,
    endpoint: String,
}

impl Signal for Records {
    type Piece = Log;
    type Request = ExportLogsServiceRequest;
    const PIECES: &'static str = "records";

    fn size(log: &Log) -> usize {
        log.body.len()
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
