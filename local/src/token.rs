//! Tokens like those that Kubernetes projects into a pod, and the key set that they are checked by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use trellis_api::names::TOKEN_AUDIENCE;

use crate::manifest::Workload;

const KEY_ID: &str = "local";
pub const ISSUER: &str = "https://trellis.local";

/// Signs tokens with a key that lives as long as this process.
pub struct Signer {
    key: EncodingKey,
    jwks: Value,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the cryptographic library made no key")]
    Key,
    #[error("the token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Signer {
    pub fn new() -> Result<Self, TokenError> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| TokenError::Key)?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).map_err(|_| TokenError::Key)?;
        // An uncompressed point: 4, then both coordinates.
        let point = pair.public_key().as_ref();
        let (x, y) = point.get(1..).map(|point| point.split_at(32)).ok_or(TokenError::Key)?;
        let jwks = json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]});
        Ok(Self { key: EncodingKey::from_ec_der(pkcs8.as_ref()), jwks })
    }

    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A token for `workload`, good for `validity` from `now`.
    pub fn token(
        &self,
        workload: &Workload,
        now: SystemTime,
        validity: Duration,
    ) -> Result<String, TokenError> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Workload { namespace, name, service_account, uid, .. } = workload;
        let claims = json!({
            "iss": ISSUER,
            "aud": [TOKEN_AUDIENCE],
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "iat": seconds(now), "nbf": seconds(now), "exp": seconds(now + validity),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": name, "uid": uid},
                "serviceaccount": {"name": service_account, "uid": format!("{service_account}-uid")},
            },
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, &claims, &self.key)?)
    }
}
