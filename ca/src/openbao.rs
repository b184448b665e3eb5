//! OpenBao as the CA above ours: its PKI engine signs the request of a pending issuing key. What it answers
//! is judged by whoever asked, like any other certificate from outside.

mod http;

use std::{fs, path::PathBuf, time::Duration};

use ::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use trellis_pki::issue::backdate;
use zeroize::Zeroizing;

use self::http::{Address, Client, HttpError};

pub use self::http::AddressError;

/// A token, a JWT or a CA bundle is smaller.
const MAX_FILE: u64 = 1 << 20;

/// Where the server is, and as whom the CA comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBaoSpec {
    pub address: String,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// Which of its issuers signs, if not the default one.
    pub issuer: Option<String>,
    /// PEM of those who may vouch for the server.
    pub ca_file: Option<PathBuf>,
    pub login: Login,
    /// How long the certificate is asked for.
    pub validity: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A token in a file, which somebody else renews.
    TokenFile(PathBuf),
    /// The pod's own ServiceAccount, by the Kubernetes auth method.
    Kubernetes { mount: String, role: String, jwt_file: PathBuf },
}

/// What stands between us and the certificate. Nothing of it holds a token.
#[derive(Debug, Error)]
pub enum OpenBaoError {
    #[error("{field} {file}: {reason}")]
    File { field: &'static str, file: String, reason: String },
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("openbao-address {address}: {error}; is it running, and reachable from here?")]
    Unreachable { address: String, error: HttpError },
    #[error("openbao-address {0}: it is sealed; unseal it, the request is made again by itself")]
    Sealed(String),
    #[error(
        "openbao-address {address}: {path} is denied ({said}); give the token or role a policy with \
         `path \"{path}\" {{ capabilities = [\"update\"] }}`"
    )]
    Denied { address: String, path: String, said: String },
    #[error(
        "openbao-address {address}: {path} does not let role {role} in ({said}); bind this ServiceAccount and its \
         namespace to the role, with the audience that the token in openbao-jwt-file is for"
    )]
    Login { address: String, path: String, role: String, said: String },
    #[error(
        "openbao-address {address}: {path} is not there ({said}); correct openbao-mount, openbao-issuer or \
         openbao-kubernetes-mount"
    )]
    NotThere { address: String, path: String, said: String },
    #[error("openbao-address {address}: {path} answered {status}: {said}")]
    Refused { address: String, path: String, status: StatusCode, said: String },
    #[error("openbao-address {address}: the answer of {path} cannot be read: {reason}")]
    Unreadable { address: String, path: String, reason: String },
}

/// The server. It keeps no connection and no token: it is asked once in years.
pub struct OpenBao {
    spec: OpenBaoSpec,
    address: Address,
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
    #[serde(default)]
    issuing_ca: String,
    #[serde(default)]
    ca_chain: Vec<String>,
}

impl OpenBao {
    pub fn new(spec: OpenBaoSpec) -> Result<Self, AddressError> {
        let address = spec.address.parse()?;
        Ok(Self { spec, address })
    }

    /// The certificate over this request and those above it, as PEM.
    pub async fn sign(&self, request: &str) -> Result<String, OpenBaoError> {
        let client = Client::new(&self.address, self.roots()?.as_deref())?;
        let token = self.token(&client).await?;
        let issuer = self.spec.issuer.as_ref().map_or("root".to_owned(), |issuer| format!("issuer/{issuer}"));
        let path = format!("{}/{issuer}/sign-intermediate", self.spec.mount);
        // The names that are to be in the certificate are in the request.
        let body = json!({
            "csr": request,
            "use_csr_values": true,
            "max_path_length": 0,
            "ttl": format!("{}s", self.spec.validity.as_secs()),
            // Of it, as for what we sign ourselves.
            "not_before_duration": format!("{}s", backdate(self.spec.validity).as_secs()),
            "format": "pem",
        });
        let answer = self.post(&client, &path, Some(&token), &body).await?;
        let signed: Signed = serde_json::from_value(answer.get("data").cloned().unwrap_or_default())
            .map_err(|error| self.unreadable(&path, error.to_string()))?;
        Ok(chain(&signed))
    }

