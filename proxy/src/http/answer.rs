//! What a client is told when no application answered: a status, a reason that machines can read in the
//! header `trellis-error`, and a sentence.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::Body;

/// Why a request was not answered by an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    /// The metric's label, and the header's value.
    pub reason: &'static str,
    pub detail: Cow<'static, str>,
}

/// Carries [`Failure::reason`].
pub const HEADER: &str = "trellis-error";

impl Failure {
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, detail: detail.into() }
    }

    /// As an answer to a request with these headers.
    pub fn answer(&self, request: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        if speaks_grpc(request) {
            // A client of gRPC reads its own status, in the headers of an answer that has nothing else.
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(grpc_status(self.status)));
            if let Ok(message) = HeaderValue::from_str(&self.message()) {
                headers.insert("grpc-message", message);
            }
        } else {
            *response.status_mut() = self.status;
            *response.body_mut() = Body::own(format!("trellis: {}\n", self.detail));
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
        }
        response.headers_mut().insert(HEADER, HeaderValue::from_static(self.reason));
        response
    }

    /// What is not plain ASCII is left out of a message in a header.
    fn message(&self) -> String {
        let plain = |c: &char| c.is_ascii() && !c.is_ascii_control() && *c != '%';
        format!("trellis: {}", self.detail.chars().filter(plain).collect::<String>())
    }
}

/// Whether the client speaks gRPC.
pub fn speaks_grpc(request: &HeaderMap) -> bool {
    request.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The status of gRPC that is nearest.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        // Where a route cannot be obeyed, Gateway API wants a client of gRPC to be told so.
        429 | 500 | 502 | 503 => "14",
        504 => "4",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_grpc_is_answered_in_grpc() {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", "no endpoint is ready");
        let mut request = HeaderMap::new();
        let plain = failure.answer(&request);
        assert_eq!(
            (plain.status().as_u16(), plain.headers()[HEADER].to_str().unwrap()),
            (503, "no_endpoint")
        );
        request.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let grpc = failure.answer(&request);
        assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].to_str().unwrap()), (200, "14"));
        assert_eq!(grpc.headers()["grpc-message"], "trellis: no endpoint is ready");
    }
}
