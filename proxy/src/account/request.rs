//! One request of HTTP, for those who want to hear of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request, Uri, header};
use trellis_api::access::{Direction, Entry, Kind, Posture};
use trellis_telemetry::otlp::spans::{self, Span, Value};

use super::{Audience, in_milliseconds, kept};
use crate::{ledger::Row, trace::Open};

/// What is known of a request beyond what is counted.
pub struct Account {
    began: SystemTime,
    method: Method,
    authority: String,
    path: String,
    protocol: http::Version,
    /// Of a gateway's client.
    client: Option<(SocketAddr, Arc<Row>)>,
    /// What the connection to the application negotiated, and whether it was there before.
    over: Option<(Arc<Row>, bool)>,
    address: Option<SocketAddr>,
    attempts: u32,
    /// Bytes of its body.
    pub sent: Arc<AtomicU64>,
    pub span: Option<Open>,
}

/// What is counted of it in any case.
pub struct Counted<'a> {
    pub service: &'a str,
    pub route: &'a str,
    pub peer: &'a str,
    pub status: Option<u16>,
    pub reason: &'static str,
    /// Of the answer's body.
    pub received: u64,
    pub took: Duration,
}

impl Account {
    pub fn of<B>(
        request: &Request<B>,
        client: Option<(SocketAddr, Arc<Row>)>,
        span: Option<Open>,
        began: SystemTime,
    ) -> Self {
        Self {
            began,
            method: request.method().clone(),
            authority: authority(request.uri(), request.headers()),
            path: kept(request.uri().path()),
            protocol: request.version(),
            client,
            over: None,
            address: None,
            attempts: 0,
            sent: Arc::default(),
            span,
        }
    }

    pub fn tried(&mut self, address: SocketAddr) {
        self.attempts += 1;
        self.address = Some(address);
    }

    pub fn over(&mut self, row: &Arc<Row>, reused: bool) {
        self.over = Some((row.clone(), reused));
    }

    pub fn entry(&self, audience: &Audience, own: &str, counted: &Counted<'_>) -> Entry {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (direction, source) = match &self.client {
            Some((_, row)) => (Direction::Inbound, &*row.terms.source),
            None => (Direction::Outbound, own),
        };
        Entry {
            source: source.to_owned(),
            client: self.client.as_ref().map(|(address, _)| address.to_string()),
            destination: counted.peer.to_owned(),
            address: self.address.map(|address| address.to_string()),
            service: text(counted.service),
            route: text(counted.route),
            method: text(self.method.as_str()),
            authority: text(&self.authority),
            path: text(&self.path),
            protocol: Some(format!("{:?}", self.protocol)),
            status: counted.status,
            reason: text(counted.reason),
            bytes_sent: self.sent.load(Relaxed),
            bytes_received: counted.received,
            duration_ms: in_milliseconds(counted.took),
            retries: self.attempts.saturating_sub(1),
            trace: self.span.map(|span| format!("{:032x}", span.context.trace)),
            posture: self.over.as_ref().map(|(row, _)| Posture::of(&row.terms)),
            client_posture: self.client.as_ref().map(|(_, row)| Posture::of(&row.terms)),
            ..audience.entry(Kind::Request, direction, self.began)
        }
    }

    /// The span of this request, named so that there are few names.
    pub fn span(&self, open: Open, counted: &Counted<'_>) -> Span {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut attributes = vec![
            ("http.request.method", text(self.method.as_str())),
            ("url.path", text(&self.path)),
            ("server.address", Value::Text(host(&self.authority))),
            ("network.protocol.version", text(version(self.protocol))),
            ("http.response.body.size", Value::Number(counted.received as i64)),
        ];
        let mut say = |name, value: &str| {
            if !value.is_empty() {
                attributes.push((name, Value::Text(value.to_owned())));
            }
        };
        say("trellis.service", counted.service);
        say("trellis.route", counted.route);
        say("trellis.peer", counted.peer);
        say("error.type", counted.reason);
        if let Some((client, _)) = &self.client {
            say("client.address", &client.ip().to_string());
        }
        if let Some((row, _)) = &self.over {
            attributes.extend(posture(row));
        }
        if let Some((_, reused)) = &self.over {
            attributes.push(("trellis.connection.reused", Value::Truth(*reused)));
        }
        if let Some(address) = self.address {
            attributes.push(("network.peer.address", Value::Text(address.ip().to_string())));
            attributes.push(("network.peer.port", Value::Number(address.port().into())));
        }
        if let Some(status) = counted.status {
            attributes.push(("http.response.status_code", Value::Number(status.into())));
        }
        if self.attempts > 1 {
            attributes.push(("http.request.resend_count", Value::Number((self.attempts - 1).into())));
        }
        let failed = counted.status.is_some_and(|status| status >= 500);
        let failure = match (counted.reason, failed) {
            ("", false) => None,
            ("", true) => Some("the application failed".to_owned()),
            (reason, _) => Some(reason.to_owned()),
        };
        Span {
            trace: open.context.trace,
            id: open.context.span,
            parent: open.parent,
            link: open.link.map(|link| (link.trace, link.span)),
            name: match counted.route {
                "" => self.method.to_string(),
                route => format!("{} {route}", self.method),
            },
            kind: spans::Kind::Client,
            began: self.began,
            ended: self.began + counted.took,
            attributes,
            failure,
        }
    }
}

/// What a connection negotiated, as attributes of a span.
pub fn posture(row: &Row) -> Vec<(&'static str, Value)> {
    let terms = &row.terms;
    let known = [
        ("tls.protocol.version", &terms.tls),
        ("trellis.tls.group", &terms.group),
        ("trellis.tls.client_signature", &terms.signatures.client),
        ("trellis.tls.server_signature", &terms.signatures.server),
    ];
    let class = ("trellis.class", Value::Text(terms.class.as_str().to_owned()));
    let known = known.into_iter().filter_map(|(name, value)| Some((name, Value::Text(value.clone()?))));
    std::iter::once(class).chain(known).collect()
}

/// Without a name and a password, if somebody wrote them there.
fn authority(uri: &Uri, headers: &HeaderMap) -> String {
    let said = match (uri.authority(), headers.get(header::HOST)) {
        (Some(authority), _) => authority.as_str().into(),
        (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()),
        (None, None) => return String::new(),
    };
    kept(said.rsplit_once('@').map_or(&*said, |(_, host)| host))
}

/// Without its port.
fn host(authority: &str) -> String {
    let parsed = authority.parse::<http::uri::Authority>();
    parsed.map_or_else(|_| authority.to_owned(), |authority| authority.host().to_owned())
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uri: &str, host: Option<&[u8]>) -> Account {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        Account::of(&request.body(()).unwrap(), None, None, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn neither_a_query_nor_a_password_is_kept() {
        for (uri, host, authority, path) in [
            ("/a/b?token=secret", Some(&b"shop:80"[..]), "shop:80", "/a/b"),
            ("http://me:secret@shop/a?secret", None, "shop", "/a"),
            ("/a", Some(&b"me:secret@shop"[..]), "shop", "/a"),
            ("/", Some(&b"sh\xffop"[..]), "sh\u{fffd}op", "/"),
            ("*", None, "", "*"),
        ] {
            let account = account(uri, host);
            assert_eq!((account.authority.as_str(), account.path.as_str()), (authority, path), "{uri}");
        }
        assert_eq!(
            (host("shop:80"), host("[::1]:80"), host("a b")),
            ("shop".into(), "[::1]".into(), "a b".into())
        );
    }
}
