//! Asks a CA for one certificate. The way over gRPC is the one that workloads use; the CA itself has a
//! shorter one, and tests have their own.

use std::{error::Error as _, fmt::Write, io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{task::spawn_blocking, time::timeout};
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue};
use trellis_api::proto::ca::{IssueRequest, Trusted, issuance_client::IssuanceClient};
use trellis_pki::{spiffe::SpiffeId, tls::MeshTls};

use crate::{
    client::{Address, Dialer},
    handshakes::Handshakes,
};

/// From the dial to the answer: when a whole cluster starts at once, thousands stand in line.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A leaf and a bundle with more anchors than any rotation needs.
const MAX_ANSWER: usize = 1 << 20;
const MAX_TOKEN: usize = 16 << 10;

/// What a CA answers.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER.
    pub leaf: Vec<u8>,
    /// What to trust from now on.
    pub trusted: Trusted,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum IssueError {
    #[error("cannot make a key or its certification request: {0}")]
    Key(String),
    #[error("cannot read the ServiceAccount token {}: {source}", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("the CA at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the CA at {address} refused ({code:?}): {message}")]
    Refused { address: String, code: Code, message: String },
    #[error("the answer of the CA is refused: {0}")]
    Answer(String),
}

impl IssueError {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Token { .. } => "token",
            Self::Unreachable { .. } => "ca_unreachable",
            Self::Refused { code, .. } => match code {
                Code::Unauthenticated => "refused_unauthenticated",
                Code::PermissionDenied => "refused_permission_denied",
                Code::InvalidArgument => "refused_invalid_argument",
                Code::ResourceExhausted => "refused_resource_exhausted",
                Code::FailedPrecondition => "refused_failed_precondition",
                _ => "refused_other",
            },
            Self::Answer(_) => "bad_answer",
        }
    }
}

/// Who can issue a certificate for a key.
pub trait Issue: Send + Sync + 'static {
    /// `csr` is PKCS#10, DER.
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>>;

    /// The same below the companion anchor. Who issues for the control plane alone has none.
    fn issue_companion(&self, _csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        let refused = IssueError::Answer("no companion certificate is issued to this process".to_owned());
        Box::pin(std::future::ready(Err(refused)))
    }
}

/// The CA of the mesh, asked over gRPC with a ServiceAccount token.
pub struct CaClient {
    address: Address,
    dialer: Dialer,
    token_file: PathBuf,
}

impl CaClient {
    pub fn new(
        address: Address,
        tls: Arc<MeshTls>,
        ca_identity: SpiffeId,
        token_file: PathBuf,
        handshakes: Handshakes,
    ) -> Self {
        // The CA knows its callers by their tokens: who asks for the first time has nothing else.
        let dialer = Dialer::new(tls, ca_identity, false).patient(TIMEOUT).counting(handshakes);
        Self { address, dialer, token_file }
    }

    async fn ask(&self, csr: Vec<u8>, companion: bool) -> Result<Issued, IssueError> {
        let token = self.token().await?;
        let mut request = Request::new(IssueRequest { csr, validity_seconds: 0, companion });
        request.metadata_mut().insert("authorization", token);
        // A connection of its own: it is needed for a moment once a day.
        let mut client =
            IssuanceClient::new(self.dialer.channel(&self.address)).max_decoding_message_size(MAX_ANSWER);
        let answer = timeout(TIMEOUT, client.issue(request)).await.map_err(|_| IssueError::Unreachable {
            address: self.address.to_string(),
            reason: format!("no answer within {} s", TIMEOUT.as_secs()),
        })?;
        let answer = answer.map_err(|status| self.refusal(&status))?.into_inner();
        let trusted =
            answer.trusted.ok_or_else(|| IssueError::Answer("it says nothing of trust".to_owned()))?;
        Ok(Issued { leaf: answer.leaf, trusted })
    }

    async fn token(&self) -> Result<AsciiMetadataValue, IssueError> {
        let path = self.token_file.clone();
        let read = spawn_blocking(move || std::fs::read_to_string(path)).await;
        let wrong = |source| IssueError::Token { path: self.token_file.clone(), source };
        let text = read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(wrong)?;
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(wrong(io::Error::other(format!(
                "it has {} characters; expected between 1 and {MAX_TOKEN}",
                token.len()
            ))));
        }
        let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| wrong(io::Error::other("it holds characters that no token has")))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// What never reached the CA carries the reason as its source.
    fn refusal(&self, status: &Status) -> IssueError {
        let address = self.address.to_string();
        let mut source = status.source();
        if source.is_none() && status.code() != Code::Unavailable {
            return IssueError::Refused {
                address,
                code: status.code(),
                message: status.message().to_owned(),
            };
        }
        let mut reason = status.message().to_owned();
        while let Some(error) = source {
            let text = error.to_string();
            if !reason.ends_with(&text) {
                // Writing to a String cannot fail.
                let _ = write!(reason, ": {text}");
            }
            source = error.source();
        }
        IssueError::Unreachable { address, reason }
    }
}

impl Issue for CaClient {
    fn issue(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(self.ask(csr, false))
    }

    fn issue_companion(&self, csr: Vec<u8>) -> BoxFuture<'_, Result<Issued, IssueError>> {
        Box::pin(self.ask(csr, true))
    }
}
