//! `POST /mutate`: reads a question, looks up the namespace, answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request as HttpRequest, Response as HttpResponse, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::time::timeout;
use trellis_api::injection::Settings;

use crate::{
    announce::Announcer,
    metrics::Metrics,
    namespaces::Namespaces,
    review::{Label, Request},
    verdict::{self, Verdict},
};

pub const PATH: &str = "/mutate";
/// What an API server sends at the most: an object of 1.5 MB and what it was before.
const LARGEST_BODY: usize = 3 * 1024 * 1024;
/// Less than the ten seconds that an API server waits.
const PATIENCE: Duration = Duration::from_secs(8);

type Reply = HttpResponse<Full<Bytes>>;

/// Everything that an admission needs.
pub struct Webhook {
    pub settings: Settings,
    pub namespaces: Namespaces,
    pub announcer: Announcer,
    pub metrics: Metrics,
}

impl Webhook {
    pub async fn answer<B>(self: Arc<Self>, request: HttpRequest<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, format!("nothing here; there is {PATH}\n"));
        }
        if request.method() != Method::POST {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".to_owned());
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        if !is_json(&request) {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json\n".to_owned());
        }
        match timeout(PATIENCE, self.review(request.into_body())).await {
            Ok(reply) => reply,
            Err(_) => {
                self.metrics.admission(Label { result: "failed", reason: "timed_out" });
                text(StatusCode::GATEWAY_TIMEOUT, "the review took too long\n".to_owned())
            }
        }
    }

    async fn review<B>(&self, body: B) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let malformed = |status, message: String| {
            self.metrics.admission(Label { result: "failed", reason: "malformed" });
            text(status, message)
        };
        let body = match Limited::new(body, LARGEST_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return malformed(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {LARGEST_BODY} bytes\n"));
            }
            Err(error) => return malformed(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let request = match Request::parse(&body) {
            Ok(request) => request,
            Err(error) => return malformed(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let Verdict { response, label, announcements } = self.judge(&request).await;
        tracing::debug!(
            namespace = request.namespace,
            result = label.result,
            reason = label.reason,
            "admission"
        );
        self.metrics.admission(label);
        if !request.dry_run {
            announcements.into_iter().for_each(|announcement| self.announcer.announce(announcement));
        }
        match response.to_review() {
            Ok(body) => reply(StatusCode::OK, "application/json", body.into()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn judge(&self, request: &Request) -> Verdict {
        if !request.is_about_a_new_pod() {
            return verdict::not_asked(request);
        }
        let pod = match request.pod() {
            Ok(pod) => pod,
            Err(error) => {
                let message = format!("the pod cannot be read: {error}");
                return verdict::failed(request, 422, "malformed_pod", message);
            }
        };
        if let Some(namespace) = self.namespaces.cached(&request.namespace) {
            let verdict = verdict::judge(request, &pod, &namespace, &self.settings);
            if !verdict::may_be_stale(&verdict) {
                return verdict;
            }
        }
        match self.namespaces.fresh(&request.namespace).await {
            Ok(namespace) => verdict::judge(request, &pod, &namespace, &self.settings),
            Err(error) => {
                tracing::warn!(%error, "a pod is not admitted");
                verdict::failed(request, 503, "namespace", format!("{error}; try again"))
            }
        }
    }
}

fn is_json<B>(request: &HttpRequest<B>) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}

fn text(status: StatusCode, message: String) -> Reply {
    reply(status, "text/plain; charset=utf-8", message.into())
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = HttpResponse::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
