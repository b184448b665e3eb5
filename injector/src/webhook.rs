//! `POST /mutate` for pods and `POST /validate` for all else: reads a question, looks up what it takes,
//! answers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{
    Method, Request as HttpRequest, Response as HttpResponse, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use http_body_util::Full;
use hyper::body::Body;
use tokio::time::timeout;
use trellis_api::{
    enforcement::{Enforcement, Route},
    injection::{Namespace, Settings},
};

use crate::{
    announce::Announcer,
    certificates::{Certificates, GatherError, gather},
    enforce::{self, Subject},
    metrics::Metrics,
    namespaces::Namespaces,
    review::{Label, Request},
    spec,
    verdict::{self, Verdict},
};

/// Where it is asked about pods.
pub const MUTATE: &str = "/mutate";
/// Where it is asked about what nobody changes here.
pub const VALIDATE: &str = "/validate";
/// What an API server sends at the most: an object of 1.5 MB and what it was before.
const LARGEST_BODY: usize = 3 * 1024 * 1024;
/// Less than the ten seconds that an API server waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// Secrets that are read for one answer at one time.
const AT_ONCE: usize = 8;

type Reply = HttpResponse<Full<Bytes>>;

/// Everything that an admission needs.
pub struct Webhook {
    pub settings: Settings,
    pub namespaces: Namespaces,
    pub certificates: Certificates,
    pub announcer: Announcer,
    pub metrics: Metrics,
}

/// Which of the two ways a question came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Mutate,
    Validate,
}

impl Webhook {
    pub async fn answer<B>(self: Arc<Self>, request: HttpRequest<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let way = match request.uri().path() {
            MUTATE => Way::Mutate,
            VALIDATE => Way::Validate,
            _ => {
                let text = format!("nothing here; there are {MUTATE} and {VALIDATE}\n");
                return self::text(StatusCode::NOT_FOUND, text);
            }
        };
        if request.method() != Method::POST {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".to_owned());
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        if !is_json(&request) {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json\n".to_owned());
        }
        match timeout(PATIENCE, self.review(way, request.into_body())).await {
            Ok(reply) => reply,
            Err(_) => {
                self.count(way, Label { result: "failed", reason: "timed_out" });
                text(StatusCode::GATEWAY_TIMEOUT, "the review took too long\n".to_owned())
            }
        }
    }

    async fn review<B>(&self, way: Way, body: B) -> Reply
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let malformed = |status, message: String| {
            self.count(way, Label { result: "failed", reason: "malformed" });
            text(status, message)
        };
        let body = match gather(body, LARGEST_BODY).await {
            Ok(body) => body,
            Err(error @ GatherError::TooLarge(_)) => {
                return malformed(StatusCode::PAYLOAD_TOO_LARGE, format!("{error}\n"));
            }
            Err(error) => return malformed(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let request = match Request::parse(&body) {
            Ok(request) => request,
            Err(error) => return malformed(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let Verdict { response, label, announcements } = match way {
            Way::Mutate => self.judge(&request).await,
            Way::Validate => self.validate(&request).await,
        };
        tracing::debug!(
            namespace = request.namespace,
            result = label.result,
            reason = label.reason,
            "admission"
        );
        self.count(way, label);
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
            return verdict::not_asked(request, "CREATE of pods");
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

    async fn validate(&self, request: &Request) -> Verdict {
        let kind = spec::kind(request);
        let subject = Subject::of(request);
        match (kind, subject) {
            (Some(kind), _) if request.is_about_content() => spec::judge(request, kind),
            (None, Some(subject)) if request.is_about_content() => self.enforce(request, subject).await,
            _ => verdict::not_asked(
                request,
                "CREATE and UPDATE of the cryptographic kinds, of Secrets, Ingresses, Gateways and ListenerSets",
            ),
        }
    }

    async fn enforce(&self, request: &Request, subject: Subject) -> Verdict {
        let is_labelled = |namespace: &Namespace| !matches!(Enforcement::of(&namespace.labels), Ok(None));
        let namespace = match self.namespaces.cached(&request.namespace) {
            Some(namespace) if is_labelled(&namespace) => namespace,
            // It is asked about labelled ones alone, so this one was labelled a moment ago.
            _ => match self.namespaces.fresh(&request.namespace).await {
                Ok(namespace) => namespace,
                Err(error) => {
                    tracing::warn!(%error, "an object is not admitted");
                    return verdict::failed(request, 503, "namespace", format!("{error}; try again"));
                }
            },
        };
        match (Enforcement::of(&namespace.labels), subject) {
            (Ok(None), _) => verdict::accepted(request, &[]),
            (Err(error), _) => enforce::unknown(request, subject, &error),
            (Ok(Some(enforcement)), Subject::Secret) => enforce::judge_secret(request, enforcement),
            (Ok(Some(enforcement)), Subject::Route(route)) => self.route(request, route, enforcement).await,
        }
    }

    async fn route(&self, request: &Request, route: Route, enforcement: Enforcement) -> Verdict {
        let named = enforce::added(request, route, enforcement);
        let keys: BTreeSet<enforce::Key> = named.iter().map(enforce::key).collect();
        if keys.len() > enforce::MOST_SECRETS {
            return enforce::too_many(request, route, keys.len());
        }
        let reads = keys.into_iter().map(|key| async move {
            let read = self.certificates.read(&key.0, &key.1).await;
            (key, read)
        });
        let read = stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
        enforce::judge_route(request, route, &named, &read, enforcement, &self.settings.namespace)
    }

    fn count(&self, way: Way, label: Label) {
        match way {
            Way::Mutate => self.metrics.admission(label),
            Way::Validate => self.metrics.validation(label),
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
