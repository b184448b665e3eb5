//! Certificates below an issuing certificate of the mesh that are no identities of it: for names of DNS, to
//! answer as a server, and nothing else. The mesh's verifier takes nobody for a member who shows one.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use super::{CertifyError, Name, Role, Seen, Subject, Usage, Usages, Wanted, within};
use crate::issue::Issuer;
use crate::key::PublicKey;
use crate::signer::Attempt;

impl Issuer {
    /// A server's certificate for `names`, which the caller answers for.
    pub fn issue_server(
        &self,
        names: &[Name],
        public_key: &PublicKey,
        life: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, CertifyError> {
        let of_dns: Vec<Name> = names.iter().filter(|name| name.as_dns().is_some()).cloned().collect();
        let wanted = Wanted {
            // A name in the subject says nothing to who verifies, and could say something to others.
            subject: Subject::default(),
            names: of_dns,
            usages: Usages::new([Usage::DigitalSignature, Usage::ServerAuth]),
            role: Role::Leaf,
            life,
        };
        let (mut params, _) = wanted.params(now)?;
        let anchor = self.anchor();
        within(&mut params, &Seen::read(&anchor.der)?, now)?;
        let attempt = Attempt::new(self.signer());
        let certificate = CertificateDer::from(anchor.der.as_slice());
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, &attempt)
            .map_err(|error| attempt.failure(error))?;
        let issued = params.signed_by(public_key, &issuer).map_err(|error| attempt.failure(error))?;
        Ok(issued.der().to_vec())
    }
}