    async fn token(&self, client: &Client<'_>) -> Result<Zeroizing<String>, OpenBaoError> {
        let (mount, role, jwt_file) = match &self.spec.login {
            Login::TokenFile(file) => return read("openbao-token-file", file),
            Login::Kubernetes { mount, role, jwt_file } => (mount, role, jwt_file),
        };
        let jwt = read("openbao-jwt-file", jwt_file)?;
        let path = format!("auth/{mount}/login");
        let body = json!({ "role": role, "jwt": *jwt });
        let answer = self.post(client, &path, None, &body).await.map_err(|error| match error {
            OpenBaoError::Denied { address, path, said } => {
                OpenBaoError::Login { address, path, role: role.clone(), said }
            }
            error => error,
        })?;
        let token = answer.pointer("/auth/client_token").and_then(Value::as_str);
        let token =
            token.ok_or_else(|| self.unreadable(&path, "it holds no auth.client_token".to_owned()))?;
        Ok(Zeroizing::new(token.to_owned()))
    }

    async fn post(
        &self,
        client: &Client<'_>,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<Value, OpenBaoError> {
        let answered = client.post(&format!("/v1/{path}"), token, body.to_string()).await;
        let address = self.spec.address.clone();
        let (status, body) =
            answered.map_err(|error| OpenBaoError::Unreachable { address: address.clone(), error })?;
        let path = path.to_owned();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.unreadable(&path, error.to_string()));
        }
        let said = said(&body);
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => OpenBaoError::Sealed(address),
            StatusCode::FORBIDDEN => OpenBaoError::Denied { address, path, said },
            StatusCode::NOT_FOUND => OpenBaoError::NotThere { address, path, said },
            status => OpenBaoError::Refused { address, path, status, said },
        })
    }

    fn roots(&self) -> Result<Option<String>, OpenBaoError> {
        let file = self.spec.ca_file.as_ref();
        file.map(|file| read("openbao-ca-file", file).map(|pem| pem.to_string())).transpose()
    }

    fn unreadable(&self, path: &str, reason: String) -> OpenBaoError {
        OpenBaoError::Unreadable { address: self.spec.address.clone(), path: path.to_owned(), reason }
    }
}

/// Each certificate once, the signed one first. Older versions tell only of the next one.
fn chain(signed: &Signed) -> String {
    let mut chain: Vec<&str> = Vec::new();
    let above = signed.ca_chain.iter().chain(std::iter::once(&signed.issuing_ca));
    for certificate in std::iter::once(&signed.certificate).chain(above).map(|text| text.trim()) {
        if !certificate.is_empty() && !chain.contains(&certificate) {
            chain.push(certificate);
        }
    }
    chain.into_iter().map(|certificate| format!("{certificate}\n")).collect()
}

/// What the server gave as reason, cut to what a condition can hold.
fn said(body: &[u8]) -> String {
    let errors = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
        let errors = body.get("errors")?.as_array()?.iter().filter_map(Value::as_str);
        Some(errors.map(str::trim).collect::<Vec<_>>().join("; "))
    });
    let text = errors.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().filter(|char| !char.is_control()).take(300).collect()
}

fn read(field: &'static str, file: &PathBuf) -> Result<Zeroizing<String>, OpenBaoError> {
    let wrong = |reason: String| OpenBaoError::File { field, file: file.display().to_string(), reason };
    let about = fs::metadata(file).map_err(|error| wrong(error.to_string()))?;
    if about.len() > MAX_FILE {
        return Err(wrong(format!("it is {} bytes; at most {MAX_FILE} are read", about.len())));
    }
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?);
    match text.trim() {
        "" => Err(wrong("it is empty".to_owned())),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}
