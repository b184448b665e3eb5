//! What became of requests: counted by where they went, by which route, who answered and how well that was
//! protected. Kinds of requests are bounded in number, so that neither a client nor an application can
//! make the record grow.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;
use trellis_api::evidence::Class;
use trellis_telemetry::{Counter, Family, Histogram, Registry};

use crate::{
    account::{Account, Audience, Counted},
    directory::{Answer, Endpoint},
    http::{End, Failure},
    ledger::{Ledger, Row as Terms},
    trace::{Open, Tracer},
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
    own: Arc<str>,
    audience: Arc<Audience>,
    pub tracer: Arc<Tracer>,
}

#[derive(Clone, PartialEq, Eq)]
struct Kind {
    service: Arc<str>,
    route: Arc<str>,
    peer: Arc<str>,
    class: Option<Class>,
    status: u16,
    reason: &'static str,
}

/// Of the same route, peer and status there are few: what else there is would be hashed for each request.
impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.route.hash(state);
        self.peer.hash(state);
        self.status.hash(state);
    }
}

struct Row {
    total: Counter,
    took: Histogram,
}

/// One request, from its head to the end of its answer. Who goes before that is counted as one who left.
pub struct Request {
    requests: Arc<Requests>,
    began: Instant,
    kind: Kind,
    bytes: u64,
    /// Nothing more is to be said of it.
    over: bool,
    /// Present where somebody wants to hear of it.
    account: Option<Box<Account>>,
}

impl Requests {
    pub fn new(ledger: &Ledger, tracer: Tracer, registry: &Registry) -> Self {
        Self {
            own: ledger.own().clone(),
            audience: ledger.audience().clone(),
            tracer: Arc::new(tracer),
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
            ("status", &told(kind.status)),
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
        Self { requests: requests.clone(), began: now, kind, bytes: 0, over: false, account: None }
    }

    /// A copy of a request, which is counted elsewhere.
    pub fn copy(requests: &Arc<Requests>, now: Instant) -> Self {
        let mut copy = Self::begin(requests, now);
        copy.over = true;
        copy
    }

    /// Whoever listens, or follows a trace, hears more of it than is counted.
    pub fn follow(&mut self, open: Option<Open>, account: impl FnOnce(SystemTime) -> Account) {
        if open.is_some() || self.requests.audience.listens() {
            self.account = Some(Box::new(account(self.requests.audience.clock.now())));
        }
    }

    /// Where the bytes of its body are to be counted, if they are.
    pub fn sent(&self) -> Option<Arc<AtomicU64>> {
        self.account.as_ref().map(|account| account.sent.clone())
    }

    /// The span of it that is under way.
    pub fn span(&self) -> Option<&Open> {
        self.account.as_ref()?.span.as_ref()
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
        if let Some(account) = &mut self.account {
            account.tried(endpoint.address);
        }
    }

    /// What its connection negotiated, and whether that was there before.
    pub fn over(&mut self, row: &Arc<Terms>, reused: bool) {
        self.kind.class = Some(row.class);
        if let Some(account) = &mut self.account {
            account.over(row, reused);
        }
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

    fn record(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let took = Instant::now().duration_since(self.began);
        self.requests.count(&self.kind, took);
        let Some(account) = self.account.take() else { return };
        let Kind { service, route, peer, status, reason, .. } = &self.kind;
        let status = (*status > 0).then_some(*status);
        let counted = Counted { service, route, peer, status, reason, received: self.bytes, took };
        if let Some(open) = account.span {
            self.requests.tracer.tell(account.span(open, &counted));
        }
        let Requests { audience, own, .. } = &*self.requests;
        if audience.listens() {
            audience.tell(account.entry(audience, own, &counted));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.over {
            self.kind.reason = "client_left";
            self.record();
        }
    }
}

/// What the client was told, where it still was there to be told.
fn told(status: u16) -> String {
    match status {
        0 => String::new(),
        status => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use trellis_pki::{clock::SystemClock, spiffe::SpiffeId};

    use super::*;
    use crate::directory::Directory;

    fn requests(registry: &Registry) -> Arc<Requests> {
        let own = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        let audience = Arc::new(Audience::new("shop/web-0".into(), Arc::new(SystemClock), None));
        let ledger = Ledger::new(&own, "shop/web-0".into(), Directory::new().0, audience, registry);
        Arc::new(Requests::new(&ledger, Tracer::default(), registry))
    }

    #[tokio::test]
    async fn neither_routes_nor_peers_make_the_record_grow_without_end() {
        let registry = Registry::new();
        let requests = requests(&registry);
        for number in 0..KINDS + 500 {
            let mut seen = Request::begin(&requests, Instant::now());
            seen.by(&format!("shop/route-{number}").into());
            seen.status(StatusCode::OK);
            seen.ended(End::Complete);
        }
        assert_eq!(requests.rows.lock().len(), KINDS + 1);
        let rows = requests.rows.lock();
        let (other, row) = rows.iter().find(|(kind, _)| &*kind.service == OTHER).unwrap();
        assert_eq!((&*other.route, &*other.peer, other.status), (OTHER, OTHER, 200));
        assert_eq!(row.total.get(), 500);
    }

    #[tokio::test]
    async fn who_leaves_before_an_answer_is_counted_once_and_a_copy_never() {
        let registry = Registry::new();
        let requests = requests(&registry);
        drop(Request::begin(&requests, Instant::now()));
        drop(Request::copy(&requests, Instant::now()));
        let mut seen = Request::begin(&requests, Instant::now());
        seen.status(StatusCode::OK);
        seen.ended(End::Complete);
        drop(seen);
        let rows = requests.rows.lock();
        let mut counted: Vec<_> =
            rows.iter().map(|(kind, row)| (kind.status, kind.reason, row.total.get())).collect();
        counted.sort_unstable();
        assert_eq!(counted, [(0, "client_left", 1), (200, "", 1)]);
    }
}
