//! The gRPC service that proxies and the other services of the mesh ask.

use std::time::Duration;

use tonic::{Request, Response, Status};
use trellis_api::proto::ca::{IssueRequest, IssueResponse, issuance_server::Issuance};
use trellis_channel::server::Peer;
use trellis_pki::issue::Purposes;

use super::{Ask, Claim, Issuing, Life, Proof, Way, bearer_token};

#[tonic::async_trait]
impl Issuance for Issuing {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let source = request.extensions().get::<Peer>().map(|peer| peer.remote.ip());
        let (metadata, _, request) = request.into_parts();
        let ask = Ask {
            way: Way::Grpc,
            proof: Proof::Request(&request.csr),
            names: &[],
            life: match request.validity_seconds {
                0 => Life::Longest,
                seconds => Life::Exactly(Duration::from_secs(seconds.into())),
            },
            purposes: Purposes::BOTH,
            companion: request.companion,
            source,
        };
        let values = metadata.get_all("authorization");
        let authorization = values.iter().map(|value| value.to_str().map_err(|_| ()));
        let granted = Self::issue(self, Claim::Token(bearer_token(authorization)), &ask).await?;
        Ok(Response::new(IssueResponse {
            leaf: granted.leaf.der,
            trusted: Some(granted.current.trusted(0)),
            identity: granted.identity.to_string(),
        }))
    }
}
