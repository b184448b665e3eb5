//! What a message keeps and loses on its way from one connection to another: what belongs to a connection
//! stays there, and the two versions of HTTP name the same things differently.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use trellis_api::proto::discovery::Protocol;

/// Whether a request leaves HTTP if its application agrees.
pub fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && (request.method() == Method::CONNECT
            || (request.headers().contains_key(header::UPGRADE)
                && lists(request.headers(), &header::CONNECTION, "upgrade")))
}

/// In which version an application is spoken to: as it says, or else as its client speaks.
pub fn speaks_http2(protocol: Protocol, client: Version) -> bool {
    match protocol {
        Protocol::Http2 => true,
        Protocol::Http1 | Protocol::WebSocket => false,
        Protocol::Detect | Protocol::Opaque | Protocol::ApplicationTls => client == Version::HTTP_2,
    }
}

/// Makes of a request as it came one as it is sent.
pub fn prepare<B>(request: &mut Request<B>, http2: bool, upgrade: bool) {
    let kept = upgrade.then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
    let trailers = lists(request.headers(), &header::TE, "trailers");
    strip(request.headers_mut());
    if trailers {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = kept {
        request.headers_mut().insert(header::UPGRADE, protocol);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    join_cookies(request.headers_mut(), http2);
    match http2 {
        true => towards_http2(request),
        false => towards_http1(request),
    }
}

/// Drops what belongs to the connection a message came by.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [header::TE, header::TRANSFER_ENCODING, header::UPGRADE, header::PROXY_AUTHENTICATE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn towards_http1<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_11;
    if request.method() == Method::CONNECT {
        return;
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        // The target of a request wins over a header that says otherwise.
        request.headers_mut().insert(header::HOST, host);
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    }
}

fn towards_http2<B>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    if request.uri().authority().is_some() {
        return;
    }
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = Uri::builder().scheme(Scheme::HTTP).path_and_query(path);
    if let Some(host) = &host {
        uri = uri.authority(host.as_bytes());
    }
    if let Ok(uri) = uri.build() {
        *request.uri_mut() = uri;
    }
}

/// HTTP/2 may bring a cookie in crumbs, which HTTP/1 does not know.
fn join_cookies(headers: &mut HeaderMap, http2: bool) {
    if http2 || headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Whether a header that lists words has this one.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn shown(request: &Request<()>) -> String {
        let mut headers: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        format!("{:?} {} | {}", request.version(), request.uri(), headers.join(" | "))
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut one = request(
            Version::HTTP_11,
            "/a?b",
            &[
                ("host", "web"),
                ("connection", "keep-alive, x-mine"),
                ("x-mine", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("te", "trailers, deflate"),
                ("upgrade", "websocket"),
                ("x-other", "2"),
            ],
        );
        prepare(&mut one, false, false);
        assert_eq!(shown(&one), "HTTP/1.1 /a?b | host: web | te: trailers | x-other: 2");
    }

    #[test]
    fn an_upgrade_travels_where_it_is_wanted() {
        let mut one = request(
            Version::HTTP_11,
            "/ws",
            &[("host", "web"), ("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")],
        );
        assert!(wants_upgrade(&one));
        prepare(&mut one, false, true);
        assert_eq!(shown(&one), "HTTP/1.1 /ws | connection: upgrade | host: web | upgrade: websocket");
    }

    #[test]
    fn the_versions_name_a_host_differently() {
        let mut one = request(Version::HTTP_2, "http://web:80/a", &[("cookie", "a=1"), ("cookie", "b=2")]);
        prepare(&mut one, false, false);
        assert_eq!(shown(&one), "HTTP/1.1 /a | cookie: a=1; b=2 | host: web:80");
        let mut one = request(Version::HTTP_11, "/a", &[("host", "web:80")]);
        prepare(&mut one, true, false);
        assert_eq!(shown(&one), "HTTP/2.0 http://web:80/a | ");
    }

    #[test]
    fn an_application_is_spoken_to_as_it_says_or_as_its_client_speaks() {
        assert!(speaks_http2(Protocol::Http2, Version::HTTP_11));
        assert!(!speaks_http2(Protocol::Http1, Version::HTTP_2));
        assert!(speaks_http2(Protocol::Detect, Version::HTTP_2));
        assert!(!speaks_http2(Protocol::Detect, Version::HTTP_11));
    }
}
