//! Certificates that are wrong in exactly one way.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::clock::{Clock, SystemClock};
use trellis_pki::issue::{Issuer, LeafRequest};
use trellis_pki::key::PrivateKey;
use trellis_pki::spiffe::SpiffeId;

use crate::Credentials;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is wrong with the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wrong {
    /// There is none.
    None,
    /// Another CA of the same name issued it.
    Foreign,
    /// The mesh's CA issued it, and it has ended.
    Expired,
    /// Nothing but perhaps whose it is: the mesh's CA issued it for the identity asked for.
    Nothing,
}

/// The certificate and key that the arguments describe, or nothing.
pub fn make(asked: &Credentials) -> Result<Option<Arc<CertifiedKey>>> {
    if asked.certificate == Wrong::None {
        return Ok(None);
    }
    let identity =
        asked.identity.as_ref().context("--identity is missing: name whom the certificate is for")?;
    let now = SystemClock.now();
    let (issuer, issued_at, validity) = match asked.certificate {
        Wrong::Foreign => {
            let key = PrivateKey::generate(Algorithm::MlDsa65)?;
            (Issuer::new_root(identity.trust_domain(), key, now, DAY)?, now, DAY)
        }
        // It was issued two minutes ago for less than one.
        Wrong::Expired => (stolen(asked)?, now - Duration::from_secs(120), Duration::from_secs(60)),
        _ => (stolen(asked)?, now, DAY),
    };
    let key = PrivateKey::generate(Algorithm::MlDsa65)?;
    let leaf = issue(&issuer, &key, identity, issued_at, validity)?;
    Ok(Some(Arc::new(CertifiedKey::new(vec![leaf], key.rustls_key()?))))
}

fn issue(
    issuer: &Issuer,
    key: &PrivateKey,
    identity: &SpiffeId,
    now: SystemTime,
    validity: Duration,
) -> Result<CertificateDer<'static>> {
    let request = LeafRequest { public_key: key.public_key(), identity, dns_names: &[], now, validity };
    Ok(CertificateDer::from(issuer.issue(&request)?.der))
}

/// The mesh's own root, as one has it who could read the CA's Secret.
fn stolen(asked: &Credentials) -> Result<Issuer> {
    let Some(path) = &asked.root else {
        bail!("--root is missing: a {:?} certificate is issued by the mesh's own root", asked.certificate);
    };
    let pem = fs::read(path).with_context(|| format!("--root {}", path.display()))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).context("--root holds no PRIVATE KEY")?;
    let certificate = CertificateDer::from_pem_slice(&pem).context("--root holds no CERTIFICATE")?;
    Ok(Issuer::load(&certificate, PrivateKey::from_pkcs8(key.secret_pkcs8_der())?)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use trellis_pki::leaf::Leaf;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    fn asked(certificate: Wrong, folder: &Path) -> Credentials {
        let now = SystemClock.now();
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let root = folder.join("root.pem");
        let secret = pem("PRIVATE KEY", &key.pkcs8().unwrap());
        let issuer = Issuer::new_root("cluster.local", key, now, 365 * DAY).unwrap();
        fs::write(&root, secret + &pem("CERTIFICATE", &issuer.anchor().der)).unwrap();
        let identity = Some("spiffe://cluster.local/ns/a/sa/b".parse().unwrap());
        Credentials { certificate, identity, root: Some(root) }
    }

    fn leaf(certificate: Wrong) -> Leaf {
        let folder = tempfile::tempdir().unwrap();
        let made = make(&asked(certificate, folder.path())).unwrap().unwrap();
        Leaf::parse(&made.cert[0]).unwrap()
    }

    #[test]
    fn each_certificate_is_wrong_in_its_own_way_only() {
        let now = SystemClock.now();
        let sound = leaf(Wrong::Nothing);
        assert!(sound.not_before < now && now < sound.not_after);
        assert_eq!(sound.algorithm, Algorithm::MlDsa65);
        let expired = leaf(Wrong::Expired);
        assert!(expired.not_after < now);
        assert_eq!(expired.algorithm, Algorithm::MlDsa65);
    }

    #[test]
    fn a_certificate_of_the_mesh_needs_the_stolen_root() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Credentials { root: None, ..asked(Wrong::Expired, folder.path()) };
        let error = make(&asked).err().unwrap().to_string();
        assert!(error.contains("--root is missing"), "{error}");
    }
}
