//! The API for programs without a proxy: certificates and the trust bundle over HTTPS, under the CA's own
//! identity. Who asks for a certificate shows the token of a pod, as a proxy does, and is judged by the same
//! code. `docs/openapi.json` describes it.

mod answer;
mod ask;

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use trellis_channel::{
    identity::Resting,
    server::{Limits, Listener, Secured},
};
use trellis_pki::{
    clock::Clock,
    tls::{ClientAuth, MeshTls},
};
use trellis_telemetry::{
    Registry,
    shutdown::{Shutdown, requested},
};

use self::{
    answer::{Problem, bundle, certificate},
    ask::Wanted,
};
use crate::{
    issue::{Claim, Issuing, Way, bearer_token},
    refuse::{Reason, Refusal},
};

/// The older path of each is for programs that were written for it.
const CERTIFICATES: [&str; 2] = ["/v1/certificates", "/api/v1/certificates"];
const BUNDLE: [&str; 2] = ["/v1/bundle", "/api/v1/ca/certificate"];
const JSON: &str = "application/json";

/// A request is one certification request in PEM and little more.
const MAX_BODY: usize = 64 << 10;
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// From the end of one request to the end of the head of the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the head to the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_AGE: Duration = Duration::from_secs(300);
/// Programs without a proxy are few, and ask once a day.
const CONNECTIONS: usize = 1_000;
const PER_SOURCE: usize = 64;

/// Serves until asked to stop, then finishes what is under way.
pub fn serve(
    tcp: TcpListener,
    tls: &MeshTls,
    issuing: Arc<Issuing>,
    clock: Arc<dyn Clock>,
    registry: &Registry,
    resting: Resting,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let tls = Arc::new(tls.under(tls.policy()).with_alpn(&[b"http/1.1"]));
    let limits = Limits { connections: CONNECTIONS, connections_per_source: PER_SOURCE, ..Limits::default() };
    // Nobody has a certificate to show here: whoever has one asks by gRPC.
    let listener = Listener::new(tcp, tls, ClientAuth::None, limits, clock, registry).resting(resting);
    async move {
        let mut incoming = listener.incoming();
        let mut connections = JoinSet::new();
        let stop = requested(shutdown.clone());
        tokio::pin!(stop);
        loop {
            let secured = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                secured = incoming.next() => secured,
            };
            let Some(Ok(secured)) = secured else { break };
            connections.spawn(connection(secured, issuing.clone(), shutdown.clone()));
        }
        drop(incoming);
        let _ = timeout(REQUEST_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    }
}

async fn connection(secured: Secured, issuing: Arc<Issuing>, shutdown: Shutdown) {
    let source = secured.peer().remote.ip();
    let (newcomer, falls) = (secured.newcomer(), secured.falls());
    let service = service_fn(move |request| {
        let (issuing, newcomer) = (issuing.clone(), newcomer.clone());
        async move {
            let answer = answer(&issuing, request, source).await;
            newcomer.served();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(secured), service);
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = falls => {}
            () = requested(shutdown) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(MAX_AGE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %source, "a connection to the HTTPS API ended early"),
        Err(_) => tracing::debug!(%source, "a connection to the HTTPS API reached its greatest age"),
    }
}

async fn answer(issuing: &Issuing, request: Request<Incoming>, source: IpAddr) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let (is_certificates, is_bundle) = (CERTIFICATES.contains(&path), BUNDLE.contains(&path));
    match *request.method() {
        Method::POST if is_certificates => {
            match timeout(REQUEST_TIMEOUT, issue(issuing, request, source)).await {
                Ok(Ok(response)) => response,
                Ok(Err(problem)) => problem.response(),
                Err(_) => Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timed_out",
                    format!("the request took longer than {} s; send it again", REQUEST_TIMEOUT.as_secs()),
                )
                .response(),
            }
        }
        Method::GET | Method::HEAD if is_bundle => bundle(&issuing.pem().borrow(), request.headers()),
        _ if is_certificates || is_bundle => {
            let allowed = if is_bundle { "GET, HEAD" } else { "POST" };
            let message = format!("{} is not for {path}; use {allowed}", request.method());
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", message);
            let mut response = problem.response();
            response.headers_mut().insert(ALLOW, http::HeaderValue::from_static(allowed));
            response
        }
        _ => {
            let known = [CERTIFICATES[0], BUNDLE[0]].join(" and ");
            let message = format!("there is nothing at {path:.100}; there are {known}");
            Problem::new(StatusCode::NOT_FOUND, "path", message).response()
        }
    }
}

async fn issue(
    issuing: &Issuing,
    request: Request<Incoming>,
    source: IpAddr,
) -> Result<Response<Full<Bytes>>, Problem> {
    let (head, body) = request.into_parts();
    let refused = |refusal: Refusal| {
        issuing.turn_away(&refusal, Way::Https, Some(source));
        Problem::from(refusal)
    };
    issuing.hears(source).map_err(refused)?;
    let wanted = wanted(&head.headers, body).await.map_err(refused)?;
    let ask = wanted.ask(source).map_err(refused)?;
    let token = head.headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().map_err(|_| ()));
    let weighed = issuing.weigh(Claim::Token(bearer_token(token)), &ask.as_ask()).await?;
    if let Err(refusal) = wanted.agrees(&weighed) {
        issuing.withhold(&weighed, &refusal);
        return Err(refusal.into());
    }
    Ok(certificate(&issuing.grant(weighed).await?))
}

async fn wanted(headers: &HeaderMap, body: Incoming) -> Result<Wanted, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some(JSON) {
        return Err(Refusal::new(
            Reason::MalformedRequest,
            format!("content-type: it is {kind:?}; send {JSON}"),
        ));
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        let message = match error.is::<http_body_util::LengthLimitError>() {
            true => format!("body: it is longer than {MAX_BODY} bytes; send one certification request"),
            false => format!("body: it cannot be read to its end ({error}); send it again"),
        };
        Refusal::new(Reason::MalformedRequest, message)
    })?;
    Wanted::read(&body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_what_is_described() {
        let text = include_str!("../../docs/openapi.json");
        let described: serde_json::Value = serde_json::from_str(text).unwrap();
        let paths: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
        let served: Vec<&str> = CERTIFICATES.iter().chain(&BUNDLE).copied().collect();
        assert!(paths.iter().all(|path| served.contains(&path.as_str())), "{paths:?}");
        assert_eq!(paths.len(), served.len());
        let fields = described["components"]["schemas"]["Request"]["properties"].as_object().unwrap();
        let known: Vec<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(known.len(), ask::FIELDS.len());
        assert!(ask::FIELDS.iter().all(|field| known.contains(field)), "{known:?}");
    }
}
