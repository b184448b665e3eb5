//! Flags about issuing keys that are elsewhere, and about the CA above ours.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::FlagError;
use crate::{
    openbao::{Login, OpenBaoSpec},
    token::TokenSpec,
    trust::keys::Place,
};

/// Where the kubelet puts the pod's own token.
const JWT_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

#[derive(Clone, Debug, Args)]
pub struct Outside {
    /// Where issuing keys are made: with the root, or in the token. Those that exist stay where they are
    /// until a rotation.
    #[arg(long, env = "TRELLIS_KEYS", value_enum, default_value_t = KeysAt::Root)]
    pub keys: KeysAt,

    /// The PKCS#11 module of a token, a shared library.
    #[arg(long, env = "TRELLIS_TOKEN_MODULE")]
    pub token_module: Option<PathBuf>,

    /// The label of the token.
    #[arg(long, env = "TRELLIS_TOKEN_LABEL")]
    pub token_label: Option<String>,

    /// The file that holds the token's user PIN.
    #[arg(long, env = "TRELLIS_TOKEN_PIN_FILE")]
    pub token_pin_file: Option<PathBuf>,

    /// An OpenBao server that signs issuing certificates where issuing.signedBy is openbao: https://HOST:8200.
    #[arg(long, env = "TRELLIS_OPENBAO_ADDRESS")]
    pub openbao_address: Option<String>,

    /// Where its PKI engine is mounted.
    #[arg(long, env = "TRELLIS_OPENBAO_MOUNT", default_value = "pki")]
    pub openbao_mount: String,

    /// Which issuer of that engine signs; its default one if absent.
    #[arg(long, env = "TRELLIS_OPENBAO_ISSUER")]
    pub openbao_issuer: Option<String>,

    /// PEM certificates that vouch for the server.
    #[arg(long, env = "TRELLIS_OPENBAO_CA_FILE")]
    pub openbao_ca_file: Option<PathBuf>,

    /// The file that holds a token of the server. Without it, the CA logs in as its ServiceAccount.
    #[arg(long, env = "TRELLIS_OPENBAO_TOKEN_FILE")]
    pub openbao_token_file: Option<PathBuf>,

    /// The role by which the CA logs in with its ServiceAccount.
    #[arg(long, env = "TRELLIS_OPENBAO_KUBERNETES_ROLE")]
    pub openbao_kubernetes_role: Option<String>,

    /// Where the server's Kubernetes auth method is mounted.
    #[arg(long, env = "TRELLIS_OPENBAO_KUBERNETES_MOUNT", default_value = "kubernetes")]
    pub openbao_kubernetes_mount: String,

    /// The ServiceAccount token that the CA logs in with.
    #[arg(long, env = "TRELLIS_OPENBAO_JWT_FILE", default_value = JWT_FILE)]
    pub openbao_jwt_file: PathBuf,
}

/// Where issuing keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeysAt {
    Root,
    Token,
}

impl Outside {
    pub fn place(&self) -> Place {
        match self.keys {
            KeysAt::Root => Place::State,
            KeysAt::Token => Place::Token,
        }
    }

    /// The token, if one is set up: also where new keys are made elsewhere, for the sake of older ones.
    pub fn token(&self) -> Result<Option<TokenSpec>, FlagError> {
        let label = self.token_label.clone().filter(|label| !label.is_empty());
        match (&self.token_module, label, &self.token_pin_file) {
            (Some(module), Some(label), Some(pin_file)) => {
                Ok(Some(TokenSpec { module: module.clone(), label, pin_file: pin_file.clone() }))
            }
            (None, None, None) if self.keys == KeysAt::Root => Ok(None),
            _ => Err(FlagError::HalfAToken),
        }
    }

    pub fn openbao(&self, validity: Duration) -> Result<Option<OpenBaoSpec>, FlagError> {
        let Some(address) = self.openbao_address.clone() else { return Ok(None) };
        let login = match (&self.openbao_token_file, &self.openbao_kubernetes_role) {
            (Some(file), None) => Login::TokenFile(file.clone()),
            (None, Some(role)) => Login::Kubernetes {
                mount: path("openbao-kubernetes-mount", &self.openbao_kubernetes_mount)?,
                role: role.clone(),
                jwt_file: self.openbao_jwt_file.clone(),
            },
            _ => return Err(FlagError::OpenBaoLogin),
        };
        let issuer = self.openbao_issuer.as_ref().map(|issuer| path("openbao-issuer", issuer)).transpose()?;
        Ok(Some(OpenBaoSpec {
            address,
            mount: path("openbao-mount", &self.openbao_mount)?,
            issuer,
            ca_file: self.openbao_ca_file.clone(),
            login,
            validity,
        }))
    }
}

/// A part of a path, without anything that would lead elsewhere.
fn path(flag: &'static str, text: &str) -> Result<String, FlagError> {
    let fine = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    let part =
        |part: &str| !part.is_empty() && part.chars().all(fine) && part.chars().any(|char| char != '.');
    let trimmed = text.trim_matches('/');
    match trimmed.split('/').all(part) {
        true => Ok(trimmed.to_owned()),
        false => Err(FlagError::OpenBaoPath { flag, text: text.to_owned() }),
    }
}
