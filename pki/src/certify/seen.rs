//! What a certificate says of itself, for whoever looks after it.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;

use super::{CertifyError, Role};
use crate::bundle::fingerprint;
use crate::x509;

/// One certificate, read and not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Lower case hex.
    pub serial: String,
    pub subject: String,
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub role: Role,
    /// SHA-256 of the certificate, in lower case hex.
    pub fingerprint: String,
    pub(super) signs_certificates: bool,
    pub(super) self_issued: bool,
    /// DER of its SubjectPublicKeyInfo.
    pub(super) public_info: Vec<u8>,
}

/// Those of a PEM text, as DER.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, CertifyError> {
    let all = CertificateDer::pem_slice_iter(pem).map(|der| der.map(|der| der.to_vec()));
    all.collect::<Result<_, _>>().map_err(|_| CertifyError::Chain)
}

impl Seen {
    pub fn read(der: &[u8]) -> Result<Self, CertifyError> {
        let certificate = x509::certificate(der).ok_or(CertifyError::Unreadable)?;
        Self::of(&certificate, der).ok_or(CertifyError::Unreadable)
    }

    fn of(certificate: &X509Certificate<'_>, der: &[u8]) -> Option<Self> {
        let validity = certificate.validity();
        let constraints = certificate.basic_constraints().ok()?.map(|extension| extension.value);
        let role = match constraints {
            Some(constraints) if constraints.ca => {
                let length = constraints.path_len_constraint.map(u8::try_from).transpose().ok()?;
                Role::Ca { path_length: length }
            }
            _ => Role::Leaf,
        };
        let usage = certificate.key_usage().ok()?;
        Some(Self {
            serial: x509::hex(
                certificate.raw_serial().strip_prefix(&[0]).unwrap_or(certificate.raw_serial()),
            ),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: x509::time(&validity.not_before)?,
            not_after: x509::time(&validity.not_after)?,
            role,
            fingerprint: fingerprint(der),
            signs_certificates: usage.is_some_and(|usage| usage.value.key_cert_sign()),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            public_info: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether it is for this key.
    pub fn is_for(&self, key: &super::Key) -> bool {
        self.public_info == key.public_info()
    }

    /// Whether it stands at the top of its chain.
    pub fn is_root(&self) -> bool {
        self.self_issued
    }
}
