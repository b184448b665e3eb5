//! A workload's certificate, read strictly: what is not exactly the shape that Trellis issues is an
//! error, so that no later check has to ask whether a field was there.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::algorithm::Algorithm;
use crate::key::PublicKey;
use crate::spiffe::{SpiffeError, SpiffeId};
use crate::x509::{self, Foreign, KeyProblem};

/// keyUsage with digitalSignature and nothing else, as x509-parser counts its bits.
const DIGITAL_SIGNATURE_ONLY: u16 = 1;

/// What a certificate says, signature not yet believed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaf {
    pub identity: SpiffeId,
    pub dns_names: Vec<String>,
    /// Algorithm of the certificate's own key.
    pub algorithm: Algorithm,
    /// Algorithm of the issuer's signature on the certificate.
    pub issuer_algorithm: Algorithm,
    /// Lower case hex without leading zero bytes.
    pub serial: String,
    /// SHA-256 of the SubjectPublicKeyInfo, lower case hex.
    pub key: String,
    pub not_before: SystemTime,
    /// The last second in which the certificate is valid.
    pub not_after: SystemTime,
    /// May answer as a server.
    pub server: bool,
    /// May call as a client.
    pub client: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("the certificate is not one well-formed X.509 version 3 certificate: {0}")]
    Malformed(&'static str),
    #[error("the certificate is not marked CA:FALSE")]
    NotALeaf,
    #[error("the certificate's key usage is not digitalSignature alone")]
    KeyUsage,
    #[error("the certificate carries {0} URI names: it must carry exactly one SPIFFE ID")]
    UriNames(usize),
    #[error("the certificate's URI name: {0}")]
    Identity(#[from] SpiffeError),
    #[error("the certificate's key is {name}, which is none that Trellis uses")]
    ForeignKey { name: String, classical: bool },
    #[error("the certificate's issuer signed with {name}, which is none that Trellis uses")]
    ForeignIssuer { name: String, classical: bool },
}

impl Leaf {
    pub fn parse(der: &[u8]) -> Result<Self, LeafError> {
        Self::parse_with_key(der).map(|(leaf, _)| leaf)
    }

    pub(crate) fn parse_with_key(der: &[u8]) -> Result<(Self, PublicKey), LeafError> {
        let certificate =
            x509::certificate(der).ok_or(LeafError::Malformed("it does not parse, or bytes follow it"))?;
        let key = x509::public_key(certificate.public_key()).map_err(|problem| match problem {
            KeyProblem::Foreign(Foreign { name, classical }) => LeafError::ForeignKey { name, classical },
            KeyProblem::Malformed => LeafError::Malformed("public key"),
        })?;
        let issuer_algorithm = x509::signature_algorithm(&certificate.signature_algorithm)
            .map_err(|Foreign { name, classical }| LeafError::ForeignIssuer { name, classical })?;
        check_constraints(&certificate)?;
        let (server, client) = purposes(&certificate)?;
        let (identity, dns_names) = names(&certificate)?;
        let validity = certificate.validity();
        let time = |at| x509::time(at).ok_or(LeafError::Malformed("validity"));
        let leaf = Self {
            identity,
            dns_names,
            algorithm: key.algorithm,
            issuer_algorithm,
            serial: serial(&certificate),
            key: x509::hex(digest(&SHA256, certificate.public_key().raw).as_ref()),
            not_before: time(&validity.not_before)?,
            not_after: time(&validity.not_after)?,
            server,
            client,
        };
        Ok((leaf, key))
    }

    /// Whether both the key and the issuer's signature resist a quantum computer.
    pub fn is_post_quantum(&self) -> bool {
        self.algorithm.is_post_quantum() && self.issuer_algorithm.is_post_quantum()
    }

    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

fn check_constraints(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if !constraints.value.ca => {}
        Ok(_) => return Err(LeafError::NotALeaf),
        Err(_) => return Err(LeafError::Malformed("basic constraints")),
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.flags == DIGITAL_SIGNATURE_ONLY => Ok(()),
        Ok(_) => Err(LeafError::KeyUsage),
        Err(_) => Err(LeafError::Malformed("key usage")),
    }
}

/// Absent extended key usage allows nothing, where other readers take it to allow everything.
fn purposes(certificate: &X509Certificate<'_>) -> Result<(bool, bool), LeafError> {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => Ok((usage.value.server_auth, usage.value.client_auth)),
        Ok(None) => Ok((false, false)),
        Err(_) => Err(LeafError::Malformed("extended key usage")),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Result<(SpiffeId, Vec<String>), LeafError> {
    let malformed = LeafError::Malformed("alternative names");
    let alternative = certificate.subject_alternative_name().map_err(|_| malformed.clone())?;
    let general = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = Vec::new();
    let mut dns_names = Vec::new();
    for name in general {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            GeneralName::Invalid(..) => return Err(malformed),
            _ => {}
        }
    }
    match uris.as_slice() {
        [uri] => Ok((uri.parse()?, dns_names)),
        several => Err(LeafError::UriNames(several.len())),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    let raw = certificate.raw_serial();
    let significant = raw.iter().position(|byte| *byte != 0).unwrap_or(raw.len());
    x509::hex(raw.get(significant..).unwrap_or_default())
}
