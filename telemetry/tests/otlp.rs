//! Export to a collector: a real gRPC server of OTLP's own service, in this process.

#![allow(clippy::panic, reason = "a test's own helpers")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use trellis_telemetry::{
    Registry,
    otlp::{self, OtlpError},
};

const INTERVAL: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_collector_receives_what_the_registry_holds() -> Result<()> {
    let mut collector = Collector::start(0).await?;
    let registry = Registry::new();
    registry.counter("trellis_bytes_total", "Bytes, by class.").with(&[("class", "pq")]).add(700);
    registry.gauge("trellis_connections_open", "Open now.").with(&[]).set(4.0);
    let time = registry.histogram("trellis_handshake_seconds", "Time.", &[0.01, 0.1]).with(&[]);
    time.observe(0.01);
    time.observe(5.0);

    let before = UNIX_EPOCH.elapsed()?.as_nanos();
    let resource = [("service.name", "trellis-proxy".to_owned()), ("k8s.pod.name", "web-0".to_owned())];
    let otlp = otlp::start(&registry, &collector.endpoint(), &resource, INTERVAL)?;
    let request = collector.next().await?;

    let of = &request.resource_metrics[0];
    let resource = attributes(&of.resource.as_ref().context("resource")?.attributes);
    assert_eq!(resource["service.name"], "trellis-proxy");
    assert_eq!(resource["k8s.pod.name"], "web-0");
    let metrics = by_name(&request);

    let bytes = metrics["trellis_bytes_total"];
    assert_eq!(bytes.description, "Bytes, by class.");
    assert_eq!(bytes.unit, "By");
    let Some(Data::Sum(sum)) = &bytes.data else { panic!("{bytes:?}") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
    let point = &sum.data_points[0];
    assert_eq!(point.value, Some(number_data_point::Value::AsInt(700)));
    assert_eq!(attributes(&point.attributes)["class"], "pq");
    assert!(u128::from(point.start_time_unix_nano) >= before);
    assert!(point.time_unix_nano >= point.start_time_unix_nano);

    let Some(Data::Gauge(open)) = &metrics["trellis_connections_open"].data else { panic!() };
    assert_eq!(open.data_points[0].value, Some(number_data_point::Value::AsDouble(4.0)));

    let seconds = metrics["trellis_handshake_seconds"];
    assert_eq!(seconds.unit, "s");
    let Some(Data::Histogram(histogram)) = &seconds.data else { panic!() };
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.sum), (2, Some(5.01)));
    assert_eq!(point.explicit_bounds, [0.01, 0.1]);
    assert_eq!(point.bucket_counts, [1, 0, 1]);

    // What was recorded since the last export leaves with the last one.
    registry.counter("trellis_bytes_total", "Bytes, by class.").with(&[("class", "pq")]).add(1);
    let start = start_time(&request)?;
    otlp.shutdown().await;
    let mut last = collector.next().await?;
    while let Ok(request) = collector.requests.try_recv() {
        last = request;
    }
    let Some(Data::Sum(sum)) = &by_name(&last)["trellis_bytes_total"].data else { panic!() };
    assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsInt(701)));
    assert_eq!(start_time(&last)?, start, "cumulative since one and the same moment");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_everything_so_far() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let registry = Registry::new();
    registry.counter("trellis_bytes_total", "Bytes.").with(&[("class", "pq")]).add(3);
    let (sender, mut collected) = mpsc::unbounded_channel();
    registry.on_collect(Box::new(move || {
        let _ = sender.send(());
    }));
    let _otlp = otlp::start(&registry, &format!("http://{address}"), &[], INTERVAL)?;

    drop(listener.accept().await?);
    // The second time that the registry is read, the first export is over.
    collected.recv().await.context("first")?;
    collected.recv().await.context("second")?;
    assert!(registry.counter("trellis_otlp_exports_total", "").with(&[("result", "failed")]).get() > 0);

    let mut collector = Collector::on(listener, 0)?;
    let request = collector.next().await?;
    let Some(Data::Sum(sum)) = &by_name(&request)["trellis_bytes_total"].data else { panic!() };
    assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsInt(3)));
    Ok(())
}

