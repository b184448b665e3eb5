//! Traces through both proxies, as a collector and the application see them.

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use trellis_local::Environment;
use trellis_loopback::{
    stage::{Error, Stage},
    wire::{Head, Wire},
};

use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("a_sampled_request_has_a_span_of_each_proxy_within_its_own", sampled),
        trial("what_is_not_sampled_has_no_span_and_arrives_as_it_was_sent", unsampled),
        trial("a_share_of_requests_begins_a_trace_and_applications_hear_of_it", begun),
    ]
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A span, and whose it is.
struct Told {
    service: String,
    span: Span,
}

struct Collector {
    endpoint: String,
    told: mpsc::UnboundedReceiver<Told>,
}

struct Receiver(mpsc::UnboundedSender<Told>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|of| said(&of.attributes)).unwrap_or_default();
            let service = attributes.get("service.name").cloned().unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let _ = self.0.send(Told { service: service.clone(), span });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (sender, told) = mpsc::unbounded_channel();
        let service = TraceServiceServer::new(Receiver(sender));
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { endpoint, told })
    }

    /// A mesh whose proxies tell it of spans.
    async fn stage(&self, sampling: &str) -> Result<Stage, Error> {
        let variables = [("TRELLIS_OTLP_ENDPOINT", &*self.endpoint), ("TRELLIS_TRACE_SAMPLING", sampling)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let all = ["client", "server"].map(|name| (name.to_owned(), variables.to_vec()));
        Stage::open_in(Environment::from(all), &[]).await
    }

    async fn next(&mut self) -> Result<Told, Error> {
        self.told.recv().await.ok_or_else(|| "the collector is gone".into())
    }

    /// All that comes until both proxies have ended.
    async fn rest(mut self, mut stage: Stage) -> Vec<Told> {
        for name in ["client", "server"] {
            stage.mesh.end(name).await;
        }
        let mut rest = Vec::new();
        while let Ok(told) = self.told.try_recv() {
            rest.push(told);
        }
        rest
    }
}

fn said(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let one = |one: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = one.value.as_ref().and_then(|value| value.value.as_ref()).map(text);
        (one.key.clone(), value.unwrap_or_default())
    };
    attributes.iter().map(one).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers every request, and hands on what it got.
async fn application(stage: &Stage) -> Result<mpsc::UnboundedReceiver<Head>, Error> {
    let listener = TcpListener::bind(stage.application()).await?;
    let (got, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let got = got.clone();
            tokio::spawn(async move {
                let mut wire = Wire::new(socket);
                while let Ok(Some(head)) = wire.head().await {
                    let _ = got.send(head);
                    let _ = wire.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                }
            });
        }
    });
    Ok(heads)
}

/// Asks on a connection of its own, and says what arrived.
async fn ask(stage: &Stage, heads: &mut mpsc::UnboundedReceiver<Head>, headers: &str) -> Result<Head, Error> {
    let mut wire = Wire::new(TcpStream::connect(stage.entry()).await?);
    wire.ask(format!("GET /cart?a=b HTTP/1.1\r\nhost: web\r\n{headers}\r\n")).await?;
    heads.recv().await.ok_or_else(|| "the application is gone".into())
}

async fn sampled() -> Result<(), Error> {
    let mut collector = Collector::start().await?;
    let stage = collector.stage("0").await?;
    let mut heads = application(&stage).await?;
    let headers = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: rojo=1\r\n");
    let got = ask(&stage, &mut heads, &headers).await?;
    let arrived = got.get("traceparent").ok_or("no traceparent")?.to_owned();
    assert_eq!((got.all("traceparent").len(), got.get("tracestate")), (1, Some("rojo=1")));
    let (first, second) = (collector.next().await?, collector.next().await?);
    let (client, server) = if first.service == "client" { (first, second) } else { (second, first) };
    assert_eq!((&*client.service, &*server.service), ("client", "server"));
    for told in [&client, &server] {
        let attributes = said(&told.span.attributes);
        assert_eq!(hex(&told.span.trace_id), TRACE);
        assert!(told.span.end_time_unix_nano >= told.span.start_time_unix_nano);
        for (name, value) in [
            ("trellis.class", "pq"),
            ("tls.protocol.version", "1.3"),
            ("trellis.tls.group", "X25519MLKEM768"),
            ("trellis.tls.client_signature", "ML-DSA-65"),
            ("trellis.tls.server_signature", "ML-DSA-65"),
        ] {
            assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name} in {attributes:?}");
        }
    }
    assert_eq!(hex(&client.span.parent_span_id), PARENT);
    assert_eq!((&*client.span.name, client.span.status.as_ref()), ("GET", None));
    let id = hex(&client.span.span_id);
    assert!(arrived.starts_with(&format!("00-{TRACE}-{id}-01")), "{arrived} is not within {id}");
    let attributes = said(&client.span.attributes);
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/cart"),
        ("http.response.status_code", "200"),
        ("trellis.connection.reused", "false"),
        ("trellis.peer", "spiffe://cluster.local/ns/test/sa/server"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{name} in {attributes:?}");
    }
    assert_eq!((&*server.span.name, hex(&server.span.parent_span_id)), ("trellis.accept", id));
    // Where nothing has to be led to the application, the server's proxy sees bytes and no requests.
    ask(&stage, &mut heads, &headers).await?;
    let rest = collector.rest(stage).await;
    let services: Vec<_> = rest.iter().map(|told| (&*told.service, &*told.span.name)).collect();
    assert_eq!(services, [("client", "GET")]);
    assert_eq!(said(&rest[0].span.attributes)["trellis.connection.reused"], "true");
    Ok(())
}

async fn unsampled() -> Result<(), Error> {
    let collector = Collector::start().await?;
    let stage = collector.stage("0").await?;
    let mut heads = application(&stage).await?;
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let got = ask(&stage, &mut heads, &format!("traceparent: {unsampled}\r\ntracestate: a=1\r\n")).await?;
    assert_eq!((got.get("traceparent"), got.get("tracestate")), (Some(&*unsampled), Some("a=1")));
    let got = ask(&stage, &mut heads, "").await?;
    assert_eq!(got.get("traceparent"), None);
    // A trace that cannot be read is begun anew by whoever comes next.
    let broken = format!("traceparent: 00-{}-{PARENT}-01\r\ntracestate: a=1\r\n", TRACE.to_uppercase());
    let got = ask(&stage, &mut heads, &broken).await?;
    assert_eq!((got.get("traceparent"), got.get("tracestate")), (None, None));
    assert!(collector.rest(stage).await.is_empty());
    Ok(())
}

async fn begun() -> Result<(), Error> {
    let mut collector = Collector::start().await?;
    let stage = collector.stage("1").await?;
    let mut heads = application(&stage).await?;
    let got = ask(&stage, &mut heads, "").await?;
    let arrived = got.get("traceparent").ok_or("no traceparent")?;
    let told = loop {
        let told = collector.next().await?;
        if told.service == "client" {
            break told;
        }
    };
    let (trace, id) = (hex(&told.span.trace_id), hex(&told.span.span_id));
    assert!(told.span.parent_span_id.is_empty());
    assert_eq!(arrived, format!("00-{trace}-{id}-03"));
    Ok(())
}
