//! Certificates that are wrong in exactly one way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::bundle::Bundle;
use trellis_pki::clock::{Clock, SystemClock};
use trellis_pki::issue::{BACKDATE, Issuer, LeafRequest};
use trellis_pki::key::{PrivateKey, SEED_LEN};
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
    /// The key is of ECDSA, under the mesh's CA.
    Classical,
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
        // It began half a minute before now minus the backdate, and lived one second longer than that.
        Wrong::Expired => (stolen(asked)?, now - Duration::from_secs(30), BACKDATE + Duration::from_secs(1)),
        _ => (stolen(asked)?, now, DAY),
    };
    let algorithm = match asked.certificate {
        Wrong::Classical => Algorithm::EcdsaP256,
        _ => Algorithm::MlDsa65,
    };
    let key = PrivateKey::generate(algorithm)?;
    let leaf = issue(&issuer, &key, identity, issued_at, validity)?;
    Ok(Some(Arc::new(CertifiedKey::new(vec![leaf], key.rustls_key()?))))
}

fn issue(
    issuer: &Issuer,
    key: &PrivateKey,
    identity: &SpiffeId,
    now: std::time::SystemTime,
    validity: Duration,
) -> Result<CertificateDer<'static>> {
    let request = LeafRequest { public_key: key.public_key(), identity, dns_names: &[], now, validity };
    Ok(CertificateDer::from(issuer.issue(&request)?.der))
}

/// The mesh's own root, as one has it who could read the CA's Secret.
fn stolen(asked: &Credentials) -> Result<Issuer> {
    let (Some(root), Some(seed)) = (&asked.root, &asked.seed) else {
        bail!(
            "--root and --seed are missing: a {:?} certificate is issued by the mesh's own root",
            asked.certificate
        );
    };
    let identity = asked.identity.as_ref().context("--identity is missing")?;
    let key = PrivateKey::from_seed(Algorithm::MlDsa65, &read_seed(seed)?)?;
    let content = fs::read(root).with_context(|| format!("--root {}", root.display()))?;
    let der = match std::str::from_utf8(&content) {
        Ok(pem) if pem.contains("-----BEGIN") => {
            let bundle = Bundle::from_pem(identity.trust_domain(), pem)?;
            bundle.anchors().first().context("--root holds no certificate")?.der.clone()
        }
        _ => content,
    };
    Ok(Issuer::load(&der, key)?)
}

fn read_seed(path: &Path) -> Result<[u8; SEED_LEN]> {
    let content = fs::read(path).with_context(|| format!("--seed {}", path.display()))?;
    if let Ok(seed) = <[u8; SEED_LEN]>::try_from(content.as_slice()) {
        return Ok(seed);
    }
    let hex = std::str::from_utf8(&content).context("--seed is neither 32 bytes nor hex")?.trim();
    let mut seed = [0; SEED_LEN];
    if hex.len() != 2 * SEED_LEN {
        bail!("--seed {} is neither 32 bytes nor 64 digits of hex", path.display());
    }
    for (byte, digits) in seed.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits)?, 16).context("--seed is not hex")?;
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_pki::leaf::Leaf;

    fn asked(certificate: Wrong, folder: &Path) -> Credentials {
        let now = SystemClock.now();
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let (root, seed) = (folder.join("root.der"), folder.join("seed"));
        fs::write(&seed, key.seed().unwrap().as_slice()).unwrap();
        let issuer = Issuer::new_root("cluster.local", key, now, 365 * DAY).unwrap();
        fs::write(&root, &issuer.anchor().der).unwrap();
        let identity = Some("spiffe://cluster.local/ns/a/sa/b".parse().unwrap());
        Credentials { certificate, identity, root: Some(root), seed: Some(seed) }
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
        let classical = leaf(Wrong::Classical);
        assert!(now < classical.not_after);
        assert_eq!(classical.algorithm, Algorithm::EcdsaP256);
    }

    #[test]
    fn a_certificate_of_the_mesh_needs_the_stolen_root() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Credentials { root: None, ..asked(Wrong::Expired, folder.path()) };
        let error = make(&asked).err().unwrap().to_string();
        assert!(error.contains("--root and --seed"), "{error}");
    }
}
