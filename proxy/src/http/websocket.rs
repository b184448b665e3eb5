//! WebSockets: in HTTP/1 an upgrade (RFC 6455), in HTTP/2 an extended CONNECT (RFC 8441). What comes either way
//! has the form of HTTP/1 in here, a GET that asks for an upgrade, so that routes, filters and the record know
//! one; and each side is spoken to as it speaks. In HTTP/2 nobody proves to have understood by a key, so where a
//! client or an application expects that, it is proven, or made to prove, here.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT as ACCEPT, SEC_WEBSOCKET_KEY as KEY, UPGRADE},
    request::Parts,
};
use hyper::{
    ext::Protocol,
    upgrade::{self, OnUpgrade},
};
use rand::Rng;

use super::{Failure, body::Body, message};

const WEBSOCKET: &str = "websocket";
/// What is hashed together with a key (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client that leaves HTTP if its application agrees.
pub struct Leaving {
    near: OnUpgrade,
    client: Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// An upgrade of HTTP/1, to a WebSocket or to whatever it names.
    Upgrade { websocket: bool },
    /// A WebSocket in HTTP/2.
    Connect,
}

/// What the application has to answer.
pub struct Expected {
    leaving: Leaving,
    application: Application,
}

enum Application {
    /// It speaks HTTP/1, and has to prove this where the key is ours.
    Upgrade(Option<HeaderValue>),
    /// It speaks HTTP/2. The client is owed this proof where the key is its own.
    Connect(Option<HeaderValue>),
}

impl Leaving {
    /// Nothing where a request does not ask for it. A WebSocket of HTTP/2 is put into the form of HTTP/1.
    pub fn of(request: &mut Request<Body>) -> Result<Option<Self>, Failure> {
        let client = match request.extensions_mut().remove::<Protocol>() {
            // hyper knows no such CONNECT but in HTTP/2.
            Some(protocol) if protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) => {
                *request.method_mut() = Method::GET;
                let headers = request.headers_mut();
                headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.remove(KEY);
                headers.remove(ACCEPT);
                Client::Connect
            }
            Some(_) => return Err(unknown()),
            None if message::wants_upgrade(request) => {
                Client::Upgrade { websocket: is_websocket(request.headers()) }
            }
            None => return Ok(None),
        };
        Ok(Some(Self { near: upgrade::on(request), client }))
    }

    pub fn is_websocket(&self) -> bool {
        self.client != Client::Upgrade { websocket: false }
    }

    /// Makes of a request as [`message::prepare`] leaves it one that asks an application for the same in its
    /// version of HTTP. Nothing where it cannot be asked: no other protocol but this one is there in HTTP/2.
    pub fn ask(
        self,
        request: &mut Parts,
        http2: bool,
        empty: bool,
        random: &mut impl Rng,
    ) -> Result<Option<Expected>, Failure> {
        let application = match (http2, self.client) {
            (false, Client::Upgrade { .. }) => Application::Upgrade(None),
            (false, Client::Connect) => {
                let (mut key, mut text) = ([0; 16], String::new());
                random.fill_bytes(&mut key);
                STANDARD.encode_string(key, &mut text);
                let key = HeaderValue::from_str(&text).map_err(|_| bad_key())?;
                let proof = proof(&key)?;
                request.headers.insert(KEY, key);
                Application::Upgrade(Some(proof))
            }
            (true, Client::Upgrade { websocket: false }) => {
                request.headers.remove(UPGRADE);
                request.headers.remove(CONNECTION);
                return Ok(None);
            }
            (true, client) => {
                let owed = match client {
                    Client::Connect => None,
                    Client::Upgrade { .. } if request.method != Method::GET || !empty => {
                        return Err(bad_request());
                    }
                    Client::Upgrade { .. } => Some(proof(request.headers.get(KEY).ok_or_else(bad_key)?)?),
                };
                for name in [UPGRADE, CONNECTION, KEY, ACCEPT] {
                    request.headers.remove(name);
                }
                request.method = Method::CONNECT;
                request.extensions.insert(Protocol::from_static(WEBSOCKET));
                Application::Connect(owed)
            }
        };
        Ok(Some(Expected { leaving: self, application }))
    }
}

