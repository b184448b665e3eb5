//! TLS of the application's own, over a connection that has reached it.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::{self, Instant};
use tokio_rustls::TlsConnector;
use tracing::debug;
use trellis_pki::{
    posture::Class,
    public::{self, Call, Negotiated},
};

use super::Seal;
use crate::{
    directory::Endpoint,
    gateway::Proof,
    handshake::ConnectError,
    http::{Far, Sealed},
    reach,
    worker::Worker,
};

/// An application that is reached answers in this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where nobody can be called, or what answers is not the application, nothing is said to it.
pub async fn connect(
    worker: &Worker,
    endpoint: &Endpoint,
    far: Far,
    Seal { tls, protocol }: Seal<'_>,
) -> Result<(Sealed, Negotiated), ConnectError> {
    let shared = &worker.shared;
    let (address, begun) = (endpoint.address, Instant::now());
    let failed = |reason| {
        shared.ledger.client_refused(&endpoint.peer, reason);
        ConnectError::ApplicationTls { address, reason }
    };
    let call = tls.call(&shared.web_roots, &shared.clock).map_err(|error| {
        debug!(%address, %error, "the application cannot be called");
        failed("application_tls_invalid")
    })?;
    let proof = shared.proof.lock().clone();
    let proof = match &proof {
        Proof::Needless => None,
        Proof::With(certificate) => Some(&**certificate),
        Proof::Missing => return Err(failed("client_certificate_invalid")),
    };
    let config = call.config(protocol.as_slice(), proof).map_err(|_| failed("application_tls_invalid"))?;
    let handshake = TlsConnector::from(config).connect(call.server_name.clone(), TokioIo::new(far));
    let stream = match time::timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            if let Some(reason) = reach::refused_by_peer(&error) {
                // Its proxy did not lead there.
                return Err(ConnectError::Application { address, reason });
            }
            debug!(%address, %error, "the application's handshake failed");
            return Err(failed(public::refusal(&error).as_str()));
        }
        Err(_) => return Err(failed("timed_out")),
    };
    // An application that knows no ALPN speaks HTTP/1.1.
    let spoken = stream.get_ref().1.alpn_protocol().unwrap_or(b"http/1.1");
    if protocol.is_some_and(|protocol| spoken != protocol) {
        return Err(failed("no_common_protocol"));
    }
    let negotiated = Call::negotiated(stream.get_ref().1).ok_or_else(|| failed("other"))?;
    shared.ledger.application_handshake(&endpoint.peer, &negotiated, weakness(&negotiated), begun.elapsed());
    Ok((stream, negotiated))
}

/// Why the class is weaker than it could be.
pub fn weakness(negotiated: &Negotiated) -> Option<&'static str> {
    match negotiated.class {
        Class::Pq => None,
        Class::Hybrid => Some("classical_signature"),
        Class::Classical => Some("peer_offered_no_hybrid_group"),
    }
}
