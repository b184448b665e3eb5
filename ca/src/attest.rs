//! Who is asking: a ServiceAccount token names a pod, somebody who can judge tokens vouches for it, and
//! the pod is looked up. A token is never taken at its own word, and never written anywhere.
//!
//! A token that is stolen can be used until it expires (an hour, as projected) or its pod is gone: it
//! goes over TLS to a verified CA only, is good for no other audience, and buys nothing but a leaf for
//! the thief's own key under the name of that pod, which the audit log shows.

mod jwks;
mod token_review;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use thiserror::Error;

pub use self::{
    jwks::Jwks,
    token_review::{TokenReviewer, Unbound, account_pod},
};
use crate::{
    refuse::{Reason, Refusal},
    view::{PodFacts, View},
};

/// Longer ones are nobody's.
const MAX_TOKEN: usize = 16 << 10;

/// `tokenreview` or `jwks:FILE`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttestSpec {
    TokenReview,
    Jwks(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("attest {0:?} is unknown; use tokenreview or jwks:FILE")]
pub struct UnknownAttest(String);

impl FromStr for AttestSpec {
    type Err = UnknownAttest;

    fn from_str(text: &str) -> Result<Self, UnknownAttest> {
        match text.split_once(':') {
            None if text == "tokenreview" => Ok(Self::TokenReview),
            Some(("jwks", path)) if !path.is_empty() => Ok(Self::Jwks(path.into())),
            _ => Err(UnknownAttest(text.to_owned())),
        }
    }
}

impl fmt::Display for AttestSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenReview => f.write_str("tokenreview"),
            Self::Jwks(path) => write!(f, "jwks:{}", path.display()),
        }
    }
}

/// Whom a token was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub namespace: String,
    pub service_account: String,
    pub pod: String,
    pub pod_uid: String,
}

/// Who judges tokens.
pub enum Attestor {
    TokenReview(TokenReviewer),
    Jwks(Jwks),
}

impl Attestor {
    pub async fn attest(&self, token: &str) -> Result<Caller, Refusal> {
        check_shape(token)?;
        match self {
            Self::TokenReview(reviewer) => reviewer.review(token).await,
            Self::Jwks(jwks) => jwks.verify(token).await,
        }
    }
}

/// What no judge has to be asked about.
fn check_shape(token: &str) -> Result<(), Refusal> {
    let parts = token.split('.').filter(|part| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    });
    if token.len() <= MAX_TOKEN && parts.count() == 3 && token.split('.').count() == 3 {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::MalformedToken,
        format!(
            "authorization: what follows Bearer ({} characters) is no JSON Web Token; send the pod's \
             ServiceAccount token",
            token.len()
        ),
    ))
}

/// The pod that the token was made for, if it is still there and is what the token says.
pub fn find_pod(caller: &Caller, view: &View) -> Result<Arc<PodFacts>, Refusal> {
    let Caller { namespace, service_account, pod, pod_uid } = caller;
    if !view.is_known() {
        return Err(Refusal::new(
            Reason::NotReady,
            "the CA does not know the pods yet; try again in a moment",
        ));
    }
    let facts = view.pod(namespace, pod).ok_or_else(|| {
        Refusal::new(
            Reason::PodAbsent,
            format!(
                "token: its pod {namespace}/{pod} does not exist; ask from a running pod with its own token"
            ),
        )
    })?;
    if pod_uid.is_empty() || facts.uid != *pod_uid {
        return Err(Refusal::new(
            Reason::PodReplaced,
            format!(
                "token: it is for pod {namespace}/{pod} with uid {pod_uid:?}, and the pod of that name has uid \
                 {:?}; ask with the token of the pod that runs now",
                facts.uid
            ),
        ));
    }
    if facts.service_account != *service_account {
        return Err(Refusal::new(
            Reason::ServiceAccountMismatch,
            format!(
                "token: it is for service account {service_account:?}, and pod {namespace}/{pod} runs under {:?}; \
                 ask with the pod's own token",
                facts.service_account
            ),
        ));
    }
    if facts.finished {
        return Err(Refusal::new(
            Reason::PodFinished,
            format!("token: its pod {namespace}/{pod} has run to its end and needs no certificate"),
        ));
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use trellis_telemetry::health::Health;

    use super::*;

    #[test]
    fn before_the_pods_are_known_nobody_is_told_that_a_pod_is_absent() {
        let view = View::new("trellis-system", Health::new(&[]));
        let caller = Caller {
            namespace: "shop".to_owned(),
            service_account: "orders".to_owned(),
            pod: "orders-1".to_owned(),
            pod_uid: "1".to_owned(),
        };
        assert_eq!(find_pod(&caller, &view).unwrap_err().reason, Reason::NotReady);
    }

    #[test]
    fn only_what_looks_like_a_token_is_judged() {
        assert_eq!(check_shape("aGVhZA.cGF5.c2ln"), Ok(()));
        let long = "a".repeat(MAX_TOKEN);
        for wrong in ["", "a.b", "a..c", "a.b.c.d", "a.b.c=", "a.b c.d", &format!("{long}.b.c")] {
            assert_eq!(check_shape(wrong).unwrap_err().reason, Reason::MalformedToken, "{wrong:.20}");
        }
    }
}
