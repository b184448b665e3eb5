//! The CA's HTTPS API, asked: one connection for each question, to the CA's identity and nobody else.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{
    Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderValue, IF_NONE_MATCH},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use trellis_channel::client::{Address, Dialer};
use trellis_pki::{
    bundle::Bundle,
    clock::Clock,
    policy::{Ladder, Policy},
    spiffe::SpiffeId,
    tls::MeshTls,
    x509_pem,
};

/// For a question and its answer.
const TIMEOUT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1 << 20;

pub struct Api {
    address: Address,
    dialer: Dialer,
}

/// What the CA answers.
#[derive(Deserialize)]
pub struct Answer {
    pub certificate: String,
    pub bundle: String,
}

/// The bundle as it is served, and by what it is told from another.
pub struct Served {
    pub bundle: String,
    pub tag: Option<HeaderValue>,
}

impl Api {
    pub fn new(
        address: Address,
        bundle: Bundle,
        ca: SpiffeId,
        signatures: Ladder,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let policy = Policy { signatures, ..Policy::default() };
        let tls = MeshTls::new(policy, ca.trust_domain(), clock).with_alpn(&[b"http/1.1"]);
        tls.trust(bundle)?;
        Ok(Self { address, dialer: Dialer::new(Arc::new(tls), ca, false) })
    }

    pub async fn issue(&self, csr: &[u8], token: &str, hours: Option<u32>) -> Result<Answer> {
        let mut body = json!({ "csr": x509_pem("CERTIFICATE REQUEST", csr) });
        if let Some(hours) = hours {
            body["validityHours"] = json!(hours);
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| anyhow::anyhow!("token-file: it holds no token; project one into the pod"))?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/certificates")
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json");
        let (status, _, body) = self.ask(request, body.to_string()).await?;
        if status != StatusCode::CREATED {
            bail!("{}", refusal(status, &body));
        }
        serde_json::from_slice(&body).context("the CA's answer is not what its API promises")
    }

    /// The bundle, if it is another than the one with this tag.
    pub async fn bundle(&self, known: Option<&HeaderValue>) -> Result<Option<Served>> {
        let mut request = Request::builder().method(Method::GET).uri("/v1/bundle");
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let (status, headers, body) = self.ask(request, String::new()).await?;
        match status {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => {
                let bundle = String::from_utf8(body.to_vec()).context("the CA's bundle is not text")?;
                Ok(Some(Served { bundle, tag: headers.get(ETAG).cloned() }))
            }
            _ => bail!("{}", refusal(status, &body)),
        }
    }

    async fn ask(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> Result<(StatusCode, http::HeaderMap, Bytes)> {
        let request = request
            .header(HOST, self.address.to_string())
            .body(Full::new(Bytes::from(body)))
            .context("request")?;
        let asked = async {
            let stream = self.dialer.dial(&self.address).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body =
                Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
            connection.abort();
            anyhow::Ok((head.status, head.headers, body.to_bytes()))
        };
        match timeout(TIMEOUT, asked).await {
            Ok(result) => result.with_context(|| format!("ca: cannot ask {}", self.address)),
            Err(_) => bail!("ca: no answer from {} within {} s", self.address, TIMEOUT.as_secs()),
        }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    match (error["reason"].as_str(), error["message"].as_str()) {
        (Some(reason), Some(message)) => format!("the CA refuses ({reason}): {message}"),
        _ => format!("the CA answers {status}; is this address that of its HTTPS API?"),
    }
}
