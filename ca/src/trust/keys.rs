//! Where the keys of anchors are: kept with the state, or in a token that they never leave.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use trellis_api::trust::Issuing;
use trellis_pki::{
    key::{KeyError, PrivateKey, PublicKey},
    signer::Signer,
};

use super::vault::algorithm_of;
use crate::token::{Token, TokenError};

/// How the state names a key in a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenKey {
    /// Label of the token.
    pub token: String,
    /// The key's CKA_ID, in hex.
    pub id: String,
}

/// Where keys of new anchors are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    State,
    Token,
}

/// One key, ready to sign.
#[derive(Clone)]
pub enum Key {
    Kept(Arc<PrivateKey>),
    InToken(TokenKey, Arc<dyn Signer>),
}

/// All places of keys. Clones are the same.
#[derive(Clone, Default)]
pub struct Keys {
    pub fresh: Place,
    pub token: Option<Token>,
}

impl Key {
    pub fn kept(kind: Issuing) -> Result<Self, KeyError> {
        Ok(Self::Kept(Arc::new(PrivateKey::generate(algorithm_of(kind.algorithm))?)))
    }

    pub fn signer(&self) -> Arc<dyn Signer> {
        match self {
            Self::Kept(key) => key.clone(),
            Self::InToken(_, signer) => signer.clone(),
        }
    }

    pub fn reference(&self) -> Option<TokenKey> {
        match self {
            Self::Kept(_) => None,
            Self::InToken(reference, _) => Some(reference.clone()),
        }
    }
}

impl Keys {
    /// A name for a key that is yet to be made, if keys are made in the token.
    pub fn reserve(&self) -> Option<TokenKey> {
        let token = self.token.as_ref().filter(|_| self.fresh == Place::Token)?;
        let id: [u8; 16] = rand::random();
        let id = id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Some(TokenKey { token: token.label().to_owned(), id })
    }

    /// The key of that name, made if it is not there yet. A CA that died in between finds its own.
    pub async fn make(&self, reference: &TokenKey, trust_domain: &str, kind: Issuing) -> Result<Key, String> {
        let token = self.token(reference)?;
        let label = format!("trellis {trust_domain} {}.{}", kind.algorithm, kind.generation);
        let public = token.make(&reference.id, &label, algorithm_of(kind.algorithm)).await;
        let public = public.map_err(|error| error.to_string())?;
        self.in_token(reference, public)
    }

    /// A key whose public half is known: nothing is asked before it signs.
    pub fn in_token(&self, reference: &TokenKey, public: PublicKey) -> Result<Key, String> {
        let signer = self.token(reference)?.signer(&reference.id, public);
        Ok(Key::InToken(reference.clone(), signer))
    }

    pub async fn destroy(&self, reference: &TokenKey) -> Result<(), TokenError> {
        let token = self.token(reference).map_err(TokenError::Setup)?;
        token.destroy(&reference.id).await
    }

    fn token(&self, reference: &TokenKey) -> Result<&Token, String> {
        match &self.token {
            Some(token) if token.label() == reference.token => Ok(token),
            Some(token) => Err(format!(
                "the key {reference} is in the PKCS#11 token {:?}, and --token-label is {:?}: name the token that \
                 holds it until no anchor has its key there",
                reference.token,
                token.label()
            )),
            None => Err(format!(
                "the key {reference} is in the PKCS#11 token {:?}, and no token is set up: give --token-module, \
                 --token-label and --token-pin-file until no anchor has its key there",
                reference.token
            )),
        }
    }
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkcs11:token={};id={}", self.token, self.id)
    }
}
