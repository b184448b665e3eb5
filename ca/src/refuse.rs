//! Why a request is refused: one closed list, from which come the gRPC status, the metric label and the
//! word in the audit log.

use tonic::{Code, Status};

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No `authorization: Bearer ...` in the metadata.
    MissingToken,
    /// It is there, and is no token.
    MalformedToken,
    /// Signed by nobody we know, or revoked.
    InvalidToken,
    ExpiredToken,
    NotYetValidToken,
    /// Meant for somebody else than this CA.
    WrongAudience,
    WrongIssuer,
    /// It does not say which pod it was made for.
    NotBoundToPod,
    PodAbsent,
    /// A pod of that name exists, and is not the one that the token was made for.
    PodReplaced,
    PodFinished,
    ServiceAccountMismatch,
    MalformedCsr,
    TrailingBytes,
    KeyType,
    BadSelfSignature,
    ForeignName,
    Validity,
    /// It asks for a use of the key that certificates of the mesh are not for.
    KeyUsage,
    /// It holds something that the CA does not know, or lacks something.
    MalformedRequest,
    /// An operator denied the identity or the key.
    Denied,
    /// There is no anchor for companions.
    NoCompanion,
    /// Neither the pod, its namespace nor the mesh wants it to have a companion.
    NotDual,
    /// The caller asks too often.
    RateLimited,
    /// The CA has too much to do.
    Overloaded,
    /// Whoever can judge tokens cannot be asked.
    AttestorUnavailable,
    /// The issuing key is in a token that does not answer.
    KeyUnavailable,
    /// The CA does not know the pods yet.
    NotReady,
    Internal,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::MalformedToken => "malformed_token",
            Self::InvalidToken => "invalid_token",
            Self::ExpiredToken => "expired_token",
            Self::NotYetValidToken => "not_yet_valid_token",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::NotBoundToPod => "not_bound_to_pod",
            Self::PodAbsent => "pod_absent",
            Self::PodReplaced => "pod_replaced",
            Self::PodFinished => "pod_finished",
            Self::ServiceAccountMismatch => "service_account_mismatch",
            Self::MalformedCsr => "malformed_csr",
            Self::TrailingBytes => "trailing_bytes",
            Self::KeyType => "key_type",
            Self::BadSelfSignature => "bad_self_signature",
            Self::ForeignName => "foreign_name",
            Self::Validity => "validity",
            Self::KeyUsage => "key_usage",
            Self::MalformedRequest => "malformed_request",
            Self::Denied => "denied",
            Self::NoCompanion => "no_companion",
            Self::NotDual => "not_dual",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::AttestorUnavailable => "attestor_unavailable",
            Self::KeyUnavailable => "key_unavailable",
            Self::NotReady => "not_ready",
            Self::Internal => "internal",
        }
    }

    /// As reasons of conditions are written.
    pub fn camel(self) -> String {
        let words = self.as_str().split('_');
        words
            .flat_map(|word| {
                let mut letters = word.chars();
                letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
            })
            .collect()
    }

    /// Whether the same request would be refused on the best of days.
    pub fn is_callers_fault(self) -> bool {
        matches!(self.code(), Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument)
    }

    pub fn code(self) -> Code {
        match self {
            Self::MissingToken
            | Self::MalformedToken
            | Self::InvalidToken
            | Self::ExpiredToken
            | Self::NotYetValidToken
            | Self::WrongAudience
            | Self::WrongIssuer
            | Self::NotBoundToPod => Code::Unauthenticated,
            Self::PodAbsent
            | Self::PodReplaced
            | Self::PodFinished
            | Self::ServiceAccountMismatch
            | Self::ForeignName
            | Self::Denied => Code::PermissionDenied,
            Self::MalformedCsr
            | Self::TrailingBytes
            | Self::KeyType
            | Self::BadSelfSignature
            | Self::Validity
            | Self::KeyUsage
            | Self::MalformedRequest => Code::InvalidArgument,
            Self::RateLimited | Self::Overloaded => Code::ResourceExhausted,
            // Whoever asks may have heard of it a moment ago.
            Self::NoCompanion | Self::NotDual => Code::FailedPrecondition,
            Self::AttestorUnavailable | Self::KeyUnavailable | Self::NotReady => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }
}

/// A refusal, with words for the caller. They name the field, its value and the remedy, and never hold a
/// token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.reason.code(), refusal.message)
    }
}
