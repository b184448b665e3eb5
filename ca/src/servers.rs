//! What the CA issues for QuantumCertificates: for servers, by names of Services of the namespace that asks,
//! below the mesh's anchors, and for a day at most. It is no identity: whoever shows one is a member of the mesh
//! to nobody, and no way leads from an object of that kind to one.

mod rules;

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;
use trellis_api::crypto::MESH_LIFE;
use trellis_custody::{Anchors, Issuer, Refused, Server};
use trellis_pki::{
    algorithm::Algorithm,
    certify::{CertifyError, Name, Seen},
    clock::rfc3339,
    credential::Denied,
    issue,
    signer::SignerError,
};
use trellis_telemetry::{
    Counter, Family, Registry,
    shutdown::{Shutdown, requested},
};

use crate::{
    audit::{Audit, Event},
    companion,
    trust::authority::{Authority, Current},
};

/// By which the audit trail tells these from what workloads get.
const API: &str = "quantum_certificate";

pub struct Servers {
    authority: Authority,
    audit: Audit,
    /// Where names of Services end.
    cluster_domain: String,
    /// The control plane's own namespace.
    own_namespace: String,
    algorithms: Vec<Algorithm>,
    anchors: watch::Sender<Anchors>,
    issued: Family<Counter>,
}

impl Servers {
    pub fn new(
        authority: Authority,
        audit: Audit,
        (cluster_domain, own_namespace): (&str, &str),
        algorithms: &[Algorithm],
        registry: &Registry,
    ) -> Self {
        let anchors = watch::Sender::new(anchors(&authority.current()));
        Self {
            authority,
            audit,
            cluster_domain: cluster_domain.to_owned(),
            own_namespace: own_namespace.to_owned(),
            algorithms: algorithms.to_vec(),
            anchors,
            issued: registry.counter(
                "trellis_ca_servers_issued_total",
                "Certificates issued for QuantumCertificates, by algorithm of the key and of the anchor's signature.",
            ),
        }
    }

    /// Tells of each change of the anchors, so that what rests on one that goes is replaced.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let mut revision = self.authority.revision();
        let following = async {
            loop {
                revision.borrow_and_update();
                let now = anchors(&self.authority.current());
                self.anchors.send_if_modified(|known| {
                    let differs = *known != now;
                    known.clone_from(&now);
                    differs
                });
                if revision.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = following => {}
            () = requested(shutdown) => {}
        }
    }

    fn decide(&self, wanted: &Server<'_>, current: &Current) -> Result<Arc<issue::Issuer>, Refused> {
        let denied = |field, why: String| Refused::Denied { field, why };
        rules::check_names(wanted, &self.own_namespace, &self.cluster_domain)?;
        let (issuer, allowed) = match wanted.companion {
            true => (current.companion.as_ref(), companion::ALGORITHMS),
            false => (Some(&current.issuer), self.algorithms.as_slice()),
        };
        let issuer = issuer.ok_or_else(|| {
            denied(
                "spec.hybrid",
                "the mesh has no companion anchor to issue the second certificate from; whoever operates the mesh \
                 makes one with trellis trust companion --to ecdsa-p256"
                    .to_owned(),
            )
        })?;
        let algorithm = wanted.key.algorithm;
        if !allowed.contains(&algorithm) {
            let allowed: Vec<&str> = allowed.iter().map(|one| one.name()).collect();
            let field = if wanted.companion { "spec.hybrid.algorithm" } else { "spec.algorithm" };
            let why =
                format!("the CA of the mesh issues for keys of {}: use one of them", allowed.join(", "));
            return Err(denied(field, why));
        }
        if current.denials.contains(&Denied::Key(wanted.key.fingerprint())) {
            let why = "the key is denied; whoever operates the mesh lifts that with trellis trust allow";
            return Err(denied("spec.issuerRef", why.to_owned()));
        }
        Ok(issuer.clone())
    }

    fn sign(&self, wanted: &Server<'_>, issuer: &issue::Issuer) -> Result<Vec<u8>, Refused> {
        let names: Result<Vec<Name>, _> = wanted.names.iter().map(|name| Name::dns(name)).collect();
        let names =
            names.map_err(|error| Refused::Denied { field: "spec.dnsNames", why: error.to_string() })?;
        let life = wanted.life.min(MESH_LIFE);
        let issued = issuer.issue_server(&names, wanted.key, life, wanted.now);
        let der = issued.map_err(|error| match &error {
            CertifyError::Signer(SignerError::Away(why)) => {
                Refused::Unable(format!("the CA's issuing key is away: {why}"))
            }
            _ => Refused::Unable(format!("the CA of the mesh cannot issue: {error}")),
        })?;
        // Nothing leaves that was not recorded.
        let seen = Seen::read(&der).map_err(|error| Refused::Unable(error.to_string()))?;
        let record = json!({
            "serial": seen.serial,
            "anchor": &**issuer.anchor().fingerprint(),
            "companion": wanted.companion.then_some(true),
            "algorithm": wanted.key.algorithm.name(),
            "dnsNames": wanted.names,
            "notBefore": rfc3339(seen.not_before),
            "notAfter": rfc3339(seen.not_after),
            "namespace": wanted.namespace,
            "quantumCertificate": wanted.object,
            "api": API,
        });
        self.audit.record(Event::Issued, record).map_err(|error| Refused::Unable(error.to_string()))?;
        let signature = issuer.anchor().algorithm.name();
        self.issued.with(&[("key", wanted.key.algorithm.name()), ("signature", signature)]).inc();
        tracing::info!(
            namespace = wanted.namespace,
            certificate = wanted.object,
            serial = seen.serial,
            algorithm = wanted.key.algorithm.name(),
            not_after = rfc3339(seen.not_after),
            "issued a server's certificate"
        );
        Ok(der)
    }
}

impl Issuer for Servers {
    fn anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    fn certify(&self, wanted: &Server<'_>) -> Result<Vec<u8>, Refused> {
        let current = self.authority.current();
        let outcome = self.decide(wanted, &current).and_then(|issuer| self.sign(wanted, &issuer));
        if let Err(Refused::Denied { field, why }) = &outcome {
            tracing::warn!(
                namespace = wanted.namespace,
                certificate = wanted.object,
                field,
                why,
                "refused a certificate"
            );
            let kind = format!("{}/{}", wanted.namespace, wanted.object);
            let record = json!({
                "message": why,
                "namespace": wanted.namespace,
                "quantumCertificate": wanted.object,
                "dnsNames": wanted.names,
                "api": API,
            });
            // Where it finds no place, that is counted; what is refused is refused all the same.
            let _ = self.audit.record_repeated(Event::Refused, &kind, record);
        }
        outcome
    }
}

fn anchors(current: &Current) -> Anchors {
    Anchors {
        issuing: current.issuer.anchor().fingerprint().to_string(),
        companion: current.companion.as_ref().map(|issuer| issuer.anchor().fingerprint().to_string()),
        bundle: current.bundle.fingerprint(),
        pem: current.bundle.to_pem(),
    }
}

#[cfg(test)]
mod tests;
