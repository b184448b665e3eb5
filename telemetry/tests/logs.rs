//! Records to a collector: a real gRPC server of OTLP's own service, in this process.
#![allow(clippy::panic, reason = "a test's own helpers")]

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value::Value,
    logs::v1::LogRecord,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use trellis_telemetry::{
    Registry,
    otlp::logs::{self, Log, QUEUE},
};

fn log(number: usize) -> Log {
    Log {
        time: UNIX_EPOCH + Duration::from_secs(7),
        event: "trellis.dev/audit/v1".to_owned(),
        body: format!("record {number}"),
    }
}

fn counted(registry: &Registry, result: &str) -> u64 {
    registry.counter("trellis_otlp_log_records_total", "").with(&[("result", result)]).get()
}

#[tokio::test]
async fn a_collector_receives_each_record_once_and_in_order() -> Result<()> {
    let mut collector = Collector::on(TcpListener::bind("127.0.0.1:0").await?, 0)?;
    let registry = Registry::new();
    let resource = [("service.name", "trellis-ca".to_owned())];
    let logs = logs::start(&registry, &collector.endpoint, &resource)?;
    for number in 0..1_500 {
        logs.send(log(number)).await;
    }
    logs.shutdown().await;
    let mut records = Vec::new();
    while let Ok(request) = collector.requests.try_recv() {
        let of = request.resource_logs[0].resource.as_ref().context("resource")?;
        assert_eq!(of.attributes[0].key, "service.name");
        records.extend(records_of(request));
    }
    assert_eq!(records.len(), 1_500);
    for (number, record) in records.iter().enumerate() {
        assert_eq!(body(record), format!("record {number}"));
    }
    assert_eq!((records[0].time_unix_nano, &*records[0].event_name), (7_000_000_000, "trellis.dev/audit/v1"));
    assert_eq!(counted(&registry, "sent"), 1_500);
    Ok(())
}

#[tokio::test]
async fn what_waits_is_bounded_and_a_collector_that_comes_late_gets_it() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let registry = Registry::new();
    let logs = logs::start(&registry, &format!("http://{}", listener.local_addr()?), &[])?;
    let offered: Vec<bool> = (0..QUEUE + 3).map(|number| logs.offer(log(number))).collect();
    assert_eq!(offered.iter().filter(|taken| **taken).count(), QUEUE);
    assert!(!logs.has_room() && counted(&registry, "dropped") == 3);
    // The first attempt ends badly.
    drop(listener.accept().await?);
    let mut collector = Collector::on(listener, 0)?;
    let mut received = 0;
    while received < QUEUE {
        let request = collector.requests.recv().await.context("the collector is gone")?;
        for record in records_of(request) {
            assert_eq!(body(&record), format!("record {received}"));
            received += 1;
        }
    }
    assert!(logs.offer(log(0)), "there is room again");
    Ok(())
}

#[tokio::test]
async fn what_the_collector_rejects_is_counted() -> Result<()> {
    let mut collector = Collector::on(TcpListener::bind("127.0.0.1:0").await?, 2)?;
    let registry = Registry::new();
    let logs = logs::start(&registry, &collector.endpoint, &[])?;
    (0..3).for_each(|number| assert!(logs.offer(log(number))));
    collector.requests.recv().await.context("the collector is gone")?;
    logs.shutdown().await;
    assert_eq!((counted(&registry, "rejected"), counted(&registry, "sent")), (2, 1));
    Ok(())
}

struct Collector {
    endpoint: String,
    requests: mpsc::UnboundedReceiver<ExportLogsServiceRequest>,
}

struct Receiver {
    sender: mpsc::UnboundedSender<ExportLogsServiceRequest>,
    rejects: i64,
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let _ = self.sender.send(request.into_inner());
        let partial = ExportLogsPartialSuccess {
            rejected_log_records: self.rejects,
            error_message: "for the test".to_owned(),
        };
        let partial_success = (self.rejects > 0).then_some(partial);
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

impl Collector {
    fn on(listener: TcpListener, rejects: i64) -> Result<Self> {
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (sender, requests) = mpsc::unbounded_channel();
        let service = LogsServiceServer::new(Receiver { sender, rejects });
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { endpoint, requests })
    }
}

fn records_of(request: ExportLogsServiceRequest) -> Vec<LogRecord> {
    request
        .resource_logs
        .into_iter()
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect()
}

fn body(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}
