//! A CA that is a certificate of this kind itself: what it may issue, and the chain that goes with it.

use std::time::SystemTime;

use rcgen::CertificateParams;
use rustls_pki_types::CertificateDer;

use super::{CertifyError, Key, Role, Seen, Wanted, certificates, is_ca, signing, within};

/// The most certificates in a chain, the leaf and the root included. Gateways read no more.
pub const MAX_CHAIN: usize = 10;

/// An issuer with its key. It has no `Debug`.
pub struct Parent {
    /// The CA itself first, each signed by the next.
    chain: Vec<(Vec<u8>, Seen)>,
    key: Key,
}

impl Parent {
    /// From PEM: the CA's certificate with those above it, perhaps without the root, and its key.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, CertifyError> {
        let chain = certificates(chain)?;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(CertifyError::Chain);
        }
        let chain = chain.into_iter().map(|der| Seen::read(&der).map(|seen| (der, seen)));
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|_| CertifyError::Chain)?;
        let key = Key::from_pem(key)?;
        match chain.first() {
            Some((_, seen)) if !seen.is_for(&key) => Err(CertifyError::OtherKey),
            _ => Ok(Self { chain, key }),
        }
    }

    /// Certificates that stand between one that it issues and the root, which is none of them.
    pub fn intermediates(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().filter(|(_, seen)| !seen.is_root()).map(|(der, _)| der.as_slice())
    }

    /// A certificate over the key that `public` is the public half of.
    pub fn issue(&self, wanted: &Wanted, key: &Key, now: SystemTime) -> Result<Vec<u8>, CertifyError> {
        let (mut params, role) = wanted.params(now)?;
        let Some((der, issuer)) = self.chain.first() else { return Err(CertifyError::Chain) };
        for (_, seen) in &self.chain {
            within(&mut params, seen, now)?;
        }
        params.is_ca = is_ca(self.role(role)?);
        let certificate = CertificateDer::from(der.as_slice());
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, &self.key).map_err(signing)?;
        let issued = signed(&params, key, &signer)?;
        let made = Seen::read(&issued)?;
        // Also where both are empty, which the subject of a CA never is.
        if made.subject == issuer.subject {
            return Err(CertifyError::SubjectOfIssuer);
        }
        Ok(issued)
    }

    /// What the certificates above allow of what is wished.
    fn role(&self, wished: Role) -> Result<Role, CertifyError> {
        let mut left = None::<u8>;
        for (above, (_, seen)) in self.chain.iter().enumerate() {
            let Role::Ca { path_length } = seen.role else {
                return Err(CertifyError::NotACa { subject: seen.subject.clone() });
            };
            if !seen.signs_certificates {
                return Err(CertifyError::NotACa { subject: seen.subject.clone() });
            }
            let Some(allowed) = path_length else { continue };
            let below = above + usize::from(wished != Role::Leaf);
            let rest = usize::from(allowed).checked_sub(below).ok_or_else(|| CertifyError::PathLength {
                subject: seen.subject.clone(),
                allowed: u32::from(allowed),
            })?;
            let rest = u8::try_from(rest).unwrap_or(u8::MAX);
            left = Some(left.map_or(rest, |left| left.min(rest)));
        }
        if self.chain.len() + 1 + usize::from(wished != Role::Leaf) > MAX_CHAIN {
            return Err(CertifyError::TooDeep);
        }
        match (wished, left) {
            (Role::Ca { path_length: Some(wanted) }, Some(allowed)) if wanted > allowed => {
                Err(CertifyError::PathLengthWider { wanted, allowed })
            }
            (Role::Ca { path_length: None }, left) => Ok(Role::Ca { path_length: left }),
            (role, _) => Ok(role),
        }
    }
}

fn signed(
    params: &CertificateParams,
    key: &Key,
    issuer: &rcgen::Issuer<'_, &Key>,
) -> Result<Vec<u8>, CertifyError> {
    let certificate = params.signed_by(key, issuer).map_err(signing)?;
    Ok(certificate.der().to_vec())
}
