//! PodCertificateRequests: the kubelet makes a key for a pod, the API server checks that the kubelet may
//! speak for it, and the certificate is mounted into the pod. Kubernetes knows no ML-DSA keys there yet, so
//! that what is issued is counted as what it is.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::ByteString;
use kube::{Api, ResourceExt, api::DynamicObject};
use serde::Deserialize;
use serde_json::{Value, json};
use trellis_api::names::SIGNER;
use trellis_pki::{algorithm::Algorithm, clock::rfc3339, issue::Purposes, x509_pem};

use super::{Clerk, Look, Outcomes, await_pod, may_pass, write};
use crate::{
    attest::Caller,
    events::{About, Events, Tone},
    issue::{Ask, Claim, Granted, Issuing, Life, Proof, Way},
    refuse::{Reason, Refusal},
};

const PLURAL: &str = "podcertificaterequests";
const API: &str = "pod_certificate_request";
/// What Kubernetes wants between a certificate's refresh and either of its ends.
const MARGIN: Duration = Duration::from_secs(10 * 60);
/// The API server takes no answer that lives shorter.
const SHORTEST: Duration = Duration::from_secs(60 * 60);
/// The reason that Kubernetes has a name for.
const UNSUPPORTED_KEY: &str = "UnsupportedKeyType";
const UNKNOWN_ANNOTATIONS: &str = "InvalidUnverifiedUserAnnotations";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    signer_name: String,
    pod_name: String,
    #[serde(rename = "podUID")]
    pod_uid: String,
    service_account_name: String,
    max_expiration_seconds: Option<u32>,
    #[serde(rename = "pkixPublicKey")]
    public_key: ByteString,
    proof_of_possession: ByteString,
    #[serde(rename = "stubPKCS10Request")]
    stub: ByteString,
    unverified_user_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    certificate_chain: String,
    conditions: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    spec: Spec,
    status: Status,
}

/// Answers PodCertificateRequests of our signer.
pub struct PodRequests {
    pub issuing: Arc<Issuing>,
    pub events: Events,
    pub outcomes: Outcomes,
}

#[tonic::async_trait]
impl Clerk for PodRequests {
    fn plural(&self) -> &'static str {
        PLURAL
    }

    fn is_open(&self, object: &DynamicObject) -> bool {
        read(object).is_some_and(|request| {
            // Each of its conditions is a last word.
            request.spec.signer_name == SIGNER
                && request.status.certificate_chain.is_empty()
                && request.status.conditions.is_empty()
        })
    }

    async fn look(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        waited: Duration,
    ) -> Result<Look, kube::Error> {
        let Some(request) = read(object) else { return Ok(Look::Done) };
        match self.issue(object, &request.spec, waited).await {
            Ok(granted) => {
                write(api, object, "status", &self.issued(object, &granted)).await?;
                self.outcomes.count(API, "issued");
                Ok(Look::Done)
            }
            Err(refusal) if may_pass(&refusal, waited) => Ok(Look::Later(refusal.message)),
            Err(refusal) => {
                let (reason, message) = self.words(&refusal);
                self.condition(api, object, "Denied", &reason, &message).await?;
                self.outcomes.count(API, "denied");
                self.tell(object, &request.spec, "RequestDenied", &message);
                Ok(Look::Done)
            }
        }
    }

    async fn give_up(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        why: &str,
    ) -> Result<(), kube::Error> {
        self.condition(api, object, "Failed", "CannotIssue", why).await?;
        self.outcomes.count(API, "failed");
        if let Some(request) = read(object) {
            self.tell(object, &request.spec, "RequestFailed", why);
        }
        Ok(())
    }
}

impl PodRequests {
    async fn issue(&self, object: &DynamicObject, spec: &Spec, waited: Duration) -> Result<Granted, Refusal> {
        let way = Way::PodCertificate;
        if let Some((key, value)) = spec.unverified_user_annotations.iter().next() {
            let refusal = Refusal::new(
                Reason::MalformedRequest,
                format!(
                    "spec.unverifiedUserAnnotations holds {key:?} ({value:?}), and no annotation is known here; \
                     remove userAnnotations from the podCertificate volume"
                ),
            );
            self.issuing.turn_away(&refusal, way, None);
            return Err(refusal);
        }
        let longest = self.issuing.terms().validity;
        if longest < SHORTEST {
            return Err(Refusal::new(
                Reason::Internal,
                format!(
                    "certificates live for {} s here, and Kubernetes takes none below {} s; raise ca.leafValidity",
                    longest.as_secs(),
                    SHORTEST.as_secs()
                ),
            ));
        }
        let caller = Caller {
            namespace: object.namespace().unwrap_or_default(),
            service_account: spec.service_account_name.clone(),
            pod: spec.pod_name.clone(),
            pod_uid: spec.pod_uid.clone(),
        };
        await_pod(&self.issuing, &caller, waited)?;
        let ask = Ask {
            way,
            // Kubelets before 1.36 prove possession by a signature over the pod's uid, later ones by PKCS#10.
            proof: match spec.stub.0.is_empty() {
                false => Proof::Request(&spec.stub.0),
                true => Proof::Signature {
                    key: &spec.public_key.0,
                    message: spec.pod_uid.as_bytes(),
                    signature: &spec.proof_of_possession.0,
                },
            },
            names: &[],
            life: match spec.max_expiration_seconds {
                None => Life::Longest,
                Some(seconds) => Life::AtMost(Duration::from_secs(seconds.into())),
            },
            purposes: Purposes::BOTH,
            companion: false,
            source: None,
        };
        self.issuing.issue(Claim::Vouched(caller), &ask).await
    }

