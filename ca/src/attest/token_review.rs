//! Tokens judged by the API server that made them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;
use trellis_api::names::TOKEN_AUDIENCE;

use super::Caller;
use crate::refuse::{Reason, Refusal};

const TIMEOUT: Duration = Duration::from_secs(5);
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks with a TokenReview for each token.
#[derive(Clone)]
pub struct TokenReviewer {
    api: Api<TokenReview>,
}

impl TokenReviewer {
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    pub(super) async fn review(&self, token: &str) -> Result<Caller, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answer = match timeout(TIMEOUT, self.api.create(&params, &review)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(unavailable(&error.to_string())),
            Err(_) => return Err(unavailable(&format!("no answer within {} s", TIMEOUT.as_secs()))),
        };
        caller(answer.status.unwrap_or_default())
    }
}

fn unavailable(reason: &str) -> Refusal {
    tracing::error!(reason, "the API server cannot review tokens");
    Refusal::new(
        Reason::AttestorUnavailable,
        "the Kubernetes API cannot judge the token now; try again later",
    )
}

fn caller(status: TokenReviewStatus) -> Result<Caller, Refusal> {
    if status.authenticated != Some(true) {
        let said = status.error.unwrap_or_else(|| "it gave no reason".to_owned());
        return Err(unauthenticated(&said));
    }
    // An API server that knows nothing of audiences answers without any, and has checked none.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(wrong_audience());
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    account_pod(&name, &user.extra.unwrap_or_default()).map_err(|unbound| match unbound {
        Unbound::NoAccount => Refusal::new(
            Reason::NotBoundToPod,
            format!("token: it is of user {name:?}; send the token of a pod's ServiceAccount"),
        ),
        Unbound::NoPod { namespace, service_account } => not_bound(&namespace, &service_account),
    })
}

/// What a user is that the API server knows from a token, if it is no pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unbound {
    NoAccount,
    NoPod { namespace: String, service_account: String },
}

/// The pod whose token a user came with, as the API server writes users.
pub fn account_pod(name: &str, extra: &BTreeMap<String, Vec<String>>) -> Result<Caller, Unbound> {
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, service_account) = account.ok_or(Unbound::NoAccount)?;
    match (single(extra, POD_NAME), single(extra, POD_UID)) {
        (Some(pod), Some(uid)) => Ok(Caller {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: pod.to_owned(),
            pod_uid: uid.to_owned(),
        }),
        _ => Err(Unbound::NoPod {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        }),
    }
}

fn single<'a>(extra: &'a BTreeMap<String, Vec<String>>, key: &str) -> Option<&'a str> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value),
        _ => None,
    }
}

fn wrong_audience() -> Refusal {
    Refusal::new(
        Reason::WrongAudience,
        format!("token: it is not for audience {TOKEN_AUDIENCE:?}; project a token with that audience"),
    )
}

fn not_bound(namespace: &str, service_account: &str) -> Refusal {
    Refusal::new(
        Reason::NotBoundToPod,
        format!(
            "token: that of {namespace}/{service_account} is bound to no pod; send a projected token, not one of \
             a Secret"
        ),
    )
}

/// The API server says in words only what is wrong with a token.
fn unauthenticated(said: &str) -> Refusal {
    if said.contains("audience") {
        return wrong_audience();
    }
    let reason = if said.contains("expired") { Reason::ExpiredToken } else { Reason::InvalidToken };
    Refusal::new(
        reason,
        format!("token: the Kubernetes API refuses it ({said}); send the pod's current ServiceAccount token"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use trellis_fake_api::FakeApi;

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": [TOKEN_AUDIENCE],
            "user": {
                "username": "system:serviceaccount:shop:orders",
                "extra": { POD_NAME: ["orders-1"], POD_UID: ["1234"] },
            },
        })
    }

    async fn review(status: Value) -> Result<Caller, Reason> {
        let api = FakeApi::new();
        api.review_with(status);
        let result = TokenReviewer::new(api.client()).review("a.b.c").await;
        assert_eq!(api.reviews(), [json!({ "token": "a.b.c", "audiences": [TOKEN_AUDIENCE] })]);
        result.map_err(|refusal| {
            assert!(!refusal.message.contains("a.b.c"), "{}", refusal.message);
            refusal.reason
        })
    }

    #[tokio::test]
    async fn the_api_server_says_for_which_pod_a_token_was_made() {
        let caller = Caller {
            namespace: "shop".to_owned(),
            service_account: "orders".to_owned(),
            pod: "orders-1".to_owned(),
            pod_uid: "1234".to_owned(),
        };
        assert_eq!(review(good()).await, Ok(caller));
    }

    #[tokio::test]
    async fn whatever_is_less_than_that_is_refused() {
        let with = |pointer: &str, value: Value| {
            let mut status = good();
            *status.pointer_mut(pointer).unwrap() = value;
            status
        };
        let table = [
            (with("/authenticated", json!(false)), Reason::InvalidToken),
            (json!({}), Reason::InvalidToken),
            (
                json!({ "error": "[invalid bearer token, service account token has expired]" }),
                Reason::ExpiredToken,
            ),
            (
                json!({ "error": "token audiences [\"x\"] is invalid for the target audiences [\"y\"]" }),
                Reason::WrongAudience,
            ),
            // As an API server answers that does not know audiences.
            (with("/audiences", json!([])), Reason::WrongAudience),
            (with("/audiences", json!(["https://kubernetes.default.svc"])), Reason::WrongAudience),
            (with("/user/username", json!("admin")), Reason::NotBoundToPod),
            (with("/user/extra", json!({})), Reason::NotBoundToPod),
            (with("/user/extra", json!({ POD_NAME: ["orders-1"] })), Reason::NotBoundToPod),
            (with("/user/extra", json!({ POD_NAME: ["a", "b"], POD_UID: ["1"] })), Reason::NotBoundToPod),
        ];
        for (status, reason) in table {
            assert_eq!(review(status.clone()).await, Err(reason), "{status}");
        }
    }

    #[tokio::test]
    async fn without_an_answer_nobody_is_let_in() {
        let api = FakeApi::new();
        api.forbid("/apis/authentication.k8s.io/v1/tokenreviews", true);
        let refusal = TokenReviewer::new(api.client()).review("a.b.c").await.unwrap_err();
        assert_eq!(refusal.reason, Reason::AttestorUnavailable);
    }
}
