//! What became of requests: counted by where they went, by which route, who answered and how well that was
//! protected. Kinds of requests are bounded in number, so that neither a client nor an application can
//! make the record grow.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;
use trellis_api::evidence::Class;
use trellis_telemetry::{Counter, Family, Histogram, Registry};

use crate::{
    directory::{Answer, Endpoint},
    http::{End, Failure},
};

/// Kinds of request that are told apart; beyond it they are `other`.
const KINDS: usize = 2_000;
/// Seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

const OTHER: &str = "other";

pub struct Requests {
    rows: Mutex<HashMap<Kind, Arc<Row>>>,
    total: Family<Counter>,
    took: Family<Histogram>,
    mirrored: Family<Counter>,
    refused: Family<Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    service: Arc<str>,
    route: Arc<str>,
    peer: Arc<str>,
    class: Option<Class>,
    status: u16,
    reason: &'static str,
}

struct Row {
    total: Counter,
    took: Histogram,
}

/// One request, from its head to the end of its answer.
pub struct Request {
    requests: Arc<Requests>,
    began: Instant,
    kind: Kind,
    bytes: u64,
}

impl Requests {
    pub fn new(registry: &Registry) -> Self {
        Self {
            rows: Mutex::default(),
            total: registry
                .counter(
                    "trellis_requests_total",
                    "Requests of applications, by Service, route, who answered, how well the connection was protected, \
                     status, and the reason where there was no answer or not all of one.",
                )
                .open_labels(&["service", "route", "peer"]),
            took: registry
                .histogram(
                    "trellis_request_duration_seconds",
                    "From the head of a request to the end of its answer, by Service, route and how well the connection \
                     was protected.",
                    &BUCKETS,
                )
                .open_labels(&["service", "route"]),
            mirrored: registry.counter(
                "trellis_mirrored_requests_total",
                "Copies of requests that routes asked for, with the reason where one was not sent or not answered.",
            ),
            refused: registry.counter(
                "trellis_http_refused_total",
                "Clients that were not served any longer because of how they spoke HTTP, by reason.",
            ),
        }
    }

    pub fn mirrored(&self) {
        self.mirrored.with(&[("reason", "")]).inc();
    }

    /// A client does not speak HTTP as it must.
    pub fn refused(&self, reason: &'static str) {
        self.refused.with(&[("reason", reason)]).inc();
    }

    pub fn not_mirrored(&self, reason: &'static str) {
        self.mirrored.with(&[("reason", reason)]).inc();
    }

    fn count(&self, kind: &Kind, took: Duration) {
        let row = {
            let mut rows = self.rows.lock();
            match rows.get(kind) {
                Some(row) => row.clone(),
                None if rows.len() >= KINDS => self.row(
                    &mut rows,
                    Kind { service: OTHER.into(), route: OTHER.into(), peer: OTHER.into(), ..kind.clone() },
                ),
                None => self.row(&mut rows, kind.clone()),
            }
        };
        row.total.inc();
        row.took.observe_duration(took);
    }

    fn row(&self, rows: &mut HashMap<Kind, Arc<Row>>, kind: Kind) -> Arc<Row> {
        let class = kind.class.map_or("", Class::as_str);
        let total = self.total.with(&[
            ("service", &kind.service),
            ("route", &kind.route),
            ("peer", &kind.peer),
            ("class", class),
            ("status", &kind.status.to_string()),
            ("reason", kind.reason),
        ]);
        let took = self.took.with(&[("service", &kind.service), ("route", &kind.route), ("class", class)]);
        rows.entry(kind).or_insert_with(|| Arc::new(Row { total, took })).clone()
    }
}

impl Request {
    pub fn begin(requests: &Arc<Requests>, now: Instant) -> Self {
        let none: Arc<str> = Arc::default();
        let kind = Kind {
            service: none.clone(),
            route: none.clone(),
            peer: none,
            class: None,
            status: 0,
            reason: "",
        };
        Self { requests: requests.clone(), began: now, kind, bytes: 0 }
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    /// Where the client wanted to go.
    pub fn towards(&mut self, answer: &Answer) {
        if let Answer::Service(service) = answer {
            self.kind.service = service.label.clone();
        }
    }

    /// The route that led it.
    pub fn by(&mut self, route: &Arc<str>) {
        self.kind.route = route.clone();
    }

    /// The endpoint that it is led to.
    pub fn at(&mut self, endpoint: &Endpoint) {
        self.kind.peer = endpoint.peer.clone();
    }

    pub fn class(&mut self, class: Class) {
        self.kind.class = Some(class);
    }

    pub fn status(&mut self, status: StatusCode) {
        self.kind.status = status.as_u16();
    }

    /// Bytes of the answer's body went by.
    pub fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub fn ended(&mut self, end: End) {
        self.kind.reason = match end {
            End::Complete => "",
            End::Broken => "answer_broke",
            End::Abandoned => "client_left",
            End::TimedOut => "answer_timed_out",
        };
        self.record();
    }

    /// There was no answer but ours.
    pub fn failed(&mut self, failure: &Failure) {
        self.kind.status = failure.status.as_u16();
        self.kind.reason = failure.reason;
        self.record();
    }

    fn record(&self) {
        self.requests.count(&self.kind, Instant::now().duration_since(self.began));
    }
}
