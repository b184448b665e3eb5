//! The gRPC service that proxies and the other services of the mesh ask.

use std::time::Duration;

use tonic::{Request, Response, Status, metadata::MetadataMap};
use trellis_api::proto::ca::{IssueRequest, IssueResponse, issuance_server::Issuance};
use trellis_channel::server::Peer;
use trellis_pki::issue::Purposes;

use super::{Ask, Claim, Issuing, Life, Proof, Way};
use crate::refuse::{Reason, Refusal};

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
            source,
        };
        let granted = Self::issue(self, Claim::Token(bearer(&metadata)), &ask).await?;
        Ok(Response::new(IssueResponse {
            leaf: granted.leaf.der,
            trusted: Some(granted.current.trusted(0)),
            identity: granted.identity.to_string(),
        }))
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            Reason::MissingToken,
            format!("authorization: {what}; send \"Bearer\" and the pod's ServiceAccount token"),
        )
    };
    let mut values = metadata.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing("the metadata must hold it exactly once"));
    };
    let text = value.to_str().map_err(|_| missing("it is not text"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(missing("it is no bearer token")),
    }
}
