//! What a program is told: a certificate, the bundle, or what was wrong with which field.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER},
};
use http_body_util::Full;
use serde_json::{Value, json};
use tonic::Code;
use trellis_pki::{bundle::fingerprint, clock::rfc3339, x509_pem};

use super::JSON;
use crate::{
    issue::Granted,
    refuse::{Reason, Refusal},
};

/// The bundle changes by a rotation, whose phases last longer than that.
const BUNDLE_CACHED: &str = "public, max-age=60";
const PEM: &str = "application/x-pem-file";
/// Fields by whose names messages begin.
const FIELDS: [&str; 10] = [
    "authorization",
    "content-type",
    "body",
    "csr",
    "subject",
    "sans",
    "algorithm",
    "keyUsage",
    "extendedKeyUsage",
    "validityHours",
];

pub fn certificate(granted: &Granted) -> Response<Full<Bytes>> {
    let leaf = &granted.leaf;
    let body = json!({
        "certificate": x509_pem("CERTIFICATE", &leaf.der),
        "bundle": granted.current.pem(),
        "identity": granted.identity.as_str(),
        "dnsNames": granted.dns_names,
        "serial": leaf.serial,
        "algorithm": granted.algorithm.flag(),
        "issuerAlgorithm": granted.current.issuer.anchor().algorithm.flag(),
        "notBefore": rfc3339(leaf.not_before),
        "notAfter": rfc3339(leaf.not_after),
    });
    json_response(StatusCode::CREATED, &body)
}

/// The bundle, unless the caller has just that one.
pub fn bundle(pem: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let tag = format!("\"{}\"", fingerprint(pem.as_bytes()));
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|value| value.split(',')).map(str::trim);
    let has_it = tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
    let body = if has_it { Bytes::new() } else { Bytes::copy_from_slice(pem.as_bytes()) };
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(BUNDLE_CACHED));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PEM));
    if has_it {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    reason: &'static str,
    field: Option<&'static str>,
    message: String,
}

impl Problem {
    pub fn new(status: StatusCode, reason: &'static str, message: String) -> Self {
        Self { status, reason, field: None, message }
    }

    pub fn response(&self) -> Response<Full<Bytes>> {
        let Self { status, reason, field, message } = self;
        let mut response = json_response(
            *status,
            &json!({ "error": { "reason": reason, "field": field, "message": message } }),
        );
        if matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match (refusal.reason, refusal.reason.code()) {
            (Reason::Overloaded, _) | (_, Code::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Code::Unauthenticated) => StatusCode::UNAUTHORIZED,
            (_, Code::PermissionDenied) => StatusCode::FORBIDDEN,
            (_, Code::InvalidArgument) => StatusCode::BAD_REQUEST,
            (_, Code::ResourceExhausted) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            reason: refusal.reason.as_str(),
            field: field(&refusal.message),
            message: refusal.message,
        }
    }
}

/// The field that a message is about: it begins with it. A token stands in `authorization`.
fn field(message: &str) -> Option<&'static str> {
    let word = message.split([':', ' ', '[']).next()?;
    let word = if word == "token" { "authorization" } else { word };
    FIELDS.into_iter().find(|field| *field == word)
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
