//! Tokens judged by the public keys of who made them, from a file that is read again when it changes.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, Jwk, JwkSet},
};
use serde::Deserialize;
use thiserror::Error;
use tokio::{sync::Mutex, task::spawn_blocking};
use trellis_api::names::TOKEN_AUDIENCE;
use trellis_pki::{
    clock::{Clock, rfc3339, words},
    issue::BACKDATE,
};

use super::Caller;
use crate::refuse::{Reason, Refusal};

/// A token is taken for so much longer than it says, for what is on its way when it ends.
const LEEWAY: u64 = 30;
/// A token that is there was made, whatever our clock says; it may be behind the token maker's by so much.
const BEHIND: u64 = BACKDATE.as_secs();
const MAX_BYTES: u64 = 1 << 20;
/// Never a symmetric one: who can check could also sign.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[derive(Debug, Error)]
pub enum JwksError {
    #[error("attest: cannot read {}: {source}; give a readable file with a JSON Web Key Set", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("attest: {} is refused: {reason}; expected a JSON Web Key Set with RSA, EC or OKP keys", path.display())]
    Malformed { path: PathBuf, reason: String },
}

/// Verifies with a key set.
pub struct Jwks {
    path: PathBuf,
    issuer: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    seen: Stamp,
    keys: Arc<JwkSet>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// The claims that Kubernetes writes into a projected token.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<Object>,
    serviceaccount: Object,
}

#[derive(Deserialize)]
struct Object {
    name: String,
    #[serde(default)]
    uid: String,
}

impl Jwks {
    /// Reads the key set once, so that a wrong path is seen at start.
    pub async fn open(path: PathBuf, issuer: String, clock: Arc<dyn Clock>) -> Result<Self, JwksError> {
        let (seen, keys) = load(&path).await?;
        tracing::info!(path = %path.display(), keys = keys.keys.len(), "read the keys that sign tokens");
        Ok(Self { path, issuer, clock, state: Mutex::new(State { seen, keys: Arc::new(keys) }) })
    }

