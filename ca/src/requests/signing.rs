//! CertificateSigningRequests: approved by itself is only what a pod asks for itself, with its own token.
//! What somebody else approved is signed by the same rules; an approval changes no name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::ByteString;
use kube::{Api, api::DynamicObject};
use serde::Deserialize;
use serde_json::json;
use trellis_api::names::SIGNER;
use trellis_pki::{clock::rfc3339, issue::Purposes, x509_pem};

use super::{Clerk, Look, Outcomes, await_pod, may_pass, write};
use crate::{
    attest::{Caller, Unbound, account_pod},
    events::{About, Events, Tone},
    issue::{Ask, Claim, Issuing, Life, Proof, Way, csr_pem},
    refuse::{Reason, Refusal},
};

const PLURAL: &str = "certificatesigningrequests";
const API: &str = "certificate_signing_request";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    request: ByteString,
    signer_name: String,
    username: String,
    extra: BTreeMap<String, Vec<String>>,
    usages: Vec<String>,
    expiration_seconds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    certificate: Option<ByteString>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    spec: Spec,
    status: Status,
}

impl Request {
    fn read(object: &DynamicObject) -> Option<Self> {
        serde_json::from_value(object.data.clone()).ok()
    }

    fn holds(&self, type_: &str) -> bool {
        self.status.conditions.iter().any(|one| one.type_ == type_ && one.status != "False")
    }
}

/// Answers CertificateSigningRequests of our signer.
pub struct SigningRequests {
    pub issuing: Arc<Issuing>,
    pub events: Events,
    pub outcomes: Outcomes,
}

#[tonic::async_trait]
impl Clerk for SigningRequests {
    fn plural(&self) -> &'static str {
        PLURAL
    }

    fn is_open(&self, object: &DynamicObject) -> bool {
        Request::read(object).is_some_and(|request| {
            request.spec.signer_name == SIGNER
                && request.status.certificate.as_ref().is_none_or(|certificate| certificate.0.is_empty())
                && !request.holds("Denied")
                && !request.holds("Failed")
        })
    }

    async fn look(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        waited: Duration,
    ) -> Result<Look, kube::Error> {
        let Some(request) = Request::read(object) else { return Ok(Look::Done) };
        let weighed = match self.weigh(&request, waited).await {
            Ok(weighed) => weighed,
            Err(refusal) if may_pass(&refusal, waited) => return Ok(Look::Later(refusal.message)),
            Err(refusal) => {
                self.refuse(api, object, &request, &refusal).await?;
                return Ok(Look::Done);
            }
        };
        let approved = request.holds("Approved");
        if !approved {
            let message = format!("asked by the pod itself, as {}", weighed.identity);
            self.condition(api, object, "approval", "Approved", "OwnIdentity", &message).await?;
        }
        match self.issuing.grant(weighed).await {
            Ok(granted) => {
                let certificate = ByteString(x509_pem("CERTIFICATE", &granted.leaf.der).into_bytes());
                let status = json!({ "certificate": certificate });
                write(api, object, "status", &status).await?;
                self.outcomes.count(API, "issued");
                Ok(Look::Done)
            }
            Err(refusal) => Ok(Look::Later(refusal.message)),
        }
    }

    async fn give_up(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        why: &str,
    ) -> Result<(), kube::Error> {
        self.outcomes.count(API, "failed");
        self.events.say(&About::object(object), Tone::Warning, "RequestFailed", "Sign", why);
        self.condition(api, object, "status", "Failed", "CannotIssue", why).await
    }
}

impl SigningRequests {
    async fn weigh(&self, request: &Request, waited: Duration) -> Result<crate::issue::Weighed, Refusal> {
        let way = Way::SigningRequest;
        let read = caller(&request.spec).and_then(|caller| {
            let purposes = purposes(&request.spec.usages)?;
            Ok((caller, purposes, csr_pem("spec.request", &request.spec.request.0)?))
        });
        let (caller, purposes, der) =
            read.inspect_err(|refusal| self.issuing.turn_away(refusal, way, None))?;
        await_pod(&self.issuing, &caller, waited)?;
        let ask = Ask {
            way,
            proof: Proof::Request(&der),
            names: &[],
            life: match request.spec.expiration_seconds {
                None => Life::Longest,
                Some(seconds) => Life::Exactly(Duration::from_secs(seconds.into())),
            },
            purposes,
            companion: false,
            source: None,
        };
        self.issuing.weigh(Claim::Vouched(caller), &ask).await
    }

    /// What is approved cannot be denied any more; it fails.
    async fn refuse(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        request: &Request,
        refusal: &Refusal,
    ) -> Result<(), kube::Error> {
        let reason = refusal.reason.camel();
        let (subresource, type_, outcome) = match request.holds("Approved") {
            true => ("status", "Failed", "failed"),
            false => ("approval", "Denied", "denied"),
        };
        self.condition(api, object, subresource, type_, &reason, &refusal.message).await?;
        self.outcomes.count(API, outcome);
        let event = if outcome == "denied" { "RequestDenied" } else { "RequestFailed" };
        self.events.say(&About::object(object), Tone::Warning, event, "Decide", &refusal.message);
        Ok(())
    }

    async fn condition(
        &self,
        api: &Api<DynamicObject>,
        object: &DynamicObject,
        subresource: &str,
        type_: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        let now = rfc3339(self.issuing.clock().now());
        let condition = json!({
            "type": type_, "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": now,
        });
        write(api, object, subresource, &json!({ "conditions": [condition] })).await
    }
}

/// The API server wrote who asks into the request, from the token that it was asked with.
fn caller(spec: &Spec) -> Result<Caller, Refusal> {
    account_pod(&spec.username, &spec.extra).map_err(|unbound| {
        let message = match unbound {
            Unbound::NoAccount => format!(
                "spec.username is {:?}; ask from a pod, with its own ServiceAccount token",
                spec.username
            ),
            Unbound::NoPod { .. } => format!(
                "spec.extra names no pod that {} asks from; ask with a projected token of the pod, not with one \
                 of a Secret",
                spec.username
            ),
        };
        Refusal::new(Reason::NotBoundToPod, message)
    })
}

fn purposes(usages: &[String]) -> Result<Purposes, Refusal> {
    let mut purposes = Purposes { server: false, client: false };
    for usage in usages {
        match usage.as_str() {
            "digital signature" => {}
            "server auth" => purposes.server = true,
            "client auth" => purposes.client = true,
            other => {
                return Err(Refusal::new(
                    Reason::KeyUsage,
                    format!(
                        "spec.usages holds {other:?}; certificates are for digital signature, client auth and \
                         server auth, so leave it out"
                    ),
                ));
            }
        }
    }
    match purposes.server || purposes.client {
        true => Ok(purposes),
        false => Err(Refusal::new(
            Reason::KeyUsage,
            format!("spec.usages is {usages:?}; add client auth, server auth, or both"),
        )),
    }
}
