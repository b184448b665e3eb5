//! Spans to a collector: a real gRPC server of OTLP's own service, in this process.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use trellis_telemetry::{
    Registry,
    otlp::spans::{self, Kind, QUEUE, Span, Value},
};

fn span(id: u64) -> Span {
    Span {
        trace: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        id,
        parent: Some(7),
        link: Some((1, 2)),
        name: "GET shop/cart".to_owned(),
        kind: Kind::Client,
        began: UNIX_EPOCH + Duration::from_secs(7),
        ended: UNIX_EPOCH + Duration::from_secs(8),
        attributes: vec![
            ("http.response.status_code", Value::Number(503)),
            ("trellis.class", Value::Text("pq".to_owned())),
            ("trellis.connection.reused", Value::Truth(true)),
        ],
        failure: Some("no_endpoint".to_owned()),
    }
}

fn counted(registry: &Registry, result: &str) -> u64 {
    registry.counter("trellis_otlp_spans_total", "").with(&[("result", result)]).get()
}

#[tokio::test]
async fn a_collector_receives_a_span_as_it_was_told() -> Result<()> {
    let (endpoint, mut requests) = collector(TcpListener::bind("127.0.0.1:0").await?, 0)?;
    let registry = Registry::new();
    let spans = spans::start(&registry, &endpoint, &[("service.name", "web".to_owned())])?;
    assert!(spans.offer(span(9)));
    let request = requests.recv().await.context("the collector is gone")?;
    spans.shutdown().await;
    let of = &request.resource_spans[0];
    assert_eq!(of.resource.as_ref().context("resource")?.attributes[0].key, "service.name");
    let got = &of.scope_spans[0].spans[0];
    assert_eq!(got.trace_id, (1..=16).collect::<Vec<u8>>());
    assert_eq!(
        (got.span_id.as_slice(), got.parent_span_id.as_slice()),
        (&9u64.to_be_bytes()[..], &7u64.to_be_bytes()[..])
    );
    assert_eq!((got.name.as_str(), got.kind()), ("GET shop/cart", SpanKind::Client));
    assert_eq!((got.start_time_unix_nano, got.end_time_unix_nano), (7_000_000_000, 8_000_000_000));
    let status = got.status.as_ref().context("status")?;
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "no_endpoint"));
    assert_eq!(got.links[0].span_id, 2u64.to_be_bytes());
    assert_eq!(got.attributes.len(), 3);
    assert_eq!(counted(&registry, "sent"), 1);
    Ok(())
}

#[tokio::test]
async fn what_waits_is_bounded_and_what_is_rejected_or_dropped_is_counted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let registry = Registry::new();
    let spans = spans::start(&registry, &format!("http://{}", listener.local_addr()?), &[])?;
    let taken = (0..QUEUE + 3).filter(|number| spans.offer(span(*number as u64 + 1))).count();
    assert_eq!((taken, counted(&registry, "dropped")), (QUEUE, 3));
    let (_, mut requests) = collector(listener, 1)?;
    let (mut received, mut batches) = (0, 0);
    while received < QUEUE {
        let request = requests.recv().await.context("the collector is gone")?;
        received += request.resource_spans[0].scope_spans[0].spans.len();
        batches += 1;
    }
    spans.shutdown().await;
    assert_eq!((received, counted(&registry, "rejected")), (QUEUE, batches));
    Ok(())
}

struct Receiver {
    sender: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    rejects: i64,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.sender.send(request.into_inner());
        let partial = ExportTracePartialSuccess {
            rejected_spans: self.rejects,
            error_message: "for the test".to_owned(),
        };
        let partial_success = (self.rejects > 0).then_some(partial);
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

fn collector(
    listener: TcpListener,
    rejects: i64,
) -> Result<(String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>)> {
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (sender, requests) = mpsc::unbounded_channel();
    let service = TraceServiceServer::new(Receiver { sender, rejects });
    tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    Ok((endpoint, requests))
}