    pub(super) async fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        let keys = self.keys().await;
        let header = decode_header(token).map_err(|error| {
            Refusal::new(Reason::MalformedToken, format!("token: its header cannot be read: {error}"))
        })?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(invalid(&format!("it is signed with {:?}, which is not accepted here", header.alg)));
        }
        let key = pick(&keys, header.kid.as_deref())?;
        let key = DecodingKey::from_jwk(key)
            .map_err(|error| invalid(&format!("its key {:?} cannot be used: {error}", header.kid)))?;
        // Times, audience and issuer are judged below, by our own clock and with a reason each.
        let mut validation = Validation::new(header.alg);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = decode::<Claims>(token, &key, &validation).map_err(|error| match error.kind() {
            ErrorKind::Json(error) => invalid(&format!("its claims cannot be read: {error}")),
            ErrorKind::InvalidSignature => invalid("its signature does not verify"),
            _ => invalid(&error.to_string()),
        })?;
        self.judge(claims.claims)
    }

    fn judge(&self, claims: Claims) -> Result<Caller, Refusal> {
        if claims.iss != self.issuer {
            return Err(Refusal::new(
                Reason::WrongIssuer,
                format!("token: iss is {:?}; expected {:?}", claims.iss, self.issuer),
            ));
        }
        let (meant, audiences) = match &claims.aud {
            Audience::One(audience) => (audience == TOKEN_AUDIENCE, format!("{audience:?}")),
            Audience::Many(all) => (all.iter().any(|one| one == TOKEN_AUDIENCE), format!("{all:?}")),
        };
        if !meant {
            return Err(Refusal::new(
                Reason::WrongAudience,
                format!("token: aud is {audiences}; project a token with audience {TOKEN_AUDIENCE:?}"),
            ));
        }
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if now >= claims.exp.saturating_add(LEEWAY) {
            return Err(Refusal::new(
                Reason::ExpiredToken,
                format!(
                    "token: exp is {}, and it is {} here: send the pod's current token; if that is the current one, \
                     this clock is at least {} ahead of that of who made it, so set both by NTP",
                    at(claims.exp),
                    at(now),
                    words(Duration::from_secs(now.saturating_sub(claims.exp)))
                ),
            ));
        }
        if now.saturating_add(BEHIND) < claims.nbf {
            return Err(Refusal::new(
                Reason::NotYetValidToken,
                format!(
                    "token: nbf is {}, and it is {} here: this clock is at least {} behind that of who made it; set \
                     both by NTP",
                    at(claims.nbf),
                    at(now),
                    words(Duration::from_secs(claims.nbf.saturating_sub(now)))
                ),
            ));
        }
        let unbound = || {
            Refusal::new(
                Reason::NotBoundToPod,
                format!("token: that of {:?} is bound to no pod; send a projected token", claims.sub),
            )
        };
        let bound = claims.kubernetes.ok_or_else(unbound)?;
        let pod = bound.pod.filter(|pod| !pod.name.is_empty() && !pod.uid.is_empty()).ok_or_else(unbound)?;
        let account = bound.serviceaccount.name;
        let subject = format!("system:serviceaccount:{}:{account}", bound.namespace);
        if claims.sub != subject {
            return Err(invalid(&format!("sub is {:?}, and kubernetes.io says {subject:?}", claims.sub)));
        }
        Ok(Caller { namespace: bound.namespace, service_account: account, pod: pod.name, pod_uid: pod.uid })
    }

    /// The newest good key set; a file that went bad keeps the one before.
    async fn keys(&self) -> Arc<JwkSet> {
        let mut state = self.state.lock().await;
        let path = self.path.clone();
        let looked = spawn_blocking(move || stamp(&path)).await;
        if !matches!(&looked, Ok(Ok(seen)) if *seen == state.seen) {
            match load(&self.path).await {
                Ok((seen, keys)) => {
                    tracing::info!(path = %self.path.display(), keys = keys.keys.len(), "the keys that sign tokens changed");
                    *state = State { seen, keys: Arc::new(keys) };
                }
                Err(error) => {
                    tracing::error!(%error, "the keys in use stay");
                    // Said once for each time that the file changes.
                    if let Ok(Ok(seen)) = looked {
                        state.seen = seen;
                    }
                }
            }
        }
        state.keys.clone()
    }
}

fn at(seconds: u64) -> String {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map_or_else(|| format!("@{seconds}"), rfc3339)
}

fn invalid(what: &str) -> Refusal {
    Refusal::new(
        Reason::InvalidToken,
        format!("token: {what}; send a ServiceAccount token that the mesh's token issuer signed"),
    )
}

/// The key that a token names; without a name, the only one there is.
fn pick<'a>(keys: &'a JwkSet, name: Option<&str>) -> Result<&'a Jwk, Refusal> {
    match (name, keys.keys.as_slice()) {
        (Some(name), _) => {
            keys.find(name).ok_or_else(|| invalid(&format!("no key of the key set is named {name:?}")))
        }
        (None, [only]) => Ok(only),
        (None, _) => Err(invalid("it does not name its key (kid), and the key set has several")),
    }
}

async fn load(path: &Path) -> Result<(Stamp, JwkSet), JwksError> {
    let owned = path.to_owned();
    let read = spawn_blocking(move || {
        let seen = stamp(&owned)?;
        if seen.size > MAX_BYTES {
            return Err(io::Error::other(format!("it has {} bytes, more than {MAX_BYTES}", seen.size)));
        }
        Ok((seen, fs::read(&owned)?))
    });
    let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (seen, text) = read.map_err(|source| JwksError::Unreadable { path: path.to_owned(), source })?;
    let malformed = |reason: String| JwksError::Malformed { path: path.to_owned(), reason };
    let keys: JwkSet = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if keys.keys.is_empty() {
        return Err(malformed("keys is empty".to_owned()));
    }
    if keys.keys.iter().any(|key| matches!(key.algorithm, AlgorithmParameters::OctetKey(_))) {
        return Err(malformed("it holds a symmetric key (kty oct)".to_owned()));
    }
    Ok((seen, keys))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let found = fs::metadata(path)?;
    Ok(Stamp { inode: found.ino(), size: found.size(), modified: (found.mtime(), found.mtime_nsec()) })
}
