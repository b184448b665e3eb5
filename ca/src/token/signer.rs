//! A key in the token, as what issues certificates sees it.

use trellis_pki::{
    key::PublicKey,
    signer::{Signer, SignerError},
};

use super::{Token, TokenError};

pub struct TokenSigner {
    token: Token,
    id: String,
    public: PublicKey,
}

impl TokenSigner {
    pub fn new(token: Token, id: &str, public: PublicKey) -> Self {
        Self { token, id: id.to_owned(), public }
    }
}

impl Signer for TokenSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// What the token signed is verified before anybody relies on it.
    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let away = |error: TokenError| SignerError::Away(error.to_string());
        let signature = self.token.sign(&self.id, self.public.algorithm, message).map_err(away)?;
        match self.public.verifies(message, &signature) {
            true => Ok(signature),
            false => {
                let reason = "the signature does not verify with the anchor's key".to_owned();
                Err(away(TokenError::Faulty { what: "sign", reason }))
            }
        }
    }

    fn is_remote(&self) -> bool {
        true
    }
}