#[tokio::test]
async fn what_the_collector_rejects_is_counted() -> Result<()> {
    let mut collector = Collector::start(2).await?;
    let registry = Registry::new();
    registry.gauge("open", "Open.").with(&[]).set(1.0);
    let otlp = otlp::start(&registry, &collector.endpoint(), &[], INTERVAL)?;
    collector.next().await?;
    otlp.shutdown().await;
    assert!(registry.counter("trellis_otlp_exports_total", "").with(&[("result", "partial")]).get() > 0);
    Ok(())
}

#[tokio::test]
async fn a_large_registry_travels_in_several_requests() -> Result<()> {
    let mut collector = Collector::start(0).await?;
    let registry = Registry::new();
    let family = registry.counter("wide_total", "Wide.").max_series(5_000);
    for n in 0..4_500 {
        family.with(&[("n", &n.to_string())]).inc();
    }
    let _otlp = otlp::start(&registry, &collector.endpoint(), &[], INTERVAL)?;
    let mut points = 0;
    let mut requests = 0;
    while points < 4_500 {
        let request = collector.next().await?;
        requests += 1;
        for metric in by_name(&request).into_values().filter(|metric| metric.name == "wide_total") {
            let Some(Data::Sum(sum)) = &metric.data else { panic!() };
            points += sum.data_points.len();
        }
    }
    assert_eq!(points, 4_500, "each series once");
    assert!(requests >= 3, "{requests} requests");
    Ok(())
}

#[tokio::test]
async fn endpoints_that_cannot_work_are_refused_with_the_reason() {
    let registry = Registry::new();
    for endpoint in
        ["", "collector:4317", "https://collector:4317", "http://", "http://a b", "grpc://collector:4317"]
    {
        let error = otlp::start(&registry, endpoint, &[], INTERVAL).err();
        let Some(OtlpError::Endpoint { endpoint: named, .. }) = &error else {
            panic!("{endpoint:?}: {error:?}")
        };
        assert_eq!(named, endpoint);
    }
    let soon = otlp::start(&registry, "http://127.0.0.1:4317", &[], Duration::ZERO);
    assert!(matches!(soon.err(), Some(OtlpError::Interval(_))));
}

struct Collector {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<ExportMetricsServiceRequest>,
}

struct Receiver {
    sender: mpsc::UnboundedSender<ExportMetricsServiceRequest>,
    rejects: i64,
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let _ = self.sender.send(request.into_inner());
        let partial = ExportMetricsPartialSuccess {
            rejected_data_points: self.rejects,
            error_message: "for the test".to_owned(),
        };
        let partial_success = (self.rejects > 0).then_some(partial);
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

impl Collector {
    async fn start(rejects: i64) -> Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0").await?, rejects)
    }

    fn on(listener: TcpListener, rejects: i64) -> Result<Self> {
        let address = listener.local_addr()?;
        let (sender, requests) = mpsc::unbounded_channel();
        let service = MetricsServiceServer::new(Receiver { sender, rejects });
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { address, requests })
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn next(&mut self) -> Result<ExportMetricsServiceRequest> {
        self.requests.recv().await.context("the collector is gone")
    }
}

fn by_name(request: &ExportMetricsServiceRequest) -> BTreeMap<&str, &Metric> {
    request
        .resource_metrics
        .iter()
        .flat_map(|resource| &resource.scope_metrics)
        .flat_map(|scope| &scope.metrics)
        .map(|metric| (metric.name.as_str(), metric))
        .collect()
}

fn start_time(request: &ExportMetricsServiceRequest) -> Result<SystemTime> {
    let metrics = by_name(request);
    let Some(Data::Sum(sum)) = &metrics["trellis_bytes_total"].data else { panic!() };
    let point = sum.data_points.first().context("no point")?;
    Ok(UNIX_EPOCH + Duration::from_nanos(point.start_time_unix_nano))
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|attribute| {
            let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => text.clone(),
                other => panic!("{other:?}"),
            };
            (attribute.key.clone(), value)
        })
        .collect()
}
