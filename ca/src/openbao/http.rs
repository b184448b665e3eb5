//! One request over HTTP/1.1, by TLS 1.3 unless the server is on this machine: bounded in time and size.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use ::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use trellis_pki::provider;

/// For everything together: a healthy server needs a small part of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A chain of a few ML-DSA certificates is a tenth of it.
const MAX_ANSWER: usize = 1 << 20;

/// https://HOST:PORT, or http:// on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub secure: bool,
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("openbao-address {0:?} is no address; use https://HOST:8200")]
    Form(String),
    #[error(
        "openbao-address {0:?} would send the token in the clear; use https://, http:// only for a loopback address"
    )]
    Clear(String),
    #[error("openbao-ca-file is needed with https; give the PEM of those who may vouch for the server")]
    NoRoots,
    #[error("openbao-ca-file: {0}; give PEM certificates")]
    Roots(String),
}

#[derive(Debug, Error)]
pub enum HttpError {
    #[error("there is no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("the connection failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] ::http::Error),
    #[error("the answer cannot be read, or is larger than {MAX_ANSWER} bytes: {0}")]
    Answer(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| form())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(form()),
        };
        let plain = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let host = uri.host().ok_or_else(form)?.trim_matches(['[', ']']).to_owned();
        if host.is_empty() || !plain || uri.authority().is_some_and(|at| at.as_str().contains('@')) {
            return Err(form());
        }
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !secure && !here {
            return Err(AddressError::Clear(text.to_owned()));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port })
    }
}

/// Asks one server.
pub struct Client<'a> {
    address: &'a Address,
    tls: Option<TlsConnector>,
}

impl<'a> Client<'a> {
    pub fn new(address: &'a Address, roots: Option<&str>) -> Result<Self, AddressError> {
        let tls = match (address.secure, roots) {
            (false, _) => None,
            (true, None) => return Err(AddressError::NoRoots),
            (true, Some(pem)) => Some(connector(pem)?),
        };
        Ok(Self { address, tls })
    }

    pub async fn post(
        &self,
        path: &str,
        token: Option<&str>,
        body: String,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let asked = async {
            let Address { host, port, .. } = self.address;
            let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(HttpError::Connect)?;
            match &self.tls {
                None => self.exchange(tcp, path, token, body).await,
                Some(tls) => {
                    let name = ServerName::try_from(host.clone())
                        .map_err(|error| HttpError::Connect(std::io::Error::other(error)))?;
                    let stream = tls.connect(name, tcp).await.map_err(HttpError::Connect)?;
                    self.exchange(stream, path, token, body).await
                }
            }
        };
        timeout(PATIENCE, asked).await.map_err(|_| HttpError::Timeout(PATIENCE))?
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        path: &str,
        token: Option<&str>,
        body: String,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let mut request = Request::post(path)
            .header(header::HOST, format!("{}:{}", self.address.host, self.address.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-vault-request", "true");
        if let Some(token) = token {
            request = request.header("x-vault-token", token);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        driving.abort();
        Ok((status, body.map_err(|error| HttpError::Answer(error.to_string()))?.to_bytes()))
    }
}

fn connector(pem: &str) -> Result<TlsConnector, AddressError> {
    let wrong = |error: &dyn std::fmt::Display| AddressError::Roots(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate"));
    }
    let config = ClientConfig::builder_with_provider(provider::outside())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_or_on_this_machine() {
        for (text, secure, host, port) in [
            ("https://bao.example:8200", true, "bao.example", 8200),
            ("https://bao.example/", true, "bao.example", 443),
            ("http://127.0.0.1:8200", false, "127.0.0.1", 8200),
            ("http://[::1]:8200", false, "::1", 8200),
        ] {
            let address = Address { secure, host: host.to_owned(), port };
            assert_eq!(text.parse(), Ok(address));
        }
        for text in ["", "bao:8200", "ftp://bao", "https://", "https://bao/v1", "https://a@bao:8200"] {
            assert!(matches!(text.parse::<Address>(), Err(AddressError::Form(_))), "{text}");
        }
        let error = "http://bao.example:8200".parse::<Address>().unwrap_err();
        assert!(matches!(error, AddressError::Clear(_)));
    }
}
