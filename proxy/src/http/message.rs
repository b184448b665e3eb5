//! What a message keeps and loses on its way from one connection to another: what belongs to a connection
//! stays there, and the two versions of HTTP name the same things differently.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header, request::Parts, uri::Scheme};
use trellis_api::proto::discovery::Protocol;

use crate::route::Target;

/// Whether a request leaves HTTP if its application agrees.
pub fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && lists(request.headers(), &header::CONNECTION, "upgrade")
}

/// Whether it is certain where the body of a request ends. Who reads the header differently from us would
/// find another request in it.
pub fn is_framed(request: &Parts) -> bool {
    let mut codings = request.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// In which version an application is spoken to: as it says, or else as its client speaks.
pub fn speaks_http2(protocol: Protocol, client: Version, websocket: bool) -> bool {
    match protocol {
        Protocol::Http2 => true,
        Protocol::WebSocket => false,
        // A port that is called `http` may speak both, and who connects knows which. All of them know WebSockets
        // by the first, and few by the second.
        Protocol::Http1 if websocket => false,
        Protocol::Http1 | Protocol::Detect | Protocol::Opaque | Protocol::ApplicationTls => {
            client == Version::HTTP_2
        }
    }
}

/// Makes of a request as it came one as it is sent, towards `target`.
pub fn prepare(request: &mut Parts, target: &Target, http2: bool, upgrade: bool) {
    if request.version <= Version::HTTP_10 {
        // It knows no interim answers.
        request.headers.remove(header::EXPECT);
    }
    let kept = upgrade.then(|| request.headers.get(header::UPGRADE).cloned()).flatten();
    let trailers = lists(&request.headers, &header::TE, "trailers");
    strip(&mut request.headers);
    if trailers {
        request.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = kept {
        request.headers.insert(header::UPGRADE, protocol);
        request.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    join_cookies(&mut request.headers, http2);
    let path = target.path_and_query().clone();
    if http2 {
        request.version = Version::HTTP_2;
        request.headers.remove(header::HOST);
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(target.authority()).path_and_query(path);
        // All parts were read from a request, or from a route, before.
        if let Ok(uri) = uri.build() {
            request.uri = uri;
        }
    } else {
        request.version = Version::HTTP_11;
        request.headers.insert(header::HOST, target.host_header());
        request.uri = path.into();
    }
}

/// What belongs to a connection and not to a message.
static OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Drops what belongs to the connection a message came by.
pub fn strip(headers: &mut HeaderMap) {
    // Most messages have none of it, which one look at their few headers tells.
    if !headers.keys().any(|name| OF_CONNECTION.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
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

    use crate::route::Slashes;

    fn request(version: Version, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn prepared(request: Request<()>, http2: bool, upgrade: bool) -> String {
        let mut parts = request.into_parts().0;
        let target = Target::of(&parts, Slashes::Data).unwrap();
        prepare(&mut parts, &target, http2, upgrade);
        let mut headers: Vec<String> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        format!("{:?} {} | {}", parts.version, parts.uri, headers.join(" | "))
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let one = request(
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
        assert_eq!(prepared(one, false, false), "HTTP/1.1 /a?b | host: web | te: trailers | x-other: 2");
    }

    #[test]
    fn a_body_has_one_end() {
        let framed = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            is_framed(&request(Version::HTTP_11, "/", &headers).into_parts().0)
        };
        assert!(framed(&[]) && framed(&["chunked"]) && framed(&[" Chunked\t"]));
        for values in [&["chunked, chunked"][..], &["chunked", "chunked"], &["gzip, chunked"], &["identity"]]
        {
            assert!(!framed(values), "{values:?}");
        }
    }

    #[test]
    fn an_upgrade_travels_where_it_is_wanted() {
        let one = request(
            Version::HTTP_11,
            "/ws",
            &[("host", "web"), ("connection", "Keep-Alive, Upgrade"), ("upgrade", "websocket")],
        );
        assert!(wants_upgrade(&one));
        let sent = prepared(one, false, true);
        assert_eq!(sent, "HTTP/1.1 /ws | connection: upgrade | host: web | upgrade: websocket");
    }

    #[test]
    fn the_versions_name_a_host_differently() {
        let one = request(Version::HTTP_2, "http://web:80/a", &[("cookie", "a=1"), ("cookie", "b=2")]);
        assert_eq!(prepared(one, false, false), "HTTP/1.1 /a | cookie: a=1; b=2 | host: web:80");
        let one = request(Version::HTTP_11, "/a/../b", &[("host", "web:80")]);
        assert_eq!(prepared(one, true, false), "HTTP/2.0 http://web:80/b | ");
    }

    #[test]
    fn an_application_is_spoken_to_as_it_says_or_as_its_client_speaks() {
        use Protocol::{Detect, Http1, Http2, WebSocket};
        for (protocol, client, websocket, http2) in [
            (Http2, Version::HTTP_11, false, true),
            (Http2, Version::HTTP_11, true, true),
            (Http1, Version::HTTP_2, false, true),
            (Http1, Version::HTTP_2, true, false),
            (Http1, Version::HTTP_11, false, false),
            (WebSocket, Version::HTTP_2, true, false),
            (Detect, Version::HTTP_2, false, true),
            (Detect, Version::HTTP_2, true, true),
            (Detect, Version::HTTP_11, true, false),
        ] {
            let spoken = speaks_http2(protocol, client, websocket);
            assert_eq!(spoken, http2, "{protocol:?} {client:?} {websocket}");
        }
    }
}
