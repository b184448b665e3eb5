//! TLS with those who are no part of the mesh: clients of a gateway, and applications that speak TLS
//! themselves. Certificates are the web's, of any issuer and algorithm in use there; TLS 1.2 is spoken where
//! 1.3 is not, and hybrid key exchange goes first.
//!
//! A configuration is made for each handshake, as in the mesh: nothing can be resumed, a certificate that was
//! swapped counts from the very next connection, and each connection's notes are its own.

use std::io;
use std::sync::Arc;

use rustls::{
    AlertDescription, CertificateError, CommonState, HandshakeKind, ProtocolVersion, RootCertStore,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::posture::{Class, group_name, is_post_quantum_group};
use crate::record::Recorder;
use crate::refusal::Refusal;

pub mod call;
pub mod certificate;
pub mod serve;

pub use call::{Call, Name};
pub use certificate::Certificate;
pub use serve::{Accepting, Clients, Front, Notes};

/// What of key exchange a listener offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyExchange {
    /// Hybrid first; clients that lack it are served.
    Prefer,
    /// Hybrid or nothing, and so TLS 1.3 or nothing.
    Require,
    Classical,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PublicError {
    #[error("the chain of certificates is not PEM, or there is none in it")]
    Chain,
    #[error("the certificate is not one well-formed X.509 version 3 certificate")]
    Malformed,
    #[error("the private key is not PEM of PKCS#8, PKCS#1 or SEC1")]
    Key,
    #[error("the key cannot be used: {0}")]
    Unusable(rustls::Error),
    #[error("the authorities hold no certificate that can be read")]
    NoAuthority,
    #[error("hostname {0:?} is no name of DNS")]
    Hostname(String),
    #[error("the TLS configuration was refused: {0}")]
    Config(rustls::Error),
    #[error("the authorities were refused: {0}")]
    Verifier(String),
}

/// What one connection with the outside negotiated, read from the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub tls: &'static str,
    pub group: String,
    /// What each side signed with, where it showed a certificate.
    pub client_signature: Option<&'static str>,
    pub server_signature: Option<&'static str>,
    pub class: Class,
    pub resumed: bool,
}

/// A certificate that somebody showed, as far as it matters for the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) key: &'static str,
    /// Neither its key nor its issuer's signature falls to a quantum computer.
    pub(crate) post_quantum: bool,
}

/// `None` before the handshake has ended.
fn negotiated(connection: &CommonState, client: Option<Shown>, server: Option<Shown>) -> Option<Negotiated> {
    if connection.is_handshaking() {
        return None;
    }
    let tls = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "1.3",
        ProtocolVersion::TLSv1_2 => "1.2",
        _ => return None,
    };
    let group = connection.negotiated_key_exchange_group()?.name();
    let signed = server.is_some() && client.into_iter().chain(server).all(|shown| shown.post_quantum);
    let class = match is_post_quantum_group(group) {
        true if signed => Class::Pq,
        true => Class::Hybrid,
        false => Class::Classical,
    };
    Some(Negotiated {
        tls,
        group: group_name(group),
        client_signature: client.map(|shown| shown.key),
        server_signature: server.map(|shown| shown.key),
        class,
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    })
}

/// Those that can be read of several texts in PEM.
fn roots<'a>(authorities: impl IntoIterator<Item = &'a [u8]>) -> Result<RootCertStore, PublicError> {
    let mut roots = RootCertStore::empty();
    for text in authorities {
        for certificate in CertificateDer::pem_slice_iter(text).flatten() {
            // A file of a system may hold what this version cannot read; the others count.
            let _ = roots.add(certificate);
        }
    }
    if roots.is_empty() { Err(PublicError::NoAuthority) } else { Ok(roots) }
}

/// Why a handshake with the outside came to nothing. The web's own verifier says more than that of the mesh.
pub fn refusal(error: &io::Error) -> Refusal {
    use CertificateError as Bad;
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => Refusal::ExpiredCertificate,
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => Refusal::NotYetValid,
            Bad::UnknownIssuer => Refusal::UnknownIssuer,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Refusal::WrongIdentity,
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => Refusal::WrongUsage,
            Bad::Revoked => Refusal::Denied,
            Bad::BadSignature => Refusal::BadSignature,
            _ => Refusal::MalformedCertificate,
        },
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            Refusal::NoCommonProtocol
        }
        _ => Refusal::of_io(error, &Recorder::default()),
    }
}

fn time(clock: &Arc<dyn crate::clock::Clock>) -> Arc<crate::clock::TlsTime> {
    Arc::new(crate::clock::TlsTime(Arc::clone(clock)))
}
