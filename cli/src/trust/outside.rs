//! The way of an issuing certificate to an outside CA and back: the request, the import, the chain.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use trellis_api::trust::{SignedBy, TrustDomainSpec, TrustDomainStatus};
use trellis_pki::{
    algorithm::Algorithm,
    csr,
    upstream::{self, MAX_PEM, Terms},
};

/// The request that is to be signed.
pub fn request(status: &TrustDomainStatus) -> Result<&str> {
    let Some(pending) = &status.pending else {
        bail!("no issuing key waits for a certificate; begin with `trellis trust rotate --signed-by import`")
    };
    match pending.request.is_empty() {
        true => bail!("the key of {} is not made yet; try again in a moment", pending.kind),
        false => Ok(&pending.request),
    }
}

/// What `file` holds, `-` for standard input.
pub fn read(file: &Path) -> Result<String> {
    let limit = MAX_PEM as u64 + 1;
    let mut bytes = Vec::new();
    let opened: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?),
    };
    opened.take(limit).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", file.display()))?;
    String::from_utf8(bytes).map_err(|_| anyhow!("{} is no text; give PEM", file.display()))
}

/// The wish with the certificate, if it is one for the pending key. The CA, which knows more, judges it
/// again.
pub fn import(
    spec: &TrustDomainSpec,
    status: &TrustDomainStatus,
    pem: &str,
    now: SystemTime,
) -> Result<TrustDomainSpec> {
    let request = request(status)?;
    if spec.issuing.signed_by != SignedBy::Import {
        bail!("issuing.signedBy is {}: a certificate is handed over by import only", spec.issuing.signed_by);
    }
    let unreadable = |error: &dyn std::fmt::Display| anyhow!("the request in the status: {error}");
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
        .map_err(|error| unreadable(&error))?;
    let key = csr::check(&der, &Algorithm::ALL).map_err(|error| unreadable(&error))?;
    let names = csr::names(&der);
    let trust_domain = names.iter().find_map(|name| name.strip_prefix("spiffe://")).unwrap_or_default();
    let terms = Terms {
        trust_domain,
        service_domain: "svc",
        now,
        leaf: Duration::ZERO,
        classical_parents: spec.allow_classical_parents,
    };
    upstream::read(pem, &key, &terms).context("nothing was changed")?;
    Ok(TrustDomainSpec { imported: pem.to_owned(), ..spec.clone() })
}

/// What has become of an import, once it is known.
pub fn outcome(status: &TrustDomainStatus) -> Option<Result<String>> {
    let refused = status.conditions.iter().find(|one| one.reason == "CertificateRefused");
    match (&status.pending, refused) {
        (Some(_), Some(refused)) => Some(Err(anyhow!("{}", refused.message))),
        (Some(_), None) => None,
        (None, _) => Some(Ok(match &status.rotation {
            Some(rotation) => {
                format!("taken; rotation {} to {}: {}\n", rotation.number, rotation.to, rotation.phase)
            }
            None => format!("taken; issuing from {}\n", status.issuing),
        })),
    }
}

/// The issuing certificate and those above it.
pub fn chain(status: &TrustDomainStatus) -> Result<&str> {
    let issuing = status.issuing.rsplit(' ').next().unwrap_or_default();
    let anchor = status.anchors.iter().find(|anchor| anchor.fingerprint.starts_with(issuing));
    match anchor {
        Some(anchor) if !issuing.is_empty() && !anchor.chain.is_empty() => Ok(&anchor.chain),
        _ => bail!(
            "the issuing certificate {} signs itself: nothing is above it, and the trust bundle holds it",
            status.issuing
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use trellis_api::trust::{AnchorStatus, Condition, Issuing, KeyAlgorithm, PendingStatus};
    use trellis_pki::key::PrivateKey;

    use super::*;

    fn pending(signed_by: SignedBy) -> (TrustDomainSpec, TrustDomainStatus) {
        let kind = Issuing { signed_by, ..Issuing::own(KeyAlgorithm::MlDsa65, 2) };
        let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
        let request = upstream::request_pem(&upstream::request("cluster.local", &key).unwrap());
        let spec = TrustDomainSpec::of(kind);
        let pending = PendingStatus { kind, key: String::new(), request, since: String::new() };
        (spec, TrustDomainStatus { pending: Some(pending), ..TrustDomainStatus::default() })
    }

    #[test]
    fn without_a_pending_key_there_is_nothing_to_sign_or_to_import() {
        let none = TrustDomainStatus::default();
        let error = request(&none).unwrap_err().to_string();
        assert!(error.contains("rotate --signed-by import"), "{error}");
        let (spec, status) = pending(SignedBy::OpenBao);
        let error = import(&spec, &status, "", UNIX_EPOCH).unwrap_err().to_string();
        assert!(error.contains("signedBy is openbao"), "{error}");
        let error = chain(&none).unwrap_err().to_string();
        assert!(error.contains("signs itself"), "{error}");
    }

    #[test]
    fn what_is_no_certificate_for_the_key_is_refused_before_anything_is_written() {
        let (spec, status) = pending(SignedBy::Import);
        assert!(request(&status).unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        let error = import(&spec, &status, "nonsense", UNIX_EPOCH).unwrap_err();
        assert!(
            format!("{error:#}").contains("nothing was changed: the chain holds no certificate"),
            "{error:#}"
        );
    }

    #[test]
    fn the_outcome_is_told_once_it_is_known() {
        let (_, mut status) = pending(SignedBy::Import);
        assert!(outcome(&status).is_none());
        let condition = Condition {
            type_: "Settled".to_owned(),
            status: "False".to_owned(),
            reason: "CertificateRefused".to_owned(),
            message: "because".to_owned(),
            last_transition_time: String::new(),
            observed_generation: 1,
        };
        status.conditions.push(condition);
        assert_eq!(outcome(&status).unwrap().unwrap_err().to_string(), "because");
        status.pending = None;
        status.issuing = "ml-dsa-65.2 abcdef".to_owned();
        assert_eq!(outcome(&status).unwrap().unwrap(), "taken; issuing from ml-dsa-65.2 abcdef\n");
        status.anchors = vec![AnchorStatus {
            fingerprint: "abcdef00".to_owned(),
            algorithm: "ml-dsa-65".to_owned(),
            generation: 2,
            not_after: String::new(),
            renews: String::new(),
            held_by: 0,
            leaves: 0,
            key: String::new(),
            chain: "PEM".to_owned(),
        }];
        assert_eq!(chain(&status).unwrap(), "PEM");
    }
}
