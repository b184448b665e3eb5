//! Spans to an OpenTelemetry Collector: OTLP's signal for traces.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Wire, Status,
        span::{Link, SpanKind},
        status::StatusCode,
    },
};
use tonic::transport::Channel;

pub use super::delivery::QUEUE;
use super::{
    OtlpError, channel,
    delivery::{self, Delivery, Results, Signal},
    describe,
    encode::{self, nanos},
};
use crate::registry::Registry;

/// Something that took time in a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace: u128,
    pub id: u64,
    /// The span that this one is within.
    pub parent: Option<u64>,
    /// Trace and span of something else that this one has to do with.
    pub link: Option<(u128, u64)>,
    pub name: String,
    pub kind: Kind,
    pub began: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// At which end of a connection it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Client,
    Server,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
    Truth(bool),
}

/// Takes spans for a collector.
pub type Spans = Delivery<Span>;

/// Begins to send. `resource` says who we are. The collector need not be there yet.
pub fn start(registry: &Registry, endpoint: &str, resource: &[(&str, String)]) -> Result<Spans, OtlpError> {
    let results = Results::new(
        registry,
        ["trellis_otlp_spans_total", "Spans for a collector, by what became of them."],
        ["trellis_otlp_span_failures_total", "Attempts to send spans over OTLP that failed."],
    );
    let traces = Traces {
        client: TraceServiceClient::new(channel(endpoint)?),
        resource: encode::resource_of(resource),
        endpoint: endpoint.to_owned(),
    };
    Ok(delivery::start(traces, results, endpoint))
}

struct Traces {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    endpoint: String,
}

impl Signal for Traces {
    type Piece = Span;
    type Request = ExportTraceServiceRequest;
    const PIECES: &'static str = "spans";

    fn size(span: &Span) -> usize {
        let attribute = |(name, value): &(&str, Value)| {
            name.len()
                + match value {
                    Value::Text(text) => text.len(),
                    Value::Number(_) | Value::Truth(_) => size_of::<i64>(),
                }
        };
        size_of::<Span>() + span.attributes.iter().map(attribute).sum::<usize>()
    }

    fn request(&self, batch: Vec<Span>) -> ExportTraceServiceRequest {
        let spans = batch.into_iter().map(wire).collect();
        let scope = ScopeSpans { scope: Some(encode::scope()), spans, ..ScopeSpans::default() };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![scope],
                ..ResourceSpans::default()
            }],
        }
    }

    async fn send(&mut self, request: ExportTraceServiceRequest) -> Result<u64, String> {
        let answer = self.client.export(request).await.map_err(|status| describe(&status))?.into_inner();
        let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_spans > 0) else {
            return Ok(0);
        };
        tracing::warn!(
            endpoint = self.endpoint,
            rejected = partial.rejected_spans,
            reason = partial.error_message,
            "the collector rejected some spans"
        );
        Ok(partial.rejected_spans.unsigned_abs())
    }
}

fn wire(span: Span) -> Wire {
    let link = |(trace, id): (u128, u64)| Link {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        ..Link::default()
    };
    let status = span.failure.map(|message| Status { message, code: StatusCode::Error.into() });
    let kind = match span.kind {
        Kind::Client => SpanKind::Client,
        Kind::Server => SpanKind::Server,
    };
    Wire {
        trace_id: span.trace.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes: span.attributes.into_iter().map(|(name, value)| encode::attribute(name, value)).collect(),
        links: span.link.into_iter().map(link).collect(),
        status,
        ..Wire::default()
    }
}

impl From<Value> for opentelemetry::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => text.into(),
            Value::Number(number) => number.into(),
            Value::Truth(truth) => truth.into(),
        }
    }
}
