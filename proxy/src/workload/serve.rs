//! The gRPC service, as the SPIFFE Workload API has it: callers say by a header that they mean it, and a
//! stream that is open is told of each change.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures::{Stream, stream};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, transport::Server};
use trellis_api::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use trellis_telemetry::{
    Counter, Family, Registry,
    shutdown::{Shutdown, requested},
};

use super::{
    callers::{Caller, Callers, MOST, Wants},
    offer::{Offer, Offers, Svid, Trust},
    socket::Socket,
};

/// By it a caller shows that it was not led here by somebody's request for a URL.
const HEADER: &str = "workload.spiffe.io";
/// More than all streams that there may be, so that who is too much is told so.
const STREAMS_PER_CONNECTION: u32 = 128;
const MAX_REQUEST: usize = 16 << 10;
const MAX_HEADERS: u32 = 16 << 10;
/// A caller that does not answer for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Serves until the process stops.
pub async fn serve(socket: Socket, service: Workload, stop: Shutdown) {
    tracing::info!(socket = %socket.path().display(), "serving the workload API");
    let service = SpiffeWorkloadApiServer::new(service).max_decoding_message_size(MAX_REQUEST);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(socket.incoming(), requested(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the workload API has ended");
    }
}

/// The service.
pub struct Workload {
    offers: Offers,
    callers: Callers,
    stop: Shutdown,
    responses: Family<Counter>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Workload {
    pub fn new(offers: Offers, callers: Callers, stop: Shutdown, registry: &Registry) -> Self {
        let responses = registry.counter(
            "trellis_workload_api_responses_total",
            "Messages and refusals of the workload API, by method and gRPC code.",
        );
        Self { offers, callers, stop, responses }
    }

    fn answers<T, M>(
        &self,
        wants: Wants,
        request: &Request<impl Sized>,
        offers: &watch::Sender<Offer<T>>,
        message: fn(&T) -> M,
    ) -> Result<Response<Answers<M>>, Status>
    where
        T: Clone + Send + Sync + 'static,
        M: 'static,
    {
        let count = Count { responses: self.responses.clone(), method: wants.method() };
        check(request).map_err(|status| count.refused(status))?;
        let caller = self.callers.enter(wants).ok_or_else(|| {
            let text = format!("{MOST} streams are open already; keep one open instead of asking again");
            count.refused(Status::resource_exhausted(text))
        })?;
        let mut offers = offers.subscribe();
        offers.mark_changed();
        let following = Following { offers, stop: self.stop.clone(), over: false, count, _caller: caller };
        let answers = stream::unfold(following, move |mut following| async move {
            let answer = following.next().await?;
            Some((answer.map(|offered| message(&offered)), following))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    fn unimplemented(&self, method: &'static str, request: &Request<impl Sized>) -> Status {
        let count = Count { responses: self.responses.clone(), method };
        count.refused(check(request).err().unwrap_or_else(|| {
            Status::unimplemented("there are no JWT-SVIDs in this mesh; use FetchX509SVID")
        }))
    }
}

fn check(request: &Request<impl Sized>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next().map(|value| value.as_bytes()), values.next()) {
        (Some(b"true"), None) => Ok(()),
        _ => Err(Status::invalid_argument(format!("the metadata must hold `{HEADER}: true`"))),
    }
}

struct Count {
    responses: Family<Counter>,
    method: &'static str,
}

impl Count {
    fn refused(&self, status: Status) -> Status {
        tracing::info!(method = self.method, code = ?status.code(), "workload API: {}", status.message());
        self.answered(status.code());
        status
    }

    fn answered(&self, code: Code) {
        self.responses.with(&[("method", self.method), ("code", &format!("{code:?}"))]).inc();
    }
}

/// One stream.
struct Following<T> {
    offers: watch::Receiver<Offer<T>>,
    stop: Shutdown,
    over: bool,
    count: Count,
    _caller: Caller,
}

impl<T: Clone> Following<T> {
    /// The newest there is, when the caller has read what it had: who reads slowly skips what is outdated.
    async fn next(&mut self) -> Option<Result<T, Status>> {
        while !self.over {
            let offer = tokio::select! {
                biased;
                () = requested(self.stop.clone()) => Offer::Unavailable("the proxy is stopping".to_owned()),
                changed = self.offers.changed() => match changed {
                    Ok(()) => self.offers.borrow_and_update().clone(),
                    Err(_) => Offer::Unavailable("the proxy is stopping".to_owned()),
                },
            };
            let status = match offer {
                Offer::Waiting => continue,
                Offer::Ready(offered) => {
                    self.count.answered(Code::Ok);
                    return Some(Ok(offered));
                }
                Offer::Denied(text) => Status::permission_denied(text),
                Offer::Unavailable(text) => Status::unavailable(text),
            };
            self.over = true;
            return Some(Err(self.count.refused(status)));
        }
        None
    }
}

fn svid(svid: &Svid) -> X509svidResponse {
    let handed = &svid.handed;
    let svid = X509svid {
        spiffe_id: handed.leaf.identity.to_string(),
        x509_svid: handed.certificate.clone(),
        x509_svid_key: handed.key.to_vec(),
        bundle: svid.trust.anchors(),
        hint: String::new(),
    };
    X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: HashMap::new() }
}

fn bundles(trust: &Trust) -> X509BundlesResponse {
    X509BundlesResponse { crl: Vec::new(), bundles: HashMap::from([(trust.domain(), trust.anchors())]) }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.answers(Wants::Svid, &request, &self.offers.svid, svid)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.answers(Wants::Trust, &request, &self.offers.trust, bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(self.unimplemented("FetchJWTSVID", &request))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(self.unimplemented("FetchJWTBundles", &request))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(self.unimplemented("ValidateJWTSVID", &request))
    }
}
