//! A serving certificate for webhooks: ECDSA P-256 under its own small CA, because the Kubernetes API
//! server cannot verify ML-DSA.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::algorithm::Algorithm;
use crate::issue::{IssueError, backdate, common_name, dated, dns, signing};
use crate::key::{KeyError, PrivateKey};
use crate::x509;

/// A certificate, its key, and the CA that clients check it with. The CA's key is gone: a new
/// certificate comes with a new CA.
#[derive(Clone)]
pub struct ServingCertificate {
    pub certificate_pem: String,
    pub key_pem: Zeroizing<String>,
    pub ca_pem: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ServingError {
    #[error("the {0} is not PEM of one well-formed item")]
    Pem(&'static str),
    #[error("the serving certificate is for another key than the one stored with it")]
    OtherKey,
    #[error("the serving certificate was not signed by the CA stored with it")]
    OtherCa,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Makes a CA and a certificate for `dns_names` under it, both valid for `validity`.
pub fn serving_certificate(
    dns_names: &[String],
    now: SystemTime,
    validity: Duration,
) -> Result<ServingCertificate, ServingError> {
    let names: Vec<SanType> = dns_names.iter().map(|name| dns(name)).collect::<Result<_, _>>()?;
    let ca_key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;

    let mut ca = dated(now, validity, backdate(validity))?;
    let id = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &ca_key.subject_public_key_info());
    let id = x509::hex(id.as_ref().get(..4).unwrap_or_default());
    ca.distinguished_name = common_name(&format!("Trellis webhook CA {id}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key).map_err(signing)?;

    let mut leaf = dated(now, validity, backdate(validity))?;
    leaf.distinguished_name = common_name(dns_names.first().map_or("trellis", String::as_str));
    leaf.subject_alt_names = names;
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(key.public_key(), &Issuer::new(ca, ca_key)).map_err(signing)?;

    let certificate_pem = x509::pem("CERTIFICATE", certificate.der());
    let key_pem = Zeroizing::new(x509::pem("PRIVATE KEY", &key.pkcs8()?));
    ServingCertificate::load(certificate_pem, key_pem, x509::pem("CERTIFICATE", ca_certificate.der()))
}

impl ServingCertificate {
    /// Reads back what was stored and checks that the three parts belong together.
    pub fn load(
        certificate_pem: String,
        key_pem: Zeroizing<String>,
        ca_pem: String,
    ) -> Result<Self, ServingError> {
        let key = read_key(&key_pem)?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| ServingError::Pem("serving certificate"))?;
        let certificate = x509::certificate(&der).ok_or(ServingError::Pem("serving certificate"))?;
        if x509::public_key(certificate.public_key()).ok().as_ref() != Some(key.public_key()) {
            return Err(ServingError::OtherKey);
        }
        let ca =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|_| ServingError::Pem("serving CA"))?;
        let ca = x509::certificate(&ca).ok_or(ServingError::Pem("serving CA"))?;
        let ca_key = x509::public_key(ca.public_key()).map_err(|_| ServingError::Pem("serving CA"))?;
        let signature = &certificate.signature_value.data;
        if !ca_key.algorithm.verifies(&ca_key.raw, certificate.tbs_certificate.as_ref(), signature) {
            return Err(ServingError::OtherCa);
        }
        let validity = certificate.validity();
        let time = |at| x509::time(at).ok_or(ServingError::Pem("serving certificate"));
        let (not_before, not_after) = (time(&validity.not_before)?, time(&validity.not_after)?);
        Ok(Self { certificate_pem, key_pem, ca_pem, not_before, not_after })
    }

    /// For a rustls server configuration with [`crate::provider::webhook`].
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>, ServingError> {
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|_| ServingError::Pem("serving certificate"))?;
        Ok(Arc::new(CertifiedKey::new(vec![der], read_key(&self.key_pem)?.rustls_key()?)))
    }
}

fn read_key(pem: &str) -> Result<PrivateKey, ServingError> {
    let der = Zeroizing::new(
        PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| ServingError::Pem("serving key"))?,
    );
    Ok(PrivateKey::from_pkcs8(der.secret_pkcs8_der())?)
}
