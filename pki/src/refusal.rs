//! Why a handshake came to nothing, as a closed set of words that serve as metric labels.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use crate::record::Recorder;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a handshake came to nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

refusals! {
    /// The peer's certificate has ended.
    ExpiredCertificate => "expired_certificate",
    /// The peer's certificate has not begun.
    NotYetValid => "not_yet_valid",
    /// No anchor of the bundle signed the peer's certificate.
    UnknownIssuer => "unknown_issuer",
    /// The certificate is good, and somebody else's.
    WrongIdentity => "wrong_identity",
    ForeignTrustDomain => "foreign_trust_domain",
    /// An operator denied the peer's identity, certificate or key.
    Denied => "denied",
    /// The peer sent no certificate where one is required.
    NoCertificate => "no_certificate",
    /// The peer sent more than one certificate.
    IntermediateSent => "intermediate_sent",
    MalformedCertificate => "malformed_certificate",
    /// The certificate does not carry exactly one well-formed SPIFFE ID.
    BadIdentity => "bad_identity",
    /// The certificate is not explicitly CA:FALSE.
    NotALeaf => "not_a_leaf",
    /// The key usage, or extended key usage, does not fit the peer's role.
    WrongUsage => "wrong_usage",
    /// The peer's key falls to a quantum computer, and policy does not allow it.
    ClassicalKey => "classical_key",
    /// The peer's certificate was signed with an algorithm that falls to a quantum computer.
    ClassicalIssuer => "classical_issuer",
    /// A key or signature of an algorithm that is not in use here at all.
    UnsupportedAlgorithm => "unsupported_algorithm",
    /// The peer's proof that it holds its key does not verify.
    BadSignature => "bad_signature",
    NoCommonGroup => "no_common_group",
    NoCommonSignature => "no_common_signature",
    NoCommonVersion => "no_common_version",
    NoCommonCipher => "no_common_cipher",
    NoCommonProtocol => "no_common_protocol",
    /// What the peer gave for the key exchange is none of its group.
    BadKeyShare => "bad_key_share",
    /// What arrived does not open with the keys that were agreed on.
    Undecipherable => "undecipherable",
    /// What arrived was not TLS.
    NotTls => "not_tls",
    Oversize => "oversize",
    TimedOut => "timed_out",
    PeerAlertHandshakeFailure => "peer_alert_handshake_failure",
    PeerAlertBadCertificate => "peer_alert_bad_certificate",
    PeerAlertCertificateExpired => "peer_alert_certificate_expired",
    PeerAlertCertificateRevoked => "peer_alert_certificate_revoked",
    PeerAlertCertificateUnknown => "peer_alert_certificate_unknown",
    PeerAlertCertificateRequired => "peer_alert_certificate_required",
    PeerAlertUnsupportedCertificate => "peer_alert_unsupported_certificate",
    PeerAlertUnknownCa => "peer_alert_unknown_ca",
    PeerAlertAccessDenied => "peer_alert_access_denied",
    PeerAlertProtocolVersion => "peer_alert_protocol_version",
    PeerAlertOther => "peer_alert_other",
    /// The connection broke.
    Io => "io",
    Other => "other",
}

impl Refusal {
    /// The reason for `error`; what our own verifier found goes before what TLS made of it.
    pub fn of(error: &Error, recorder: &Recorder) -> Self {
        match recorder.rejection() {
            Some(rejection) => rejection.refusal,
            None => of_tls(error),
        }
    }

    /// The reason for an error of an asynchronous TLS stream, which wraps the TLS error.
    pub fn of_io(error: &io::Error, recorder: &Recorder) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(tls) => Self::of(tls, recorder),
            None => match recorder.rejection() {
                Some(rejection) => rejection.refusal,
                None if error.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
                None => Self::Io,
            },
        }
    }
}

fn of_tls(error: &Error) -> Refusal {
    match error {
        Error::NoCertificatesPresented => Refusal::NoCertificate,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::PeerIncompatible(error) => of_incompatible(error),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::NoApplicationProtocol => Refusal::NoCommonProtocol,
        Error::PeerSentOversizedRecord => Refusal::Oversize,
        Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare) => Refusal::BadKeyShare,
        Error::DecryptError => Refusal::Undecipherable,
        Error::InvalidMessage(error) => match error {
            InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge => {
                Refusal::Oversize
            }
            // The first bytes decide these: the record's type, version and length.
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload => Refusal::NotTls,
            _ => Refusal::Other,
        },
        _ => Refusal::Other,
    }
}

/// Only the handshake signature is left to others' code, whose errors arrive here.
fn of_certificate(error: &CertificateError) -> Refusal {
    match error {
        CertificateError::BadSignature => Refusal::BadSignature,
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. } => Refusal::BadSignature,
        _ => Refusal::MalformedCertificate,
    }
}

fn of_incompatible(error: &PeerIncompatible) -> Refusal {
    match error {
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => Refusal::NoCommonGroup,
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => Refusal::NoCommonSignature,
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => Refusal::NoCommonVersion,
        PeerIncompatible::NoCipherSuitesInCommon => Refusal::NoCommonCipher,
        _ => Refusal::Other,
    }
}

fn of_alert(alert: AlertDescription) -> Refusal {
    match alert {
        AlertDescription::HandshakeFailure => Refusal::PeerAlertHandshakeFailure,
        AlertDescription::BadCertificate => Refusal::PeerAlertBadCertificate,
        AlertDescription::CertificateExpired => Refusal::PeerAlertCertificateExpired,
        AlertDescription::CertificateRevoked => Refusal::PeerAlertCertificateRevoked,
        AlertDescription::CertificateUnknown => Refusal::PeerAlertCertificateUnknown,
        AlertDescription::CertificateRequired => Refusal::PeerAlertCertificateRequired,
        AlertDescription::UnsupportedCertificate => Refusal::PeerAlertUnsupportedCertificate,
        AlertDescription::UnknownCA => Refusal::PeerAlertUnknownCa,
        AlertDescription::AccessDenied => Refusal::PeerAlertAccessDenied,
        AlertDescription::ProtocolVersion => Refusal::PeerAlertProtocolVersion,
        _ => Refusal::PeerAlertOther,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
