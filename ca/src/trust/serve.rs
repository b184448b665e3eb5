//! The gRPC service by which members hear of trust and tell what they hold, and by which other replicas
//! pass on what they were told.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status, Streaming};
use trellis_api::{
    names::CA,
    proto::ca::{Holding, RelayAck, Relayed, Trusted, trust_server::Trust},
};
use trellis_channel::server::Peer;
use trellis_pki::spiffe::SpiffeId;
use trellis_telemetry::{Counter, Family, Registry};

use super::{authority::Authority, members::Members};
use crate::view::View;

/// Who opens a stream says at once what it holds.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// More anchors than a bundle may have.
const MAX_ANCHORS: usize = 32;
const MAX_TEXT: usize = 512;
/// Members whose renewals are spread over one second: far below what one core can sign.
const RENEWALS_PER_SECOND: usize = 100;
const SPREAD: (u32, u32) = (2, 600);

/// The service. Clones serve the same.
#[derive(Clone)]
pub struct Trusting {
    authority: Authority,
    members: Members,
    view: View,
    own: SpiffeId,
    refused: Family<Counter>,
}

impl Trusting {
    /// `own` is the identity of the CA itself, which every replica has.
    pub fn new(
        authority: Authority,
        members: Members,
        view: View,
        own: SpiffeId,
        registry: &Registry,
    ) -> Self {
        let refused = registry.counter(
            "trellis_ca_trust_streams_refused_total",
            "Streams of trust that were refused, by reason.",
        );
        Self { authority, members, view, own, refused }
    }

    fn refuse(&self, reason: &'static str, status: Status) -> Status {
        self.refused.with(&[("reason", reason)]).inc();
        tracing::warn!(reason, message = status.message(), "refused a stream of trust");
        status
    }

    fn peer<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.identity.clone());
        peer.ok_or_else(|| {
            let status = Status::unauthenticated("show the certificate that the CA issued to you");
            self.refuse("no_certificate", status)
        })
    }

    /// Whether `identity` may speak for the pod that it names.
    fn check(&self, identity: &SpiffeId, holding: &Holding) -> Result<(), Status> {
        check_size(holding).map_err(|status| self.refuse("malformed", status))?;
        let denied = |reason, text: String| Err(self.refuse(reason, Status::permission_denied(text)));
        let Some((namespace, name)) = holding.pod.split_once('/') else {
            return denied("malformed", format!("pod is {:?}; write NAMESPACE/NAME", holding.pod));
        };
        if namespace != identity.namespace() {
            return denied(
                "foreign_pod",
                format!("pod {} is not in the namespace of {identity}", holding.pod),
            );
        }
        match self.view.pod(namespace, name) {
            Some(pod) if pod.service_account == identity.service_account() => Ok(()),
            Some(pod) => denied(
                "foreign_pod",
                format!("pod {} runs under {}, not as {identity}", holding.pod, pod.service_account),
            ),
            None => denied("unknown_pod", format!("pod {} is not known to the CA", holding.pod)),
        }
    }

    fn spread(&self) -> u32 {
        let members = self.members.read(|census| census.size());
        let seconds = u32::try_from(members / RENEWALS_PER_SECOND).unwrap_or(u32::MAX);
        seconds.clamp(SPREAD.0, SPREAD.1)
    }

    /// What holds now, and then each change.
    fn changes(&self) -> impl Stream<Item = Result<Trusted, Status>> + Send + use<> {
        let service = self.clone();
        let mut revision = self.authority.revision();
        revision.mark_changed();
        stream::unfold((service, revision), |(service, mut revision)| async move {
            revision.changed().await.ok()?;
            revision.borrow_and_update();
            let trusted = service.authority.current().trusted(service.spread());
            Some((Ok(trusted), (service, revision)))
        })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Trust for Trusting {
    type FollowStream = Answers<Trusted>;
    type RelayStream = Answers<RelayAck>;

    async fn follow(
        &self,
        request: Request<Streaming<Holding>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let identity = self.peer(&request)?;
        let mut told = request.into_inner();
        let first = first(&mut told).await?;
        self.check(&identity, &first)?;
        let pod = first.pod.clone();
        let stream = self.members.member();
        stream.holds(first);
        let (ended, end) = watch::channel(());
        tokio::spawn(async move {
            let _ended = ended;
            while let Some(Ok(holding)) = told.next().await {
                if holding.pod != pod || check_size(&holding).is_err() {
                    tracing::warn!(pod, "a stream of trust changed its pod, or grew too large; closing it");
                    break;
                }
                stream.holds(holding);
            }
        });
        Ok(Response::new(until(self.changes(), end)))
    }

    async fn relay(
        &self,
        request: Request<Streaming<Relayed>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let identity = self.peer(&request)?;
        if identity != self.own {
            let status = Status::permission_denied(format!("only {CA} itself passes on what members hold"));
            return Err(self.refuse("not_a_replica", status));
        }
        let mut told = request.into_inner();
        let stream = self.members.replica();
        let (acks, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(relayed)) = told.next().await {
                for holding in relayed.holdings {
                    stream.holds(holding);
                }
                for pod in relayed.gone {
                    stream.left(&pod);
                }
                if acks.send(Ok(RelayAck {})).await.is_err() {
                    break;
                }
            }
        });
        let answers = stream::unfold(answers, |mut answers| async move {
            let ack = answers.recv().await?;
            Some((ack, answers))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn first(told: &mut Streaming<Holding>) -> Result<Holding, Status> {
    match timeout_at(Instant::now() + FIRST_WORD, told.next()).await {
        Ok(Some(first)) => first,
        Ok(None) => Err(Status::invalid_argument("the stream ended before it said what is held")),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the stream did not say what is held within {} s",
            FIRST_WORD.as_secs()
        ))),
    }
}

fn check_size(holding: &Holding) -> Result<(), Status> {
    let texts = [&holding.pod, &holding.leaf_anchor, &holding.leaf_algorithm, &holding.companion_anchor];
    let long = texts.into_iter().chain(&holding.anchors).any(|text| text.len() > MAX_TEXT);
    if long || holding.anchors.len() > MAX_ANCHORS {
        return Err(Status::invalid_argument("what is held is larger than any bundle"));
    }
    Ok(())
}

/// Ends `stream` together with the other direction.
fn until<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    mut end: watch::Receiver<()>,
) -> Answers<T> {
    let ended = async move {
        // Nothing is ever sent: the sender is dropped.
        while end.changed().await.is_ok() {}
    };
    Box::pin(stream.take_until(Box::pin(ended)))
}