    fn issued(&self, object: &DynamicObject, granted: &Granted) -> Value {
        let leaf = &granted.leaf;
        let message = format!(
            "{} with a key of {} below an anchor of {}",
            granted.identity,
            granted.algorithm.name(),
            granted.current.issuer.anchor().algorithm.name()
        );
        json!({
            "certificateChain": x509_pem("CERTIFICATE", &leaf.der),
            "notBefore": rfc3339(leaf.not_before),
            "notAfter": rfc3339(leaf.not_after),
            "beginRefreshAt": rfc3339(refresh(object, leaf.not_before, leaf.not_after)),
            "conditions": [self.said("Issued", "OwnIdentity", &message)],
        })
    }

    /// Where the key is at fault, one that would do is named.
    fn words(&self, refusal: &Refusal) -> (String, String) {
        let allowed = &self.issuing.terms().request_algorithms;
        match refusal.reason {
            Reason::KeyType => {
                // Kubernetes makes keys of ECDSA for sure; whether of ML-DSA depends on its version.
                let classical = allowed.iter().find(|one| !one.is_post_quantum());
                let suggested = classical.or(allowed.first()).map_or("", |one| key_type(*one));
                let message = format!("{}; set keyType to {suggested}", refusal.message);
                (UNSUPPORTED_KEY.to_owned(), message)
            }
            Reason::MalformedRequest => (UNKNOWN_ANNOTATIONS.to_owned(), refusal.message.clone()),
            reason => (reason.camel(), refusal.message.clone()),
        }
    }

    async fn condition(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        type_: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        write(api, object, "status", &json!({ "conditions": [self.said(type_, reason, message)] })).await
    }

    fn said(&self, type_: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": type_, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": rfc3339(self.issuing.clock().now()),
        })
    }

    /// The pod is what somebody looks at who wonders why it does not start.
    fn tell(&self, object: &DynamicObject, spec: &Spec, reason: &'static str, message: &str) {
        self.events.say(&About::object(object), Tone::Warning, reason, "Decide", message);
        let pod = About::pod(&object.namespace().unwrap_or_default(), &spec.pod_name, &spec.pod_uid);
        self.events.say(&pod, Tone::Warning, reason, "Decide", message);
    }
}

fn read(object: &DynamicObject) -> Option<Request> {
    serde_json::from_value(object.data.clone()).ok()
}

/// In the window in which proxies renew, at a place that is the request's own.
fn refresh(object: &DynamicObject, not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    object.uid().hash(&mut hasher);
    let place = f64::from(u16::try_from(hasher.finish() >> 48).unwrap_or_default()) / f64::from(u16::MAX);
    let at = life / 24 * 20 + (life / 24 * 2).mul_f64(place);
    not_before + at.min(life.saturating_sub(MARGIN)).max(MARGIN)
}

/// As the volume's keyType spells it.
fn key_type(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::MlDsa44 => "MLDSA44",
        Algorithm::MlDsa65 => "MLDSA65",
        Algorithm::MlDsa87 => "MLDSA87",
        Algorithm::EcdsaP256 => "ECDSAP256",
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_refresh_lies_where_kubernetes_takes_it_and_where_proxies_renew() {
        let hour = Duration::from_secs(60 * 60);
        for uid in ["a", "b", "c", "d", "e"] {
            let object: DynamicObject =
                serde_json::from_value(json!({ "metadata": { "name": "x", "uid": uid } })).unwrap();
            for life in [hour, 2 * hour, 24 * hour] {
                let at = refresh(&object, UNIX_EPOCH, UNIX_EPOCH + life).duration_since(UNIX_EPOCH).unwrap();
                assert!((MARGIN..=life - MARGIN).contains(&at), "{life:?}: {at:?}");
                assert!(
                    at >= (life / 24 * 20).min(life - MARGIN) && at <= life / 24 * 22,
                    "{life:?}: {at:?}"
                );
            }
        }
    }
}
