//! The certificates of Secrets that Ingresses and Gateways name, as far as the injector may read them. It may where somebody
//! bound [`CERTIFICATES_ROLE`](trellis_api::enforcement::CERTIFICATES_ROLE) for it, and nowhere else.
//!
//! Kubernetes has no right to read one item of a Secret. What comes along is passed over while it is parsed,
//! and the text that it was parsed from is wiped.

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Body;
use kube::Client;
use serde::Deserialize;
use trellis_api::enforcement::Items;
use zeroize::Zeroizing;

/// What an API server sends at the most for a Secret.
const LARGEST: usize = 3 * 1024 * 1024;
/// Where they are read.
#[derive(Clone)]
pub enum Certificates {
    Cluster(Client),
    /// There is no cluster to ask.
    Nowhere,
}

/// A Secret whose certificates are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("there is no such Secret")]
    Missing,
    #[error("the injector may not read it")]
    Forbidden,
    #[error("it cannot be read now ({0})")]
    Failed(String),
}

impl Certificates {
    /// Those of a Secret.
    pub async fn read(&self, namespace: &str, name: &str) -> Result<Items, Unread> {
        let Self::Cluster(client) = self else {
            return Err(Unread::Failed("there is no Kubernetes API".to_owned()));
        };
        let failed = |error: String| Unread::Failed(error);
        // Both are names: the API server has seen to that, and what it has not does not get here.
        if ![namespace, name].into_iter().all(is_name) {
            return Err(Unread::Missing);
        }
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let request = http::Request::get(path).body(kube::client::Body::empty());
        let response = client.send(request.map_err(|error| failed(error.to_string()))?).await;
        let response = response.map_err(|error| failed(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            404 => return Err(Unread::Missing),
            401 | 403 => return Err(Unread::Forbidden),
            other => return Err(failed(format!("the API server answers {other}"))),
        }
        let text = gather(response.into_body(), LARGEST).await.map_err(|error| failed(error.to_string()))?;
        let Secret { data } = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        Ok(data.unwrap_or_default())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Broken(String),
}

/// A body of at most so many bytes, in memory that is wiped: there may be keys in it.
pub async fn gather<B>(body: B, most: usize) -> Result<Zeroizing<Vec<u8>>, GatherError>
where
    B: Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let mut all = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| GatherError::Broken(error.into().to_string()))?;
        let Ok(mut data) = frame.into_data() else { continue };
        let length = all.len().saturating_add(data.remaining());
        if length > most {
            return Err(GatherError::TooLarge(most));
        }
        if length > all.capacity() {
            // A vector that grows by itself leaves what it held behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(length.saturating_mul(2).min(most)));
            larger.extend_from_slice(&all);
            all = larger;
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            all.extend_from_slice(chunk);
            let read = chunk.len();
            data.advance(read);
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: Option<Items>,
}

fn is_name(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn a_body_is_gathered_up_to_its_bound() {
        let frames = [&b"ab"[..], b"", b"cde"].map(|part| Ok::<_, String>(Frame::data(Bytes::from(part))));
        let body = StreamBody::new(futures::stream::iter(frames));
        assert_eq!(&**gather(body, 5).await.unwrap(), b"abcde");
        let large = gather(Full::new(Bytes::from(vec![0; 6])), 5).await.unwrap_err();
        assert_eq!(large.to_string(), "more than 5 bytes");
        let broken = StreamBody::new(futures::stream::iter([Err::<Frame<Bytes>, _>("cut".to_owned())]));
        assert_eq!(gather(broken, 5).await.unwrap_err().to_string(), "cut");
    }

    #[tokio::test]
    async fn what_is_no_name_is_not_asked_for() {
        let client = Client::new(
            tower::service_fn(|_| async { Err::<http::Response<kube::client::Body>, _>("asked") }),
            "x",
        );
        for name in ["../../nodes", "", "a/b", "a?b", "."] {
            assert_eq!(Certificates::Cluster(client.clone()).read("shop", name).await, Err(Unread::Missing));
        }
    }
}