impl Expected {
    /// The client's side, where the application agrees; the answer is then one that says so to the client.
    pub fn heard<B>(self, response: &mut Response<B>) -> Result<Option<OnUpgrade>, Failure> {
        let Self { leaving: Leaving { near, client }, application } = self;
        let (status, agreed) = match &application {
            Application::Upgrade(_) => (response.status(), StatusCode::SWITCHING_PROTOCOLS),
            Application::Connect(_) => (response.status(), StatusCode::OK),
        };
        if status != agreed {
            // What means well in HTTP means to agree to who asked by a CONNECT.
            let by_connect = client == Client::Connect || matches!(application, Application::Connect(_));
            return match status.is_success() && by_connect {
                true => Err(refused(status)),
                false => Ok(None),
            };
        }
        let headers = response.headers_mut();
        match (client, application) {
            (Client::Upgrade { .. }, Application::Upgrade(_)) => {}
            (Client::Connect, Application::Upgrade(proof)) => {
                if !is_websocket(headers) || headers.get(ACCEPT) != proof.as_ref() {
                    return Err(unproven());
                }
                message::strip(headers);
                headers.remove(ACCEPT);
                headers.remove(CONTENT_LENGTH);
                *response.status_mut() = StatusCode::OK;
            }
            (Client::Upgrade { .. }, Application::Connect(proof)) => {
                headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                if let Some(proof) = proof {
                    headers.insert(ACCEPT, proof);
                }
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.version_mut() = Version::HTTP_11;
            }
            (Client::Connect, Application::Connect(_)) => {}
        }
        Ok(Some(near))
    }
}

/// Whether a message is about a WebSocket, and nothing else.
fn is_websocket(headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(UPGRADE).iter();
    let one = named.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    one && named.next().is_none()
}

/// That somebody has read `key`, and knows what it is for.
fn proof(key: &HeaderValue) -> Result<HeaderValue, Failure> {
    if STANDARD.decode(key.as_bytes()).map_or(0, |key| key.len()) != 16 {
        return Err(bad_key());
    }
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::from_str(&STANDARD.encode(hash)).map_err(|_| bad_key())
}

fn unknown() -> Failure {
    let detail = "the CONNECT is for another :protocol than websocket, which is the only one known here";
    Failure::new(StatusCode::NOT_IMPLEMENTED, "unknown_protocol", detail)
}

fn bad_request() -> Failure {
    let detail = "the request for a WebSocket is refused: it is no GET, or has a body";
    Failure::new(StatusCode::BAD_REQUEST, "bad_websocket", detail)
}

fn bad_key() -> Failure {
    let detail = "the request for a WebSocket is refused: its sec-websocket-key is not 16 bytes in base64";
    Failure::new(StatusCode::BAD_REQUEST, "bad_websocket", detail)
}

fn refused(status: StatusCode) -> Failure {
    let detail = format!("the application answered a request for a WebSocket with {}", status.as_u16());
    Failure::new(StatusCode::BAD_GATEWAY, "upgrade_refused", detail)
}

fn unproven() -> Failure {
    let detail = "the application agreed to something, and did not prove that it is the WebSocket asked for";
    Failure::new(StatusCode::BAD_GATEWAY, "upgrade_unproven", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: HeaderValue = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");

    fn asked(version: Version, protocol: Option<&'static str>, headers: &[(&str, &str)]) -> Request<Body> {
        let mut request = Request::builder().version(version).uri("http://web/chat");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::empty()).unwrap();
        if let Some(protocol) = protocol {
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request
    }

    fn upgrade(headers: &[(&str, &str)]) -> Request<Body> {
        let own = [
            ("connection", "Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        asked(Version::HTTP_11, None, &[headers, &own].concat())
    }

    fn connect() -> Request<Body> {
        let forged =
            [("sec-websocket-key", "a"), ("sec-websocket-accept", "b"), ("sec-websocket-version", "13")];
        asked(Version::HTTP_2, Some("websocket"), &forged)
    }

    /// The request as it is sent, and what is expected.
    fn sent(mut request: Request<Body>, http2: bool) -> (Parts, Result<Option<Expected>, Failure>) {
        let leaving = Leaving::of(&mut request).unwrap().unwrap();
        let (mut parts, body) = request.into_parts();
        let expected = leaving.ask(&mut parts, http2, body.is_empty(), &mut rand::rng());
        (parts, expected)
    }

    fn answer(status: u16, headers: &[(&str, &HeaderValue)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    fn reason<T>(result: Result<T, Failure>) -> Option<(u16, &'static str)> {
        result.err().map(|failure| (failure.status.as_u16(), failure.reason))
    }

    #[test]
    fn a_key_is_proven_as_the_standard_says() {
        // RFC 6455, section 1.3.
        assert_eq!(proof(&ONE).ok().unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for bad in ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "\u{e9}"] {
            let key = HeaderValue::from_str(bad).unwrap();
            assert_eq!(reason(proof(&key)), Some((400, "bad_websocket")), "{bad:?}");
        }
    }

    #[test]
    fn a_websocket_of_http2_has_the_form_of_http1_and_an_application_of_http1_proves_it() {
        let websocket = HeaderValue::from_static("websocket");
        let ask = || {
            let (parts, expected) = sent(connect(), false);
            assert_eq!((parts.method.as_str(), &parts.headers[UPGRADE]), ("GET", &websocket));
            assert_eq!(parts.headers.get("sec-websocket-version").unwrap(), "13");
            assert!(!parts.headers.contains_key(ACCEPT) && parts.extensions.get::<Protocol>().is_none());
            let proof = proof(&parts.headers[KEY]).ok().unwrap();
            (parts.headers[KEY].clone(), proof, expected.ok().unwrap().unwrap())
        };
        let ((one, ..), (other, proof, expected)) = (ask(), ask());
        assert_ne!(one, other, "a key is used once");
        let upgrade = HeaderValue::from_static("upgrade, x-mine");
        let chat = HeaderValue::from_static("chat");
        let mut agreed = answer(
            101,
            &[
                ("upgrade", &websocket),
                ("connection", &upgrade),
                ("sec-websocket-accept", &proof),
                ("x-mine", &one),
                ("sec-websocket-protocol", &chat),
            ],
        );
        assert!(expected.heard(&mut agreed).ok().unwrap().is_some());
        let headers: Vec<&str> = agreed.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!((agreed.status().as_u16(), &*headers), (200, &["sec-websocket-protocol"][..]));
        // An agreement that proves nothing, and what would be one to the client.
        for (status, headers, why) in [
            (101, vec![("upgrade", &websocket), ("sec-websocket-accept", &one)], "upgrade_unproven"),
            (101, vec![("upgrade", &websocket)], "upgrade_unproven"),
            (101, vec![("sec-websocket-accept", &one)], "upgrade_unproven"),
            (200, vec![], "upgrade_refused"),
            (204, vec![], "upgrade_refused"),
        ] {
            let (_, _, expected) = ask();
            assert_eq!(reason(expected.heard(&mut answer(status, &headers))), Some((502, why)), "{status}");
        }
        for status in [301, 403, 426, 500] {
            let (_, _, expected) = ask();
            let mut response = answer(status, &[]);
            assert!(expected.heard(&mut response).ok().unwrap().is_none());
            assert_eq!(response.status().as_u16(), status);
        }
    }

    #[test]
    fn a_websocket_of_http1_is_asked_for_by_a_connect_where_the_application_speaks_http2() {
        let (parts, expected) = sent(upgrade(&[("sec-websocket-version", "13")]), true);
        assert_eq!(parts.method, Method::CONNECT);
        assert_eq!(parts.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
        let mut agreed = answer(200, &[]);
        assert!(expected.ok().unwrap().unwrap().heard(&mut agreed).ok().unwrap().is_some());
        assert_eq!(
            (agreed.status().as_u16(), &agreed.headers()[UPGRADE]),
            (101, &HeaderValue::from_static("websocket"))
        );
        assert_eq!(agreed.headers()[ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (_, expected) = sent(upgrade(&[]), true);
        let refused = expected.ok().unwrap().unwrap().heard(&mut answer(202, &[]));
        assert_eq!(reason(refused), Some((502, "upgrade_refused")));
        // What no extended CONNECT can say.
        let mut post = upgrade(&[]);
        *post.method_mut() = Method::POST;
        let mut body = upgrade(&[]);
        *body.body_mut() = Body::own("more");
        let mut twice = upgrade(&[]);
        twice.headers_mut().insert(KEY, HeaderValue::from_static("none"));
        for request in [post, body, twice] {
            assert_eq!(reason(sent(request, true).1), Some((400, "bad_websocket")));
        }
    }

    #[test]
    fn what_is_no_websocket_stays_an_upgrade_or_is_none() {
        let other = || asked(Version::HTTP_11, None, &[("connection", "upgrade"), ("upgrade", "h2c")]);
        let (parts, expected) = sent(other(), false);
        assert_eq!(parts.headers[UPGRADE], "h2c");
        let mut ordinary = answer(200, &[]);
        assert!(expected.ok().unwrap().unwrap().heard(&mut ordinary).ok().unwrap().is_none());
        let (parts, expected) = sent(other(), true);
        assert!(expected.ok().unwrap().is_none() && parts.headers.is_empty(), "{:?}", parts.headers);
        for protocol in ["connect-udp", "webtransport", "", "websocket "] {
            let mut request = asked(Version::HTTP_2, Some(protocol), &[]);
            assert_eq!(reason(Leaving::of(&mut request)), Some((501, "unknown_protocol")), "{protocol:?}");
        }
        let mut plain = asked(Version::HTTP_2, None, &[("upgrade", "websocket"), ("connection", "upgrade")]);
        assert!(Leaving::of(&mut plain).ok().unwrap().is_none(), "HTTP/2 knows no upgrade");
        *plain.method_mut() = Method::CONNECT;
        assert!(Leaving::of(&mut plain).ok().unwrap().is_none());
    }
}
